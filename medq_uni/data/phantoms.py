"""Random phantoms with anatomy: reference slices whose truth is known, made by code alone.

CT in Hounsfield units, MR in arbitrary units (T1, T2, PD and FLAIR weighted brains, limbs), FDG PET in SUV.
They carry sharp edges, small structures and band-limited texture, so that what is learned on them transfers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from medq_uni.data.drawing import Canvas
from medq_uni.errors import MedQError
from medq_uni.image import MedicalImage, Units, axial_affine
from medq_uni.physics.operators import gaussian_blur
from medq_uni.seeding import randint
from medq_uni.taxonomy import Anatomy, Modality

MIN_SIZE = 32
UNITS = {Modality.CT: Units.HU, Modality.MR: Units.ARBITRARY, Modality.PET: Units.SUV}
FIELD_MM = {Modality.CT: (300.0, 420.0), Modality.MR: (180.0, 256.0), Modality.PET: (300.0, 500.0)}
"""Side of the field of view by modality."""


@dataclass(frozen=True, eq=False)
class Phantom:
    """A reference slice and what it shows."""

    image: MedicalImage
    anatomy: Anatomy
    lesions: tuple[tuple[float, float, float], ...]
    """(x, y, radius) of every lesion, in pixels."""


def draw_phantom(modality: Modality, generator: torch.Generator, *, size: int = 256) -> Phantom:
    """Return a random phantom slice; the same generator state gives the same bits.

    Args:
        modality: CT, MR or PET; chooses among the anatomies that are known for it.
        generator: Source of every random number.
        size: Side in pixels, at least 32.

    Raises:
        MedQError: If ``size`` is too small.
    """
    if size < MIN_SIZE:
        raise MedQError(f"size must be at least {MIN_SIZE} pixels, got {size}.")
    kinds = _KINDS[modality]
    anatomy, draw = kinds[randint(len(kinds), generator)]
    canvas, lesions = draw(size, generator)
    low, high = FIELD_MM[modality]
    spacing = canvas.uniform(low, high) / size
    values = canvas.values
    if modality is Modality.PET:
        values = gaussian_blur(values[None], canvas.uniform(4.5, 6.5) / spacing / 2.355)[0]
    if modality is Modality.MR:
        values = values * canvas.uniform(200, 4000) / values.max()
    spacing_mm = (3.0, spacing, spacing)
    image = MedicalImage(values.float().numpy(), spacing_mm, axial_affine(spacing_mm), modality, UNITS[modality])
    return Phantom(image, anatomy, tuple(_in_pixels(lesion, size) for lesion in lesions))


def phantom(modality: Modality, generator: torch.Generator, *, size: int = 256) -> MedicalImage:
    """Return the image of :func:`draw_phantom`."""
    return draw_phantom(modality, generator, size=size).image


Lesions = list[tuple[float, float, float]]
Drawn = tuple[Canvas, Lesions]


def _in_pixels(lesion: tuple[float, float, float], size: int) -> tuple[float, float, float]:
    x, y, radius = lesion
    return ((x + 1) * size / 2 - 0.5, (y + 1) * size / 2 - 0.5, radius * size / 2)


# CT


def _ct_body(size: int, generator: torch.Generator) -> tuple[Canvas, Tensor, tuple[float, float]]:
    """Return a canvas with couch, skin, fat and muscle; the cavity inside; and its half axes."""
    canvas = Canvas(size, -1000.0, generator)
    width = canvas.uniform(0.72, 0.92)
    height = width * canvas.uniform(0.62, 0.8)
    couch_y = height + 0.06
    if couch_y < 0.95 and canvas.chance(0.8):
        couch = ((canvas.y - couch_y - 0.08 * canvas.x**2).abs() < 0.012).float()
        canvas.paint(couch * (canvas.x.abs() < 0.75), canvas.uniform(-600, 0))
    canvas.paint(canvas.shape((0, 0), (width, height), wobble=0.03), 10)
    canvas.paint(canvas.shape((0, 0), (width - 0.012, height - 0.012), wobble=0.03), canvas.uniform(-115, -85), 8)
    layer = canvas.uniform(0.03, 0.14)
    inner = (width - layer, height - layer)
    canvas.paint(canvas.shape((0, 0), inner, wobble=0.03), canvas.uniform(40, 65), 12)
    cavity = canvas.shape((0, -0.02), (inner[0] - 0.07, inner[1] - 0.07), wobble=0.03)
    canvas.paint(cavity, canvas.uniform(-110, -60), 14)
    return canvas, cavity, inner


def _spine(canvas: Canvas, y: float) -> None:
    size = canvas.uniform(0.09, 0.13)
    body = canvas.shape((canvas.uniform(-0.02, 0.02), y), (size * 1.2, size))
    canvas.paint(body, canvas.uniform(450, 900))
    canvas.paint(canvas.shape((0, y), (size, size * 0.82)), canvas.uniform(140, 280), 45, 0.6)
    canvas.paint(canvas.shape((0, y + 1.35 * size), (0.4 * size, 0.35 * size)), canvas.uniform(10, 40))
    for side in (-1, 1):
        center = (side * 0.75 * size, y + 1.4 * size)
        canvas.paint(canvas.shape(center, (0.5 * size, 0.22 * size), side * 0.7), canvas.uniform(300, 800))


def _ribs(canvas: Canvas, inner: tuple[float, float]) -> None:
    for _ in range(canvas.integer(6, 14)):
        polar = canvas.uniform(-math.pi, math.pi)
        center = (0.95 * inner[0] * math.cos(polar), 0.95 * inner[1] * math.sin(polar))
        length, thickness, turn = (
            canvas.uniform(0.03, 0.09),
            canvas.uniform(0.018, 0.028),
            polar + math.pi / 2,
        )
        canvas.paint(canvas.shape(center, (length, thickness), turn), canvas.uniform(400, 1000))
        marrow = canvas.shape(center, (0.8 * length, 0.5 * thickness), turn)
        canvas.paint(marrow, canvas.uniform(80, 250))


def _ct_chest(size: int, generator: torch.Generator) -> Drawn:
    canvas, cavity, inner = _ct_body(size, generator)
    lesions: Lesions = []
    for side in (-1, 1):
        center = (side * canvas.uniform(0.33, 0.42) * inner[0] / 0.75, canvas.uniform(-0.08, 0.04))
        lung = canvas.shape(center, (0.4 * inner[0], 0.72 * inner[1]), side * canvas.uniform(0, 0.2), 0.1) * cavity
        canvas.paint(lung, canvas.uniform(-880, -760), canvas.uniform(15, 35), 0.9)
        canvas.scatter(lung, canvas.integer(60, 140), (0.004, 0.025), (-450, 60))
        if canvas.chance(0.4):
            lesions += canvas.scatter(lung, canvas.integer(1, 3), (0.015, 0.06), (-100, 70))
        if canvas.chance(0.3):
            opacity = (canvas.field(2.0) > canvas.uniform(0.5, 1.2)).float()
            canvas.paint(gaussian_blur(opacity[None], 1.0)[0] * lung, canvas.uniform(-600, -300), 50, 0.8)
    contrast = canvas.uniform(0, 250) * canvas.chance(0.6)
    canvas.paint(canvas.shape((canvas.uniform(0.02, 0.12), -0.1), (0.26, 0.28)), 40 + 0.5 * contrast, 12)
    for x, y, radius in ((-0.06, -0.3, 0.06), (0.08, 0.16, 0.05), (0.1, -0.32, 0.045)):
        spot = canvas.shape((x + canvas.uniform(-0.03, 0.03), y), (radius, radius))
        canvas.paint(spot, 45 + contrast, 6)
    canvas.paint(canvas.shape((0.0, -0.16), (0.035, 0.04)), -980)
    _spine(canvas, 0.52 * inner[1] + 0.1)
    _ribs(canvas, inner)
    return canvas, lesions


def _ct_abdomen(size: int, generator: torch.Generator) -> Drawn:
    canvas, cavity, inner = _ct_body(size, generator)
    contrast = canvas.uniform(0, 90) * canvas.chance(0.7)
    width, height = inner
    liver = canvas.shape((-0.42 * width, -0.18 * height), (0.48 * width, 0.56 * height), 0.3, 0.12) * cavity
    canvas.paint(liver, 55 + 0.6 * contrast, 7, 1.0)
    canvas.scatter(liver, canvas.integer(12, 40), (0.006, 0.02), (70 + contrast, 110 + contrast))
    lesions = canvas.scatter(liver, canvas.integer(0, 4), (0.015, 0.07), (0, 45)) if canvas.chance(0.6) else []
    spleen = canvas.shape((0.62 * width, 0.0), (0.2 * width, 0.36 * height), -0.3) * cavity
    canvas.paint(spleen, 50 + 0.7 * contrast, 7)
    stomach = canvas.shape((0.3 * width, -0.42 * height), (0.3 * width, 0.26 * height), 0.4, 0.1) * cavity
    canvas.paint(stomach, canvas.uniform(0, 45), 10)
    if canvas.chance(0.6):
        canvas.paint(stomach * (canvas.y < -0.45 * height).float(), -950)
    for _ in range(canvas.integer(4, 12)):
        center = (canvas.uniform(-0.5, 0.6) * width, canvas.uniform(-0.1, 0.6) * height)
        loop = canvas.shape(center, (canvas.uniform(0.05, 0.12), canvas.uniform(0.05, 0.1)), 0, 0.12) * cavity
        canvas.paint(loop, canvas.uniform(20, 60 + contrast), 8)
        canvas.paint(canvas.shape(center, (0.04, 0.035), 0, 0.15) * cavity, canvas.uniform(-950, 300), 20)
    for side in (-1, 1):
        center = (side * 0.42 * width, canvas.uniform(0.25, 0.4) * height)
        canvas.paint(canvas.shape(center, (0.12, 0.15), side * 0.4), 35 + 1.4 * contrast, 9)
        canvas.paint(canvas.shape((center[0] - side * 0.04, center[1]), (0.045, 0.07)), canvas.uniform(-80, 20))
    canvas.scatter(cavity * (canvas.values < -40).float(), canvas.integer(30, 90), (0.004, 0.012), (0, 120))
    for x in (-0.07, 0.07):
        canvas.paint(canvas.shape((x, 0.3 * height), (0.055, 0.05)), 45 + 1.6 * contrast, 5)
    _spine(canvas, 0.62 * height)
    _ribs(canvas, inner)
    return canvas, lesions


def _ct_pelvis(size: int, generator: torch.Generator) -> Drawn:
    canvas, cavity, inner = _ct_body(size, generator)
    width, height = inner
    for _ in range(canvas.integer(10, 24)):
        center = (canvas.uniform(-0.8, 0.8) * width, canvas.uniform(-0.7, 0.7) * height)
        shape = canvas.shape(center, (canvas.uniform(0.06, 0.2), canvas.uniform(0.05, 0.14)), canvas.uniform(0, 3))
        canvas.paint(shape * cavity, canvas.uniform(30, 75), 10)
    bladder = canvas.shape((0, -0.25 * height), (0.24, 0.18), 0, 0.1)
    canvas.paint(bladder, canvas.uniform(0, 25), 5)
    for side in (-1, 1):
        turn, center = side * canvas.uniform(0.5, 1.1), (side * 0.55 * width, 0.02)
        length, thick = canvas.uniform(0.18, 0.3), canvas.uniform(0.05, 0.12)
        canvas.paint(canvas.shape(center, (length, thick), turn, 0.12), canvas.uniform(500, 1100))
        canvas.paint(canvas.shape(center, (0.85 * length, 0.75 * thick), turn, 0.12), canvas.uniform(120, 300), 60, 0.7)
    canvas.scatter(cavity, canvas.integer(20, 60), (0.005, 0.03), (-100, 180))
    _spine(canvas, 0.6 * height)
    return canvas, []


def _ct_head(size: int, generator: torch.Generator) -> Drawn:
    canvas = Canvas(size, -1000.0, generator, warp=0.02)
    width, height = canvas.uniform(0.58, 0.72), canvas.uniform(0.72, 0.9)
    canvas.paint(canvas.shape((0, 0), (width, height), wobble=0.02), canvas.uniform(-20, 40), 15)
    canvas.paint(canvas.shape((0, 0), (width - 0.05, height - 0.05), wobble=0.02), canvas.uniform(900, 1600), 60)
    thick = canvas.uniform(0.05, 0.09)
    brain = canvas.shape((0, 0), (width - 0.05 - thick, height - 0.05 - thick), wobble=0.02)
    canvas.paint(brain, canvas.uniform(26, 34), 2.5)
    gray = (canvas.field(1.6, 0.12) > 0.2).float()
    canvas.paint(gaussian_blur(gray[None], 0.8)[0] * brain, canvas.uniform(36, 44), 2.5)
    for side in (-1, 1):
        shape = canvas.shape((side * 0.09, canvas.uniform(-0.1, 0.1)), (0.05, 0.2), side * 0.25, 0.15)
        canvas.paint(shape * brain, canvas.uniform(2, 12), 2)
    lesions: Lesions = []
    if canvas.chance(0.4):
        lesions = canvas.scatter(brain, canvas.integer(1, 3), (0.02, 0.09), (10, 75))
    if canvas.chance(0.3):
        canvas.scatter(brain, canvas.integer(1, 4), (0.015, 0.06), (-950, 900))
    return canvas, lesions


def _ct_limb(size: int, generator: torch.Generator) -> Drawn:
    canvas = Canvas(size, -1000.0, generator)
    for x in (-0.45, 0.45) if canvas.chance(0.5) else (0.0,):
        scale = 0.42 if x else canvas.uniform(0.6, 0.85)
        canvas.paint(canvas.shape((x, 0), (scale, scale * canvas.uniform(0.9, 1.1))), canvas.uniform(-115, -90), 9)
        inner = canvas.shape((x, 0), (scale * canvas.uniform(0.7, 0.92),) * 2)
        canvas.paint(inner, canvas.uniform(45, 70), 12)
        septa = (canvas.field(1.8, 0.1).abs() < 0.12).float()
        canvas.paint(gaussian_blur(septa[None], 0.7)[0] * inner, canvas.uniform(-90, 0))
        canvas.scatter(inner, canvas.integer(4, 14), (0.01, 0.03), (30, 180))
        if canvas.chance(0.5):
            canvas.scatter(inner, 1, (0.08, 0.2), (10, 60))
        bone, center = 0.24 * scale, (x + canvas.uniform(-0.05, 0.05), canvas.uniform(-0.1, 0.1))
        canvas.paint(canvas.shape(center, (bone, bone)), canvas.uniform(900, 1600))
        canvas.paint(canvas.shape(center, (0.6 * bone, 0.6 * bone)), canvas.uniform(-80, 200), 25)
    return canvas, []


# MR

_CONTRASTS = (
    {"white": 0.9, "gray": 0.65, "csf": 0.2, "fat": 1.2, "lesion": 0.5},  # T1
    {"white": 0.42, "gray": 0.58, "csf": 1.1, "fat": 0.8, "lesion": 0.95},  # T2
    {"white": 0.7, "gray": 0.85, "csf": 0.95, "fat": 1.0, "lesion": 0.95},  # PD
    {"white": 0.55, "gray": 0.68, "csf": 0.12, "fat": 0.8, "lesion": 1.1},  # FLAIR
)


def _mr_brain(size: int, generator: torch.Generator) -> Drawn:
    canvas = Canvas(size, 0.0, generator, warp=0.03)
    tissue = {
        name: value * canvas.uniform(0.85, 1.15)
        for name, value in _CONTRASTS[canvas.integer(0, len(_CONTRASTS) - 1)].items()
    }
    width, height = canvas.uniform(0.58, 0.76), canvas.uniform(0.72, 0.9)
    if canvas.chance(0.8):
        canvas.paint(canvas.shape((0, 0), (width, height), wobble=0.02), tissue["fat"], 0.12, 0.8)
        canvas.paint(canvas.shape((0, 0), (width - 0.07, height - 0.07), wobble=0.02), canvas.uniform(0.02, 0.12), 0.02)
    skull = canvas.uniform(0.1, 0.14)
    half = (width - skull, height - skull)
    inside = canvas.shape((0, 0), half, wobble=0.02)
    canvas.paint(inside, tissue["csf"], 0.02)
    brain = canvas.shape((0, 0), (half[0] - 0.02, half[1] - 0.02), wobble=0.02)
    depth = 1 - torch.hypot(canvas.x / half[0], canvas.y / half[1])
    folds = canvas.field(0.4, canvas.uniform(0.03, 0.06))
    canvas.paint(brain, tissue["gray"], 0.035)
    edge = canvas.uniform(10, 20)
    white = torch.sigmoid(edge * (3 * depth - 0.45 + 0.5 * folds)) * brain
    canvas.paint(white, tissue["white"], 0.03)
    sulci = torch.sigmoid(30 * (0.16 - folds.abs())) * torch.sigmoid(25 * (0.22 - depth)) * brain
    canvas.paint(sulci, tissue["csf"])
    canvas.paint(((canvas.x.abs() < 0.008) & (canvas.y.abs() < half[1])).float() * brain, tissue["csf"])
    for side in (-1, 1):
        nucleus = canvas.shape((side * 0.2, canvas.uniform(-0.05, 0.05)), (0.09, 0.14), side * 0.3)
        canvas.paint(nucleus * brain, tissue["gray"], 0.02)
        ventricle = canvas.shape((side * 0.08, canvas.uniform(-0.12, 0.1)), (0.05, 0.22), side * 0.2, 0.15)
        canvas.paint(ventricle * brain, tissue["csf"], 0.01)
    canvas.scatter(white, canvas.integer(5, 25), (0.004, 0.012), (tissue["csf"], tissue["gray"]))
    lesions: Lesions = []
    if canvas.chance(0.5):
        value = tissue["lesion"]
        lesions = canvas.scatter(white, canvas.integer(1, 5), (0.012, 0.08), (0.85 * value, 1.15 * value))
    _bias(canvas)
    return canvas, lesions


def _mr_limb(size: int, generator: torch.Generator) -> Drawn:
    canvas = Canvas(size, 0.0, generator)
    scale = canvas.uniform(0.6, 0.88)
    fat, muscle = canvas.uniform(0.7, 1.2), canvas.uniform(0.25, 0.6)
    canvas.paint(canvas.shape((0, 0), (scale, scale)), fat, 0.08)
    inner = canvas.shape((0, 0), (0.85 * scale, 0.85 * scale))
    canvas.paint(inner, muscle, 0.04)
    septa = (canvas.field(1.8, 0.1).abs() < 0.1).float()
    canvas.paint(gaussian_blur(septa[None], 0.7)[0] * inner, 0.8 * fat)
    canvas.scatter(inner, canvas.integer(5, 20), (0.01, 0.04), (0.05, 1.2))
    canvas.paint(canvas.shape((0.05, 0), (0.3 * scale, 0.28 * scale)), 0.05)
    canvas.paint(canvas.shape((0.05, 0), (0.24 * scale, 0.23 * scale)), 0.9 * fat, 0.1, 0.7)
    _bias(canvas)
    return canvas, []


def _bias(canvas: Canvas) -> None:
    """Apply a slow coil sensitivity and a small positive floor."""
    sensitivity = 1 + canvas.uniform(0.02, 0.15) * canvas.field(3.0).clamp(-2.5, 2.5)
    floor = 0.003 * canvas.field(0.5).abs()
    canvas.values = (canvas.values.clamp(min=0) * sensitivity).clamp(min=0) + floor


# PET


def _pet_torso(size: int, generator: torch.Generator) -> Drawn:
    canvas = Canvas(size, 0.0, generator)
    width = canvas.uniform(0.6, 0.85)
    height = width * canvas.uniform(0.6, 0.8)
    body = canvas.shape((0, 0), (width, height), wobble=0.03)
    canvas.paint(body, canvas.uniform(0.3, 0.8), 0.08, 1.2)
    if canvas.chance(0.5):  # chest
        for side in (-1, 1):
            lung = canvas.shape((side * 0.45 * width, -0.05), (0.3 * width, 0.6 * height), side * 0.15, 0.1)
            canvas.paint(lung, canvas.uniform(0.2, 0.45), 0.05)
        heart = canvas.shape((0.12, -0.1), (0.2, 0.2))
        canvas.paint(heart, canvas.uniform(1.2, 9.0), 0.3)
        canvas.paint(canvas.shape((0.13, -0.1), (0.1, 0.1)), canvas.uniform(1.0, 2.5))
    else:
        liver = canvas.shape((-0.4 * width, -0.15), (0.42 * width, 0.5 * height), 0.3, 0.12) * body
        canvas.paint(liver, canvas.uniform(1.8, 3.2), 0.15)
        for side in (-1, 1):
            kidney = canvas.shape((side * 0.45 * width, 0.3 * height), (0.09, 0.12), side * 0.4)
            canvas.paint(kidney, canvas.uniform(1.5, 8.0), 0.3)
        for _ in range(canvas.integer(2, 8)):
            center = (canvas.uniform(-0.4, 0.5), canvas.uniform(-0.1, 0.3))
            canvas.paint(canvas.shape(center, (0.05, 0.05), 0, 0.2) * body, canvas.uniform(0.8, 3.0))
        if canvas.chance(0.3):
            canvas.paint(canvas.shape((0, -0.2), (0.18, 0.14)), canvas.uniform(8, 22))
    canvas.paint(canvas.shape((0, 0.62 * height), (0.1, 0.09)), canvas.uniform(0.9, 1.8), 0.1)
    lesions: Lesions = []
    if canvas.chance(0.7):
        lesions = canvas.scatter(body, canvas.integer(1, 6), (0.015, 0.08), (2.0, 14.0))
    canvas.values = canvas.values.clamp(min=0)
    return canvas, lesions


def _pet_head(size: int, generator: torch.Generator) -> Drawn:
    canvas = Canvas(size, 0.0, generator, warp=0.03)
    scale = canvas.uniform(0.35, 0.75)
    width, height = 0.8 * scale, scale
    canvas.paint(canvas.shape((0, 0), (width, height), wobble=0.02), canvas.uniform(0.4, 1.0), 0.1)
    brain = canvas.shape((0, 0), (0.84 * width, 0.86 * height), wobble=0.02)
    gray = canvas.uniform(5, 12)
    canvas.paint(brain, gray, 0.05 * gray, 1.0)
    depth = 1 - torch.hypot(canvas.x / width, canvas.y / height)
    white = torch.sigmoid(14 * (3 * depth - 0.9 + 0.5 * canvas.field(0.4, 0.05))) * brain
    canvas.paint(white, 0.35 * gray, 0.02 * gray)
    for side in (-1, 1):
        canvas.paint(canvas.shape((side * 0.2 * scale, 0), (0.1 * scale, 0.13 * scale)) * brain, gray)
        canvas.paint(canvas.shape((side * 0.07 * scale, 0), (0.05 * scale, 0.2 * scale)) * brain, 0.15 * gray)
    lesions: Lesions = []
    if canvas.chance(0.4):
        lesions = canvas.scatter(brain, canvas.integer(1, 3), (0.02, 0.08), (0.2 * gray, 1.5 * gray))
    canvas.values = canvas.values.clamp(min=0)
    return canvas, lesions


_KINDS: dict[Modality, tuple[tuple[Anatomy, Callable[[int, torch.Generator], Drawn]], ...]] = {
    Modality.CT: (
        (Anatomy.CHEST, _ct_chest),
        (Anatomy.ABDOMEN, _ct_abdomen),
        (Anatomy.PELVIS, _ct_pelvis),
        (Anatomy.BRAIN, _ct_head),
        (Anatomy.EXTREMITY, _ct_limb),
    ),
    Modality.MR: (
        (Anatomy.BRAIN, _mr_brain),
        (Anatomy.BRAIN, _mr_brain),
        (Anatomy.BRAIN, _mr_brain),
        (Anatomy.EXTREMITY, _mr_limb),
    ),
    Modality.PET: ((Anatomy.TORSO, _pet_torso), (Anatomy.TORSO, _pet_torso), (Anatomy.BRAIN, _pet_head)),
}
