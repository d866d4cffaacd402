"""The annotation store as the memory of a describer behind a server: every question and answer is kept."""

from __future__ import annotations

from collections.abc import Callable

from medq_uni.annotate.records import Exchange
from medq_uni.annotate.store import Store
from medq_uni.describers.client import Asked
from medq_uni.describers.describer import Answer, Subject
from medq_uni.describers.prompts import without_pictures


class StoredExchanges:
    """Keeps every attempt as an exchange, and recalls a question by one whose answer was a description.

    See :class:`medq_uni.describers.cache.AnswerMemory`. A question that failed is asked again in a later run.

    Args:
        store: Which knows the images that are asked about, by key.
        max_tokens: Longest answer, which is kept with the prompt.
    """

    def __init__(self, store: Store, max_tokens: int) -> None:
        self._store, self._max_tokens = store, max_tokens

    def recall(self, key: str, read: Callable[[str], Answer]) -> Answer | None:
        """Return what the kept text of a model means, None where no usable one is kept."""
        kept = self._store.valid_exchange(key)
        return None if kept is None else read(kept.answer)

    def keep_attempt(self, key: str, subject: Subject, model: str, asked: Asked) -> None:
        """Add an exchange about the image of a slice.

        Raises:
            StoreError: If it cannot be kept.
        """
        self._store.add_exchange(
            Exchange(
                key=subject.key,
                cache_key=key,
                model=model,
                prompt={"messages": without_pictures(asked.messages), "max_tokens": self._max_tokens},
                answer=_storable(asked.answer),
                error=_storable(asked.error),
                is_valid=not asked.error,
                prompt_tokens=asked.tokens_in,
                answer_tokens=asked.tokens_out,
                seconds=asked.seconds,
                at=asked.at,
            )
        )

    def keep(self, key: str, answer: Answer) -> None:
        """Keep nothing more: the attempts say it all."""


def _storable(text: str) -> str:
    """Return text that every database takes."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")
