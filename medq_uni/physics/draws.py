"""Numbers that decide the parameters of a scanner, taken one after the other from a list that was drawn at once."""

from __future__ import annotations

import math

import torch


class Draws:
    """Turns uniform random numbers into parameters, each number used once, in order.

    Args:
        count: How many numbers are drawn; taking more is an error of the caller.
        generator: Source of the numbers.
    """

    def __init__(self, count: int, generator: torch.Generator) -> None:
        self._numbers = iter(torch.rand(count, generator=generator).tolist())

    def between(self, low: float, high: float) -> float:
        """Return a number that is uniform in an interval."""
        return low + float(next(self._numbers)) * (high - low)

    def evenly(self, low: float, high: float) -> float:
        """Return a positive number whose logarithm is uniform in an interval."""
        return math.exp(self.between(math.log(low), math.log(high)))

    def has(self, probability: float) -> bool:
        """Return True with a probability."""
        return float(next(self._numbers)) < probability
