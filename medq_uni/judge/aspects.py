"""Aspects of descriptions against the records: an offline scale of its own, not that of a language-model judge.

An image without a description (refused or failed) counts: as wrong in every accuracy, as named nothing in F1, as the
farthest grade in kappa, as 0 in the quality accuracy. Rows of a parameter or of a rank are over the answered images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medq_uni.data.reference_text import stated_parameter, true_parameter
from medq_uni.describers.describer import Answer, Outcome
from medq_uni.description import QualityDescription
from medq_uni.scoring import scores
from medq_uni.statistics import RESAMPLES, known_interval
from medq_uni.systems.cases import Case
from medq_uni.taxonomy import Modality, Severity, Verdict, tasks_of

GRADES = len(Severity)
ANSWERED_ONLY = "answered only"


@dataclass(frozen=True)
class AspectScore:
    """One score of one describer on one group of cases."""

    group: str
    describer: str
    name: str
    count: int
    """Images that the score is about."""
    answered: int
    """Those that have what is scored."""
    value: float | None
    """None where there is nothing to score, for example a rank where all answers are equal."""
    low: float | None
    """Lower end of the 95 % interval, resampling subjects."""
    high: float | None


@dataclass(frozen=True, eq=False)
class _Assessed:
    case: Case
    truth: QualityDescription
    answer: Answer
    decibels: float

    @property
    def found(self) -> QualityDescription | None:
        return self.answer.description


def aspect_table(
    cases: Sequence[Case], truths: Sequence[QualityDescription], answers: Mapping[str, Sequence[Answer]]
) -> list[AspectScore]:
    """Return every aspect score by group and describer.

    Args:
        cases: Of all grades.
        truths: What the records say, one per case.
        answers: By describer, one per case.
    """
    decibels = [scores(case.degraded, case.reference, case.data_range)[0] for case in cases]
    rows = []
    for group in dict.fromkeys(case.group for case in cases):
        for describer, given in answers.items():
            pairs = [
                _Assessed(*one) for one in zip(cases, truths, given, decibels, strict=True) if one[0].group == group
            ]
            rows += [AspectScore(group, describer, *score) for score in _scores(pairs)]
    return rows


_Score = tuple[str, int, int, float | None, float | None, float | None]


def _scores(pairs: Sequence[_Assessed]) -> list[_Score]:
    told = [pair for pair in pairs if pair.case.anatomy is not None]
    rows = [
        _mean("verdict accuracy", pairs, lambda truth, found: truth.verdict is found.verdict),
        _mean("quality accuracy, 0 to 2", pairs, _quality),
    ]
    for modality in Modality:
        mine = [pair for pair in pairs if pair.truth.modality is modality]
        if mine:
            of_mr = "type macro-F1 within MR"
            other = f"none against degraded, macro-F1, {modality.value.upper()}"
            rows.append(_type_f1(of_mr if modality is Modality.MR else other, mine, modality))
    rows.append(_severity_kappa(pairs))
    rows.append(_mean("modality accuracy", pairs, lambda truth, found: truth.modality is found.modality))
    if told:
        rows.append(_mean("anatomy accuracy", told, lambda truth, found: truth.anatomy is found.anatomy))
    rows += _parameter_error(pairs)
    for modality in Modality:
        mine = [pair for pair in pairs if pair.truth.modality is modality]
        if len(mine) > 1:
            rows.append(_severity_rank(mine, modality))
    for outcome, name in ((Outcome.REFUSED, "cannot assess / not supported, share"), (Outcome.FAILED, "failed, share")):
        rows.append(_share(name, pairs, outcome))
    return rows


def _mean(
    name: str, pairs: Sequence[_Assessed], score: Callable[[QualityDescription, QualityDescription], float]
) -> _Score:
    values = np.array([0.0 if pair.found is None else float(score(pair.truth, pair.found)) for pair in pairs])
    return name, len(pairs), _answered(pairs), float(values.mean()), *known_interval(values, _subjects(pairs))


def _share(name: str, pairs: Sequence[_Assessed], outcome: Outcome) -> _Score:
    values = np.array([float(pair.answer.outcome is outcome) for pair in pairs])
    return name, len(pairs), _answered(pairs), float(values.mean()), *known_interval(values, _subjects(pairs))


def _quality(truth: QualityDescription, found: QualityDescription) -> float:
    return quality_accuracy(truth.verdict, found.verdict)


def quality_accuracy(true: Verdict, found: Verdict) -> int:
    """Return 2 for the same verdict, 1 for an adjacent one, 0 for Good against Reject (arXiv 2510.01691)."""
    order = list(Verdict)
    return 2 - abs(order.index(true) - order.index(found))


def _type_f1(name: str, pairs: Sequence[_Assessed], modality: Modality) -> _Score:
    kinds = [None, *tasks_of(modality)]
    true, found = (np.array([[kind in one for kind in kinds] for one in named]) for named in _kinds(pairs))
    sums = np.concatenate([true & found, found, true], axis=1).astype(np.float64)
    return name, len(pairs), _answered(pairs), *_of_sums(sums, _subjects(pairs), macro_f1)


def _kinds(pairs: Sequence[_Assessed]) -> tuple[list[set[object]], list[set[object]]]:
    """Return the kinds that are there and that are named; None stands for no degradation."""

    def of(words: QualityDescription | None) -> set[object]:
        return set() if words is None else {d.task for d in words.degradations} or {None}

    return [of(pair.truth) for pair in pairs], [of(pair.found) for pair in pairs]


def macro_f1(sums: np.ndarray) -> np.ndarray:
    """Return the mean F1 over the classes that occur among the true ones.

    Args:
        sums: (..., 3 K): how often each of K classes was rightly named, named, and there.
    """
    hits, named, present = np.split(sums, 3, axis=-1)
    f1 = np.divide(2 * hits, named + present, out=np.zeros_like(hits), where=present > 0)
    return np.asarray(f1.sum(-1) / np.maximum((present > 0).sum(-1), 1))


def _severity_kappa(pairs: Sequence[_Assessed]) -> _Score:
    sums = np.zeros((len(pairs), GRADES**2))
    for row, pair in enumerate(pairs):
        true = pair.truth.worst.level
        farthest = GRADES - 1 if true < GRADES / 2 else 0
        found = farthest if pair.found is None else pair.found.worst.level
        sums[row, true * GRADES + found] = 1
    name, answered = "severity, quadratic kappa", _answered(pairs)
    if not answered:
        return name, len(pairs), 0, None, None, None
    return name, len(pairs), answered, *_of_sums(sums, _subjects(pairs), quadratic_kappa)


def quadratic_kappa(sums: np.ndarray) -> np.ndarray:
    """Return Cohen's kappa with quadratic weights; 0 is chance, 1 is full agreement.

    Args:
        sums: (..., 16): how often each true grade (slow axis) met each found grade.
    """
    table = sums.reshape(*sums.shape[:-1], GRADES, GRADES)
    total = table.sum((-2, -1))
    weights = np.subtract.outer(np.arange(GRADES), np.arange(GRADES)) ** 2
    observed = (table * weights).sum((-2, -1)) / total
    expected = np.einsum("...i,...j,ij->...", table.sum(-1), table.sum(-2), weights) / total**2
    return np.asarray(1 - np.divide(observed, expected, out=np.zeros_like(observed), where=expected > 0))


def _of_sums(
    features: np.ndarray, subjects: Sequence[str], statistic: Callable[[np.ndarray], np.ndarray]
) -> tuple[float, float | None, float | None]:
    """Return a statistic of summed features (images, D) with its 95 % interval, resampling whole subjects."""
    names, place = np.unique(np.asarray(subjects), return_inverse=True)
    sums = np.zeros((len(names), features.shape[1]))
    np.add.at(sums, place, features)
    shares = np.full(len(names), 1 / len(names))
    drawn = np.random.default_rng(0).multinomial(len(names), shares, size=RESAMPLES)
    value = float(statistic(sums.sum(0)))
    if len(names) < 2:
        return value, None, None
    low, high = np.quantile(statistic(drawn @ sums), (0.025, 0.975))
    return value, float(low), float(high)


def _parameter_error(pairs: Sequence[_Assessed]) -> list[_Score]:
    """Return |log2(stated / true)| where a described degradation that is there states its parameter."""
    values, subjects, count = [], [], 0
    for pair in pairs:
        known = [(record.task, true_parameter(record)) for record in pair.case.records]
        known = [(task, true) for task, true in known if true and task in {d.task for d in pair.truth.degradations}]
        count += bool(known)
        named = set() if pair.found is None else {d.task for d in pair.found.degradations}
        for task, true in known:
            stated = stated_parameter(pair.found.cause, task) if pair.found is not None and task in named else None
            if stated is not None and true:
                values.append(abs(np.log2(stated / true)))
                subjects.append(pair.case.subject)
    if not count:
        return []
    name = f"parameter error, mean distance of log2, {ANSWERED_ONLY}"
    if not values:
        return [(name, count, 0, None, None, None)]
    errors = np.array(values)
    return [(name, count, len(values), float(errors.mean()), *known_interval(errors, subjects))]


def _severity_rank(pairs: Sequence[_Assessed], modality: Modality) -> _Score:
    """Return the rank correlation of the worst stated grade, turned round, with the PSNR of the input."""
    name = f"SRCC of stated severity with input PSNR, {modality.value.upper()}, {ANSWERED_ONLY}"
    grades = np.array([-pair.found.worst.level for pair in pairs if pair.found is not None], dtype=np.float64)
    decibels = np.array([pair.decibels for pair in pairs if pair.found is not None])
    if len(grades) < 2 or len(set(grades)) < 2 or len(set(decibels)) < 2:
        return name, len(pairs), len(grades), None, None, None
    names, place = np.unique([pair.case.subject for pair in pairs if pair.found is not None], return_inverse=True)
    members = [np.flatnonzero(place == number) for number in range(len(names))]
    generator = np.random.default_rng(0)
    drawn = []
    for _ in range(RESAMPLES):
        chosen = np.concatenate([members[number] for number in generator.integers(len(names), size=len(names))])
        value = _srcc(grades[chosen], decibels[chosen])
        if value is not None:
            drawn.append(value)
    low, high = np.quantile(drawn, (0.025, 0.975)) if drawn else (np.nan, np.nan)
    return name, len(pairs), len(grades), _srcc(grades, decibels), float(low), float(high)


def _srcc(one: np.ndarray, other: np.ndarray) -> float | None:
    """Return Spearman's rank correlation; None where one side is constant."""
    from scipy.stats import rankdata

    ranks = rankdata(one), rankdata(other)
    if min(np.ptp(side) for side in ranks) == 0:
        return None
    return float(np.corrcoef(*ranks)[0, 1])


