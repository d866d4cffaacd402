"""Augmentation of real reference slices: one scan stands for other matrices, contrasts and scanners.

Few real subjects are at hand, and a network soon knows their pixel size, smoothness and noise by heart. Every augmented
slice is still an image that such a scanner could have made, and it is what the degraded pair is made from.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F

from medq_uni.image import MedicalImage, axial_affine
from medq_uni.physics import mri
from medq_uni.taxonomy import Modality

ZOOM = {Modality.MR: (0.6, 2.2), Modality.PET: (1.0, 2.5)}
"""Range of the in-plane resampling factor, drawn uniformly in its logarithm; CT keeps its noise texture."""
ZOOM_CHANCE = 0.6
SIDES = (64, 512)
"""Resampled slices keep their longer side within this range, in pixels."""
GAMMA = (0.7, 1.4)
"""Range of the exponent that changes an MR contrast, drawn uniformly in its logarithm."""
GAMMA_CHANCE = 0.5
NOISE = (0.002, 0.012)
"""Standard deviation of a reference's own MR noise as a fraction of its 99.5th percentile."""
NOISE_CHANCE = 0.4


def augment(image: MedicalImage, generator: torch.Generator) -> MedicalImage:
    """Return a real slice with another matrix size, MR contrast, orientation and reference noise.

    Args:
        image: One slice (1, Y, X) in its units, values not negative for MR and PET.
        generator: Source of every choice.

    Returns:
        A slice (1, Y', X') in the same units and field of view; where it lay in space is forgotten.
    """
    draws = torch.rand(7, generator=generator).tolist()
    voxels = torch.from_numpy(np.array(image.voxels))
    spacing = image.spacing_mm
    if image.modality in ZOOM and draws[0] < ZOOM_CHANCE:
        voxels, spacing = _zoom(voxels, spacing, between(*ZOOM[image.modality], draws[1]))
    if image.modality is Modality.MR:
        scale = torch.quantile(voxels, 0.995).clamp(min=1e-6)
        if draws[2] < GAMMA_CHANCE:
            voxels = scale * (voxels / scale) ** between(*GAMMA, draws[3])
        if draws[4] < NOISE_CHANCE:
            sigma = between(*NOISE, draws[5])
            voxels = mri.noise(voxels, params={"sigma_fraction": sigma}, generator=generator).abs()
    if image.modality is not Modality.CT and draws[6] < 0.5:
        voxels, spacing = voxels.transpose(1, 2), (spacing[0], spacing[2], spacing[1])
    return replace(
        image,
        voxels=np.ascontiguousarray(voxels.numpy()),
        spacing_mm=spacing,
        affine=axial_affine(spacing),
        padding=None,
    )


def _zoom(
    voxels: torch.Tensor, spacing: tuple[float, float, float], factor: float
) -> tuple[torch.Tensor, tuple[float, float, float]]:
    """Return the slice resampled by the factor, limited to :data:`SIDES`, and its spacing."""
    height, width = voxels.shape[1:]
    longest = max(height, width)
    factor = min(max(factor, min(SIDES[0] / longest, 1.0)), max(SIDES[1] / longest, 1.0))
    size = (round(height * factor), round(width * factor))
    mode = {"mode": "area"} if factor < 1 else {"mode": "bicubic", "align_corners": False}
    resampled = F.interpolate(voxels[None], size=size, **mode)[0].clamp(min=0)
    return resampled, (spacing[0], spacing[1] * height / size[0], spacing[2] * width / size[1])


def between(low: float, high: float, draw: float) -> float:
    """Return the value of a positive range at ``draw`` in [0, 1], uniform in its logarithm for a uniform draw."""
    return low * math.exp(draw * math.log(high / low))
