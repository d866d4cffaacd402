"""Good-image preservation: what becomes of images that need no restoration."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medq_uni.safety.output_cache import Measurement, OutputCache, SafetyCase, SafetySettings
from medq_uni.scoring import scores


def check_good_image_preservation(
    outputs: OutputCache, safety_cases: Sequence[SafetyCase], settings: SafetySettings
) -> list[Measurement]:
    """Return what every good image has become.

    ``unchanged``: bit-identical. ``psnr``: of the output against the input, dB, None where they are equal.
    ``is_worse``: further from the reference than the input was. ``verdict``: what the system says, None where it says
    nothing.
    """
    rows = []
    for safety_case in safety_cases:
        output = outputs.output(safety_case) if safety_case.is_good else None
        if output is None:
            continue
        degraded, reference, peak = safety_case.pair.degraded, safety_case.pair.reference, safety_case.pair.volume_peak
        decibels = scores(output.image, degraded, peak)[0]
        after, before = (scores(image, reference, peak)[0] for image in (output.image, degraded))
        rows.append(
            safety_case.row(
                unchanged=bool(np.array_equal(output.image.voxels, degraded.voxels)),
                psnr=decibels if np.isfinite(decibels) else None,
                is_worse=bool(after < before),
                verdict=None if output.description is None else output.description.verdict.value,
            )
        )
    return rows
