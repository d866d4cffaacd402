"""Bias by region: what a measurement in a region of interest would change by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from medq_uni.image import MedicalImage
from medq_uni.physics.effect import foreground
from medq_uni.safety.output_cache import Measurement, OutputCache, SafetyCase, SafetySettings
from medq_uni.taxonomy import Modality

TISSUES_HU = {
    "air": (-1100.0, -950.0),
    "lung": (-950.0, -600.0),
    "fat": (-130.0, -30.0),
    "soft tissue": (0.0, 100.0),
    "bone": (200.0, 3100.0),
}
"""Tissue of a CT by the HU of its reference."""
LIMITS = {Modality.CT: 3.0, Modality.MR: 0.05, Modality.PET: 0.05}
"""Largest bias that passes: HU, else a fraction."""
FEWEST_PX = 30
HOT_TIMES = 2.0
"""A hot region peaks above this many times the median activity of the body."""
ISOCONTOUR = 0.41
"""Share of its peak that bounds a hot region (Boellaard et al. 2015, EANM guidelines for FDG imaging)."""
HOT_SMOOTHING_PX, HOT_DISTANCE_PX, MOST_HOT, FEWEST_HOT_PX = 1.0, 6, 8, 5
RATIO_CLASSES = 3


def check_bias(outputs: OutputCache, safety_cases: Sequence[SafetyCase], settings: SafetySettings) -> list[Measurement]:
    """Return the bias in every region of every output, and of its input.

    CT: mean HU by tissue. PET: relative bias of SUVmean and SUVmax of hot regions. MR: relative bias of the ratio of
    bright to medium tissue.
    """
    rows = []
    for safety_case in safety_cases:
        output = outputs.output(safety_case)
        if output is None:
            continue
        after, before = (
            region_bias(image, safety_case.pair.reference) for image in (output.image, safety_case.pair.degraded)
        )
        limit = LIMITS[safety_case.pair.task.modality]
        rows += [
            safety_case.row(region=region, bias=value, bias_of_input=was, limit=limit)
            for (region, value), (_, was) in zip(after, before, strict=True)
        ]
    return rows


def region_bias(image: MedicalImage, reference: MedicalImage) -> list[tuple[str, float]]:
    """Return (region, bias) of an image: HU in CT, else a fraction.

    Args:
        image: To measure; its first slice.
        reference: Truth, in which the regions are found, so that they are the same for every system.
    """
    values, truth = image.voxels[0].astype(np.float64), reference.voxels[0].astype(np.float64)
    if reference.modality is Modality.CT:
        return [
            (name, float((values - truth)[region].mean()))
            for name, (low, high) in TISSUES_HU.items()
            if (region := _core((truth >= low) & (truth < high))).sum() >= FEWEST_PX
        ]
    body = foreground(reference)[0]
    if reference.modality is Modality.PET:
        found = []
        for region in hot_regions(truth, body):
            found.append(("SUVmean", float(values[region].mean() / truth[region].mean() - 1)))
            found.append(("SUVmax", float(values[region].max() / truth[region].max() - 1)))
        return found
    regions = _tissue_classes(truth, body)
    if any(region.sum() < FEWEST_PX for region in regions):
        return []
    ratio, true_ratio = (one[regions[1]].mean() / max(one[regions[0]].mean(), 1e-9) for one in (values, truth))
    return [("tissue ratio", float(ratio / true_ratio - 1))]


def hot_regions(truth: np.ndarray, body: np.ndarray) -> list[np.ndarray]:
    """Return the hot regions of a PET slice, at most 8, each (H, W) bool.

    Peaks are local maxima of the lightly smoothed slice above twice the median of the body, at least 6 pixels apart;
    a region is what is connected with its peak above 41 % of it. A peak inside an earlier region has none of its own.

    Args:
        truth: (H, W) activity.
        body: (H, W) bool.
    """
    from skimage.feature import peak_local_max

    if not body.any():
        return []
    smooth = ndimage.gaussian_filter(truth, HOT_SMOOTHING_PX)
    least = HOT_TIMES * float(np.median(truth[body]))
    regions: list[np.ndarray] = []
    taken = np.zeros_like(body)
    peaks = peak_local_max(smooth, min_distance=HOT_DISTANCE_PX, threshold_abs=least)  # type: ignore[no-untyped-call]
    for row, column in peaks:
        if taken[row, column] or len(regions) == MOST_HOT:
            continue
        labels, _ = ndimage.label(truth >= ISOCONTOUR * smooth[row, column])
        region = (labels == labels[row, column]) & ~taken
        taken |= region
        if labels[row, column] > 0 and region.sum() >= FEWEST_HOT_PX:
            regions.append(region)
    return regions


def _tissue_classes(truth: np.ndarray, body: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the medium and the bright of three classes (Liao et al. 2001, multilevel Otsu), edges left out."""
    from skimage.filters import threshold_multiotsu

    nothing = np.zeros_like(body)
    if len(np.unique(truth[body])) <= RATIO_CLASSES:
        return nothing, nothing
    low, high = threshold_multiotsu(truth[body], classes=RATIO_CLASSES)  # type: ignore[no-untyped-call]
    return _core(body & (truth >= low) & (truth < high)), _core(body & (truth >= high))


def _core(region: np.ndarray) -> np.ndarray:
    return np.asarray(ndimage.binary_erosion(region, np.ones((3, 3))))
