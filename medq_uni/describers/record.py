"""Describers that look at no image: what the records say, and the most frequent of what they say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from medq_uni.data.reference_text import describe
from medq_uni.describers.describer import Answer, Outcome, Subject
from medq_uni.description import QualityDescription
from medq_uni.physics.record import DegradationRecord
from medq_uni.seeding import generator_of, seed_of
from medq_uni.systems.cases import Case
from medq_uni.taxonomy import Anatomy, Modality


def truth_of(case: Case) -> QualityDescription:
    """Return the description that follows from the records of a case, in words that depend on its image alone.

    Without records, task and grade are described. An anatomy that nothing tells is called body, and not scored.
    """
    records = case.records or (DegradationRecord(case.task, case.severity),)
    return recorded(case.task.modality, case.anatomy or Anatomy.BODY, records, case.degraded.voxels.tobytes())


def recorded(
    modality: Modality, anatomy: Anatomy, records: Sequence[DegradationRecord], identity: bytes | str
) -> QualityDescription:
    """Return the description that follows from degradation records.

    Args:
        modality: Of the image.
        anatomy: What it shows.
        records: What was done to it.
        identity: Decides between words that mean the same: voxels, or the key of the image.
    """
    return describe(modality, anatomy, records, generator_of(seed_of(identity, num_bytes=4), 0, 3))


class RecordDescriber:
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

    Args:
        truths: Answers of the benchmark.
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
