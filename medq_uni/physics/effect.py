"""How strong a degradation is, measured on the image: what severity grades mean."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medq_uni.errors import MedQError
from medq_uni.image import MedicalImage
from medq_uni.physics.ct import BODY_HU, SOFT_TISSUE_HU
from medq_uni.physics.operators import gaussian_blur
from medq_uni.physics.record import DEFAULT_METHOD, MEASURED, SCANNER_METHOD
from medq_uni.physics.tasks import SPECS
from medq_uni.taxonomy import Modality, Severity, Task

ANY_TEXTURE = (SCANNER_METHOD, MEASURED)
"""Methods whose noise is graded by what it hides."""
FOREGROUND = 0.05
"""MR and PET foreground begins at this fraction of the 99.9th percentile."""
WINDOW = {Modality.CT: 7, Modality.MR: 9, Modality.PET: 5}
"""Side of the neighborhood in which noise is measured, in pixels."""
FEWEST_WINDOWS = 50
MOST_SLICES = 16
NOISE_LIMITS = {Modality.CT: 18.0, Modality.MR: 0.04, Modality.PET: 0.15}
"""Noise of its own up to which an image passes as a reference: HU, else a fraction of the mean signal.

CT: what routine abdominal protocols aim at, with a margin. PET: the variation in the liver that EANM guidelines
for FDG imaging (2015) allow.
"""


def foreground(image: MedicalImage) -> np.ndarray:
    """Return where the body is, (Z, Y, X) bool: above -500 HU, or above 5 % of the 99.9th percentile."""
    least = BODY_HU if image.modality is Modality.CT else FOREGROUND * np.percentile(image.voxels, 99.9)
    return np.asarray(image.voxels > least)


def effect(degraded: MedicalImage, reference: MedicalImage, task: Task, *, method: str = DEFAULT_METHOD) -> float:
    """Return the error inside the body that a degradation has made, in the unit of the task's effect scale.

    CT: standard deviation of the difference in HU. MR and PET: norm of the difference over the norm of the
    reference (NRMSE). Noise of a scanner can have any texture: in CT and PET it counts as noise of the default's
    texture that hides standard discs as well (:mod:`medq_uni.physics.observer`), in the same unit.

    Args:
        degraded: The degraded image.
        reference: The image before, of the same shape.
        task: What kind of degradation it was.
        method: How it was made; only of ``scanner`` and ``measured`` noise the texture is unknown.

    Raises:
        MedQError: If the shapes differ.
    """
    if degraded.shape != reference.shape:
        raise MedQError(f"degraded is {degraded.shape}, reference {reference.shape}; they must have one shape.")
    inside = foreground(reference)
    if not inside.any():
        inside = np.ones_like(inside)
    truth = reference.voxels[inside].astype(np.float64)
    scale = SPECS[task].effect
    if scale.observer is None or method not in ANY_TEXTURE:
        return scale.measure(degraded.voxels[inside] - truth, truth)
    row, column = reference.spacing_mm[1:]
    hidden = scale.observer.hiding(degraded.voxels - reference.voxels, inside, (row, column))
    if not scale.is_relative:
        return hidden
    size = float(np.sqrt(np.square(truth).mean()))
    return hidden / size if size > 0 else 0.0


def grade_of(task: Task, effect: float) -> Severity:
    """Return the grade of a measured effect of a task."""
    return SPECS[task].effect.grade(effect)


def own_noise(image: MedicalImage) -> float:
    """Return an estimate of the noise that an image has by itself: HU for CT, else a fraction of the mean signal.

    CT: the most frequent local standard deviation in soft tissue (Christianson et al. 2015, AJR 205:W22). MR: the
    local Laplacian noise of Immerkaer (1996, CVIU 64:300), 25th percentile over the foreground, which structure does
    not reach. PET: the local coefficient of variation in the most uniform tenth of the foreground.
    An estimate is 0 where too little tissue is seen. Several slices give their median, from at most 16 of them.
    """
    chosen = np.unique(np.linspace(0, image.shape[0] - 1, MOST_SLICES).round().astype(int))
    return float(np.median([_slice_noise(torch.from_numpy(image.voxels[z].copy()), image.modality) for z in chosen]))


def total_effect(added: float, own: float, task: Task) -> float:
    """Return the effect that a reader sees: what was added, on top of the noise that the reference has itself.

    Noise of the reference counts where it exceeds :data:`NOISE_LIMITS` and the degradation is noise too; independent
    noise adds in quadrature.
    """
    if not SPECS[task].is_noise or own <= NOISE_LIMITS[task.modality]:
        return added
    return float(np.hypot(added, own))


def _slice_noise(image: Tensor, modality: Modality | None) -> float:
    if modality is None or min(image.shape) < 16:
        return 0.0
    smooth = gaussian_blur(image[None], 1.5)[0]
    if modality is Modality.CT:
        inside = (smooth > SOFT_TISSUE_HU[0]) & (smooth < SOFT_TISSUE_HU[1])
    else:
        inside = smooth > 2 * FOREGROUND * float(np.percentile(image.numpy(), 99.9))
    window = WINDOW[modality]
    whole = F.avg_pool2d(inside.float()[None], window, 1)[0] > 0.999
    if int(whole.sum()) < FEWEST_WINDOWS:
        return 0.0
    if modality is Modality.MR:
        kernel = torch.tensor([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]])
        high = F.conv2d(image[None, None], kernel[None, None], padding=1)[0, 0] / 6
        local = F.avg_pool2d(high.square()[None], window, 1)[0].sqrt()[whole]
        return float(torch.quantile(local, 0.25)) / float(image[inside].mean())
    centered = image - float(image[inside].mean())  # a variance of small numbers keeps its digits
    offset = F.avg_pool2d(centered[None], window, 1)[0]
    spread = (F.avg_pool2d(centered.square()[None], window, 1)[0] - offset.square()).clamp(min=0).sqrt()
    if modality is Modality.PET:
        mean = F.avg_pool2d(image[None], window, 1)[0]
        return float(torch.quantile((spread / mean.clamp(min=1e-6))[whole], 0.1))
    return _mode(spread[whole])


def _mode(values: Tensor) -> float:
    """Return the most frequent value, from a smoothed histogram up to the 90th percentile."""
    top = float(torch.quantile(values[:: max(1, len(values) // 100_000)], 0.9))
    if top <= 0:
        return 0.0
    counts, edges = np.histogram(values.numpy(), bins=60, range=(0.0, top))
    peak = int(np.convolve(counts, [0.25, 0.5, 0.25], "same").argmax())
    return float(edges[peak] + edges[peak + 1]) / 2
