"""A vision-language model behind a chat server as a describer, for example vLLM with Qwen3-VL."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from medq_uni.describers.cache import AnswerMemory, question_key
from medq_uni.describers.client import ChatClient, Messages, NoAnswer, ServerDown
from medq_uni.describers.describer import Answer, Outcome, Subject
from medq_uni.describers.estimate import Estimate
from medq_uni.describers.prompts import (
    Example,
    messages_for,
    read_answer,
    read_assessment,
    refusal_schema,
    tokens_of,
    without_pictures,
)
from medq_uni.description import json_schema
from medq_uni.taxonomy import Modality

Examples = Callable[[str, Modality], Sequence[Example]]
"""From the key of an image and its modality to the corrected images that are shown before the question about it."""


class ChatDescriber:
    """A vision-language model behind an OpenAI-compatible chat server. Of a volume it is shown the middle slice.

    Args:
        chat: Server and model.
        memory: Where questions and answers are kept; none is asked twice.
        prefix: Of the name, before that of the model.
        threads: Questions at a time.
        may_refuse: Whether the model may say that it cannot assess the image, and describe it as another modality.
        examples: What is shown before a question.
    """

    def __init__(
        self,
        chat: ChatClient,
        memory: AnswerMemory,
        *,
        prefix: str = "openai",
        threads: int = 4,
        may_refuse: bool = True,
        examples: Examples = lambda key, modality: (),
    ) -> None:
        self.chat, self.threads = chat, threads
        self.name = f"{prefix}:{chat.model}"
        self._memory, self._may_refuse, self._examples = memory, may_refuse, examples

    def __call__(self, subject: Subject) -> Answer:
        """Return what the model says; a server that fails is named and asked again in a later run.

        Raises:
            BudgetSpent: If the money is spent.
            MedQError: If the image has no modality, or the memory cannot be written.
        """
        question, modality = self._question(subject), subject.image.modality
        assert modality is not None  # a question about an image without one is refused

        def read(text: str) -> Answer:
            if not self._may_refuse:
                return Answer.described(read_answer(text, modality))
            said = read_assessment(text)
            return Answer(Outcome.REFUSED, reason=said) if isinstance(said, str) else Answer.described(said)

        model = self.chat.model
        key = question_key(model, self.chat.config.max_tokens, without_pictures(question))
        kept = self._memory.recall(key, read)
        if kept is not None:
            return kept
        try:
            answer = self.chat.ask(
                question,
                read,
                schema=refusal_schema() if self._may_refuse else json_schema(),
                keep=lambda asked: self._memory.keep_attempt(key, subject, model, asked),
            )
        except ServerDown as error:
            return Answer(Outcome.FAILED, reason=str(error), is_final=False)
        except NoAnswer as error:
            answer = Answer(Outcome.FAILED, reason=str(error))
        self._memory.keep(key, answer)
        return answer

    def estimate(self, subjects: Sequence[Subject], *, count: int | None = None) -> Estimate:
        """Return what a first question about every slice takes, its answer being as long as it may be.

        Args:
            subjects: At least one slice, if there is a count.
            count: Slices that will be asked about, all like the given ones; None is the given ones.
        """
        times = 1.0 if count is None else count / len(subjects)
        tokens_in = round(times * sum(tokens_of(self._question(subject)) for subject in subjects))
        questions = len(subjects) if count is None else count
        config = self.chat.config
        return Estimate.of(config, questions, tokens_in, config.max_tokens * questions)

    def _question(self, subject: Subject) -> Messages:
        image = subject.image.slice_at(subject.image.shape[0] // 2)
        examples = () if image.modality is None else self._examples(subject.key, image.modality)
        return messages_for(image, examples, may_refuse=self._may_refuse)
