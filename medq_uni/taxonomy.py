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


NOISES = frozenset({Task.CT_LOW_DOSE, Task.MR_NOISE, Task.PET_LOW_COUNT})
"""Degradations that are noise, and nothing else."""


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


EFFECT_UNITS = {
    Task.CT_LOW_DOSE: "HU",
    Task.MR_UNDERSAMPLING: "NRMSE",
    Task.MR_MOTION: "NRMSE",
    Task.MR_NOISE: "NRMSE",
    Task.PET_LOW_COUNT: "NRMSE",
}
"""What the effect of a degradation is measured in: noise SD in the body, or the error's norm over the reference's."""
EFFECT_BOUNDS = {
    Task.CT_LOW_DOSE: (12.0, 25.0, 50.0),
    Task.MR_UNDERSAMPLING: (0.04, 0.15, 0.21),
    Task.MR_MOTION: (0.02, 0.10, 0.21),
    Task.MR_NOISE: (0.03, 0.085, 0.17),
    Task.PET_LOW_COUNT: (0.04, 0.15, 0.36),
}
"""Least effect of mild, moderate and severe, calibrated on training images (``python -m experiments.grades``)."""
NOISE_LIMITS = {Modality.CT: 18.0, Modality.MR: 0.04, Modality.PET: 0.15}
"""Noise of its own up to which an image passes as a reference: HU, else a fraction of the mean signal.

CT: what routine abdominal protocols aim at, with a margin. PET: the variation in the liver that EANM guidelines
for FDG imaging (2015) allow.
"""


def grade_of(task: Task, effect: float) -> Severity:
    """Return the grade of a measured effect, in the unit that :data:`EFFECT_UNITS` states."""
    return Severity.from_level(sum(effect >= bound for bound in EFFECT_BOUNDS[task]))


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
