"""Random training batches from pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from medq_uni.data.pair_cache import CACHED_SIDE, TrainingPairs
from medq_uni.scaling import Scaling
from medq_uni.seeding import randint
from medq_uni.taxonomy import Severity, Task, restoration_strength

VISION_SIZES = (128, 160, 192)
"""Sides of the square that the assessor sees in training, drawn per batch."""
MAX_OFFSET = 16
"""Largest random shift of the position of a crop, in tokens, so that tiles of large slices are known."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Crops of several pairs."""

    index: list[int]
    """Number of every pair among the training pairs."""
    degraded: Float[Tensor, "B 2 H W"]
    reference: Float[Tensor, "B 2 H W"]
    valid: Bool[Tensor, "B 1 H W"]
    """False where a small slice was padded."""
    vision: Float[Tensor, "B 2 h w"] | Float[Tensor, " 0"]
    """What the assessor sees of the degraded slices; empty where it was not asked for."""
    offset: tuple[int, int]
    """Row and column of the crop's first token on the position table."""
    scaling: list[Scaling]
    """Network range of every slice."""

    def part(self, rows: slice, device: torch.device) -> Batch:
        """Return some of the samples, on a device."""
        return Batch(
            index=self.index[rows],
            degraded=self.degraded[rows].to(device, non_blocking=True),
            reference=self.reference[rows].to(device, non_blocking=True),
            valid=self.valid[rows].to(device, non_blocking=True),
            vision=self.vision[rows].to(device, non_blocking=True),
            offset=self.offset,
            scaling=self.scaling[rows],
        )

    def chosen(self, rows: Int[Tensor, " n"]) -> Batch:
        """Return the samples at some places, on the device on which they are."""
        places = rows.tolist()
        return Batch(
            index=[self.index[place] for place in places],
            degraded=self.degraded[rows],
            reference=self.reference[rows],
            valid=self.valid[rows],
            vision=self.vision[rows] if len(self.vision) else self.vision,
            offset=self.offset,
            scaling=[self.scaling[place] for place in places],
        )


class BatchSampler:
    """Draws batches in which tasks are balanced.

    Args:
        pairs: Where the crops come from.
        token_pixels: Crops begin on multiples of this.
        emphasis: Tasks that are drawn once more per round for every mention.
    """

    def __init__(self, pairs: TrainingPairs, *, token_pixels: int, emphasis: Sequence[Task] = ()) -> None:
        self.pairs = pairs
        self.token_pixels = token_pixels
        groups = ([i for i, item in enumerate(pairs.items) if item.task is task] for task in (*Task, *emphasis))
        self.by_task = [group for group in groups if group]

    def draw(self, size: int, *, crop: int, generator: torch.Generator, seen: torch.Generator | None = None) -> Batch:
        """Return ``size`` random crops of ``crop`` x ``crop`` pixels, flipped at random.

        Args:
            size: Number of crops.
            crop: Side in pixels.
            generator: Chooses pairs and crops.
            seen: Chooses what the assessor sees of the slices; None leaves it out.
        """
        first = randint(len(self.by_task), generator)
        index, views, valid, vision = [], [], [], []
        vision_size = 0 if seen is None else VISION_SIZES[randint(len(VISION_SIZES), seen)]
        for position in range(size):
            group = self.by_task[(first + position) % len(self.by_task)]
            chosen = group[randint(len(group), generator)]
            both = torch.stack(self.pairs.views(chosen))
            item = self.pairs.items[chosen]
            if seen is not None:
                vision.append(_window(both[0], *self._place(item.height, item.width, vision_size, seen), vision_size))
            top, left = self._place(item.height, item.width, crop, generator)
            inside = torch.zeros(1, CACHED_SIDE, CACHED_SIDE, dtype=torch.bool)
            inside[:, : item.height, : item.width] = True
            flips = [axis for axis in (-1, -2) if randint(2, generator)]
            views.append(_window(both, top, left, crop).flip(flips))
            valid.append(_window(inside, top, left, crop).flip(flips))
            index.append(chosen)
        stacked = torch.stack(views)
        return Batch(
            index=index,
            degraded=stacked[:, 0].contiguous(),
            reference=stacked[:, 1].contiguous(),
            valid=torch.stack(valid),
            vision=torch.stack(vision) if vision else torch.empty(0),
            offset=(randint(MAX_OFFSET, generator), randint(MAX_OFFSET, generator)),
            scaling=[self.pairs.scaling(chosen) for chosen in index],
        )

    def _place(self, height: int, width: int, size: int, generator: torch.Generator) -> tuple[int, int]:
        places = []
        for side in (height, width):
            slots = max(side - size, 0) // self.token_pixels + 1
            places.append(randint(slots, generator) * self.token_pixels)
        return places[0], places[1]


def _window(x: Tensor, top: int, left: int, size: int) -> Tensor:
    return x[..., top : top + size, left : left + size]


def edited_target(
    degraded: Float[Tensor, "2 H W"],
    reference: Float[Tensor, "2 H W"],
    *,
    true: Severity,
    stated: Severity,
) -> Float[Tensor, "2 H W"]:
    """Return what an image should become when its report states another severity than the true one.

    See :func:`medq_uni.taxonomy.restoration_strength`.
    """
    return moved_target(degraded, reference, restoration_strength(true, stated))


def moved_target(
    degraded: Float[Tensor, "2 H W"], reference: Float[Tensor, "2 H W"], strength: float
) -> Float[Tensor, "2 H W"]:
    """Return a share of the way from the degraded to the true image; 1 is all of it."""
    return degraded + strength * (reference - degraded)
