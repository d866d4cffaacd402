"""A describer behind an OpenAI-compatible chat server, for example vLLM with Qwen3-VL."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from medq_uni.annotate.records import Exchange
from medq_uni.annotate.store import Store
from medq_uni.describers.chat import Asked, ChatClient, ChatConfig, Messages
from medq_uni.describers.prompts import Example, messages_for, read_answer, tokens_of, without_pictures
from medq_uni.description import QualityDescription, json_schema
from medq_uni.image import MedicalImage
from medq_uni.taxonomy import Modality


@dataclass(frozen=True)
class Estimate:
    """What a run will cost at most, were every question answered at the first attempt."""

    images: int
    tokens_in: int
    tokens_out: int
    cost: float


class ExternalDescriber:
    """Asks a server for descriptions; every question and answer is kept in the store, and asked once only."""

    def __init__(
        self,
        config: ChatConfig,
        store: Store,
        *,
        examples: Callable[[str, Modality], Sequence[Example]] = lambda key, modality: (),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Connect.

        Args:
            config: Server and limits.
            store: Where questions and answers are kept.
            examples: Corrected images of a modality to show before the question about the image of a key.
            sleep: Waits, in seconds.

        Raises:
            ServerDown: If the server does not answer, or has not the model.
            MedQError: If openai is not installed.
        """
        self.chat = ChatClient(config, sleep=sleep)
        self._store, self._examples = store, examples
        self.model = self.chat.model
        self.name = f"external:{self.model}"

    def close(self) -> None:
        """Close the connections."""
        self.chat.close()

    def __call__(self, key: str, image: MedicalImage) -> QualityDescription:
        """Return the description of a slice.

        Raises:
            NoAnswer: If no usable answer came; :class:`medq_uni.describers.chat.ServerDown` if none came at all.
            BudgetSpent: If the money is spent.
            StoreError: If the exchange cannot be kept.
        """
        modality = image.modality
        question = messages_for(image, () if modality is None else self._examples(key, modality))
        assert modality is not None  # a question about an image without one is refused
        cache_key = self._hash(question)
        kept = self._store.valid_exchange(cache_key)
        if kept is not None:
            return read_answer(kept.answer, modality)
        return self.chat.ask(
            question,
            lambda answer: read_answer(answer, modality),
            schema=json_schema(),
            keep=lambda asked: self._keep(key, cache_key, asked),
        )

    def estimate(self, key: str, image: MedicalImage, images: int) -> Estimate:
        """Return what a number of images like this one will cost."""
        examples = self._examples(key, image.modality) if image.modality is not None else ()
        tokens_in = tokens_of(messages_for(image, examples)) * images
        tokens_out = self.chat.config.max_tokens * images
        return Estimate(images, tokens_in, tokens_out, self.chat.config.cost(tokens_in, tokens_out))

    @property
    def cost(self) -> float:
        """What has been spent since the start, by the server's own count of tokens."""
        return self.chat.cost

    def _hash(self, question: Messages) -> str:
        text = json.dumps([self.model, self.chat.config.max_tokens, without_pictures(question)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _keep(self, key: str, cache_key: str, asked: Asked) -> None:
        self._store.add_exchange(
            Exchange(
                key=key,
                cache_key=cache_key,
                model=self.model,
                prompt={"messages": without_pictures(asked.messages), "max_tokens": self.chat.config.max_tokens},
                answer=_storable(asked.answer),
                error=_storable(asked.error),
                is_valid=not asked.error,
                prompt_tokens=asked.tokens_in,
                answer_tokens=asked.tokens_out,
                seconds=asked.seconds,
                at=asked.at,
            )
        )


def _storable(text: str) -> str:
    """Return text that every database takes."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")
