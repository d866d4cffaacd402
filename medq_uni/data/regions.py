"""Uniform places of a slice, for regions of interest and inserted signals."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from scipy.ndimage import gaussian_filter, uniform_filter

from medq_uni.image import MedicalImage
from medq_uni.physics.ct import SOFT_TISSUE_HU
from medq_uni.physics.effect import foreground
from medq_uni.seeding import randint
from medq_uni.taxonomy import Modality

SMOOTHING_PX = 1.5
"""Soft tissue is recognized on the slice after a Gaussian of this standard deviation."""
UNIFORM_SHARE = 0.25
"""Share of all possible places, the most uniform ones, among which one is drawn."""
FEWEST_PLACES = 32
Place = tuple[int, int]


def tissue(image: MedicalImage) -> np.ndarray:
    """Return where the first slice shows tissue that signals are put into, (H, W) bool.

    CT: soft tissue, -50 to 200 HU after light smoothing. MR and PET: the foreground.
    """
    if image.modality is not Modality.CT:
        return np.asarray(foreground(image)[0])
    smooth = gaussian_filter(image.voxels[0], SMOOTHING_PX)
    return np.asarray((smooth > SOFT_TISSUE_HU[0]) & (smooth < SOFT_TISSUE_HU[1]))


def uniform_places(image: MedicalImage, inside: np.ndarray, side_px: int) -> list[Place]:
    """Return the centers (row, column) of all squares that lie wholly inside, the most uniform first.

    Args:
        image: Its first slice is looked at; uniform means a small standard deviation, in MR and PET relative to the
            mean.
        inside: (H, W) bool.
        side_px: Of the squares.
    """
    values = image.voxels[0].astype(np.float64)
    mean, square = (uniform_filter(one, side_px, mode="constant") for one in (values, values**2))
    spread = np.sqrt(np.maximum(square - mean**2, 0))
    if image.modality is not Modality.CT:
        spread = spread / np.maximum(mean, 1e-9)
    whole = uniform_filter(inside.astype(np.float64), side_px, mode="constant") > 1 - 0.5 / side_px**2
    rows, columns = np.nonzero(whole)
    order = np.argsort(spread[rows, columns], kind="stable")
    return list(zip(rows[order].tolist(), columns[order].tolist(), strict=True))


def apart(places: list[Place], distance_px: float) -> Iterator[Place]:
    """Yield places in their order, leaving out those nearer than a distance to one that was yielded."""
    taken: list[Place] = []
    for place in places:
        if all(math.dist(place, other) >= distance_px for other in taken):
            taken.append(place)
            yield place


def draw_place(places: list[Place], generator: torch.Generator) -> Place | None:
    """Return one of the most uniform places, None where there is none.

    Args:
        places: The most uniform first.
        generator: Source of the choice.
    """
    best = places[: max(FEWEST_PLACES, int(UNIFORM_SHARE * len(places)))]
    return best[randint(len(best), generator)] if best else None


def distance_from(shape: tuple[int, ...], place: Place) -> np.ndarray:
    """Return the distance of every pixel from a place, (H, W) in pixels."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return np.asarray(np.hypot(rows - place[0], columns - place[1]))
