"""Spectra of noise and images, and what filters and interpolation make of them.

Frequencies are in cycles per pixel; a power spectrum is radial unless it says otherwise.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

CUTOFF_POWER = 0.1
"""A spectrum is cut off where its power has fallen to this share of its peak."""
ROLLOFF_LIMITS = (0.02, 80.0)
PHASES = 32
"""Places between two pixels over which interpolation is averaged."""
CUBIC_A = -0.75
"""Parameter of the cubic convolution of torch."""
PLATEAU = (0.03, 0.1)
"""Where sharp and soft reconstructions still show edges alike."""


@dataclass(frozen=True)
class NoiseSpectrum:
    """Noise power of an apodised ramp filter: (f / peak)^rise exp(-rise / rolloff ((f / peak)^rolloff - 1)).

    A plain ramp has rise 1; more means that low frequencies are held back, as edge-enhancing kernels do.
    """

    peak: float
    """Frequency of the largest power."""
    rise: float
    rolloff: float

    @classmethod
    def of(cls, peak: float, cutoff: float, rise: float) -> NoiseSpectrum:
        """Return the spectrum whose power is a tenth of its peak's at ``cutoff``, which lies above ``peak``."""
        ratio, wanted = cutoff / peak, math.log(CUTOFF_POWER)
        low, high = ROLLOFF_LIMITS
        for _ in range(60):
            middle = (low + high) / 2
            exponent = math.exp(min(middle * math.log(ratio), 700.0))
            falls = rise * math.log(ratio) - rise / middle * (exponent - 1)
            low, high = (low, middle) if falls < wanted else (middle, high)
        return cls(peak, rise, (low + high) / 2)

    def power(self, frequency: Tensor) -> Tensor:
        """Return the power at frequencies, 1 at the peak."""
        ratio = frequency / self.peak
        return ratio**self.rise * torch.exp(-self.rise / self.rolloff * (ratio**self.rolloff - 1))

    def transfer(self, frequency: Tensor) -> Tensor:
        """Return what the roll-off leaves of an image's amplitude, 1 at frequency 0."""
        return torch.exp(-self.rise / (2 * self.rolloff) * (frequency / self.peak) ** self.rolloff)


def frequencies(height: int, width: int) -> Tensor:
    """Return the radial frequency (H, W // 2 + 1) of every coefficient of a real Fourier transform."""
    return torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None])


def filtered(images: Tensor, transfer: Tensor) -> Tensor:
    """Return images (B, H, W) whose real Fourier transform is multiplied by (H, W // 2 + 1)."""
    height, width = images.shape[-2:]
    result: Tensor = torch.fft.irfft2(torch.fft.rfft2(images) * transfer.to(images), s=(height, width))
    return result


