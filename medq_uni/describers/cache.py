"""What a describer says about one image, or why it says nothing; and answers on disk, so that none is asked twice."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from medq_uni.description import DescriptionError, QualityDescription
from medq_uni.files import write_text


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
        warning: A doubt that came with the description, for example that the image looks like another modality.
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
        words = values["description"]
        description = None if words is None else QualityDescription.from_dict(words)
        return cls(Outcome(values["outcome"]), description, values["reason"], values["warning"])


class AnswerCache:
    """A folder with one JSON file for every question that was answered, named by the sha256 of the question."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, key: str) -> dict[str, Any] | None:
        """Return what was kept, None where nothing was or the file is damaged."""
        try:
            values = json.loads(self._path(key).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return values if isinstance(values, dict) else None

    def put(self, key: str, values: dict[str, Any]) -> None:
        """Keep the answer to a question."""
        write_text(self._path(key), json.dumps(values) + "\n")

    def answer(self, key: str) -> Answer | None:
        """Return a kept :class:`Answer`, None where there is none that can be read."""
        values = self.get(key)
        try:
            return None if values is None else Answer.from_dict(values)
        except (KeyError, TypeError, DescriptionError, ValueError):
            return None

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.json"


def question_key(*parts: Any) -> str:
    """Return the sha256 of a question: model, prompt, and whatever else its answer depends on, as JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
