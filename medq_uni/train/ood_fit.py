"""What the images of a pool look like to the vision encoder: as a whole and in crops, as it met them in training."""

from __future__ import annotations

from collections import defaultdict

import torch
from jaxtyping import Float
from torch import Tensor

from medq_uni.data.batches import BatchSampler
from medq_uni.data.pair_cache import CACHED_SIDE, TrainingPairs
from medq_uni.model.medq import MedQ
from medq_uni.model.vision import summary
from medq_uni.preprocess import vision_input
from medq_uni.pretrained.ood_detector import OodDetector, fit_ood_detector
from medq_uni.seeding import generator_of
from medq_uni.taxonomy import Modality
from medq_uni.train.validate import native

MAX_WHOLE = 2500
"""Whole slices of a pool that are looked at."""
CROPS_AT_ONCE = 8


def ood_detector_of(model: MedQ, pool: TrainingPairs, val_pool: TrainingPairs) -> OodDetector | None:
    """Return what the degraded images of the training pool look like; the validation pool sets the limit.

    Args:
        model: In evaluation mode.
        pool: Training pairs.
        val_pool: Pairs of other subjects.
    """
    return fit_ood_detector(features_of(model, pool), features_of(model, val_pool))


@torch.no_grad()
def features_of(model: MedQ, pool: TrainingPairs) -> dict[Modality, Float[Tensor, "N F"]]:
    """Return features of slices of a pool by modality, one row for each: up to 2500 whole ones, and as many crops."""
    found: dict[Modality, list[Tensor]] = defaultdict(list)

    def look(views: Tensor, modalities: list[Modality]) -> None:
        seen = vision_input(views, model.config.vision, size=CACHED_SIDE).to(model.device)
        for modality, features in zip(modalities, summary(model.vision(seen)).cpu(), strict=True):
            found[modality].append(features)

    whole = range(0, len(pool), -(-len(pool) // MAX_WHOLE))
    for index in whole:
        look(native(pool, index)[0], [pool.items[index].task.modality])
    sampler, generator = BatchSampler(pool, token_pixels=model.config.token_pixels), generator_of(0)
    for _ in range(0, len(whole), CROPS_AT_ONCE):
        batch = sampler.draw(CROPS_AT_ONCE, crop=model.config.token_pixels, generator=generator, seen=generator)
        look(batch.vision, [pool.items[index].task.modality for index in batch.index])
    return {modality: torch.stack(rows) for modality, rows in found.items()}
