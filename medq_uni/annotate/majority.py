"""What several reviews of one image say together.

The rule, slot by slot. Modality, anatomy, the grade of every kind of degradation, and the verdict: the value that more
than half of the reviewers give; where there is none, the image goes to adjudication. Cause and impact: the text that
more than half give, case and spacing aside; else the text of the reviewer whose other slots agree most with the
majority, the first of them in a tie. Besides, an image goes to adjudication where more than half doubt the same aspect,
and where the agreed slots contradict each other though no majority gave them together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from medq_uni.annotate.records import ASPECTS, ReviewEntry
from medq_uni.description import Degradation, QualityDescription
from medq_uni.taxonomy import Anatomy, Modality, Severity, Task, Verdict

SLOTS = ("modality", "anatomy", *(task.value for task in Task), "verdict")
"""Slots that are voted on; a kind of degradation that is not named has the grade none."""
_NO_GRADES = {task.value: Severity.NONE.value for task in Task}


@dataclass(frozen=True)
class Settlement:
    """The outcome of a vote.

    Attributes:
        entry: What is agreed; a slot without a majority is left out.
        disputed: Slots and aspects that an administrator has to decide; empty where all is agreed.
        votes: For every slot, how many gave which value.
    """

    entry: ReviewEntry
    disputed: tuple[str, ...]
    votes: dict[str, dict[str, int]]

    @property
    def is_agreed(self) -> bool:
        """Whether there is nothing to decide."""
        return not self.disputed

    def description(self) -> QualityDescription:
        """Return the agreed description.

        Raises:
            DescriptionError: If something is disputed that a description needs.
        """
        return self.entry.description()


def slots_of(description: QualityDescription) -> dict[str, str]:
    """Return the value of every slot of :data:`SLOTS`."""
    values = {"modality": description.modality.value, "anatomy": description.anatomy.value} | _NO_GRADES
    for degradation in description.degradations:
        values[degradation.task.value] = degradation.severity.value
    values["verdict"] = description.verdict.value
    return values


def aspect_of(slot: str) -> str:
    """Return the aspect of an entry to which a slot belongs."""
    return slot if slot in ASPECTS else "degradations"


def settle(entries: Sequence[ReviewEntry]) -> Settlement:
    """Return what finished reviews of one image say together; see the top of this module for the rule.

    Args:
        entries: At least one, finished, in an order that does not depend on what they say.
    """
    descriptions = [entry.description() for entry in entries]
    given = [slots_of(description) for description in descriptions]
    votes = {slot: dict(Counter(one[slot] for one in given)) for slot in SLOTS}
    agreed = {slot: majority_of(votes[slot], len(entries)) for slot in SLOTS}
    disputed = [slot for slot in SLOTS if agreed[slot] is None]
    doubts = Counter(doubt for entry in entries for doubt in set(entry.doubts))
    disputed += [aspect for aspect in ASPECTS if 2 * doubts[aspect] > len(entries) and aspect not in disputed]
    entry = _entry(agreed)
    matches = [sum(one[slot] == agreed[slot] for slot in SLOTS) for one in given]
    closest = descriptions[matches.index(max(matches))]
    entry = replace(entry, cause=_free("cause", descriptions, closest), impact=_free("impact", descriptions, closest))
    if not disputed and entry.description().validate() and not _is_joint(entry.description(), descriptions):
        disputed = ["degradations", "verdict"]
    return Settlement(entry, tuple(disputed), votes)


def majority_of(votes: Mapping[str, int], total: int) -> str | None:
    """Return the value that more than half of all give; None where there is none."""
    return next((value for value, count in votes.items() if 2 * count > total), None)


def _entry(agreed: dict[str, str | None]) -> ReviewEntry:
    modality, anatomy, verdict = agreed["modality"], agreed["anatomy"], agreed["verdict"]
    found = [(task, agreed[task.value]) for task in Task]
    return ReviewEntry(
        modality=None if modality is None else Modality(modality),
        anatomy=None if anatomy is None else Anatomy(anatomy),
        degradations=tuple(
            Degradation(task, Severity(grade)) for task, grade in found if grade not in (None, Severity.NONE.value)
        ),
        verdict=None if verdict is None else Verdict(verdict),
    )


def _free(name: str, descriptions: list[QualityDescription], closest: QualityDescription) -> str:
    texts = [str(getattr(description, name)) for description in descriptions]
    plain = [" ".join(text.casefold().split()) for text in texts]
    winner = majority_of(Counter(plain), len(plain))
    return str(getattr(closest, name)) if winner is None else texts[plain.index(winner)]


def _is_joint(agreed: QualityDescription, descriptions: list[QualityDescription]) -> bool:
    """Return whether a majority gave all the agreed slots together."""
    same = sum(slots_of(description) == slots_of(agreed) for description in descriptions)
    return 2 * same > len(descriptions)
