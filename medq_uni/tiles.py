"""Overlapping tiles of slices that are larger than the network was trained on, and their seamless blend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

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
    """Return tiles of one size that cover every slice of a (Z, C, H, W) tensor.

    They are as few as tiles of at most ``size`` pixels a side can be, and no larger than that many need to be.
    """
    slices, _, height, width = shape
    tops, lefts = (_cuts(length, size) for length in (height, width))
    return [
        Tile(z, top, left, tops.side, lefts.side) for z in range(slices) for top in tops.starts for left in lefts.starts
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


class _Cuts(NamedTuple):
    """Where the tiles of one axis begin, and how long each is."""

    starts: list[int]
    side: int


def _cuts(length: int, size: int) -> _Cuts:
    if length <= size:
        return _Cuts([0], length)
    count = -(-(length - OVERLAP) // (size - OVERLAP))
    side = min(size, -(-(length + (count - 1) * OVERLAP) // (count * ALIGN)) * ALIGN)
    step = (length - side) / (count - 1)
    return _Cuts([*(int(i * step) // ALIGN * ALIGN for i in range(count - 1)), length - side], side)


def _ramp(length: int) -> Float[Tensor, " L"]:
    place = torch.arange(length, dtype=torch.float32) + 0.5
    return torch.minimum(place, length - place).clamp(max=OVERLAP / 2) / (OVERLAP / 2)
