"""Describers under test: the records, a guess, a model of ours, or any vision-language model behind a chat server."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from medq_uni import __version__
from medq_uni.config import ConfigError
from medq_uni.data.reference_text import describe
from medq_uni.describers.cache import Answer, AnswerCache, Outcome, question_key
from medq_uni.describers.chat import ChatClient, ChatConfig, Messages, NoAnswer, ServerDown
from medq_uni.describers.prompts import messages_for, read_assessment, refusal_schema, tokens_of, without_pictures
from medq_uni.description import DescriptionError, QualityDescription
from medq_uni.errors import capture_warnings
from medq_uni.image import MedicalImage
from medq_uni.physics.record import DegradationRecord
from medq_uni.preprocess import CannotAssess
from medq_uni.restorer import Restorer
from medq_uni.seeding import generator_of, seed_of
from medq_uni.systems.cases import Case
from medq_uni.taxonomy import Anatomy, Modality

PATIENCE = 3
"""Images that a server may leave without any answer before no more are asked."""
_EXTERNAL = re.compile(r"openai:(?P<model>.*?)@(?P<url>https?://\S+)")


@dataclass(frozen=True, eq=False)
class Subject:
    """A slice to describe."""

    image: MedicalImage
    truth: QualityDescription | None = None
    """What its records say; None where the slice has none."""


class Describer(Protocol):
    """Says what is wrong with a slice, or that it cannot."""

    name: str
    """What tables call it."""
    threads: int
    """Slices that it may be asked about at a time."""

    def __call__(self, subject: Subject) -> Answer:
        """Return what it says; a failure is an answer too."""
        ...


def truth_of(case: Case) -> QualityDescription:
    """Return the description that follows from the records of a case, in words that depend on its image alone.

    Without records, task and grade are described. An anatomy that nothing tells is called body, and not scored.
    """
    generator = generator_of(seed_of(case.degraded.voxels.tobytes(), num_bytes=4), 0, 3)
    records = case.records or (DegradationRecord(case.task, case.severity),)
    return describe(case.task.modality, case.anatomy or Anatomy.BODY, records, generator)


class TruthDescriber:
    """Says what the records say: an upper bound, no assessment."""

    name = "record"
    threads = 1

    def __call__(self, subject: Subject) -> Answer:
        """Return the truth of a slice, or that it has none."""
        if subject.truth is None:
            return Answer(Outcome.REFUSED, reason="not supported: the image has no degradation record.")
        return Answer.described(subject.truth)


class MajorityDescriber:
    """A guess that looks at no image: of every modality it says what is most frequent in the benchmark's own answers.

    The verdict comes first, then the degradations that are most frequent with this verdict, so that the guess does not
    contradict itself; cause and impact are those of the first such answer.
    """

    name = "majority"
    threads = 1

    def __init__(self, truths: Sequence[QualityDescription]) -> None:
        self._guesses = {}
        for modality in Modality:
            mine = [truth for truth in truths if truth.modality is modality]
            if mine:
                self._guesses[modality] = _most_frequent(mine)

    def __call__(self, subject: Subject) -> Answer:
        """Return the guess for the modality that the slice is said to have."""
        guess = None if subject.image.modality is None else self._guesses.get(subject.image.modality)
        if guess is None:
            return Answer(Outcome.REFUSED, reason="not supported: the benchmark has no answer of this modality.")
        return Answer.described(guess)


def _most_frequent(truths: Sequence[QualityDescription]) -> QualityDescription:
    verdict = Counter(truth.verdict for truth in truths).most_common(1)[0][0]
    anatomy = Counter(truth.anatomy for truth in truths).most_common(1)[0][0]
    with_verdict = [truth for truth in truths if truth.verdict is verdict]
    degradations = Counter(truth.degradations for truth in with_verdict).most_common(1)[0][0]
    typical = next(truth for truth in with_verdict if truth.degradations == degradations)
    return replace(typical, anatomy=anatomy)


class ModelDescriber:
    """A model of ours, asked as ``medq assess`` asks it."""

    threads = 1

    def __init__(self, name: str, cache: AnswerCache, *, device: str | None = None) -> None:
        """Load ``nano``, a folder of weights, or OWNER/NAME[@REVISION].

        Raises:
            WeightsMismatch: See :meth:`medq_uni.restorer.Restorer.from_pretrained`.
        """
        self.name = name
        plain, _, revision = name.partition("@")
        self._restorer = Restorer.from_pretrained(plain, device=device, revision=revision or None)
        self._cache = cache

    def __call__(self, subject: Subject) -> Answer:
        """Return what the model says, with the doubt that it voiced; an image it declines is refused."""
        key = question_key("model", self._restorer.pretrained.sha256, __version__, _digest(subject.image))
        kept = self._cache.answer(key)
        if kept is not None:
            return kept
        with capture_warnings() as doubts:
            answer = self._ask(subject.image)
        answer = replace(answer, warning=" ".join(doubts))
        self._cache.put(key, answer.to_dict())
        return answer

    def _ask(self, image: MedicalImage) -> Answer:
        try:
            return Answer.described(self._restorer.assess(image))
        except CannotAssess as error:
            return Answer(Outcome.REFUSED, reason=str(error))
        except DescriptionError as error:
            return Answer(Outcome.FAILED, reason=str(error))
        except ValueError as error:  # values that no image of the modality has
            return Answer(Outcome.REFUSED, reason=f"Cannot assess: {error}")


class ChatDescriber:
    """A vision-language model behind an OpenAI-compatible chat server; it may say that it cannot assess.

    Of a volume it is shown the middle slice.
    """

    def __init__(self, chat: ChatClient, cache: AnswerCache, *, threads: int = 4) -> None:
        self.chat, self.threads, self._cache = chat, threads, cache
        self.name = f"openai:{chat.model}"

    def __call__(self, subject: Subject) -> Answer:
        """Return what the model says; a server that fails is named and asked again in a later run."""
        question = _question(subject)
        key = question_key(self.chat.model, self.chat.config.max_tokens, without_pictures(question))
        kept = self._cache.answer(key)
        if kept is not None:
            return kept
        try:
            said = self.chat.ask(question, read_assessment, schema=refusal_schema())
        except ServerDown as error:
            return Answer(Outcome.FAILED, reason=str(error), is_final=False)
        except NoAnswer as error:
            answer = Answer(Outcome.FAILED, reason=str(error))
        else:
            answer = Answer(Outcome.REFUSED, reason=said) if isinstance(said, str) else Answer.described(said)
        self._cache.put(key, answer.to_dict())
        return answer

    def tokens(self, subjects: Sequence[Subject]) -> tuple[int, int]:
        """Return about how many tokens a first question about every slice takes, and at most how many the answers."""
        tokens_in = sum(tokens_of(_question(subject)) for subject in subjects)
        return tokens_in, self.chat.config.max_tokens * len(subjects)


def _question(subject: Subject) -> Messages:
    return messages_for(subject.image.slice_at(subject.image.shape[0] // 2), may_refuse=True)


def chat_config(words: str, **limits: object) -> ChatConfig | None:
    """Return the server that ``openai:MODEL@URL`` names; None where the words have another form.

    Without MODEL the only one of the server is taken.

    Raises:
        ConfigError: If the URL or a limit is wrong.
    """
    if not words.startswith("openai:"):
        return None
    named = _EXTERNAL.fullmatch(words)
    if named is None:
        raise ConfigError(f"{words!r}: a chat server is named openai:MODEL@http(s)://HOST[:PORT]/v1.")
    return ChatConfig(url=named["url"], model=named["model"] or None, **limits)  # type: ignore[arg-type]


def open_describers(
    names: Sequence[str],
    truths: Sequence[QualityDescription],
    folder: Path,
    *,
    device: str | None = None,
    threads: int = 4,
    **limits: object,
) -> list[Describer]:
    """Return the describers of names, in order.

    Args:
        names: ``record``, ``majority``, ``openai:MODEL@URL``; anything else is a model of ours.
        truths: Answers of the benchmark, from which the majority guesses.
        folder: Where answers are kept.
        device: Where models of ours compute.
        threads: Questions to a server at a time.
        limits: Fields of :class:`medq_uni.describers.chat.ChatConfig` for the servers.

    Raises:
        ConfigError: If a name comes twice, or a server is named wrongly.
        ServerDown: If a server does not answer.
        WeightsMismatch: If there is no such model.
    """
    cache = AnswerCache(folder)
    found: list[Describer] = []
    for name in names:
        if name == TruthDescriber.name:
            found.append(TruthDescriber())
        elif name == MajorityDescriber.name:
            found.append(MajorityDescriber(truths))
        elif (config := chat_config(name, **limits)) is not None:
            found.append(ChatDescriber(ChatClient(config), cache, threads=threads))
        else:
            found.append(ModelDescriber(name, cache, device=device))
    twice = [name for name, count in Counter(one.name for one in found).items() if count > 1]
    if twice:
        raise ConfigError(f"{twice[0]} is named twice among the describers.")
    return found


def describe_all(
    describer: Describer, subjects: Sequence[Subject], progress: Callable[[int, int], None] | None = None
) -> list[Answer]:
    """Return what a describer says about every slice, in order.

    After :data:`PATIENCE` slices that a server left without any answer, the rest counts as failed without being asked.
    """
    found: list[Answer] = []
    zero_init = 0
    with ThreadPoolExecutor(describer.threads) as pool:
        for first in range(0, len(subjects), describer.threads):
            some = subjects[first : first + describer.threads]
            if zero_init >= PATIENCE:
                reason = f"not asked: {PATIENCE} images in a row got no answer."
                found += [Answer(Outcome.FAILED, reason=reason, is_final=False) for _ in some]
            else:
                for answer in pool.map(describer, some):
                    zero_init = 0 if answer.is_final else zero_init + 1
                    found.append(answer)
            if progress is not None:
                progress(len(found), len(subjects))
    return found


def _digest(image: MedicalImage) -> str:
    digest = hashlib.sha256(f"{image.modality}/{image.units}/{image.shape}".encode())
    digest.update(image.voxels.tobytes())
    if image.padding is not None:
        digest.update(image.padding.tobytes())
    return digest.hexdigest()
