"""What the model itself writes about pairs of a pool."""

from __future__ import annotations

import torch

from medq_uni.data.pair_cache import CACHED_SIDE, TrainingPairs
from medq_uni.description import DEFAULT_ASSESS, QualityDescription
from medq_uni.model.medq import MedQ
from medq_uni.preprocess import padded_side, vision_input
from medq_uni.tokenizer import DescriptionConstraint, Tokenizer

BATCH = 16
GRID = 16
"""Slices that the pool keeps are rounded up to multiples of this, in pixels."""
MAX_TOKENS = 160


@torch.no_grad()
def describe_pairs(model: MedQ, tokenizer: Tokenizer, pool: TrainingPairs, count: int) -> dict[int, list[int]]:
    """Return the description tokens that the model writes about the first ``count`` pairs, by index.

    It is told the modality, as a file's header tells it.

    Args:
        model: In evaluation mode.
        tokenizer: Its tokenizer.
        pool: Degraded slices; the assessor sees all that the pool keeps of each.
        count: How many pairs, at most all.
    """
    question = tokenizer.encode(DEFAULT_ASSESS)
    texts: dict[int, list[int]] = {}
    by_size: dict[tuple[int, int], list[int]] = {}
    for index in range(min(count, len(pool))):
        item = pool.items[index]
        size = padded_side(item.height, GRID), padded_side(item.width, GRID)
        by_size.setdefault(size, []).append(index)
    for (height, width), indices in by_size.items():
        for first in range(0, len(indices), BATCH):
            chunk = indices[first : first + BATCH]
            images = torch.stack([pool.views(i)[0][:, :height, :width] for i in chunk])
            context = model.start(len(chunk))
            seen = vision_input(images.to(model.device), model.config.vision, size=CACHED_SIDE)
            model.append_vision(context, seen)
            model.append_text(context, [question] * len(chunk))
            constraints = [DescriptionConstraint(tokenizer, modality=pool.items[i].task.modality) for i in chunk]
            written = model.generate(context, constraint=constraints, max_tokens=MAX_TOKENS)
            texts |= dict(zip(chunk, written, strict=True))
    return texts


def parsed(tokenizer: Tokenizer, ids: list[int]) -> QualityDescription:
    """Return the description that tokens spell."""
    return QualityDescription.from_text(tokenizer.decode(ids))
