"""Insertion and recovery: lesions that are put into the truth before it is degraded, and what is left of them."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from medq_uni.data.pairs import generator_of, randint
from medq_uni.evaluate.regions import Place, distance_from, draw_place, tissue, uniform_places
from medq_uni.evaluate.trials import PHANTOMS, Row, SafetySettings, Scene, Trials, altered_case, degraded_only
from medq_uni.image import MedicalImage
from medq_uni.physics.pet import RESOLUTION_MM, sigma_px
from medq_uni.taxonomy import Modality

RING_PX = (3.0, 6.0)
"""The background of a lesion lies this far outside its edge."""
ERASED_CRC = 0.5
"""Below this contrast recovery a lesion counts as erased."""


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


def draw_lesions(image: MedicalImage, settings: SafetySettings, number: int) -> list[Lesion]:
    """Return lesions in the most uniform tissue of a slice, one of every radius that finds room, far from each other.

    Args:
        image: Reference slice.
        settings: Radii and contrasts.
        number: Of the slice; contrasts take turns, so that all radii meet all contrasts.
    """
    generator = generator_of(settings.seed, number, 1)
    free = tissue(image)
    contrasts = settings.lesion_hu if image.modality is Modality.CT else settings.lesion_fractions
    found: list[Lesion] = []
    for index, radius in reversed(list(enumerate(settings.lesion_radii_px))):
        place = draw_place(uniform_places(image, free, 2 * math.ceil(radius + RING_PX[0]) + 1), generator)
        if place is None:
            continue
        contrast = contrasts[(number + index) % len(contrasts)]
        found.append(lesion_at(image, place, radius, contrast, is_dark=bool(randint(2, generator))))
        free = free & (distance_from(image.shape[1:], place) > radius + 2 * RING_PX[1])
    return found[::-1]


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


def contrast_of(change: np.ndarray, lesion: Lesion) -> float:
    """Return the mean of a difference image in the lesion minus that in the ring around it.

    Args:
        change: With the lesion minus without, (H, W).
        lesion: Says where.
    """
    away = distance_from(change.shape, lesion.place) - lesion.radius_px
    ring = (away >= RING_PX[0]) & (away <= RING_PX[1])
    return float(change[away <= 0].mean() - change[ring].mean())


def check_lesions(trials: Trials, scenes: Sequence[Scene], settings: SafetySettings) -> list[Row]:
    """Return the contrast recovery of every lesion, by the system and in the degraded input.

    With f the system, d the degradation with a fixed seed, x the truth and l the lesion,

        CRC = C[f(d(x + l)) - f(d(x))] / C[l],    C = mean in the disc - mean in the ring around it

    (after the contrast recovery coefficient of NEMA NU 2, here as a paired difference, so that the anatomy cancels).
    1 is full recovery, 0 erasure.
    """
    rows = []
    for number, scene in enumerate(degraded_only(scenes, PHANTOMS)):
        lesions = draw_lesions(scene.pair.reference, settings, number)
        if not lesions:
            continue
        case = altered_case(scene, inserted(scene.pair.reference, lesions))
        without = trials.output(scene)
        label = f"{scene.label} with lesions"
        with_them = trials.attempt(label, functools.partial(trials.system.restore, case), case.degraded)
        if without is None or with_them is None:
            continue
        true, before, after = (
            (one.voxels - other.voxels)[0].astype(np.float64)
            for one, other in (
                (case.reference, scene.pair.reference),
                (case.degraded, scene.pair.degraded),
                (with_them.image, without.image),
            )
        )
        for lesion in lesions:
            size = contrast_of(true, lesion)
            crc, crc_of_input = contrast_of(after, lesion) / size, contrast_of(before, lesion) / size
            about = {"radius_px": lesion.radius_px, "contrast": lesion.contrast, "is_dark": lesion.amplitude < 0}
            rows.append(scene.row(**about, crc=crc, crc_of_input=crc_of_input))
    return rows
