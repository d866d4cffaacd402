"""The words that every part shares: modalities, tasks, severities, verdicts, anatomies.

Standard library only, so that ``medq --help`` and the description floor answer at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum


class Modality(StrEnum):
    """Imaging modality. Values are the command-line spelling."""

    CT = "ct"
    MR = "mr"
    PET = "pet"


class Task(StrEnum):
    """Restoration task, that is: one kind of degradation in one modality."""

    CT_LOW_DOSE = "ct-low-dose"
    MR_UNDERSAMPLING = "mr-undersampling"
    MR_MOTION = "mr-motion"
    MR_NOISE = "mr-noise"
    PET_LOW_COUNT = "pet-low-count"

    @property
    def modality(self) -> Modality:
        """Modality in which this degradation occurs."""
        return Modality(self.value.split("-", 1)[0])


class Severity(StrEnum):
    """Grade of a degradation, ordered from ``none`` (level 0) to ``severe`` (level 3)."""

    NONE = "none"
    MILD = "mild"
    MODERATE = "moderate"
    SEVERE = "severe"

    @property
    def level(self) -> int:
        """Position in the order none, mild, moderate, severe: 0 to 3."""
        return list(Severity).index(self)

    @classmethod
    def from_level(cls, level: int) -> Severity:
        """Return the grade at ``level`` (0 to 3), clamped to that range."""
        return list(cls)[min(max(level, 0), 3)]


class Verdict(StrEnum):
    """Quality judgment of the paper: Good, Usable or Reject."""

    GOOD = "good"
    USABLE = "usable"
    REJECT = "reject"


class Anatomy(StrEnum):
    """Body region, as coarse as one slice allows to say."""

    BRAIN = "brain"
    HEAD_NECK = "head and neck"
    CHEST = "chest"
    ABDOMEN = "abdomen"
    PELVIS = "pelvis"
    TORSO = "torso"
    EXTREMITY = "extremity"
    BODY = "body"


def tasks_of(modality: Modality) -> tuple[Task, ...]:
    """Return the tasks that exist in ``modality``, in the order of :class:`Task`."""
    return tuple(task for task in Task if task.modality is modality)


def verdict_of(severities: Iterable[Severity]) -> Verdict:
    """Return the verdict that follows from the graded degradations of one image.

    The worst grade decides: none is Good, mild and moderate are Usable, severe is Reject.
    """
    worst = max((severity.level for severity in severities), default=0)
    return (Verdict.GOOD, Verdict.USABLE, Verdict.USABLE, Verdict.REJECT)[worst]


def restoration_strength(found: Severity, stated: Severity) -> float:
    """Return which share of a full restoration a report asks for that states another grade than was found.

    Stated none asks for nothing, the found grade for the whole correction, grades between for their share of it,
    and worse grades for a quarter more per grade. Where nothing was found, mild asks for the whole correction.
    """
    level = max(found.level, 1)
    if stated.level <= level:
        return stated.level / level
    return 1 + 0.25 * (stated.level - level)
