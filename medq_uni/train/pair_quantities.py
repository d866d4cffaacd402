"""Quantities of training pairs: as they are measured, and as a reading of the degraded image would give them."""

from __future__ import annotations

import functools

import torch
from jaxtyping import Float
from torch import Tensor

from medq_uni.data.pair_cache import TrainingPairs, pair_images
from medq_uni.physics.effect import foreground
from medq_uni.physics.measured_quantities import quantities_of
from medq_uni.physics.record import read_records
from medq_uni.quantities import Quantities, misread

KEPT = 100_000
"""Pairs whose quantities are kept in memory."""


class PairQuantities:
    """The quantities of pairs, each measured once.

    Args:
        pairs: Where the slices are.
    """

    def __init__(self, pairs: TrainingPairs) -> None:
        self.pairs = pairs
        self.of = functools.lru_cache(maxsize=KEPT)(self._measured)

    def __reduce__(self) -> tuple[type[PairQuantities], tuple[TrainingPairs]]:
        """Let another process measure anew."""
        return PairQuantities, (self.pairs,)

    def told(self, index: list[int], generator: torch.Generator) -> Float[Tensor, "B n"]:
        """Return what the decoder is told about some pairs, with the errors of a reading."""
        return torch.stack([misread(self.of(one).told(), generator) for one in index])

    def true(self, index: list[int]) -> Float[Tensor, "B n"]:
        """Return the true quantities of some pairs."""
        return torch.stack([self.of(one).told() for one in index])

    def _measured(self, index: int) -> Quantities:
        degraded, reference = pair_images(self.pairs, index)
        item = self.pairs.items[index]
        span = self.pairs.scaling(index).wide_span
        noise = torch.from_numpy((degraded.voxels[0] - reference.voxels[0]) / span)
        inside = torch.from_numpy(foreground(reference)[0])
        return quantities_of(item.task.modality, read_records(item.records), noise, inside)
