"""Lesions that are put into crops for training: what the degraded image shows must not be lost.

A disc is put into the degraded crop and into its reference under the same noise, where the degradation is noise and so
leaves the disc as it is. The restoration of the crop with it, minus that without, is its response
(:func:`medq_uni.train.losses.lesion_loss`).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from medq_uni.data.augment import between
from medq_uni.data.batches import Batch
from medq_uni.data.lesions import CONTRAST_FRACTIONS, CONTRASTS_HU
from medq_uni.data.pair_cache import TrainingPairs
from medq_uni.physics.operators import gaussian_blur
from medq_uni.physics.tasks import SPECS
from medq_uni.scaling import Scaling
from medq_uni.seeding import randint
from medq_uni.taxonomy import Modality

SHARE = 0.5
"""Share of the crops with noise alone that get a lesion."""
RADII_PX = (1.5, 9.0)
"""Range of the radius, drawn from uniformly in its logarithm."""
BODY = -0.9
"""Least value of the wide view, in the reference, at the middle of a lesion outside CT: inside a body."""
BODY_HU = -200.0
"""The same in CT."""
TRIES = 8
"""Places that are tried."""
VISIBLE = 3.0
"""Least contrast times the root of the area, as a multiple of the noise: fainter ones nobody sees in the input."""
PET_BLUR_PX = (0.8, 2.0)
"""Standard deviation of the scanner's blur in PET."""


def draw_shown_lesions(crops: Batch, pairs: TrainingPairs, generator: torch.Generator) -> Float[Tensor, "B 2 2 H W"]:
    """Return by how much lesions change both views of the degraded crops, and of their references.

    Zero where a crop gets none: there are other degradations than noise, or there is no room in a body.

    Args:
        crops: On the CPU.
        pairs: From which they were cut.
        generator: Source of places, sizes and contrasts.
    """
    change = torch.zeros(len(crops.index), 2, *crops.degraded.shape[1:])
    for place, index in enumerate(crops.index):
        item = pairs.items[index]
        draws = torch.rand(5, generator=generator).tolist()
        middle = _middle(crops, place, item.task.modality, generator)
        if not SPECS[item.task].is_noise or item.num_degradations > 1 or draws[0] >= SHARE or middle is None:
            continue
        both = torch.stack([crops.degraded[place], crops.reference[place]])
        profile = _profile(middle, between(*RADII_PX, draws[1]), (both.shape[-2], both.shape[-1]))
        if item.task.modality is Modality.PET:
            profile = gaussian_blur(profile[None], between(*PET_BLUR_PX, draws[2]))[0]
        amplitude = _amplitude(both, profile, crops.scaling[place], item.task.modality, draws[3:])
        change[place] = _changed(both, amplitude * profile, crops.scaling[place]) - both
    return change


def _middle(crops: Batch, place: int, modality: Modality, generator: torch.Generator) -> tuple[int, int] | None:
    """Return a place inside the body, away from the border; None where none was found."""
    reference, margin = crops.reference[place, 0], math.ceil(RADII_PX[1])
    height, width = reference.shape
    least = float(crops.scaling[place].to_wide(torch.full((1, 1, 1), BODY_HU))) if modality is Modality.CT else BODY
    found = None
    for _ in range(TRIES):  # the same number of draws whatever is found
        row, column = (margin + randint(side - 2 * margin, generator) for side in (height, width))
        around = slice(row - 2, row + 3), slice(column - 2, column + 3)
        if found is None and reference[around].min() > least and bool(crops.valid[place, 0][around].all()):
            found = row, column
    return found


def _profile(middle: tuple[int, int], radius: float, size: tuple[int, int]) -> Float[Tensor, "H W"]:
    """Return a disc of height 1 with an edge one pixel wide."""
    rows, columns = (torch.arange(side) - at for side, at in zip(size, middle, strict=True))
    distance = torch.hypot(rows[:, None].float(), columns[None].float())
    return (radius + 0.5 - distance).clamp(0, 1)


def _amplitude(
    both: Float[Tensor, "2 2 H W"], profile: Tensor, scaling: Scaling, modality: Modality, draws: list[float]
) -> float:
    """Return the height of a lesion in physical units: what is drawn, or what can be seen in the noise if more."""
    if modality is Modality.CT:
        drawn = between(*CONTRASTS_HU, draws[0])
    else:
        local = scaling.from_wide(both[1:, 0])[0][profile > 0]
        drawn = between(*CONTRAST_FRACTIONS, draws[0]) * float(local.mean())
    noise = (both[0, 0] - both[1, 0]).square().mean().sqrt() * scaling.wide_span / 2
    height = max(drawn, VISIBLE * float(noise / profile.square().sum().sqrt()))
    return height if modality is Modality.PET or draws[1] < 0.5 else -height


def _changed(both: Float[Tensor, "2 2 H W"], lesion: Float[Tensor, "H W"], scaling: Scaling) -> Tensor:
    """Return both views of both images with a lesion in physical units; elsewhere they stay as they are."""
    altered = scaling.to_views(scaling.from_wide(both[:, 0]) + lesion)
    return torch.where(lesion != 0, altered, both)
