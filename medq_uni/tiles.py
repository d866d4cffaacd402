"""Overlapping tiles of slices that are larger than the network was trained on, and their seamless blend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

OVERLAP = 32
"""Smallest overlap of neighboring tiles in pixels."""
ALIGN = 16
"""Tiles begin on multiples of this many pixels."""


@dataclass(frozen=True)
class Tile:
    """A rectangle of one slice."""

    z: int
    top: int
    left: int
    height: int
    width: int

    @property
    def origin(self) -> tuple[int, int]:
        """Row and column of the first pixel."""
        return self.top, self.left

    @property
    def key(self) -> tuple[int, int, int]:
        """What tells this tile from all others of a volume."""
        return self.z, self.top, self.left

    def cut(self, x: Float[Tensor, "Z C H W"]) -> Float[Tensor, "C h w"]:
        """Return this part of a volume."""
        return x[self.z, :, self.top : self.top + self.height, self.left : self.left + self.width]


def tile_grid(shape: Sequence[int], *, size: int) -> list[Tile]:
    """Return tiles of at most ``size`` pixels a side that cover every slice of a (Z, C, H, W) tensor."""
    slices, _, height, width = shape
    return [
        Tile(z, top, left, min(size, height), min(size, width))
        for z in range(slices)
        for top in _starts(height, size)
        for left in _starts(width, size)
    ]


def blend(
    parts: Sequence[Float[Tensor, "C h w"]], tiles: Sequence[Tile], shape: Sequence[int]
) -> Float[Tensor, "Z C H W"]:
    """Return the volume whose tiles these are; overlaps are averaged with weights that fall to the rim."""
    total = torch.zeros(*shape)
    weight = torch.zeros(shape[0], 1, *shape[2:])
    for part, tile in zip(parts, tiles, strict=True):
        ramp = _ramp(tile.height)[:, None] * _ramp(tile.width)
        tile.cut(total).add_(part * ramp)
        tile.cut(weight).add_(ramp)
    return total / weight


def _starts(length: int, size: int) -> list[int]:
    if length <= size:
        return [0]
    count = -(-(length - OVERLAP) // (size - OVERLAP))
    last = (length - size) / (count - 1)
    starts = [int(i * last) // ALIGN * ALIGN for i in range(count - 1)]
    return [*starts, length - size]


def _ramp(length: int) -> Float[Tensor, " L"]:
    place = torch.arange(length, dtype=torch.float32) + 0.5
    return torch.minimum(place, length - place).clamp(max=OVERLAP / 2) / (OVERLAP / 2)
