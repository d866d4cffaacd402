"""Random textures: reference slices of no anatomy, for what the few anatomies of phantoms and subjects cannot teach.

Dead leaves (Matheron 1968; Lee, Mumford, Huang 2001): shapes of all sizes that hide one another, flat ones and such
with a fractal or a striped inside, on a fractal ground. Radii are drawn log-uniformly, so that few leaves fill the
slice and edges come at every scale. Values are those of the modality.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medq_uni.data.drawing import Canvas
from medq_uni.data.phantoms import FIELD_MM, MIN_SIZE, UNITS, Phantom
from medq_uni.errors import MedQError
from medq_uni.image import MedicalImage, axial_affine
from medq_uni.physics.operators import gaussian_blur
from medq_uni.taxonomy import Anatomy, Modality

RADII = (0.02, 0.6)
"""Smallest and largest radius of a leaf, as a share of half of the side."""
LEAVES = (40, 110)
"""Fewest and most of a slice."""
AIR = {Modality.CT: -1000.0, Modality.MR: 0.0, Modality.PET: 0.0}


def draw_texture(modality: Modality, generator: torch.Generator, *, size: int = 256) -> Phantom:
    """Return a random texture in the values of a modality; the same generator state gives the same bits.

    Args:
        modality: Whose values and resolution it gets.
        generator: Source of every random number.
        size: Side in pixels, at least 32.

    Raises:
        MedQError: If ``size`` is too small.
    """
    if size < MIN_SIZE:
        raise MedQError(f"size must be at least {MIN_SIZE} pixels, got {size}.")
    canvas = Canvas(size, AIR[modality], generator)
    body = torch.ones(size, size)
    if canvas.chance(0.6):  # a body in air; else it fills the field of view
        body = canvas.shape((0, 0), (canvas.uniform(0.6, 0.95), canvas.uniform(0.6, 0.95)))
    ground = canvas.uniform(0.02, 0.15) * _contrast(modality) * canvas.field(canvas.uniform(0.8, 2.0))
    canvas.values = _value(canvas, modality) + ground
    for _ in range(canvas.integer(*LEAVES)):
        _leaf(canvas, modality)
    inside = canvas.values.clamp(min=AIR[modality])
    values = AIR[modality] + (inside - AIR[modality]) * body
    low, high = FIELD_MM[modality]
    spacing = canvas.uniform(low, high) / size
    if modality is Modality.PET:
        values = gaussian_blur(values[None], canvas.uniform(4.5, 6.5) / spacing / 2.355)[0]
    if modality is Modality.MR:
        values = values * canvas.uniform(200, 4000) / values.max()
    spacing_mm = (3.0, spacing, spacing)
    image = MedicalImage(values.float().numpy(), spacing_mm, axial_affine(spacing_mm), modality, UNITS[modality])
    return Phantom(image, Anatomy.BODY, ())


def _leaf(canvas: Canvas, modality: Modality) -> None:
    """Paint a shape over what is there."""
    radius = math.exp(canvas.uniform(*map(math.log, RADII)))
    stretch = math.exp(canvas.uniform(-0.7, 0.7))
    center = (canvas.uniform(-1, 1), canvas.uniform(-1, 1))
    mask = canvas.shape(center, (radius * stretch, radius / stretch), canvas.uniform(0, math.pi), 0.15)
    value, kind = _value(canvas, modality), canvas.uniform(0, 1)
    roughness = canvas.uniform(0.02, 0.15) * _contrast(modality)
    if kind < 0.4:
        canvas.paint(mask, value)
    elif kind < 0.8:
        canvas.paint(mask, value, roughness, canvas.uniform(0.8, 2.0))
    else:
        canvas.values = canvas.values * (1 - mask) + (value + roughness * _stripes(canvas)) * mask


def _stripes(canvas: Canvas) -> Tensor:
    """Return a sine of period 4 to 24 pixels in a random direction, bent as the canvas is."""
    angle, period = canvas.uniform(0, math.pi), canvas.uniform(4, 24)
    along = math.cos(angle) * canvas.x + math.sin(angle) * canvas.y
    return torch.sin(along * (math.pi * canvas.size / period))


def _contrast(modality: Modality) -> float:
    """Return how far apart two tissues of a modality are."""
    return {Modality.CT: 200.0, Modality.MR: 1.0, Modality.PET: 4.0}[modality]


def _value(canvas: Canvas, modality: Modality) -> float:
    """Return a value as it occurs in a body."""
    share = canvas.uniform(0, 1)
    if modality is Modality.CT:
        low, high = (-120.0, 120.0) if share < 0.65 else (-1000.0, -500.0) if share < 0.8 else (150.0, 1200.0)
        return canvas.uniform(low, high)
    if modality is Modality.MR:
        return canvas.uniform(0.05, 1.0)
    return canvas.uniform(0.2, 3.0) if share < 0.9 else canvas.uniform(3.0, 15.0)
