"""Smooth fields of an MR scanner: phase of the object, coil sensitivities, g-factor and bias.

All are functions of the place in the field of view, so they can be sampled on any matrix. Random numbers are drawn on
the generator's device; the fields lie where the caller asks.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

PHASE_TERMS = 5
RING = 1.35
"""Distance of the coils from the center, in half fields of view."""
G_WIDTH = 0.7
"""Standard deviation of the central bump of a g-factor map, in half fields of view."""


def smooth_phase(height: int, width: int, strength: float, generator: torch.Generator) -> Tensor:
    """Return a polynomial of second degree in the coordinates, (H, W) in radians: a slowly varying object phase."""
    y, x = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)[None]
    a, b, c, d, e = (strength * torch.randn(PHASE_TERMS, generator=generator)).tolist()
    phase: Tensor = a * x + b * y + c * x * y + d * x**2 + e * y**2
    return phase


class Coils:
    """Sensitivities of coils on a ring around the object, shaped like the field of small loops.

    The magnitude falls as (1 + d^2 / w^2)^(-3/2) with the distance d from the coil, the phase is a plane. The
    sensitivities of all coils have the sum of squares 1 everywhere: what they would shade has been corrected.

    Args:
        count: Number of coils; a single one is uniform.
        correlation: Noise correlation of neighboring coils, 0 to below 1; it decays as a power around the ring.
        generator: Source of their places, widths and phases.
    """

    def __init__(self, count: int, correlation: float, generator: torch.Generator) -> None:
        drawn = torch.rand(4, count, generator=generator)
        angle = 2 * math.pi * (torch.arange(count) + 0.6 * (drawn[0] - 0.5)) / count
        self.place = RING * torch.stack([angle.sin(), angle.cos()])  # (2, C)
        self.width = 0.6 + 0.6 * drawn[1]
        self.phase = 2 * math.pi * drawn[2]
        self.slope = (1.0 + drawn[3]) * torch.stack([angle.sin(), angle.cos()])
        step = (torch.arange(count)[:, None] - torch.arange(count)).abs()
        around = torch.minimum(step, count - step)
        self.covariance = torch.where(around == 0, 1.0, float(correlation) ** around.clamp(min=1))
        """Of the noise, (C, C), with diagonal 1."""

    def sensitivities(self, height: int, width: int, like: Tensor) -> Tensor:
        """Return the complex sensitivities (C, H, W) on the device of ``like``."""
        if len(self.width) == 1:
            return torch.ones(1, height, width, dtype=torch.complex64, device=like.device)
        y, x = coordinates(height, width, like)
        place, slope = self.place.to(like.device), self.slope.to(like.device)
        dy, dx = y - place[0, :, None, None], x - place[1, :, None, None]
        reach = (dy**2 + dx**2) / self.width.to(like.device)[:, None, None] ** 2
        magnitude = (1 + reach) ** -1.5
        magnitude = magnitude / magnitude.square().sum(0).sqrt()
        phase = self.phase.to(like.device)[:, None, None] + slope[0, :, None, None] * y + slope[1, :, None, None] * x
        return torch.polar(magnitude, phase)

    def noise(self, height: int, width: int, generator: torch.Generator, like: Tensor) -> Tensor:
        """Return complex white noise (C, H, W) with the covariance of the coils; real and imaginary part have SD 1."""
        white = white_noise((len(self.width), height, width), generator, like)
        if torch.equal(self.covariance, torch.eye(len(self.width))):
            return white
        factor = torch.linalg.cholesky(self.covariance).to(white)
        return torch.einsum("cd,dhw->chw", factor, white)

    def combined_noise(self, height: int, width: int, like: Tensor) -> Tensor:
        """Return the SD (H, W) of the noise after the adaptive combination, in units of the noise of one coil."""
        if len(self.width) == 1:
            return torch.ones(height, width, device=like.device)
        maps = self.sensitivities(height, width, like)
        spread = torch.einsum("cd,dhw->chw", self.covariance.to(maps), maps)
        return (maps.conj() * spread).real.sum(0).clamp(min=0).sqrt()


def white_noise(shape: tuple[int, ...], generator: torch.Generator, like: Tensor) -> Tensor:
    """Return complex Gaussian noise whose real and imaginary parts have the standard deviation 1."""
    real, imaginary = torch.randn(2, *shape, generator=generator)
    return torch.complex(real, imaginary).to(like.device)


def g_factor(height: int, width: int, *, peak: float, folds: int, phase_axis: int, like: Tensor) -> Tensor:
    """Return by how much parallel imaging amplifies the noise, (H, W), 1 to ``peak``.

    A bump in the middle, where coils see alike, with as many bands along the phase encoding as the image folds.

    Args:
        height: Rows.
        width: Columns.
        peak: Largest value.
        folds: Acceleration of the parallel imaging; 1 gives the bump alone, as reconstructions in k-space do.
        phase_axis: 0 where rows are encoded by phase, else 1.
        like: Gives the device.
    """
    y, x = coordinates(height, width, like)
    along = y if phase_axis == 0 else x
    bands = torch.cos(math.pi * folds * along / 2).square() if folds > 1 else torch.ones_like(along)
    bump = torch.exp(-0.5 * (y**2 + x**2) / G_WIDTH**2)
    return 1 + (peak - 1) * bump * (0.35 + 0.65 * bands)


def bias_field(height: int, width: int, coefficients: Tensor, strength: float) -> Tensor:
    """Return a shading exp(strength p), (H, W), where p is a polynomial of second degree that stays within -1 and 1.

    Args:
        height: Rows.
        width: Columns.
        coefficients: Five numbers, of any size; they give the shape.
        strength: Largest logarithm of the shading.
    """
    y, x = coordinates(height, width, coefficients)
    a, b, c, d, e = (coefficients / coefficients.abs().sum().clamp(min=1e-6)).tolist()
    return torch.exp(strength * (a * x + b * y + c * x * y + d * x**2 + e * y**2))


def coordinates(height: int, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the place of rows (H, 1) and columns (1, W) in half fields of view; the center of k-space's image is 0."""
    y, x = ((torch.arange(n, device=like.device) - n // 2) * (2 / n) for n in (height, width))
    return y[:, None], x[None]
