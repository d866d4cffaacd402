"""How well a trained variant restores and assesses the test pairs of an ablation, and what a restoration costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from medq_uni.ablate.plan import Variant
from medq_uni.baselines.network import count_parameters, restore_views
from medq_uni.data.pair_cache import CACHED_SIDE, PairItem, TrainingPairs
from medq_uni.metrics import psnr, ssim
from medq_uni.pretrained.baselines import load_baseline
from medq_uni.pretrained.load import Pretrained, load_pretrained
from medq_uni.scaling import Scaling
from medq_uni.seeding import generator_of
from medq_uni.systems.cost import gflops
from medq_uni.taxonomy import Severity
from medq_uni.train.conditioning import PairTexts
from medq_uni.train.generated import describe_pairs
from medq_uni.train.recipe import TrainConfig
from medq_uni.train.validate import Restore, decode_one, native, right_shares, scoring_values


@dataclass(frozen=True)
class Score:
    """One restored test pair."""

    pair: int
    modality: str
    task: str
    subject: str
    psnr: float
    """dB, on the scoring range."""
    ssim: float


@dataclass(frozen=True)
class Size:
    """What a variant is, apart from how well it restores."""

    parameters: int
    """Numbers that a restoration depends on."""
    gflops: float
    """Work of one slice of 256 x 256 pixels, that of its description with it where one is written."""


@dataclass(frozen=True, eq=False)
class OnPairs:
    """A variant at work on the pairs of a pool."""

    restore: Restore
    reading: dict[str, float] = field(default_factory=dict)
    """How well it reads them (:func:`medq_uni.train.validate.right_shares`); nothing where nobody is told its words."""


@dataclass(frozen=True, eq=False)
class TrainedVariant:
    """A trained variant, ready for the test."""

    parameters: int
    on: Callable[[TrainingPairs], OnPairs]
    """What it does with the pairs of a pool."""


def open_variant(model: Path, variant: Variant, recipe: TrainConfig, device: str | None) -> TrainedVariant:
    """Return a variant as its recipe left it.

    Args:
        model: Folder of the trained weights.
        variant: What is told, and how it is sampled.
        recipe: Of the training.
        device: Where to compute; the CPU where nobody says.
    """
    if recipe.baseline is not None:
        baseline, _ = load_baseline(model, device=device or "cpu")
        return TrainedVariant(
            count_parameters(baseline),
            lambda pool: OnPairs(lambda index, degraded: restore_views(baseline, degraded, pool.scaling(index))),
        )
    loaded = load_pretrained(model, device=device or "cpu")
    count = sum(weight.numel() for weight in loaded.model.parameters())

    return TrainedVariant(count, lambda pool: _medq(loaded, variant, recipe, pool))


def _medq(loaded: Pretrained, variant: Variant, recipe: TrainConfig, pool: TrainingPairs) -> OnPairs:
    """Return what restores the pairs of a pool, each told what the variant says."""
    words = PairTexts(pool, loaded.tokenizer, recipe.label)
    predicted = describe_pairs(loaded.model, loaded.tokenizer, pool, len(pool)) if variant.told == "predicted" else {}
    others = torch.randperm(len(pool), generator=generator_of(0)).tolist()
    sampler = variant.sampler or recipe.sampler

    def restore(index: int, degraded: Tensor) -> Tensor:
        told: Sequence[int] | None = []
        if variant.told == "label":
            told = None  # the objective's own words
        elif variant.told == "predicted":
            told = predicted[index]
        elif variant.told == "shuffled":
            told = words.tokens(others[index], generator_of(index))
        return decode_one(loaded.model, words, index, degraded, variant.objective, sampler, told).image

    is_reading = variant.told == "predicted" and variant.weights_of is None  # the same weights read the same
    return OnPairs(restore, right_shares(words, predicted) if is_reading else {})


@torch.inference_mode()
def score(variant: TrainedVariant, test: TrainingPairs) -> tuple[list[Score], dict[str, float]]:
    """Return the score of every degraded test pair, and how well the variant reads the pairs."""
    on, found = variant.on(test), []
    for index in _degraded(test):
        degraded, reference = native(test, index)
        found.append(_scored(test, index, on.restore(index, degraded), reference))
    return found, on.reading


@torch.inference_mode()
def size_of(variant: TrainedVariant, test: TrainingPairs) -> Size:
    """Return parameters, and the work of the first test pair, its edge repeated up to 256 x 256 pixels."""
    square = _Square(test)
    work = gflops(lambda: variant.on(square).restore(0, square.views(0)[0][None]))
    return Size(variant.parameters, work)


def input_scores(test: TrainingPairs) -> list[Score]:
    """Return the scores of the degraded inputs themselves."""
    return [_scored(test, index, *native(test, index)) for index in _degraded(test)]


@dataclass(frozen=True, eq=False)
class _Square:
    """The first pair of a pool alone, as a slice that fills the square that the pool keeps."""

    pool: TrainingPairs

    @property
    def items(self) -> list[PairItem]:
        return [replace(self.pool.items[0], height=CACHED_SIDE, width=CACHED_SIDE)]

    def __len__(self) -> int:
        return 1

    def views(self, index: int) -> tuple[Tensor, Tensor]:
        return self.pool.views(index)

    def scaling(self, index: int) -> Scaling:
        return self.pool.scaling(index)


def _degraded(test: TrainingPairs) -> list[int]:
    return [index for index, item in enumerate(test.items) if item.severity is not Severity.NONE]


def _scored(test: TrainingPairs, index: int, image: Tensor, reference: Tensor) -> Score:
    item = test.items[index]
    (x, span), (y, _) = (scoring_values(test, index, views) for views in (image, reference))
    decibels, similarity = (metric(x[:, None], y[:, None], data_range=span)[0] for metric in (psnr, ssim))
    return Score(index, item.task.modality.value, item.task.value, item.subject, float(decibels), float(similarity))
