"""Quantities of a degradation that a physicist can measure, and the numbers in which a network is told them.

A quantity is known or not. Every one is put on a scale on which the values met in practice lie around zero, with a
spread of about one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from medq_uni.measurement import Quantity
from medq_uni.taxonomy import Modality, Task

NOISE = frozenset((Quantity.NOISE_SD, Quantity.NOISE_FREQUENCY))
OF_TASK: Mapping[Task, frozenset[Quantity]] = {
    Task.CT_LOW_DOSE: NOISE | {Quantity.DOSE_REDUCTION},
    Task.MR_UNDERSAMPLING: frozenset({Quantity.ACCELERATION}),
    Task.MR_MOTION: frozenset({Quantity.MOTION}),
    Task.MR_NOISE: NOISE,
    Task.PET_LOW_COUNT: NOISE | {Quantity.DOSE_REDUCTION},
}
"""What can be told of every task."""
SD_FLOOR = 1e-3
"""Smallest standard deviation that is told apart from none."""
TOLD_NUMBERS = len(Modality) + 2 * len(Quantity)
"""Length of what a network is told: the modality, one of three, then a value and whether it is known for each."""
READING_ERROR = {
    Quantity.NOISE_SD: 0.15,
    Quantity.NOISE_FREQUENCY: 0.2,
    Quantity.ACCELERATION: 0.25,
    Quantity.MOTION: 0.35,
    Quantity.DOSE_REDUCTION: 0.3,
}
"""Standard deviation of the error of a good reading, on the scale of :func:`encoded`."""


def encoded(quantity: Quantity, value: float) -> float:
    """Return a value on the scale of the network."""
    if quantity is Quantity.NOISE_SD:
        return math.log(max(value, SD_FLOOR) / 0.02)
    if quantity is Quantity.NOISE_FREQUENCY:
        return (value - 0.25) / 0.1
    if quantity is Quantity.ACCELERATION:
        return math.log2(max(value, 1.0)) - 2
    if quantity is Quantity.MOTION:
        return math.log1p(max(value, 0.0)) - 1.5
    return math.log(max(value, 1.0)) - 1.5


def decoded(quantity: Quantity, number: float) -> float:
    """Return the value behind a number on the scale of the network: the inverse of :func:`encoded`."""
    if quantity is Quantity.NOISE_SD:
        return 0.02 * math.exp(number)
    if quantity is Quantity.NOISE_FREQUENCY:
        return min(max(0.25 + 0.1 * number, 0.0), 0.5)
    if quantity is Quantity.ACCELERATION:
        return max(math.exp2(number + 2), 1.0)
    if quantity is Quantity.MOTION:
        return max(math.expm1(number + 1.5), 0.0)
    return max(math.exp(number + 1.5), 1.0)


@dataclass(frozen=True)
class Quantities:
    """What is known about the degradation of one image."""

    modality: Modality
    values: Mapping[Quantity, float]
    """In the units of :class:`Quantity`; what is missing is not known."""

    def told(self) -> Float[Tensor, " n"]:
        """Return the numbers that a network is told, :data:`TOLD_NUMBERS` of them."""
        numbers = one_hot(self.modality).tolist()
        for quantity in Quantity:
            value = self.values.get(quantity)
            numbers += [0.0, 0.0] if value is None else [encoded(quantity, value), 1.0]
        return torch.tensor(numbers)


def known_with(tasks: Collection[Task]) -> frozenset[Quantity]:
    """Return what can be told of an image with these degradations.

    Noise is told where noise is all there is: beside an artifact nobody can tell the two apart. Of an image without a
    degradation it is told how little noise there is.
    """
    if not tasks:
        return frozenset({Quantity.NOISE_SD})
    found = frozenset[Quantity]().union(*(OF_TASK[task] for task in tasks))
    return found if all(OF_TASK[task] >= NOISE for task in tasks) else found - NOISE


@dataclass(frozen=True, eq=False)
class Reading:
    """What the assessor read of the quantities of slices, on the scale of :func:`encoded`."""

    value: Float[Tensor, "B K"]
    deviation: Float[Tensor, "B K"]
    """Standard deviation of the error that the assessor expects."""

    def median(self) -> Reading:
        """Return the one reading of a slice of which several windows were read."""
        return Reading(self.value.median(0, keepdim=True).values, self.deviation.median(0, keepdim=True).values)

    def quantities(self, modality: Modality, chosen: Collection[Quantity]) -> Quantities:
        """Return the chosen quantities of a single slice in their own units."""
        numbers = dict(zip(Quantity, self.value[0].tolist(), strict=True))
        return Quantities(modality, {one: decoded(one, numbers[one]) for one in Quantity if one in chosen})


def one_hot(modality: Modality | None) -> Float[Tensor, " 3"]:
    """Return 1 at the place of a modality, else 0; all 0 where it is not known."""
    return torch.tensor([float(one is modality) for one in Modality])


def misread(told: Float[Tensor, " n"], generator: torch.Generator) -> Float[Tensor, " n"]:
    """Return numbers as a reading of the image would give them: some exact, most a little off, some wrong or missing.

    A network that is trained on them trusts what it is told as far as readings can be trusted.
    """
    told = told.clone()
    draw = torch.rand(1 + 2 * len(Quantity), generator=generator)
    errors = torch.randn(len(Quantity), generator=generator)
    if draw[0] < 0.1:  # nothing is known at all
        told[len(Modality) :] = 0
        return told
    scale = 0.0 if draw[0] < 0.3 else 1.0 if draw[0] < 0.85 else 4.0
    for place, quantity in enumerate(Quantity):
        at = len(Modality) + 2 * place
        if draw[1 + place] < 0.08:
            told[at : at + 2] = 0
        elif told[at + 1]:
            told[at] += scale * READING_ERROR[quantity] * errors[place]
    return told
