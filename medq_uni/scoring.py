"""How an image is scored: which range, which pixels. A number without its range says nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medq_uni.errors import MedQError
from medq_uni.image import MedicalImage
from medq_uni.metrics import psnr, ssim, ssim_maps
from medq_uni.physics.effect import foreground
from medq_uni.scaling import CT_RANGE_HU, CT_WINDOW_HU, PERCENTILE
from medq_uni.taxonomy import Modality

DEFINITIONS = 3
"""Raised when a score means something else or one is added; kept scores are then computed again."""


@dataclass(frozen=True)
class ImageScores:
    """Scores of one image against its reference; all in float64, mean over slices.

    PSNR in dB, infinite where the images are equal. Of several slices those that are equal have none and are left out
    of the mean, as slices of one value are where each has its own data range.
    """

    psnr: float
    """CT clipped to [-160, 240] HU with data range 400; MR and PET unclipped, from 0 to the 99.9th percentile of the
    volume that the reference is or was taken from."""
    ssim: float
    """On the same range."""
    psnr_wide: float
    """CT clipped to [-1024, 3071] HU with data range 4095; elsewhere the same as ``psnr``."""
    ssim_wide: float
    """On the same range."""
    psnr_slice: float
    """Clipped as ``psnr``, the data range being the largest minus the smallest value of each reference slice: the
    convention of AMIR and Restore-RWKV, which rewards bright slices."""
    ssim_slice: float
    """On the same range."""
    psnr_foreground: float
    """As ``psnr``, over the pixels whose reference is above -500 HU, or in MR and PET above 5 % of its own 99.9th
    percentile; slices without any are left out, NaN where none has one."""
    ssim_foreground: float
    """As ``ssim``, the mean over the windows whose middle is such a pixel; slices without any are left out."""


def scores(image: MedicalImage, reference: MedicalImage, data_range: float | None = None) -> tuple[float, float]:
    """Return PSNR in dB and SSIM of an image against its reference, as :class:`ImageScores` defines them.

    Args:
        image: What is scored.
        reference: The truth.
        data_range: As in :func:`score_image`.

    Raises:
        MedQError: If shapes differ.
    """
    x, y = _on_main_range(image, reference)
    return _pair(x, y, data_range_of(reference) if data_range is None else data_range)


def psnr_gain(
    degraded: MedicalImage, restored: MedicalImage, reference: MedicalImage, data_range: float | None = None
) -> float:
    """Return by how many dB the PSNR of the restored image is above that of the degraded one; see :func:`scores`."""
    before, after = (scores(image, reference, data_range)[0] for image in (degraded, restored))
    return after - before


def score_image(image: MedicalImage, reference: MedicalImage, data_range: float | None = None) -> ImageScores:
    """Return all scores of an image against its reference.

    Args:
        image: What is scored.
        reference: The truth.
        data_range: Of the main scores, in the units of the images: what :func:`data_range_of` says of the whole volume
            where the reference is one slice of it; None takes that of the reference.

    Raises:
        MedQError: If shapes differ, a voxel of the image is not finite, or a data range is not positive.
    """
    if not np.isfinite(image.voxels).all():
        raise MedQError(f"{np.count_nonzero(~np.isfinite(image.voxels))} voxels are NaN or infinite; no score.")
    x, y = _on_main_range(image, reference)
    data_range = data_range_of(reference) if data_range is None else data_range
    if not data_range > 0:
        raise MedQError(f"the data range must be positive, got {data_range:g}; no score.")
    own_range = y.amax(dim=(1, 2, 3)) - y.amin(dim=(1, 2, 3))
    has_range = own_range > 0
    own = torch.where(has_range, own_range, 1.0)[:, None, None, None]
    similarity, own_similarity = ssim_maps(x, y, data_ranges=(data_range, own))
    main = _mean(psnr(x, y, data_range=data_range).numpy()), _mean(similarity.mean(dim=(1, 2, 3)).numpy())
    wide = main
    if reference.modality is Modality.CT:
        low, high = CT_RANGE_HU
        wide_x, wide_y = (v.clamp(low, high) for v in _tensors(image, reference))
        wide = _pair(wide_x, wide_y, high - low)
    per_slice = psnr(x, y, data_range=own_range), own_similarity.mean(dim=(1, 2, 3))
    psnr_slice, ssim_slice = (_mean(torch.where(has_range, one, torch.nan).numpy()) for one in per_slice)
    inside = torch.from_numpy(foreground(reference))[:, None]
    error, middle = (x - y).square(), _middles(inside, similarity)
    errors = torch.stack([one[mask].mean() for one, mask in zip(error, inside, strict=True)])
    psnr_inside = _mean((10 * torch.log10(data_range**2 / errors)).numpy())
    ssim_inside = _mean(np.array([float(one[mask].mean()) for one, mask in zip(similarity, middle, strict=True)]))
    return ImageScores(*main, *wide, psnr_slice, ssim_slice, psnr_inside, ssim_inside)


def data_range_of(reference: MedicalImage) -> float:
    """Return the data range of the main scores: 400 HU for CT, else the 99.9th percentile of the reference.

    Raises:
        MedQError: If that percentile is not positive.
    """
    if reference.modality is Modality.CT:
        return CT_WINDOW_HU[1] - CT_WINDOW_HU[0]
    data_range = float(np.percentile(reference.voxels, PERCENTILE))
    if not data_range > 0:
        raise MedQError(f"the reference has no data range: its {PERCENTILE}th percentile is {data_range:g}.")
    return data_range


def _on_main_range(image: MedicalImage, reference: MedicalImage) -> tuple[Tensor, Tensor]:
    x, y = _tensors(image, reference)
    if reference.modality is Modality.CT:
        x, y = x.clamp(*CT_WINDOW_HU), y.clamp(*CT_WINDOW_HU)
    return x, y


def _tensors(image: MedicalImage, reference: MedicalImage) -> tuple[Tensor, Tensor]:
    if image.shape != reference.shape:
        raise MedQError(f"image and reference differ in shape: {image.shape} and {reference.shape}.")
    x, y = (torch.from_numpy(one.voxels.astype(np.float64))[:, None] for one in (image, reference))
    return x, y


def _pair(x: Tensor, y: Tensor, data_range: float) -> tuple[float, float]:
    return _mean(psnr(x, y, data_range=data_range).numpy()), _mean(ssim(x, y, data_range=data_range).numpy())


def _middles(pixels: Tensor, windows: Tensor) -> Tensor:
    """Return the pixels that are the middle of a window, with the shape of the map of the windows."""
    top, left = ((pixels.shape[axis] - windows.shape[axis]) // 2 for axis in (2, 3))
    return pixels[:, :, top : top + windows.shape[2], left : left + windows.shape[3]]


def _mean(values: np.ndarray) -> float:
    """Return the mean over the slices that have a finite score, else infinity where one is equal, else NaN."""
    known = values[~np.isnan(values)]
    finite = known[np.isfinite(known)]
    return float((finite if len(finite) else known).mean()) if len(known) else float("nan")
