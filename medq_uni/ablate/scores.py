"""How well a trained variant restores and assesses the test pairs of an ablation, and what a restoration costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from medq_uni.ablate.plan import Variant
from medq_uni.baselines.network import count_parameters
from medq_uni.data.pair_cache import CACHED_SIDE, PairItem, TrainingPairs, pair_images
from medq_uni.image import MedicalImage
from medq_uni.pretrained.baselines import load_baseline
from medq_uni.pretrained.load import Pretrained, load_pretrained
from medq_uni.scaling import Scaling
from medq_uni.scoring import scores
from medq_uni.seeding import generator_of
from medq_uni.systems.cost import gflops
from medq_uni.train.conditioning import PairTexts
from medq_uni.train.recipe import TrainConfig
from medq_uni.train.validate import (
    PairRestorer,
    RestorePair,
    degraded_indices,
    described,
    inference_of,
    restored_by,
    right_shares,
)


@dataclass(frozen=True)
class Score:
    """One restored test pair."""

    pair: int
    modality: str
    task: str
    subject: str
    psnr: float
    """dB; this and the next as :func:`medq_uni.scoring.scores` defines them."""
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
    """A variant at work on pairs."""

    restore: RestorePair
    reading: dict[str, float] = field(default_factory=dict)
    """How well it reads them (:func:`medq_uni.train.validate.right_shares`); nothing where nobody is told its words."""


@dataclass(frozen=True, eq=False)
class TrainedVariant:
    """A trained variant, ready for the test."""

    parameters: int
    on: Callable[[TrainingPairs], OnPairs]
    """What it does with pairs."""


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
        count = count_parameters(baseline)
        return TrainedVariant(count, lambda pairs: OnPairs(lambda index: restored_by(baseline, pairs, index)))
    loaded = load_pretrained(model, device=device or "cpu")
    count = sum(weight.numel() for weight in loaded.model.parameters())
    return TrainedVariant(count, lambda pairs: _medq(loaded, variant, recipe, pairs))


def _medq(loaded: Pretrained, variant: Variant, recipe: TrainConfig, pairs: TrainingPairs) -> OnPairs:
    """Return what restores pairs, each told what the variant says."""
    texts = PairTexts(pairs, loaded.tokenizer, recipe.labels.form)
    inference = inference_of(loaded.model, loaded.tokenizer)
    restorer = PairRestorer(inference, texts, variant.objective, variant.sampler or recipe.sampler)
    predicted = described(inference, pairs, len(pairs)) if variant.told == "predicted" else {}
    others = torch.randperm(len(pairs), generator=generator_of(0)).tolist()

    def restore(index: int) -> MedicalImage:
        told: Sequence[int] | None = []
        if variant.told == "label":
            told = None  # the objective's own words
        elif variant.told == "predicted":
            told = predicted[index]
        elif variant.told == "shuffled":
            told = texts.tokens(others[index], generator_of(index))
        return restorer.restore(index, told)[0]

    is_reading = variant.told == "predicted" and variant.weights_of is None  # the same weights read the same
    return OnPairs(restore, right_shares(texts, predicted) if is_reading else {})


@torch.inference_mode()
def score(variant: TrainedVariant, test: TrainingPairs) -> tuple[list[Score], dict[str, float]]:
    """Return the score of every degraded test pair, and how well the variant reads the pairs."""
    on = variant.on(test)
    return [_scored(test, index, on.restore(index)) for index in degraded_indices(test)], on.reading


@torch.inference_mode()
def size_of(variant: TrainedVariant, test: TrainingPairs) -> Size:
    """Return parameters, and the work of the first test pair, its edge repeated up to 256 x 256 pixels."""
    square = _Square(test)
    return Size(variant.parameters, gflops(lambda: variant.on(square).restore(0)))


def input_scores(test: TrainingPairs) -> list[Score]:
    """Return the scores of the degraded inputs themselves."""
    return [_scored(test, index, pair_images(test, index)[0]) for index in degraded_indices(test)]


@dataclass(frozen=True, eq=False)
class _Square:
    """The first pair alone, as a slice that fills the square that a pair cache keeps."""

    pairs: TrainingPairs

    @property
    def items(self) -> list[PairItem]:
        return [replace(self.pairs.items[0], height=CACHED_SIDE, width=CACHED_SIDE)]

    def __len__(self) -> int:
        return 1

    def views(self, index: int) -> tuple[Tensor, Tensor]:
        return self.pairs.views(index)

    def values(self, index: int) -> Tensor:
        return self.pairs.values(index)

    def scaling(self, index: int) -> Scaling:
        return self.pairs.scaling(index)


def _scored(test: TrainingPairs, index: int, image: MedicalImage) -> Score:
    item, reference = test.items[index], pair_images(test, index)[1]
    decibels, similarity = scores(image, reference, item.reference_peak)
    return Score(index, item.task.modality.value, item.task.value, item.subject, decibels, similarity)
