"""How much noise hides: the non-prewhitening observer with eye filter, looking for standard discs.

The observer compares what it sees with a disc through a filter E like that of the eye. For noise of power spectrum N
and a disc with Fourier transform S of contrast c its detectability is (Burgess 1994, JOSA A 11:1237)

    d' = c * sum(S^2 E^2) / sqrt(sum(S^2 E^4 N))

The noise that enters is that of an image filtered by S E^2. So it is measured on the image itself, without a spectrum,
and stated as the standard deviation of noise with a known texture that hides the discs as well: the contrast drops out.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy import special
from torch import Tensor

from medq_uni.physics.spectra import backprojected_power

EYE = (1.5, 3.22, 0.68)
"""Exponents and factor of E(r) = r^1.5 exp(-3.22 r^0.68), r in cycles per degree.

The three numbers are those of the open software actilib for CT (actilib.analysis.detectability, NPWE), which squares
this E before it takes it for the filter. Their first source has not been read; docs/decisions/0030 has more.
"""
RADIAL = 128
"""Frequencies of a radial spectrum."""
VIEWING_MM = 500.0
"""Distance to an image that is shown at its own size."""
Power = Callable[[int, int, tuple[float, float]], Tensor]
"""From height, width and pixel spacing (row, column) to the power (H, W // 2 + 1) of noise, up to a factor."""


@dataclass(frozen=True)
class Observer:
    """Looks for discs in noise."""

    discs_mm: tuple[float, ...]
    """Diameters."""
    contrast: float
    """Of the discs: HU, else a multiple of the mean signal. It matters for :meth:`detectability` alone."""
    known: Power
    """Texture of the noise whose standard deviation is stated."""

    def hiding(self, error: np.ndarray, inside: np.ndarray, spacing_mm: tuple[float, float]) -> float:
        """Return the standard deviation of noise of the known texture that hides the discs as much as an error does.

        Args:
            error: (Z, H, W), what a degradation has changed.
            inside: (Z, H, W) bool, where the observer looks.
            spacing_mm: Pixel spacing (row, column).
        """
        height, width = error.shape[-2:]
        where = torch.from_numpy(inside)
        spectrum = torch.fft.rfft2(torch.where(where, torch.from_numpy(error.astype(np.float32)), 0.0))
        found = []
        for template, known in _templates(self, height, width, spacing_mm):
            response = torch.fft.irfft2(spectrum * template, s=(height, width))
            found.append(float(response[where].double().square().mean()) / known)
        return math.sqrt(sum(found) / len(found))

    def factor(self, power: Callable[[Tensor], Tensor], spacing_mm: float) -> float:
        """Return the standard deviation of known noise that hides the discs as much as other noise of one of 1.

        Args:
            power: From frequencies (F,) in cycles per pixel to the radial power of the other noise, up to a factor.
            spacing_mm: Side of the square pixels.
        """
        frequency = (torch.arange(RADIAL) + 0.5) / (2 * RADIAL)  # up to half a cycle per pixel
        weight = power(frequency) * frequency
        found = []
        for diameter, (_, known) in zip(
            self.discs_mm, _templates(self, RADIAL, RADIAL, (spacing_mm, spacing_mm)), strict=True
        ):
            template = _disc(frequency / spacing_mm, diameter) * eye_filter(frequency / spacing_mm) ** 2
            found.append(float((weight * template**2).sum() / weight.sum()) / known)
        return math.sqrt(sum(found) / len(found))

    def detectability(self, sd: float, spacing_mm: float, side: int = 512) -> list[float]:
        """Return d' of every disc in noise of the known texture.

        Args:
            sd: Standard deviation of the noise, in the unit of the contrast.
            spacing_mm: Side of the square pixels.
            side: Of the image in pixels.
        """
        spacing = (spacing_mm, spacing_mm)
        found = []
        for diameter, (template, known) in zip(self.discs_mm, _templates(self, side, side, spacing), strict=True):
            frequency = _frequencies(side, side, spacing)
            area = math.pi * diameter**2 / 4
            signal = area * _whole(_disc(frequency, diameter) * template, side) / (side * spacing_mm) ** 2
            found.append(self.contrast * signal / (sd * math.sqrt(known)))
        return found


@functools.lru_cache(maxsize=32)
def _templates(
    observer: Observer, height: int, width: int, spacing_mm: tuple[float, float]
) -> list[tuple[Tensor, float]]:
    """Return, for every disc, the observer's filter, and the variance that known noise of variance 1 has behind it."""
    frequency = _frequencies(height, width, spacing_mm)
    power = observer.known(height, width, spacing_mm)
    found = []
    for diameter in observer.discs_mm:
        template = _disc(frequency, diameter) * eye_filter(frequency) ** 2
        found.append((template, _whole(power * template**2, width) / _whole(power, width)))
    return found


def eye_filter(frequency: Tensor) -> Tensor:
    """Return the amplitude that the eye lets through, 1 at its best; frequencies in cycles per mm."""
    rise, fall, exponent = EYE

    def amplitude(r: Tensor) -> Tensor:
        return r**rise * torch.exp(-fall * r**exponent)

    best = torch.tensor((rise / (fall * exponent)) ** (1 / exponent))
    return amplitude(frequency * VIEWING_MM * math.pi / 180) / amplitude(best)


def ramp_noise(height: int, width: int, spacing_mm: tuple[float, float]) -> Tensor:
    """Return the power (H, W // 2 + 1) of noise after filtered backprojection without a kernel."""
    return backprojected_power(height, width)


def smoothed_noise(fwhm_mm: float) -> Power:
    """Return the power of white noise after a Gaussian filter of a full width at half maximum."""
    return functools.partial(_smoothed, fwhm_mm)


def _smoothed(fwhm_mm: float, height: int, width: int, spacing_mm: tuple[float, float]) -> Tensor:
    sigma = fwhm_mm / math.sqrt(8 * math.log(2))
    return torch.exp(-((2 * math.pi * sigma * _frequencies(height, width, spacing_mm)) ** 2))


def _disc(frequency: Tensor, diameter_mm: float) -> Tensor:
    """Return the Fourier transform of a disc over its area: 2 J1(x) / x, x = pi D f."""
    x = (math.pi * diameter_mm * frequency).clamp(min=1e-6).double().numpy()
    return torch.from_numpy(2 * special.j1(x) / x).float()


def _frequencies(height: int, width: int, spacing_mm: tuple[float, float]) -> Tensor:
    rows = torch.fft.fftfreq(height, spacing_mm[0])[:, None]
    return torch.hypot(rows, torch.fft.rfftfreq(width, spacing_mm[1])[None])


def _whole(values: Tensor, width: int) -> float:
    """Return the sum over all frequencies of what is known for those of a real transform."""
    twice = torch.full((values.shape[-1],), 2.0)
    twice[0] = 1
    if width % 2 == 0:
        twice[-1] = 1
    return float((values.double() * twice).sum())
