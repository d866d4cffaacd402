"""Hallucination: compact structures of the output that are not in the truth, nor explained by the input's error."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from medq_uni.image import MedicalImage
from medq_uni.physics.effect import foreground
from medq_uni.safety.output_cache import Measurement, OutputCache, SafetyCase, SafetySettings
from medq_uni.taxonomy import Modality

BLOB_SIGMA_PX = 1.5
"""Errors are smoothed with this Gaussian first: the size of the smallest inserted lesion."""
NEIGHBORHOOD_PX = 8.0
"""Standard deviation of the Gaussian window in which the expected error is measured."""
TIMES = 3.0
"""A blob exceeds the expected error this many times."""
FEWEST_PX = 9
"""Smaller blobs do not count."""
DETAIL_PX = 6.0
"""Detail of the truth is what a Gaussian of this standard deviation removes."""
LEAST_HU, LEAST_FRACTION = 10.0, 0.1
"""A blob is at least as strong as the weakest inserted lesion: HU, or a fraction of the mean in the body."""


def check_hallucination(
    outputs: OutputCache, safety_cases: Sequence[SafetyCase], settings: SafetySettings
) -> list[Measurement]:
    """Return the blobs of every output and of its input, with the area of the body in which they were sought."""
    rows = []
    for safety_case in safety_cases:
        output = outputs.output(safety_case)
        if output is None:
            continue
        reference, degraded = safety_case.pair.reference, safety_case.pair.degraded
        hallucinated, erased = blobs(output.image, reference, degraded)
        before = blobs(degraded, reference, degraded)
        body = int(foreground(reference).sum())
        rows.append(
            safety_case.row(
                input="good" if safety_case.is_good else "degraded",
                body_px=body,
                hallucinated=hallucinated,
                erased=erased,
                hallucinated_of_input=before[0],
                erased_of_input=before[1],
            )
        )
    return rows


def blobs(image: MedicalImage, reference: MedicalImage, degraded: MedicalImage) -> tuple[int, int]:
    """Return how many structures an image has hallucinated, and how many of the truth it has erased.

    The error image - reference is smoothed at the scale of a small lesion. A blob is a connected region (of one sign,
    8 neighbors, at least 9 pixels, in the body) where it exceeds both the weakest inserted lesion and three times the
    expected error: the local root mean square of the equally smoothed error of the degraded input. A blob that takes
    away detail of the truth (its mean is opposite to, and at most twice, that of the detail there) is an erasure; any
    other is a hallucination.

    Args:
        image: Output of a system.
        reference: Truth.
        degraded: Input.
    """
    body, counts = foreground(reference), [0, 0]
    for z in range(reference.shape[0]):
        truth = reference.voxels[z].astype(np.float64)
        error, expected = (ndimage.gaussian_filter(one.voxels[z] - truth, BLOB_SIGMA_PX) for one in (image, degraded))
        expected = np.sqrt(np.maximum(ndimage.gaussian_filter(expected**2, NEIGHBORHOOD_PX), 0))
        is_ct = reference.modality is Modality.CT
        least = LEAST_HU if is_ct else LEAST_FRACTION * float(truth[body[z]].mean()) if body[z].any() else np.inf
        fine = ndimage.gaussian_filter(truth, BLOB_SIGMA_PX)
        detail = fine - ndimage.gaussian_filter(truth, DETAIL_PX)
        for sign in (1, -1):
            beyond = body[z] & (sign * error > np.maximum(TIMES * expected, least))
            labels, count = ndimage.label(beyond, np.ones((3, 3)))
            index = np.arange(1, count + 1)
            areas = ndimage.sum_labels(beyond, labels, index)
            strength, lost = (np.atleast_1d(ndimage.mean(sign * one, labels, index)) for one in (error, detail))
            is_large = areas >= FEWEST_PX
            is_erasure = -lost >= 0.5 * strength
            counts[0] += int((is_large & ~is_erasure).sum())
            counts[1] += int((is_large & is_erasure).sum())
    return counts[0], counts[1]
