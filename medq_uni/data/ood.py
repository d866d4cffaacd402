"""Out-of-distribution references, by code alone: pictures, a head that is no drawing of ours, foreign contrasts.

They measure what a network does where it was never trained. No model may be trained on them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from medq_uni.data.phantoms import FIELD_MM, UNITS, draw_phantom
from medq_uni.image import MedicalImage, axial_affine
from medq_uni.seeding import randint
from medq_uni.taxonomy import Modality

Kind = Literal["pictures", "Shepp-Logan head", "foreign contrast"]
KINDS: tuple[Kind, ...] = ("pictures", "Shepp-Logan head", "foreign contrast")
PICTURES = ("camera", "coins", "page", "moon", "brick", "gravel")
"""Gray pictures that come inside scikit-image: a man with a camera, coins, a page of text, the moon, textures."""
SCALES = {Modality.CT: (-1000.0, 1000.0), Modality.MR: (0.0, 1000.0), Modality.PET: (0.0, 10.0)}
"""Values that black and white get when a picture is taken for an image of a modality."""
FOREIGN = {Modality.CT: Modality.MR, Modality.MR: Modality.CT, Modality.PET: Modality.MR}
"""Whose phantoms give the structure of a foreign contrast: chests and abdomens for MR, which learns brains and limbs;
brains for CT and PET, which meet heads in other grays."""


@dataclass(frozen=True, eq=False)
class OodReference:
    """A reference and what it is made from."""

    image: MedicalImage
    kind: Kind
    name: str
    """Counts as its subject."""


def draw(modality: Modality, turn: int, generator: torch.Generator, *, size: int) -> OodReference:
    """Return a random reference; the same generator state gives the same bits.

    Args:
        modality: What it is taken for.
        turn: Chooses the kind; they take turns.
        generator: Source of every random number.
        size: Side in pixels, at least 32.

    Raises:
        MedQError: If a phantom is drawn and ``size`` is too small for one.
    """
    kind = KINDS[turn % len(KINDS)]
    low, high = FIELD_MM[modality]
    spacing = (low + (high - low) * float(torch.rand(1, generator=generator))) / size
    if kind == "pictures":
        name = PICTURES[randint(len(PICTURES), generator)]
        level = picture(name, size)
    elif kind == "Shepp-Logan head":
        name, level = "shepp-logan", picture("shepp_logan_phantom", size)
    else:
        drawn = draw_phantom(FOREIGN[modality], generator, size=size).image
        name, level = f"foreign-{turn}-{randint(2**31, generator)}", levels_of(drawn)
        spacing = drawn.spacing_mm[1]
    return OodReference(taken_for(modality, level, spacing), kind, name)


def picture(name: str, size: int) -> np.ndarray:
    """Return a gray picture that comes inside scikit-image as levels from 0 to 1, resampled to (size, size).

    Args:
        name: What :mod:`skimage.data` calls it.
        size: Side in pixels.
    """
    from skimage import data
    from skimage.transform import resize
    from skimage.util import img_as_float

    gray = img_as_float(getattr(data, name)())  # type: ignore[no-untyped-call]
    return np.asarray(resize(gray, (size, size), anti_aliasing=True))  # type: ignore[no-untyped-call]


def levels_of(image: MedicalImage) -> np.ndarray:
    """Return the first slice of an image that is not constant as levels, (H, W): 0 its least value, 1 its greatest."""
    least, most = float(image.voxels.min()), float(image.voxels.max())
    return np.asarray((image.voxels[0] - least) / (most - least))


def taken_for(modality: Modality, level: np.ndarray, pixel_mm: float = 1.0) -> MedicalImage:
    """Return a picture as if it were a slice of a modality, in the units of its phantoms.

    Args:
        modality: What it is taken for.
        level: (H, W), black is 0 and white 1.
        pixel_mm: Side of a pixel in millimetres.
    """
    low, high = SCALES[modality]
    spacing = (3.0, pixel_mm, pixel_mm)
    return MedicalImage(low + (high - low) * level, spacing, axial_affine(spacing), modality, UNITS[modality])
