"""What happens to an image after the scanner: vendor denoising, sharpening, another grid, 8 bits, JPEG.

Sharpening and another grid are linear, so that the reference can go through them as well: they act on the change that
the scanner made, which is the same as acting on both images and taking the reference's part back. A pair stays aligned,
and a record is replayed from the reference alone. Denoising, 8 bits and JPEG act on the image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import IntEnum

import torch
import torch.nn.functional as F
from torch import Tensor

from medq_uni.physics.draws import Draws
from medq_uni.physics.operators import gaussian_blur
from medq_uni.physics.record import Params
from medq_uni.physics.spectra import through_grid
from medq_uni.taxonomy import Modality


class Denoiser(IntEnum):
    """Filter that a vendor puts before us."""

    MEDIAN = 1
    """Of 3 x 3 pixels."""
    BILATERAL = 2
    """Of 5 x 5 pixels, over differences of a few standard deviations."""
    WAVELET = 3
    """Soft thresholds in three scales of the a-trous B3 spline (Starck and Murtagh 1998)."""


CHANCE = {"denoised": 0.1, "sharpened": 0.08, "resampled": 0.1, "turned": 0.5, "eight_bit": 0.08, "jpeg": 0.08}
"""How often a step is there; ``turned`` of those that are resampled."""
STRENGTH, SHARE = (0.7, 2.5), (0.3, 0.9)
SHARPENING, SHARPENING_SIGMA_PX = (0.2, 1.2), (0.6, 1.6)
SCALE, ROTATION_DEG = (0.6, 2.0), 15.0
QUALITY = (50, 95)
RANGE = {Modality.CT: (400.0, 2500.0), Modality.MR: (1.0, 1.3), Modality.PET: (1.0, 1.3)}
"""Width of the 8-bit range: HU around soft tissue, else a multiple of the 99.9th percentile above 0."""
CT_CENTER_HU = 50.0
PEAK_QUANTILE = 0.999
AFTER_LIMITS: Mapping[str, tuple[float, float]] = {
    "after_denoiser": (1, max(Denoiser)),
    "after_denoiser_strength": (0.0, 20.0),
    "after_denoiser_share": (0.0, 1.0),
    "after_sharpening": (0.0, 10.0),
    "after_sharpening_sigma_px": (0.1, 20.0),
    "after_scale": (0.2, 4.0),
    "after_rotation_deg": (-45.0, 45.0),
    "after_cubic": (0, 1),
    "after_eight_bit": (0, 1),
    "after_jpeg_quality": (1, 100),
    "after_range": (0.1, 1e5),
}
"""Parameters of records, with their least and largest values; those of steps that did not happen are not there."""
LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
"""Steps of JPEG at quality 50 (ITU-T T.81, table K.1)."""
SPLINE = (1 / 16, 1 / 4, 3 / 8, 1 / 4, 1 / 16)
WAVELET_SD = (0.890, 0.201, 0.086)
"""Standard deviation of white noise of unit variance in the three scales."""


def draw_after(modality: Modality, generator: torch.Generator) -> Params:
    """Return the parameters of what happens to an image after the scanner, mostly of nothing.

    Args:
        modality: Of the image.
        generator: Source of the draw, which is always of as many numbers.
    """
    draws = Draws(18, generator)
    has = {step: draws.has(chance) for step, chance in CHANCE.items()}
    kind, strength, share = draws.between(1, max(Denoiser) + 1), draws.evenly(*STRENGTH), draws.between(*SHARE)
    sharpening, sigma = draws.evenly(*SHARPENING), draws.evenly(*SHARPENING_SIGMA_PX)
    scale, turn, cubic = draws.evenly(*SCALE), draws.between(-ROTATION_DEG, ROTATION_DEG), draws.has(0.5)
    quality, width = draws.between(QUALITY[0], QUALITY[1] + 1), draws.evenly(*RANGE[modality])
    params: Params = {}
    if has["denoised"]:
        params |= {"after_denoiser": math.floor(kind), "after_denoiser_strength": strength}
        params["after_denoiser_share"] = share
    if has["sharpened"]:
        params |= {"after_sharpening": sharpening, "after_sharpening_sigma_px": sigma}
    if has["resampled"]:
        params |= {"after_scale": scale, "after_rotation_deg": has["turned"] * turn, "after_cubic": int(cubic)}
    if has["eight_bit"]:
        params["after_eight_bit"] = 1
    if has["jpeg"]:
        params["after_jpeg_quality"] = math.floor(quality)
    if has["eight_bit"] or has["jpeg"]:
        params["after_range"] = width
    return params


def after_scanner(image: Tensor, reference: Tensor, params: Params, modality: Modality) -> Tensor:
    """Return what becomes of an image after the scanner, in this order: denoised, sharpened, resampled, 8 bits, JPEG.

    Values beyond the 8-bit range keep what they were, since nothing could bring them back.

    Args:
        image: (H, W) as the scanner delivers it, in its units.
        reference: (H, W), what it is a degradation of.
        params: Of a record; without a name of :data:`AFTER_LIMITS` the image comes back as it is.
        modality: Of both.
    """
    if not any(name in params for name in AFTER_LIMITS):
        return image
    if "after_denoiser" in params:
        image = _denoised(image, params)
    if "after_sharpening" in params:
        change = image - reference
        fine = change - gaussian_blur(change[None], float(params.get("after_sharpening_sigma_px", 1.0)))[0]
        image = image + float(params["after_sharpening"]) * fine
    if "after_scale" in params:
        turn, is_cubic = float(params.get("after_rotation_deg", 0.0)), bool(params.get("after_cubic", 0))
        scale = float(params["after_scale"])
        image = reference + through_grid((image - reference)[None], scale, turn, is_cubic=is_cubic)[0]
    if modality is not Modality.CT:
        image = torch.where(reference < 0, image, image.clamp(min=0))
    if params.get("after_eight_bit") or "after_jpeg_quality" in params:
        image = _exported(image, params, modality)
    return image


def _denoised(image: Tensor, params: Params) -> Tensor:
    kind, strength = int(params["after_denoiser"]), float(params.get("after_denoiser_strength", 1.0))
    if kind == Denoiser.MEDIAN:
        found = _neighbors(image, 1).median(0).values
    elif kind == Denoiser.BILATERAL:
        found = _bilateral(image, 2 * strength * noise_of(image))
    else:
        found = _wavelet(image, strength * noise_of(image))
    return image + float(params.get("after_denoiser_share", 1.0)) * (found - image)


def noise_of(image: Tensor) -> Tensor:
    """Return the standard deviation of fine noise of an image (H, W): the median of its Laplacian where it is not flat.

    Immerkaer's operator, of white noise; soft noise counts as less than it is, as for the filters of vendors.
    """
    kernel = image.new_tensor([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]])
    found = F.conv2d(image[None, None], kernel[None, None])[0, 0].abs() / 6
    lively = found[found > 1e-3 * found.max()]
    return lively.median() / 0.6745 if lively.numel() else found.new_zeros(())


def _neighbors(image: Tensor, reach: int) -> Tensor:
    """Return the image and its neighbors, (N, H, W)."""
    side = 2 * reach + 1
    padded = F.pad(image[None, None], [reach] * 4, mode="replicate")
    return F.unfold(padded, side)[0].reshape(side * side, *image.shape)


def _bilateral(image: Tensor, reach_of_values: Tensor) -> Tensor:
    near = _neighbors(image, 2)
    y, x = (torch.arange(25) // 5 - 2).to(image), (torch.arange(25) % 5 - 2).to(image)
    weight = torch.exp(-(y**2 + x**2) / (2 * 1.2**2))[:, None, None]
    weight = weight * torch.exp(-0.5 * ((near - image) / reach_of_values.clamp(min=1e-9)) ** 2)
    return (weight * near).sum(0) / weight.sum(0)


def _wavelet(image: Tensor, sigma: Tensor) -> Tensor:
    smooth, kept = image, torch.zeros_like(image)
    spline = image.new_tensor(SPLINE)
    for scale, deviation in enumerate(WAVELET_SD):
        step = 2**scale
        reach = min(2 * step, min(image.shape) - 1)
        padded = F.pad(smooth[None, None], [reach] * 4, mode="reflect")
        if reach < 2 * step:
            padded = F.pad(padded, [2 * step - reach] * 4, mode="replicate")
        rows = F.conv2d(padded, spline[None, None, :, None], dilation=(step, 1))
        smoother = F.conv2d(rows, spline[None, None, None], dilation=(1, step))[0, 0]
        detail = smooth - smoother
        kept = kept + torch.sign(detail) * (detail.abs() - deviation * sigma).clamp(min=0)
        smooth = smoother
    return smooth + kept


def _exported(image: Tensor, params: Params, modality: Modality) -> Tensor:
    """Return an image (H, W) after an export to 8 bits, perhaps as JPEG, and back to its units."""
    width = float(params.get("after_range", RANGE[modality][0]))
    low = 0.0
    if modality is Modality.CT:
        low = CT_CENTER_HU - width / 2
    else:
        width *= float(torch.quantile(image, PEAK_QUANTILE))
    if width <= 0:
        return image
    level = ((image - low) / width * 255).double()
    inside = (level >= 0) & (level <= 255)
    stored = level.clamp(0, 255).round()
    if "after_jpeg_quality" in params:
        stored = jpeg(stored, int(params["after_jpeg_quality"]))
    return torch.where(inside, (stored / 255 * width + low).to(image), image)


def jpeg(levels: Tensor, quality: int) -> Tensor:
    """Return a gray image (H, W) of levels 0 to 255 after JPEG: 8 x 8 cosine transforms, rounded to steps, and back.

    Args:
        levels: Whole numbers, float64.
        quality: 1 to 100, as libjpeg scales the table.
    """
    scale = 5000 / quality if quality < 50 else 200 - 2 * quality
    steps = ((levels.new_tensor(LUMINANCE) * scale + 50) / 100).floor().clamp(1, 255)
    place = torch.arange(8, dtype=levels.dtype, device=levels.device)
    basis = torch.cos((2 * place + 1) * place[:, None] * math.pi / 16) / 2
    basis[0] /= math.sqrt(2)
    height, width = levels.shape
    padded = F.pad(levels[None, None], [0, -width % 8, 0, -height % 8], mode="replicate")[0, 0] - 128
    blocks = padded.reshape(padded.shape[0] // 8, 8, -1, 8).transpose(1, 2)  # (rows, columns, 8, 8)
    stored = (basis @ blocks @ basis.T / steps).round() * steps
    found = (basis.T @ stored @ basis + 128).round().clamp(0, 255)
    return found.transpose(1, 2).reshape(padded.shape)[:height, :width]
