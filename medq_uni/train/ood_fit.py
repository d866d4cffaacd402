"""What the images of training pairs look like to the vision encoder: as a whole and in crops, as it met them."""

from __future__ import annotations

from collections import defaultdict

import torch
from jaxtyping import Float
from torch import Tensor

from medq_uni.data.batches import BatchSampler
from medq_uni.data.pair_cache import TrainingPairs
from medq_uni.inference import Inference
from medq_uni.pretrained.ood_detector import OodDetector, fit_ood_detector
from medq_uni.seeding import generator_of
from medq_uni.taxonomy import Modality
from medq_uni.train.validate import degraded_views

MAX_WHOLE = 2500
"""Whole slices that are looked at."""
CROPS_AT_ONCE = 8


def ood_detector_of(inference: Inference, pairs: TrainingPairs, val_pairs: TrainingPairs) -> OodDetector | None:
    """Return what the degraded images of the training pairs look like; the validation pairs set the limit.

    Args:
        inference: The network, in evaluation mode.
        pairs: Training pairs.
        val_pairs: Pairs of other subjects.
    """
    return fit_ood_detector(features_of(inference, pairs), features_of(inference, val_pairs))


def features_of(inference: Inference, pairs: TrainingPairs) -> dict[Modality, Float[Tensor, "N F"]]:
    """Return features of slices by modality, one row for each: up to 2500 whole ones, and as many crops."""
    found: dict[Modality, list[Tensor]] = defaultdict(list)

    def look(views: Tensor, modalities: list[Modality]) -> None:
        for modality, features in zip(modalities, inference.vision_features(views), strict=True):
            found[modality].append(features)

    whole = range(0, len(pairs), -(-len(pairs) // MAX_WHOLE))
    for index in whole:
        look(degraded_views(inference.preprocessor, pairs, index)[0], [pairs.items[index].task.modality])
    side = inference.preprocessor.multiple
    sampler, generator = BatchSampler(pairs, token_pixels=side), generator_of(0)
    for _ in range(0, len(whole), CROPS_AT_ONCE):
        batch = sampler.draw(CROPS_AT_ONCE, crop=side, generator=generator, seen=generator)
        look(batch.vision, [pairs.items[index].task.modality for index in batch.index])
    return {modality: torch.stack(rows) for modality, rows in found.items()}
