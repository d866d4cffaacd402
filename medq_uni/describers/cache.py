"""Answers that are kept, so that no question is asked twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from medq_uni.describers.client import Asked
from medq_uni.describers.describer import Answer, Subject
from medq_uni.errors import MedQError
from medq_uni.files import write_text
from medq_uni.json_text import load_json


class AnswerMemory(Protocol):
    """Where a describer keeps what was asked and answered, by the sha256 of the question."""

    def recall(self, key: str, read: Callable[[str], Answer]) -> Answer | None:
        """Return the answer to a question that was asked before, None where there is none.

        Args:
            key: Of the question.
            read: Returns the answer that the text of a model means, for a memory that keeps texts.
        """
        ...

    def keep_attempt(self, key: str, subject: Subject, model: str, asked: Asked) -> None:
        """Keep one question to a model and what came, whatever it was."""
        ...

    def keep(self, key: str, answer: Answer) -> None:
        """Keep the answer that a question got in the end."""
        ...


class AnswerCache:
    """A folder with one JSON file for every question that was answered, named by the sha256 of the question."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, key: str) -> dict[str, Any] | None:
        """Return what was kept, None where nothing was or the file is damaged."""
        try:
            values = load_json(self._path(key))
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
        except (KeyError, TypeError, MedQError):
            return None

    def recall(self, key: str, read: Callable[[str], Answer]) -> Answer | None:
        """Return :meth:`answer`; see :class:`AnswerMemory`."""
        return self.answer(key)

    def keep_attempt(self, key: str, subject: Subject, model: str, asked: Asked) -> None:
        """Keep nothing: of the attempts only what came of them is kept."""

    def keep(self, key: str, answer: Answer) -> None:
        """Keep an answer; :meth:`answer` returns it."""
        self.put(key, answer.to_dict())

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.json"


def question_key(*parts: Any) -> str:
    """Return the sha256 of a question: model, prompt, and whatever else its answer depends on, as JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
