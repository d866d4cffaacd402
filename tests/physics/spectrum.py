"""Power spectra of noise in a region, and their peaks."""

from collections.abc import Callable

import torch
from torch import Tensor

from medq_uni.image import MedicalImage
from medq_uni.physics.spectra import frequencies
from medq_uni.taxonomy import Modality

BIN = 0.02


def disc(size: int, value: float, outside: float, modality: Modality, pixel_mm: float = 1.2) -> MedicalImage:
    place = torch.arange(size) - (size - 1) / 2
    inside = torch.hypot(place[:, None] - 1, place[None] + 2) < 0.4 * size
    values = torch.where(inside, value, outside).numpy()
    return MedicalImage(values, (3.0, pixel_mm, pixel_mm), modality=modality)


def power_of(changes: Tensor, inside: Tensor) -> Tensor:
    """Return the mean power (H, W // 2 + 1) of changes (B, H, W) where a mask holds."""
    masked = (changes - changes[:, inside].mean()) * inside
    return torch.fft.rfft2(masked).abs().square().mean(0)


def radial(power: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the centers of the bins (F,) and the mean of the power in each (F,)."""
    number = (frequencies(height, width) / BIN).round().long().flatten()
    mean = torch.bincount(number, weights=power.flatten()) / torch.bincount(number).clamp(min=1)
    return torch.arange(len(mean)) * BIN, mean


def peak_of(frequency: Tensor, power: Tensor) -> float:
    """Return the middle of the top of a spectrum: what exceeds 0.8 of its largest value, up to 0.5."""
    power = torch.where(frequency <= 0.5, power, 0.0)
    weight = torch.where(power >= 0.8 * power.max(), power, 0.0)
    return float((weight * frequency).sum() / weight.sum())


def binned(power: Callable[[Tensor], Tensor], height: int, width: int) -> Tensor:
    """Return a radial power spectrum in the bins of :func:`radial`."""
    frequency = frequencies(height, width)
    return radial(power(frequency.flatten()).reshape(frequency.shape), height, width)[1]
