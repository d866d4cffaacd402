"""Drawing of phantoms: soft-edged wobbling shapes on smoothly warped coordinates."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Canvas:
    """An image under construction, in physical units.

    Coordinates run from -1 to 1 over the shorter way from center to edge, before a smooth random warp that
    makes every shape drawn on the canvas irregular in the same way.

    Args:
        size: Side in pixels.
        background: Value outside everything.
        generator: Source of every random number.
        warp: Size of the warp in coordinate units.
    """

    def __init__(self, size: int, background: float, generator: torch.Generator, warp: float = 0.04) -> None:
        self.size, self.generator = size, generator
        self.values = torch.full((size, size), background)
        line = (torch.arange(size) + 0.5) / size * 2 - 1
        self.y, self.x = torch.meshgrid(line, line, indexing="ij")
        self.y = self.y + warp * self.field(2.5)
        self.x = self.x + warp * self.field(2.5)

    def uniform(self, low: float, high: float) -> float:
        """Return a number drawn uniformly from [low, high)."""
        return low + (high - low) * float(torch.rand(1, generator=self.generator))

    def chance(self, probability: float) -> bool:
        """Return True with this probability."""
        return self.uniform(0, 1) < probability

    def integer(self, low: int, high: int) -> int:
        """Return an integer drawn uniformly from low to high, both included."""
        return int(torch.randint(low, high + 1, (1,), generator=self.generator))

    def field(self, slope: float, cutoff: float = 0.5) -> Tensor:
        """Return a random field of unit variance whose amplitude falls as frequency ** -slope.

        Args:
            slope: 0 is white; 2 and more is smooth.
            cutoff: Highest frequency in cycles per pixel.
        """
        fy, fx = torch.fft.fftfreq(self.size)[:, None], torch.fft.rfftfreq(self.size)[None]
        frequency = torch.hypot(fy, fx)
        weight = torch.where(frequency <= cutoff, frequency.clamp(min=1 / self.size) ** -slope, 0.0)
        weight[0, 0] = 0
        noise = torch.randn(self.size, self.size, generator=self.generator)
        field: Tensor = torch.fft.irfft2(torch.fft.rfft2(noise) * weight, s=(self.size, self.size))
        return field / field.std().clamp(min=1e-12)

    def shape(
        self,
        center: tuple[float, float],
        radius: tuple[float, float],
        angle: float = 0.0,
        wobble: float = 0.06,
    ) -> Tensor:
        """Return the soft mask, 0 to 1, of an ellipse whose radius wobbles with the polar angle.

        Args:
            center: (x, y) in canvas coordinates.
            radius: Half axes (x, y).
            angle: Rotation in radians.
            wobble: Relative size of the low-order Fourier terms of the radius.
        """
        dx, dy = self.x - center[0], self.y - center[1]
        c, s = math.cos(angle), math.sin(angle)
        u, v = (c * dx + s * dy) / radius[0], (c * dy - s * dx) / radius[1]
        distance = torch.hypot(u, v)
        if wobble > 0:
            polar = torch.atan2(v, u)
            terms = torch.randn(4, 2, generator=self.generator) * wobble
            for order, (a, b) in enumerate(terms.tolist(), start=2):
                distance = distance - (a * torch.cos(order * polar) + b * torch.sin(order * polar)) / order
        edge_px = (1 - distance) * math.sqrt(radius[0] * radius[1]) * self.size / 2
        return (edge_px + 0.5).clamp(0, 1)

    def paint(self, mask: Tensor, value: float, texture: float = 0.0, slope: float = 1.2) -> Tensor:
        """Paint a value, with a texture of this standard deviation, where the mask is; return the mask."""
        paint = value + (texture * self.field(slope) if texture > 0 else 0.0)
        self.values = self.values * (1 - mask) + paint * mask
        return mask

    def scatter(
        self, inside: Tensor, count: int, radius: tuple[float, float], value: tuple[float, float]
    ) -> list[tuple[float, float, float]]:
        """Paint small round structures inside a mask; return (x, y, radius) of each.

        Args:
            inside: Mask; structures are cut at its edge.
            count: How many.
            radius: Smallest and largest, drawn log-uniformly.
            value: Smallest and largest.
        """
        drawn: list[tuple[float, float, float]] = []
        flat = inside.flatten()
        if count < 1 or float(flat.sum()) < 1:
            return drawn
        places = torch.multinomial(flat, count, replacement=True, generator=self.generator)
        for place in places.tolist():
            center = (float(self.x.flatten()[place]), float(self.y.flatten()[place]))
            size = math.exp(self.uniform(math.log(radius[0]), math.log(radius[1])))
            stretch = self.uniform(0.7, 1.4)
            spot = self.shape(center, (size * stretch, size / stretch), self.uniform(0, math.pi), 0.1)
            self.paint(spot * inside, self.uniform(*value))
            drawn.append((*center, size))
        return drawn