@functools.lru_cache(maxsize=16)
def backprojected_power(height: int, width: int) -> Tensor:
    """Return the power (H, W // 2 + 1) of white ray noise after filtered backprojection by :class:`Radon`.

    The ramp gives |f|, linear interpolation between detectors sinc^4, and both repeat beyond the sampling.
    """
    rows, columns = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None]
    power = torch.zeros(height, width // 2 + 1)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            radius = torch.hypot(rows + down, columns + right).clamp(min=0.25 / max(height, width))
            folded = torch.remainder(radius, 1.0)
            ramp = torch.minimum(folded, 1 - folded)
            power += ramp**2 / radius * torch.sinc(radius) ** 4
    return power


def low_pass(frequency: Tensor, limit: float) -> Tensor:
    """Return a transfer that falls as a raised cosine from 1 at 0.8 ``limit`` to 0 at ``limit``."""
    place = ((frequency / limit - 0.8) / 0.2).clamp(0, 1)
    return 0.5 * (1 + torch.cos(math.pi * place))


def through_grid(images: Tensor, scale: float, rotation_deg: float, *, is_cubic: bool) -> Tensor:
    """Return images (B, H, W) that were interpolated to another grid and back.

    Args:
        images: Any values.
        scale: Pixels of the other grid for each pixel of the images.
        rotation_deg: Of the other grid.
        is_cubic: Whether by cubic convolution, else linearly.
    """
    height, width = images.shape[-2:]
    size = (max(4, round(height * scale)), max(4, round(width * scale)))
    there = _turned(images[:, None], size, rotation_deg, height / width, is_cubic)
    return _turned(there, (height, width), -rotation_deg, height / width, is_cubic)[:, 0]


def _turned(images: Tensor, size: tuple[int, int], degrees: float, aspect: float, is_cubic: bool) -> Tensor:
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    theta = images.new_tensor([[cosine, -sine * aspect, 0.0], [sine / aspect, cosine, 0.0]])
    grid = F.affine_grid(theta.expand(len(images), -1, -1), [len(images), 1, *size], align_corners=False)
    mode = "bicubic" if is_cubic else "bilinear"
    return F.grid_sample(images, grid, mode=mode, padding_mode="reflection", align_corners=False)


def through_grid_power(frequency: Tensor, scale: float, *, is_cubic: bool) -> Tensor:
    """Return what :func:`through_grid` leaves of the radial power, averaged over places and directions.

    It holds for spectra that the other grid can hold, and leaves out what interpolation adds beyond them.
    """
    angle = torch.linspace(0, math.pi / 4, 9)
    along = frequency[:, None] * torch.stack([angle.cos(), angle.sin()])[:, None]
    power = _interpolation_power(along, is_cubic) * _interpolation_power(along / scale, is_cubic)
    return power.prod(0).mean(-1)


def _interpolation_power(frequency: Tensor, is_cubic: bool) -> Tensor:
    place = (torch.arange(PHASES) + 0.5) / PHASES
    taps = torch.arange(-1, 3)
    distance = (place[:, None] - taps).abs()
    near = (CUBIC_A + 2) * distance**3 - (CUBIC_A + 3) * distance**2 + 1
    far = CUBIC_A * (distance**3 - 5 * distance**2 + 8 * distance - 4)
    cubic = torch.where(distance <= 1, near, torch.where(distance < 2, far, 0.0))
    weight = cubic if is_cubic else (1 - distance).clamp(min=0)
    phase = torch.exp(2j * math.pi * frequency[..., None] * taps)
    return (phase[..., None, :] * weight).sum(-1).abs().square().mean(-1)


def own_cutoff(image: Tensor) -> float:
    """Return the frequency at which an image in HU has lost nine tenths of the power of its edges, at most 0.5.

    The power of edges falls as 1 / f^3, times the square of the scanner's transfer, which stays when f^3 is taken out.
    Noise of the image hides a lower cutoff.

    Args:
        image: (H, W) in HU.
    """
    height, width = image.shape
    window = torch.hann_window(height + 2)[1:-1, None] * torch.hann_window(width + 2)[1:-1]
    power = torch.fft.rfft2((image - image.mean()) * window.to(image)).abs().square()
    frequency = frequencies(height, width).to(image)
    step = max(0.02, 2 / min(height, width))
    number = (frequency / step).round().long().flatten()
    count = torch.bincount(number).clamp(min=1)
    radial = torch.bincount(number, weights=(power * frequency**3).flatten()) / count
    center = torch.arange(len(radial)) * step
    level = radial[(center >= PLATEAU[0]) & (center <= PLATEAU[1])].mean()
    fallen = (center > PLATEAU[1]) & (center <= 0.5) & (radial < CUTOFF_POWER * level)
    return float(center[fallen][0]) if bool(fallen.any()) else 0.5


def radial(spectrum: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return frequencies in cycles per pixel and the mean of a spectrum (N, N) on rings around zero, up to Nyquist.

    The zero frequency is left out.
    """
    side = len(spectrum)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None])
    ring = np.rint(frequency * side).astype(int)
    count = side // 2
    inside = (ring >= 1) & (ring <= count)
    values = np.bincount(ring[inside], spectrum[inside], count + 1)[1:] / np.bincount(ring[inside])[1:]
    return np.arange(1, count + 1) / side, values
