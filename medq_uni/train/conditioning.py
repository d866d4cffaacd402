"""What is said about training pairs: by experts or by their records, rightly or not, in full or as a class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from medq_uni.config import ConfigError
from medq_uni.data.descriptions import descriptions_by_number
from medq_uni.data.pair_cache import TrainingPairs
from medq_uni.data.reference_text import describe, noisy_label
from medq_uni.description import QualityDescription
from medq_uni.physics.record import read_records
from medq_uni.seeding import generator_of
from medq_uni.taxonomy import Anatomy, Modality, Severity
from medq_uni.tokenizer import Tokenizer
from medq_uni.train.recipe import LabelForm

CORRUPTED = 0.4
"""Probability with which each slot of a corrupted description is wrong, where it can be: there is one task in CT."""
CONSTANT = describe(Modality.MR, Anatomy.BRAIN, (), generator_of(0))
"""The one text of the form ``constant``."""


@dataclass(frozen=True, eq=False)
class PairTexts:
    """The descriptions of pairs, as text tokens."""

    pairs: TrainingPairs
    tokenizer: Tokenizer
    form: LabelForm = "description"
    """description: all five aspects. class: the kinds of degradation alone, as a label of old. constant, a control:
    :data:`CONSTANT` for every pair, as long as a description and telling nothing."""
    wrong_share: float = 0.0
    """Probability with which every slot is wrong; a pair keeps its wrong label for good."""
    seed: int = 0
    """Of the wrong labels."""
    described: Mapping[int, QualityDescription] = field(default_factory=dict)
    """What experts say, by index; it takes the place of what the records say."""

    def truth(self, index: int, generator: torch.Generator) -> QualityDescription:
        """Return what is so about a pair, in phrases that are drawn."""
        if index in self.described:
            return self.described[index]
        item = self.pairs.items[index]
        if item.description:
            return QualityDescription.from_text(item.description)
        return describe(item.task.modality, item.anatomy, read_records(item.records), generator)

    def label(self, index: int, generator: torch.Generator) -> QualityDescription:
        """Return what the labeler says about a pair."""
        right = self.truth(index, generator)
        if not self.wrong_share:
            return right
        return noisy_label(right, self.wrong_share, generator_of(self.seed, index, 3)).description

    def slots(self, index: int, generator: torch.Generator) -> list[tuple[int, bool]]:
        """Return the tokens of the whole label, each with whether it fills one of the fixed slots."""
        return self.tokenizer.encode_slots(self.label(index, generator))

    def tokens(self, index: int, generator: torch.Generator, severity: Severity | None = None) -> list[int]:
        """Return what the restoration is told about a pair; ``severity`` takes the place of the grade."""
        label = self.label(index, generator)
        return self._told(label if severity is None or self.form != "description" else label.with_severity(severity))

    def corrupted(self, index: int, generator: torch.Generator) -> list[int]:
        """Return what the restoration is told by an assessment that errs (:func:`noisy_label`, :data:`CORRUPTED`).

        Slots are wrong one by one, so that a text may contradict itself, which an assessor seldom does; a degradation
        that is there is never left out.
        """
        return self._told(noisy_label(self.label(index, generator), CORRUPTED, generator).description)

    def _told(self, label: QualityDescription) -> list[int]:
        if self.form == "class":
            return self.tokenizer.encode(label.class_label)
        return self.tokenizer.encode_description(CONSTANT if self.form == "constant" else label)


def read_described(path: str | None, pairs: TrainingPairs) -> dict[int, QualityDescription]:
    """Return what experts say about pairs, by index; nothing without a file.

    Raises:
        ConfigError: If it speaks of another modality than the pair, so that it belongs to another dataset.
    """
    if path is None:
        return {}
    found = descriptions_by_number(Path(path), len(pairs))
    for index, description in found.items():
        modality = pairs.items[index].task.modality
        if description.modality is not modality:
            raise ConfigError(
                f"{path}: pair {index} is {modality.value}, its description speaks of {description.modality.value}. "
                "Use the recipe of the annotated dataset."
            )
    return found
