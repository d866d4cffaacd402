"""When samples of k-space are acquired, and where the object is at that time."""

from __future__ import annotations

import math
from enum import IntEnum

import torch
import torch.nn.functional as F
from torch import Tensor

from medq_uni.physics.mr_fields import coordinates

STEPS = 512
"""Moments of a scan at which its trajectory is known."""


class Order(IntEnum):
    """In which order the lines, or points, of k-space are acquired."""

    SEQUENTIAL = 0
    INTERLEAVED = 1
    """Every n-th line, then those beside them, and so on."""
    CENTRIC = 2
    """From the middle of k-space outwards, on both sides in turn."""
    ECHO_TRAIN = 3
    """Shots, each of which acquires one line in every part of k-space at one moment."""
    TWO_PHASE = 4
    """Rows and columns are encoded by phase: points, from the middle outwards."""
    TWO_PHASE_LINEAR = 5
    """Rows and columns are encoded by phase: points, one line after the other."""


class Trajectory(IntEnum):
    """How the object moves during the scan."""

    JUMPS = 0
    DRIFT = 1
    BREATHING = 2
    SWALLOW = 3
    """Short movements, after which the object is back."""
    RETURN = 4
    """Away, a stay, and back, though not wholly."""


def acquisition_times(matrix: tuple[int, int], order: int, groups: int, phase_axis: int) -> Tensor:
    """Return when every sample is acquired, from 0 to below 1; broadcasts to the matrix (h, w).

    Args:
        matrix: Rows and columns of k-space.
        order: An :class:`Order`.
        groups: Passes of an interleaved order, or shots of echo trains; others do not use it.
        phase_axis: 0 where rows are encoded by phase, else 1.
    """
    lines = matrix[phase_axis]
    place = torch.arange(lines)
    groups = max(1, min(groups, lines))
    if order in (Order.TWO_PHASE, Order.TWO_PHASE_LINEAR):
        return _point_times(matrix, order, phase_axis)
    if order == Order.ECHO_TRAIN:
        times = (place % groups) / groups
    elif order == Order.INTERLEAVED:
        times = _ranked((place % groups) * lines + place)
    elif order == Order.CENTRIC:
        times = _ranked(2 * (place - lines // 2).abs() - (place < lines // 2).long())
    else:
        times = place / lines
    return times[:, None] if phase_axis == 0 else times[None]


def _point_times(matrix: tuple[int, int], order: int, phase_axis: int) -> Tensor:
    if order == Order.TWO_PHASE:
        y, x = coordinates(*matrix, torch.zeros(1))
        return _ranked((y**2 + x**2).flatten()).reshape(matrix)
    fast = torch.arange(matrix[1 - phase_axis]) / matrix[1 - phase_axis]
    slow = torch.arange(matrix[phase_axis])
    times = (slow[:, None] + fast[None]) / matrix[phase_axis]
    return times if phase_axis == 0 else times.T


def _ranked(keys: Tensor) -> Tensor:
    """Return the rank of every key over their number."""
    ranks = torch.empty(len(keys))
    ranks[torch.argsort(keys, stable=True)] = torch.arange(len(keys), dtype=torch.float32)
    return ranks / len(keys)


def trajectory(kind: int, events: int, generator: torch.Generator) -> Tensor:
    """Return where the object is at :data:`STEPS` moments of a scan, (T, 3): rotation, shifts along rows and columns.

    The size of every component is about 1; what it means in degrees and millimeters is up to the caller.

    Args:
        kind: A :class:`Trajectory`.
        events: Number of poses, of breaths, of swallows, or of stays away; a drift has as many waves.
        generator: Source of sizes, directions and moments.
    """
    time = (torch.arange(STEPS) + 0.5) / STEPS
    events = max(1, events)
    if kind == Trajectory.JUMPS:
        moments = torch.rand(events - 1, generator=generator).sort().values
        return torch.randn(events, 3, generator=generator)[torch.searchsorted(moments, time)]
    if kind == Trajectory.DRIFT:
        return _drift(time, events, generator)
    if kind == Trajectory.BREATHING:
        return _breathing(time, events, generator)
    stays = torch.zeros(STEPS, 3)
    for _ in range(events):
        direction = 1.5 * torch.randn(3, generator=generator)
        start, length, rest = torch.rand(3, generator=generator).tolist()
        if kind == Trajectory.SWALLOW:
            duration = 0.03 + 0.07 * length
            inside = (time - start * (1 - duration)) / duration
            shape = torch.sin(math.pi * inside.clamp(0, 1)) ** 2
        else:
            duration = 0.1 + 0.4 * length
            inside = (time - start * (1 - duration)) / duration
            shape = ((inside >= 0) & (inside < 1)).float() + (inside >= 1).float() * (0.2 * rest)
        stays = stays + shape[:, None] * direction
    return stays


def _drift(time: Tensor, waves: int, generator: torch.Generator) -> Tensor:
    sizes = torch.randn(waves + 1, 3, generator=generator)
    starts = torch.rand(waves, 3, generator=generator)
    path = 2 * (time[:, None] - 0.5) * sizes[0]
    for wave in range(waves):
        turns = (wave + 1) * time[:, None] + starts[wave]
        path = path + torch.sin(2 * math.pi * turns) * sizes[wave + 1] / (wave + 1)
    return path


def _breathing(time: Tensor, breaths: int, generator: torch.Generator) -> Tensor:
    """Return raised cosines, which stay long at the end of expiration, of uneven depth and rate, in one direction."""
    start = float(torch.rand(1, generator=generator))
    depth = 1 + 0.2 * torch.randn(breaths + 2, generator=generator)
    rate = 1 + 0.1 * torch.sin(2 * math.pi * (time + start))
    turns = start + torch.cumsum(rate, 0) * (breaths / STEPS)
    breath = depth[turns.long().clamp(max=breaths + 1)] * torch.sin(math.pi * turns) ** 4
    direction = torch.randn(3, generator=generator)
    direction[1:] = 2.5 * direction[1:] / direction[1:].norm().clamp(min=1e-6)
    direction[0] = 0.3 * direction[0]
    return breath[:, None] * direction


def rotated(image: Tensor, degrees: float, ratio: float) -> Tensor:
    """Return the image turned about its center, zero beyond its edges; ``ratio`` is its height over its width in mm."""
    if degrees == 0:
        return image
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    matrix = torch.tensor([[c, -s * ratio, 0.0], [s / ratio, c, 0.0]], device=image.device)
    grid = F.affine_grid(matrix[None], [1, 1, *image.shape], align_corners=False)
    if not image.is_complex():
        return F.grid_sample(image[None, None], grid, mode="bicubic", align_corners=False)[0, 0]
    parts = torch.view_as_real(image).permute(2, 0, 1)
    real, imaginary = F.grid_sample(parts[None], grid, mode="bicubic", align_corners=False)[0]
    return torch.complex(real, imaginary)
