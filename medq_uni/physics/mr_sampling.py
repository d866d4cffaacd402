"""Which samples of k-space are acquired: masks of lines and of points."""

from __future__ import annotations

import math
from enum import IntEnum

import torch
from torch import Tensor

from medq_uni.seeding import randint

DENSITY_EDGE = 0.3
"""Density of the Poisson disc at the edge of k-space over that in the middle."""
DISC_DENSITY = {0: 1.0, 1: 0.364, 2: 0.187, 4: 0.138, 5: 0.087, 8: 0.076, 9: 0.066, 10: 0.053}
"""Fraction of samples that random sequential placing keeps, by the squared distance in which there is no other."""
ROUNDS = 40


class Mask(IntEnum):
    """How samples are chosen."""

    GAUSSIAN = 0
    """Lines at random, denser in the middle."""
    EQUISPACED = 1
    """Every R-th line and the middle (ACS)."""
    POISSON_DISC = 2
    """Points with a distance to each other that grows from the middle, of two phase encodings."""


def line_mask(lines: int, acceleration: int, center_fraction: float, generator: torch.Generator) -> Tensor:
    """Return 1 for the lines that are acquired and 0 for the others, (lines,)."""
    place = torch.arange(lines, dtype=torch.float32) - lines // 2
    density = torch.exp(-0.5 * (place / (lines / 10)) ** 2) + 1 / (2 * acceleration)
    half = max(1, round(lines * center_fraction / 2))
    center = (place >= -half) & (place < half)
    wanted = max(lines // acceleration - int(center.sum()), 0)
    mask = center.float()
    if wanted:
        mask[torch.multinomial(density * ~center, wanted, generator=generator)] = 1
    return mask


def equispaced_mask(lines: int, acceleration: int, center_fraction: float, generator: torch.Generator) -> Tensor:
    """Return 1 for every R-th line and those of the center, and 0 for the others, (lines,)."""
    offset = randint(acceleration, generator)
    half = max(1, round(lines * center_fraction / 2))
    place = torch.arange(lines)
    return ((place % acceleration == offset) | ((place - lines // 2).abs() <= half)).float()


def poisson_disc_mask(
    height: int, width: int, acceleration: float, center_fraction: float, generator: torch.Generator
) -> Tensor:
    """Return 1 for samples of a variable-density Poisson disc and its fully sampled center, else 0, (H, W).

    Samples are placed at random, each farther than :func:`disc_radius` from every other of as large a radius, as many
    as find room, by rounds of which each takes the samples of the highest priority around; then some are left out at
    random, so that H W / R remain (Bridson 2007; Vasanawala et al. 2011, ISBI 1039).
    """
    center = _center(height, width, center_fraction)
    wanted = max(round(height * width / acceleration) - int(center.sum()), 0)
    squared = disc_radius(height, width, acceleration, center_fraction)
    priority = torch.rand(height, width, generator=generator) + 1e-6
    alive = ~center
    taken = torch.zeros(height, width, dtype=torch.bool)
    radii = sorted(set(squared.unique().tolist()))
    for _ in range(ROUNDS):
        contest = priority * alive
        best = torch.zeros_like(alive)
        for radius in radii:
            best |= (squared == radius) & (contest >= _largest_around(contest, radius))
        best &= alive
        if not best.any():
            break
        taken |= best
        for radius in radii:
            alive = alive & ~((squared == radius) & (_largest_around(best.float(), radius) > 0))
    chosen = taken.flatten().nonzero()[:, 0]
    keep = chosen[torch.randperm(len(chosen), generator=generator)[:wanted]]
    mask = center.float().flatten()
    mask[keep] = 1
    return mask.reshape(height, width)


def disc_radius(height: int, width: int, acceleration: float, center_fraction: float) -> Tensor:
    """Return the squared distance in samples within which a sample of a Poisson disc has no other one, (H, W)."""
    center = _center(height, width, center_fraction)
    y, x = ((torch.arange(n) - n // 2) / (n / 2) for n in (height, width))
    radius = (y[:, None] ** 2 + x[None] ** 2).sqrt()
    shape = (1 - (1 - DENSITY_EDGE) * radius).clamp(min=DENSITY_EDGE / 2) * ~center
    wanted = max(height * width / acceleration - int(center.sum()), 1.0)
    density = (shape * (wanted / float(shape.sum()))).clamp(max=1)
    squared = torch.zeros(height, width, dtype=torch.long)
    for radius_squared, kept in DISC_DENSITY.items():
        squared[density <= kept] = radius_squared
    squared[center] = 0
    return squared


def _center(height: int, width: int, center_fraction: float) -> Tensor:
    sides = [(torch.arange(n) - n // 2).abs() <= max(1, round(n * center_fraction / 2)) for n in (height, width)]
    return sides[0][:, None] & sides[1][None]


def _largest_around(values: Tensor, squared: int) -> Tensor:
    """Return the largest value within a distance, whose square is given, of every sample."""
    reach = math.isqrt(squared)
    height, width = values.shape
    padded = torch.nn.functional.pad(values, (reach, reach, reach, reach))
    largest = values
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            if 0 < dy * dy + dx * dx <= squared:
                near = padded[reach + dy : reach + dy + height, reach + dx : reach + dx + width]
                largest = torch.maximum(largest, near)
    return largest