def _subjects(pairs: Sequence[_Assessed]) -> list[str]:
    return [pair.case.subject for pair in pairs]


def _answered(pairs: Sequence[_Assessed]) -> int:
    return sum(pair.found is not None for pair in pairs)


def aspect_markdown(rows: Sequence[AspectScore]) -> str:
    """Return the scores as a table, a column per describer."""
    describers = list(dict.fromkeys(row.describer for row in rows))
    lines = [
        f"| set | aspect | images | {' | '.join(describers)} |",
        "|---|---|---|" + "---|" * len(describers),
    ]
    by_place: dict[tuple[str, str], dict[str, AspectScore]] = {}
    for row in rows:
        by_place.setdefault((row.group, row.name), {})[row.describer] = row
    for (group, name), found in by_place.items():
        count = next(iter(found.values())).count
        cells = " | ".join(_cell(found.get(describer)) for describer in describers)
        lines.append(f"| {group} | {name} | {count} | {cells} |")
    return "\n".join(lines) + "\n"


def _cell(score: AspectScore | None) -> str:
    if score is None or score.value is None:
        return "-"
    within = "" if score.low is None or score.high is None else f" ({score.low:.2f} to {score.high:.2f})"
    part = f", {score.answered}" if score.answered != score.count else ""
    return f"{score.value:.3f}{within}{part}"
