"""How often the assessment is right, beside a guess that always says what is most frequent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from medq_uni.description import QualityDescription
from medq_uni.evaluate.sets import Case
from medq_uni.taxonomy import Modality, Severity, verdict_of


@dataclass(frozen=True)
class Judged:
    """One score of the assessment."""

    group: str
    name: str
    count: int
    value: float
    majority: float
    """The same score of a guess that always says what is most frequent."""


def assessment_table(
    cases: Sequence[Case],
    assess: Callable[[Case], QualityDescription],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> list[Judged]:
    """Return verdict accuracy, type macro-F1 and severity agreement by group.

    Args:
        cases: Of all grades.
        assess: Describes a degraded slice.
        progress: Called with the number of cases done and their total.
    """
    found = []
    for number, case in enumerate(cases, start=1):
        found.append(assess(case))
        if progress is not None:
            progress(number, len(cases))
    rows = []
    for group in dict.fromkeys(case.group for case in cases):
        pairs = [(c, f) for c, f in zip(cases, found, strict=True) if c.group == group]
        verdicts = [(verdict_of((c.severity,)).value, f.verdict.value) for c, f in pairs]
        rows.append(_judged(group, "verdict accuracy", verdicts, accuracy))
        for modality in Modality:
            mine = [(c, f) for c, f in pairs if c.task.modality is modality]
            kinds = [(_kind(c), _found_kind(f)) for c, f in mine]
            if kinds:
                name = (
                    "type macro-F1 within MR"
                    if modality is Modality.MR
                    else (f"none against degraded, macro-F1, {modality.value.upper()}")
                )
                rows.append(_judged(group, name, kinds, macro_f1))
        grades = [(c.severity.value, f.worst.value) for c, f in pairs]
        rows.append(_judged(group, "severity, quadratic kappa", grades, quadratic_kappa))
    return rows


def accuracy(pairs: Sequence[tuple[str, str]]) -> float:
    """Return the share of pairs (true, found) that are equal."""
    return float(np.mean([true == found for true, found in pairs]))


def macro_f1(pairs: Sequence[tuple[str, str]]) -> float:
    """Return the mean F1 over the classes that occur among the true ones."""
    values = []
    for label in sorted({true for true, _ in pairs}):
        hits = sum(true == found == label for true, found in pairs)
        named = sum(found == label for _, found in pairs)
        present = sum(true == label for true, _ in pairs)
        values.append(2 * hits / (named + present))
    return float(np.mean(values))


def quadratic_kappa(pairs: Sequence[tuple[str, str]]) -> float:
    """Return Cohen's kappa of two grades with quadratic weights; 0 is chance, 1 is full agreement."""
    levels = np.array([[Severity(true).level, Severity(found).level] for true, found in pairs])
    observed = np.mean((levels[:, 0] - levels[:, 1]) ** 2)
    expected = np.mean((levels[:, :1] - levels[None, :, 1]) ** 2)
    return float(1 - observed / expected) if expected > 0 else 1.0


def _judged(
    group: str,
    name: str,
    pairs: Sequence[tuple[str, str]],
    score: Callable[[Sequence[tuple[str, str]]], float],
) -> Judged:
    most = Counter(true for true, _ in pairs).most_common(1)[0][0]
    return Judged(group, name, len(pairs), score(pairs), score([(true, most) for true, _ in pairs]))


def _kind(case: Case) -> str:
    return "none" if case.severity is Severity.NONE else case.task.value


def _found_kind(description: QualityDescription) -> str:
    return description.degradations[0].task.value if description.degradations else "none"
