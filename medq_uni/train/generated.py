"""What the model itself writes about pairs of a pool."""

from __future__ import annotations

import torch

from medq_uni.data.pairs import PairPool
from medq_uni.description import DEFAULT_ASSESS, QualityDescription
from medq_uni.model.medq import MedQ
from medq_uni.tokenizer import DescriptionConstraint, Tokenizer

BATCH = 16
MAX_TOKENS = 160


@torch.inference_mode()
def describe_pool(model: MedQ, tokenizer: Tokenizer, pool: PairPool, count: int) -> dict[int, list[int]]:
    """Return the description tokens that the model writes about the first ``count`` pairs, by index.

    Args:
        model: In evaluation mode.
        tokenizer: Its tokenizer.
        pool: Degraded slices; the assessor sees all that the pool keeps of each.
        count: How many pairs, at most all.
    """
    question = tokenizer.encode(DEFAULT_ASSESS)
    texts: dict[int, list[int]] = {}
    patch = model.config.vision.patch_size
    by_size: dict[tuple[int, int], list[int]] = {}
    for index in range(min(count, len(pool))):
        item = pool.items[index]
        by_size.setdefault((-(-item.height // patch), -(-item.width // patch)), []).append(index)
    for (rows, cols), indices in by_size.items():
        for first in range(0, len(indices), BATCH):
            chunk = indices[first : first + BATCH]
            images = torch.stack([pool.views(i)[0][:, : rows * patch, : cols * patch] for i in chunk])
            context = model.start(len(chunk))
            model.append_vision(context, images)
            model.append_text(context, [question] * len(chunk))
            constraints = [DescriptionConstraint(tokenizer) for _ in chunk]
            written = model.generate(context, constraint=constraints, max_tokens=MAX_TOKENS)
            texts |= dict(zip(chunk, written, strict=True))
    return texts


def parsed(tokenizer: Tokenizer, ids: list[int]) -> QualityDescription:
    """Return the description that tokens spell."""
    return QualityDescription.from_text(tokenizer.decode(ids))
