"""A describer: asked about a slice, it says what is wrong with it, or why it says nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from medq_uni.description import QualityDescription
from medq_uni.errors import MedQError
from medq_uni.image import MedicalImage

PATIENCE = 3
"""Slices or questions in a row that a server may leave without any answer before no more are asked."""


class Outcome(StrEnum):
    """What came of a question about an image."""

    DESCRIBED = "described"
    REFUSED = "refused"
    """Cannot assess, or not supported: the describer itself declines."""
    FAILED = "failed"
    """No usable answer: a timeout, an answer that is no description, a refusal by the server."""


@dataclass(frozen=True)
class Answer:
    """What a describer says about one image.

    Attributes:
        outcome: Described, refused or failed.
        description: What is wrong with the image; None unless described.
        reason: Why there is none; empty where there is one.
        warning: What came with the description, for example that the image looks like another modality.
        is_final: Whether asking again gives the same; a server that was down may answer later.
    """

    outcome: Outcome
    description: QualityDescription | None = None
    reason: str = ""
    warning: str = ""
    is_final: bool = True

    @classmethod
    def described(cls, description: QualityDescription, warning: str = "") -> Answer:
        """Return an answer that holds a description."""
        return cls(Outcome.DESCRIBED, description, warning=warning)

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as JSON values; :meth:`from_dict` reads them back."""
        words = self.description
        return {
            "outcome": self.outcome.value,
            "description": None if words is None else words.to_dict(),
            "text": None if words is None else words.to_text(),
            "reason": self.reason,
            "warning": self.warning,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Answer:
        """Return the answer of :meth:`to_dict`.

        Raises:
            KeyError: If a field is missing.
            MedQError: If a value is none of the known ones.
        """
        words, outcome = values["description"], values["outcome"]
        if outcome not in list(Outcome):
            raise MedQError(f"an outcome must be one of {', '.join(Outcome)}, got {outcome!r}.")
        description = None if words is None else QualityDescription.from_dict(words)
        return cls(Outcome(outcome), description, values["reason"], values["warning"])


@dataclass(frozen=True, eq=False)
class Subject:
    """A slice to describe."""

    image: MedicalImage
    truth: QualityDescription | None = None
    """What its records say; None where the slice has none."""
    key: str = ""
    """Names it where questions and answers are kept by image; empty where they are not."""


class Describer(Protocol):
    """Says what is wrong with a slice, or that it cannot."""

    @property
    def name(self) -> str:
        """Return what tables and stores call it."""
        ...

    @property
    def threads(self) -> int:
        """Return the number of slices that it may be asked about at a time."""
        ...

    def __call__(self, subject: Subject) -> Answer:
        """Return what it says; a failure is an answer too.

        Raises:
            BudgetSpent: If the money for a server is spent.
            MedQError: If the image has no modality, and the describer needs one.
        """
        ...


def describe_all(
    describer: Describer, subjects: Sequence[Subject], progress: Callable[[int, int], None] | None = None
) -> list[Answer]:
    """Return what a describer says about every slice, in order.

    After :data:`PATIENCE` slices that a server left without any answer, the rest counts as failed without being asked.

    Args:
        describer: Who is asked.
        subjects: Slices.
        progress: Called with the number of slices done and their total.
    """
    found: list[Answer] = []
    unanswered = 0
    with ThreadPoolExecutor(describer.threads) as pool:
        for first in range(0, len(subjects), describer.threads):
            some = subjects[first : first + describer.threads]
            if unanswered >= PATIENCE:
                reason = f"not asked: {PATIENCE} images in a row got no answer."
                found += [Answer(Outcome.FAILED, reason=reason, is_final=False) for _ in some]
            else:
                for answer in pool.map(describer, some):
                    unanswered = 0 if answer.is_final else unanswered + 1
                    found.append(answer)
            if progress is not None:
                progress(len(found), len(subjects))
    return found
