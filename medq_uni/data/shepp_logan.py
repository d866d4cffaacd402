"""The Shepp-Logan head and its random relatives: ellipses whose projections are known exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from medq_uni.image import MedicalImage, Units, axial_affine
from medq_uni.taxonomy import Modality

HEAD_MM = 240.0
OVERSAMPLING = 4
"""Samples per pixel and axis, so that edges are averaged as a scanner averages them."""


@dataclass(frozen=True)
class Ellipse:
    """An ellipse of constant value, in units of half the field of view; values of overlapping ones add."""

    value: float
    half_axes: tuple[float, float]
    center: tuple[float, float]
    degrees: float


HEAD = (
    Ellipse(1.0, (0.69, 0.92), (0.0, 0.0), 0.0),
    Ellipse(-0.8, (0.6624, 0.8740), (0.0, -0.0184), 0.0),
    Ellipse(-0.2, (0.1100, 0.3100), (0.22, 0.0), -18.0),
    Ellipse(-0.2, (0.1600, 0.4100), (-0.22, 0.0), 18.0),
    Ellipse(0.1, (0.2100, 0.2500), (0.0, 0.35), 0.0),
    Ellipse(0.1, (0.0460, 0.0460), (0.0, 0.1), 0.0),
    Ellipse(0.1, (0.0460, 0.0460), (0.0, -0.1), 0.0),
    Ellipse(0.1, (0.0460, 0.0230), (-0.08, -0.605), 0.0),
    Ellipse(0.1, (0.0230, 0.0230), (0.0, -0.606), 0.0),
    Ellipse(0.1, (0.0230, 0.0460), (0.06, -0.605), 0.0),
)
"""The modified Shepp-Logan head (Toft 1996, table B.3), x to the right and y up."""


def relatives(generator: torch.Generator, *, spread: float = 0.1) -> tuple[Ellipse, ...]:
    """Return a random relative of the head: what is inside lies a little elsewhere, is larger, turned or brighter.

    Args:
        generator: Source of every number.
        spread: Relative standard deviation of sizes and of values; positions vary by a third, angles by 100 degrees
            times it. 0 gives the head itself.
    """
    found = list(HEAD[:2])  # the skull stays
    for ellipse in HEAD[2:]:
        value, width, height, x, y, turn = (spread * torch.randn(6, generator=generator).clamp(-2, 2)).tolist()
        found.append(
            Ellipse(
                ellipse.value * (1 + value),
                (ellipse.half_axes[0] * (1 + width), ellipse.half_axes[1] * (1 + height)),
                (ellipse.center[0] + 0.3 * x, ellipse.center[1] + 0.3 * y),
                ellipse.degrees + 100 * turn,
            )
        )
    return tuple(found)


def shepp_logan(size: int = 256, ellipses: tuple[Ellipse, ...] = HEAD) -> MedicalImage:
    """Return the modified Shepp-Logan head, or a relative, as an MR image with values from about 0 to 1.

    Args:
        size: Side in pixels.
        ellipses: What to draw; see :func:`relatives`.
    """
    samples = size * OVERSAMPLING
    place = (torch.arange(samples) + 0.5) * (2 / samples) - 1
    x, y = place[None], -place[:, None]
    values = torch.zeros(samples, samples)
    for ellipse in ellipses:
        cos, sin = math.cos(math.radians(ellipse.degrees)), math.sin(math.radians(ellipse.degrees))
        dx, dy = x - ellipse.center[0], y - ellipse.center[1]
        along, across = (dx * cos + dy * sin) / ellipse.half_axes[0], (dy * cos - dx * sin) / ellipse.half_axes[1]
        values += ellipse.value * (along.square() + across.square() <= 1)
    values = torch.nn.functional.avg_pool2d(values[None], OVERSAMPLING)[0].clamp(min=0)
    spacing_mm = (1.0, HEAD_MM / size, HEAD_MM / size)
    return MedicalImage(values.numpy(), spacing_mm, axial_affine(spacing_mm), Modality.MR, Units.ARBITRARY)


def line_integral(angle: Tensor, offset: Tensor, ellipses: tuple[Ellipse, ...] = HEAD) -> Tensor:
    """Return the exact line integrals of the ellipses along ``x cos(angle) + y sin(angle) = offset``.

    Args:
        angle: In radians, y pointing up; broadcasts with ``offset``.
        offset: In units of half the field of view, as the result is.
        ellipses: What is projected (Kak and Slaney 1988, eq. 3.4 to 3.9).
    """
    total = torch.zeros((angle + offset).shape)
    for ellipse in ellipses:
        a, b = ellipse.half_axes
        turned = angle - math.radians(ellipse.degrees)
        width = (a * turned.cos()).square() + (b * turned.sin()).square()
        place = offset - ellipse.center[0] * angle.cos() - ellipse.center[1] * angle.sin()
        total = total + ellipse.value * 2 * a * b / width * (width - place.square()).clamp(min=0).sqrt()
    return total
