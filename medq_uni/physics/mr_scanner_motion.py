"""Motion as MR scanners see it: by the order of acquisition, with averages, loss through the plane, interpolation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from medq_uni.physics.mr_movement import STEPS, Order, Trajectory, acquisition_times, rotated, trajectory
from medq_uni.physics.mr_scanner import (
    CHAIN_LIMITS,
    Chain,
    chance,
    developed,
    draw_chain,
    partially_sampled,
    scene_of,
    uniform,
    with_extras,
)
from medq_uni.physics.operators import from_k_space, to_k_space
from medq_uni.physics.record import Params
from medq_uni.physics.spec import Scanner
from medq_uni.seeding import randint
from medq_uni.taxonomy import Severity

MOVEMENT = {Severity.MILD: (0.3, 1.0), Severity.MODERATE: (1.0, 3.0), Severity.SEVERE: (3.0, 7.0)}
"""Size of a movement in degrees and in millimeters, by grade."""
BRIEF = 1.5
"""By how much movements after which the object is back are larger, since they reach fewer samples."""
LOSS = {Severity.MILD: 0.1, Severity.MODERATE: 0.25, Severity.SEVERE: 0.5}
"""Largest fraction of the signal that a movement through the plane takes away, by grade."""
EVENTS = {
    Trajectory.JUMPS: (2, 16),
    Trajectory.DRIFT: (1, 4),
    Trajectory.BREATHING: (4, 40),
    Trajectory.SWALLOW: (1, 4),
    Trajectory.RETURN: (1, 2),
}
"""Fewest and most poses, waves, breaths, swallows and stays away."""
ROTATIONS = 16
"""Number of rotations that are told apart; a movement has no more than that many."""


def draw_scanner_motion(severity: Severity, generator: torch.Generator) -> Params:
    """Return order, trajectory, size of the movement, loss through the plane, averages and the chain."""
    chain = draw_chain(generator)
    order, kind = Order(randint(len(Order), generator)), Trajectory(randint(len(Trajectory), generator))
    fewest, most = EVENTS[kind]
    shots = 8 * 2 ** randint(4, generator) if order is Order.ECHO_TRAIN else 2 + randint(6, generator)
    low, high = MOVEMENT[severity]
    if kind in (Trajectory.SWALLOW, Trajectory.RETURN):
        low, high = BRIEF * low, BRIEF * high
    return chain.params() | {
        "order": int(order),
        "groups": shots,
        "trajectory": int(kind),
        "num_poses": fewest + randint(most - fewest + 1, generator),
        "rotation_deg": uniform(low, high, generator),
        "translation_mm": uniform(low, high, generator),
        "through_plane_loss": uniform(0.0, LOSS[severity], generator) if chance(0.5, generator) else 0.0,
        "averages": 1 if chance(0.6, generator) else 2 + randint(3, generator),
    }


MOTION_LIMITS = {
    **CHAIN_LIMITS,
    "order": (0, max(Order)),
    "groups": (1, 4096),
    "trajectory": (0, max(Trajectory)),
    "num_poses": (1, 4096),
    "rotation_deg": (0.0, 90.0),
    "translation_mm": (0.0, 500.0),
    "through_plane_loss": (0.0, 1.0),
    "averages": (1, 16),
}


def scanner_motion(
    image: Tensor, *, params: Params, spacing_mm: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """Return the image of a scan during which the object moved rigidly.

    Every sample sees the object where it is when the sample is acquired. The pose at the center of k-space is the
    reference pose, so the result is registered to the input. Movement through the plane is told by what it costs: the
    farther the object is from the reference pose, the weaker its signal.

    Args:
        image: (H, W) magnitude, or complex.
        params: As :func:`draw_scanner_motion` returns them; what they do not name changes nothing.
        spacing_mm: Pixel spacing (row, column); rotation is rigid in millimeters.
        generator: Source of trajectory, phase and shading.

    Returns:
        (H, W) complex; the image a scanner shows is its magnitude.
    """
    chain = Chain.of(params)
    scene = scene_of(image, chain, generator)
    matrix = (scene.small.shape[0], scene.small.shape[1])
    spacing = (spacing_mm[0] * image.shape[0] / matrix[0], spacing_mm[1] * image.shape[1] / matrix[1])
    poses = _poses(matrix, chain, params, generator).to(image.device)
    shaded = scene.small / scene.correction
    moved = _moved(shaded, poses, spacing) * scene.correction
    made = with_extras(partially_sampled(moved, chain), chain, scene.peak, generator)
    return developed(scene, chain, scene.small, made)


@dataclass(frozen=True)
class _Poses:
    """Where the object is at every sample of every average, relative to the center of k-space."""

    degrees: Tensor
    """(A, h, w), or what broadcasts to it; so the others."""
    rows_mm: Tensor
    columns_mm: Tensor
    amplitude: Tensor
    """Of the signal, which a movement through the plane lowers."""

    def to(self, device: torch.device) -> _Poses:
        return _Poses(*(one.to(device) for one in (self.degrees, self.rows_mm, self.columns_mm, self.amplitude)))


def _poses(matrix: tuple[int, int], chain: Chain, params: Params, generator: torch.Generator) -> _Poses:
    averages = max(1, int(params.get("averages", 1)))
    times = acquisition_times(
        matrix, int(params.get("order", Order.SEQUENTIAL)), int(params.get("groups", 1)), chain.phase_axis
    )
    kind, events = int(params.get("trajectory", Trajectory.JUMPS)), int(params.get("num_poses", 1))
    path = trajectory(kind, events, generator)
    whole = (times[None] + torch.arange(averages)[:, None, None]) / averages
    moments = (whole * STEPS).long().clamp(max=STEPS - 1)
    center = moments[:, matrix[0] // 2 % moments.shape[1], matrix[1] // 2 % moments.shape[2]]
    path = path - path[center].mean(0)
    far = path.norm(dim=1)
    amplitude = 1 - float(params.get("through_plane_loss", 0.0)) * far / far.max().clamp(min=1e-6)
    degrees = path[:, 0] * float(params.get("rotation_deg", 0.0))
    shifts = path[:, 1:] * float(params.get("translation_mm", 0.0))
    return _Poses(degrees[moments], shifts[moments, 0], shifts[moments, 1], amplitude[moments])


def _moved(image: Tensor, poses: _Poses, spacing_mm: tuple[float, float]) -> Tensor:
    """Return the image whose every sample of k-space is of the pose at its time, averages averaged, (h, w) complex."""
    height, width = image.shape
    frequency = [torch.fft.fftshift(torch.fft.fftfreq(n, device=image.device)) for n in (height, width)]
    ramp = frequency[0][:, None] * poses.rows_mm / spacing_mm[0] + frequency[1] * poses.columns_mm / spacing_mm[1]
    weight = poses.amplitude * torch.exp(-2j * math.pi * ramp)  # (A, h, w)
    degrees, which = _few_rotations(poses.degrees)
    ratio = height * spacing_mm[0] / (width * spacing_mm[1])
    k_space = torch.zeros(height, width, dtype=torch.complex64, device=image.device)
    for number, degree in enumerate(degrees):
        share = (weight * (which == number)).mean(0)
        k_space = k_space + to_k_space(rotated(image, degree, ratio)) * share
    return from_k_space(k_space)


def _few_rotations(degrees: Tensor) -> tuple[list[float], Tensor]:
    """Return at most :data:`ROTATIONS` angles and the number of the one that stands for each of the angles given.

    Angles in one sixteenth of their range share their mean; angles next to zero are zero, which costs no resampling.
    """
    low, high = float(degrees.min()), float(degrees.max())
    if high - low < 1e-6:
        return [low], torch.zeros_like(degrees, dtype=torch.long)
    step = (high - low) / ROTATIONS
    numbers = (degrees / step).round().long()
    present = numbers.unique()
    which = torch.searchsorted(present, numbers.contiguous())
    angles = [0.0 if number == 0 else float(degrees[numbers == number].mean()) for number in present.tolist()]
    return angles, which


MOTION_SCANNER = Scanner(draw_scanner_motion, scanner_motion, MOTION_LIMITS)
