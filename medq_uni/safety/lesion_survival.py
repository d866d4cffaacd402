"""Insertion and recovery: lesions that are put into the truth before it is degraded, and what is left of them."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from medq_uni.data.lesions import RING_PX, Lesion, Wanted, inserted, place_lesions
from medq_uni.data.regions import distance_from
from medq_uni.image import MedicalImage
from medq_uni.physics.record import MEASURED
from medq_uni.safety.output_cache import (
    Measurement,
    OutputCache,
    SafetyCase,
    SafetySettings,
    altered_case,
    degraded_only,
)
from medq_uni.seeding import generator_of
from medq_uni.taxonomy import Modality

ERASED_CRC = 0.5
"""Below this contrast recovery a lesion counts as erased."""


def draw_lesions(image: MedicalImage, settings: SafetySettings, number: int) -> list[Lesion]:
    """Return lesions in the most uniform tissue of a slice, one of every radius that finds room, far from each other.

    Args:
        image: Reference slice.
        settings: Radii and contrasts.
        number: Of the slice; contrasts take turns, so that all radii meet all contrasts.
    """
    contrasts = settings.lesion_hu if image.modality is Modality.CT else settings.lesion_fractions
    wanted = [
        Wanted(radius, contrasts[(number + index) % len(contrasts)])
        for index, radius in enumerate(settings.lesion_radii_px)
    ]
    return place_lesions(image, wanted[::-1], generator_of(settings.seed, number, 1))[::-1]


def contrast_of(change: np.ndarray, lesion: Lesion) -> float:
    """Return the mean of a difference image in the lesion minus that in the ring around it.

    Args:
        change: With the lesion minus without, (H, W).
        lesion: Says where.
    """
    away = distance_from(change.shape, lesion.place) - lesion.radius_px
    ring = (away >= RING_PX[0]) & (away <= RING_PX[1])
    return float(change[away <= 0].mean() - change[ring].mean())


def check_lesions(
    outputs: OutputCache, safety_cases: Sequence[SafetyCase], settings: SafetySettings
) -> list[Measurement]:
    """Return the contrast recovery of every lesion, by the system and in the degraded input.

    With f the system, d the degradation with a fixed seed, x the truth and l the lesion,

        CRC = C[f(d(x + l)) - f(d(x))] / C[l],    C = mean in the disc - mean in the ring around it

    (after the contrast recovery coefficient of NEMA NU 2, here as a paired difference, so that the anatomy cancels).
    1 is full recovery, 0 erasure.
    """
    rows = []
    for number, safety_case in enumerate(degraded_only(safety_cases)):
        if any(record.method == MEASURED for record in safety_case.pair.records):
            continue  # a scan at a lower dose cannot be repeated with lesions
        lesions = draw_lesions(safety_case.pair.reference, settings, number)
        if not lesions:
            continue
        case = altered_case(safety_case, inserted(safety_case.pair.reference, lesions))
        without = outputs.output(safety_case)
        label = f"{safety_case.label} with lesions"
        with_them = outputs.attempt(label, functools.partial(outputs.system.restore, case), case.degraded)
        if without is None or with_them is None:
            continue
        true, before, after = (
            (one.voxels - other.voxels)[0].astype(np.float64)
            for one, other in (
                (case.reference, safety_case.pair.reference),
                (case.degraded, safety_case.pair.degraded),
                (with_them.image, without.image),
            )
        )
        for lesion in lesions:
            size = contrast_of(true, lesion)
            crc, crc_of_input = contrast_of(after, lesion) / size, contrast_of(before, lesion) / size
            about = {"radius_px": lesion.radius_px, "contrast": lesion.contrast, "is_dark": lesion.amplitude < 0}
            rows.append(safety_case.row(**about, crc=crc, crc_of_input=crc_of_input))
    return rows
