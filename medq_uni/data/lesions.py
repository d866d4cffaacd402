"""Lesions that are put into the truth before it is degraded: in training so that they are known, in tests to be found.

Discs of known contrast in uniform tissue, as in contrast-detail phantoms; they are no models of disease.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from medq_uni.data.augment import between
from medq_uni.data.regions import Place, distance_from, draw_place, tissue, uniform_places
from medq_uni.image import MedicalImage
from medq_uni.physics.pet import RESOLUTION_MM, sigma_px
from medq_uni.seeding import randint
from medq_uni.taxonomy import Modality

RING_PX = (3.0, 6.0)
"""The background of a lesion lies this far outside its edge."""
MOST_LESIONS = 5
"""Most lesions that are drawn for a training image; at least one is."""
RADII_PX = (1.5, 13.0)
"""Range of the radius of lesions in training, in pixels."""
CONTRASTS_HU = (5.0, 70.0)
"""Range of the contrast of lesions in CT, brighter or darker."""
CONTRAST_FRACTIONS = (0.08, 1.0)
"""Range of the contrast in MR and PET, as a fraction of the local mean. All ranges are drawn from uniformly in their
logarithm."""


@dataclass(frozen=True)
class Lesion:
    """A disc with an edge one pixel wide; in PET as wide as the scanner resolves."""

    place: Place
    radius_px: float
    contrast: float
    """HU in CT, elsewhere a fraction of the local mean."""
    amplitude: float
    """Signed, in the units of the image."""

    def profile(self, image: MedicalImage) -> np.ndarray:
        """Return the lesion, (H, W) in the units of the image."""
        edge = self.radius_px + 0.5 - distance_from(image.shape[1:], self.place)
        disc = np.clip(edge, 0, 1)
        if image.modality is Modality.PET:
            disc = gaussian_filter(disc, [sigma_px(RESOLUTION_MM, side) for side in image.spacing_mm[1:]])
        return self.amplitude * disc


@dataclass(frozen=True)
class Wanted:
    """A lesion that has no place yet."""

    radius_px: float
    contrast: float
    """HU in CT, elsewhere a fraction of the local mean."""


def draw_wanted(modality: Modality, generator: torch.Generator) -> list[Wanted]:
    """Return one to :data:`MOST_LESIONS` lesions of random radius and contrast for a training image."""
    contrasts = CONTRASTS_HU if modality is Modality.CT else CONTRAST_FRACTIONS
    count = 1 + randint(MOST_LESIONS, generator)
    draws = torch.rand(count, 2, generator=generator).tolist()
    return [Wanted(between(*RADII_PX, first), between(*contrasts, second)) for first, second in draws]


def place_lesions(image: MedicalImage, wanted: Iterable[Wanted], generator: torch.Generator) -> list[Lesion]:
    """Return those lesions that find room in the most uniform tissue of a slice, far from each other.

    Args:
        image: Reference slice.
        wanted: In the order in which they are placed; large ones first find room most often.
        generator: Source of the places, and of what is dark.
    """
    free = tissue(image)
    found: list[Lesion] = []
    for one in wanted:
        places = uniform_places(image, free, 2 * math.ceil(one.radius_px + RING_PX[0]) + 1)
        place = draw_place(places, generator)
        if place is None:
            continue
        is_dark = bool(torch.randint(2, (1,), generator=generator))
        found.append(lesion_at(image, place, one.radius_px, one.contrast, is_dark=is_dark))
        free = free & (distance_from(image.shape[1:], place) > one.radius_px + 2 * RING_PX[1])
    return found


def lesion_at(image: MedicalImage, place: Place, radius_px: float, contrast: float, *, is_dark: bool = False) -> Lesion:
    """Return a lesion with the contrast of a place; in PET it is hot whatever is asked."""
    scale = 1.0
    if image.modality is not Modality.CT:
        scale = float(image.voxels[0][distance_from(image.shape[1:], place) <= radius_px].mean())
    sign = -1.0 if is_dark and image.modality is not Modality.PET else 1.0
    return Lesion(place, radius_px, contrast, sign * contrast * scale)


def inserted(image: MedicalImage, lesions: Sequence[Lesion]) -> MedicalImage:
    """Return the image with lesions; MR and PET stay at or above zero."""
    voxels = image.voxels + sum(lesion.profile(image) for lesion in lesions)
    if image.modality is not Modality.CT:
        voxels = np.maximum(voxels, 0)
    return image.with_voxels(voxels)


def with_lesions(image: MedicalImage, generator: torch.Generator) -> MedicalImage:
    """Return a training slice with random lesions; the same slice where none finds room."""
    assert image.modality is not None, "references have a modality"
    wanted = sorted(draw_wanted(image.modality, generator), key=lambda one: -one.radius_px)
    lesions = place_lesions(image, wanted, generator)
    return inserted(image, lesions) if lesions else image
