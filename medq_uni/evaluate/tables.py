"""From the records of single slices to the rows of tables, by task and by modality."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from medq_uni.evaluate.runner import SliceRecord
from medq_uni.scoring import ImageScores
from medq_uni.statistics import holm, known_interval, paired_p_value
from medq_uni.systems.system import PRESERVED_DB
from medq_uni.taxonomy import Severity, Task

SCORES = tuple(field.name for field in fields(ImageScores))
Records = Mapping[str, Sequence[SliceRecord]]
"""By system, the degraded input first."""


@dataclass(frozen=True)
class ScoreRow:
    """Scores of one system on the degraded slices of one task, or modality, of one group."""

    group: str
    part: str
    """Task or modality."""
    system: str
    slices: int
    """Scored; those that failed are not among them."""
    failed: int
    subjects: int
    mean: dict[str, float | None]
    """Of every score; None where it is infinite or unknown."""
    sd: dict[str, float | None]
    """Over images, with n - 1; None for a single one."""
    interval: dict[str, tuple[float | None, float | None]]
    """95 % of the mean, subjects resampled."""
    gain: float | None
    """Mean PSNR above the degraded input, dB."""
    gain_interval: tuple[float | None, float | None]
    worse: float | None
    """Share of slices with a lower PSNR than the degraded input."""
    difference: float | None = None
    """Mean PSNR above the system that all are compared with, on the slices that both restored."""
    difference_interval: tuple[float | None, float | None] = (None, None)
    p_value: float | None = None
    """Wilcoxon signed-rank test over subjects, Holm-adjusted for the systems of this part."""


def rows_by(part: Callable[[Task], str], records: Records, against: str | None) -> list[ScoreRow]:
    """Return the rows of the degraded slices.

    Args:
        part: What a row holds, of the task of a slice.
        records: Of every system.
        against: System that the others are compared with; None compares with nothing.
    """
    by_system = {name: {r.case: r for r in found if r.severity != Severity.NONE} for name, found in records.items()}
    before = next(iter(by_system.values()))
    keys = list(dict.fromkeys((r.group, part(Task(r.task))) for r in before.values()))
    rows = []
    for group, name in keys:
        cases = [i for i, r in before.items() if r.group == group and part(Task(r.task)) == name]
        rows += _rows_of_part(group, name, cases, by_system, against)
    return rows


def _rows_of_part(
    group: str, part: str, cases: Sequence[int], by_system: Mapping[str, dict[int, SliceRecord]], against: str | None
) -> list[ScoreRow]:
    before = next(iter(by_system.values()))
    found = [_row(group, part, name, [own[i] for i in cases], before) for name, own in by_system.items()]
    if against is None or against not in by_system:
        return found
    compared, p_values = [], []
    for row, (name, own) in zip(found, by_system.items(), strict=True):
        both = [(own[i], by_system[against][i]) for i in cases if own[i].scores and by_system[against][i].scores]
        delta = np.array([a.scores["psnr"] - b.scores["psnr"] for a, b in both if a.scores and b.scores])
        subjects = [a.subject for a, _ in both]
        p_values.append(paired_p_value(delta, subjects) if name != against and both else math.nan)
        mean = _number(delta.mean()) if both else None
        compared.append(replace(row, difference=mean, difference_interval=known_interval(delta, subjects)))
    return [replace(row, p_value=_number(p)) for row, p in zip(compared, holm(p_values), strict=True)]


def _row(
    group: str, part: str, name: str, records: Sequence[SliceRecord], before: Mapping[int, SliceRecord]
) -> ScoreRow:
    scored = [(r, r.scores) for r in records if r.scores]
    subjects = [r.subject for r, _ in scored]
    values = {score: np.array([s[score] for _, s in scored]) for score in SCORES}
    pairs = [(s["psnr"] - base["psnr"], r.subject) for r, s in scored if (base := _degraded(before[r.case]))]
    changes = np.array([value for value, _ in pairs])
    pairs = [pair for pair in pairs if math.isfinite(pair[0])]  # a restoration without error has no gain in dB
    gain = np.array([value for value, _ in pairs])
    return ScoreRow(
        group=group,
        part=part,
        system=name,
        slices=len(scored),
        failed=len(records) - len(scored),
        subjects=len(set(subjects)),
        mean={n: _number(v.mean()) if len(v) else None for n, v in values.items()},
        sd={n: _number(v.std(ddof=1)) if len(v) > 1 and np.isfinite(v).all() else None for n, v in values.items()},
        interval={n: known_interval(v, subjects) for n, v in values.items()},
        gain=_number(gain.mean()) if len(gain) else None,
        gain_interval=known_interval(gain, [s for _, s in pairs]),
        worse=float((changes < 0).mean()) if len(changes) else None,
    )


def _degraded(record: SliceRecord) -> dict[str, float] | None:
    """Return the scores of an input that can be restored; None where it failed or equals its reference."""
    return record.scores if record.scores and math.isfinite(record.scores["psnr"]) else None


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


@dataclass(frozen=True)
class GoodImageRow:
    """What a system does to images that need no restoration."""

    group: str
    modality: str
    system: str
    images: int
    failed: int
    unchanged: float
    """Share that comes back bit-identical."""
    preserved: float
    """Share of at least 45 dB against the input, the unchanged ones among them."""
    lowest: float | None
    """Lowest PSNR of the others in dB; None where there are none."""


def good_image_rows(records: Records) -> list[GoodImageRow]:
    """Return what every system does to good images, by group and modality."""
    rows = []
    first = next(iter(records.values()))
    good = {r.case for r in first if r.severity == Severity.NONE}
    keys = dict.fromkeys((r.group, Task(r.task).modality.value) for r in first if r.case in good)
    for group, modality in keys:
        for name, found in records.items():
            mine = [r for r in found if r.case in good and (r.group, Task(r.task).modality.value) == (group, modality)]
            scored = [(r.is_unchanged, r.scores["psnr"]) for r in mine if r.scores]
            altered = [value for is_same, value in scored if not is_same]
            share = [is_same or value >= PRESERVED_DB for is_same, value in scored]
            rows.append(
                GoodImageRow(
                    group=group,
                    modality=modality,
                    system=name,
                    images=len(scored),
                    failed=len(mine) - len(scored),
                    unchanged=float(np.mean([is_same for is_same, _ in scored])) if scored else 0.0,
                    preserved=float(np.mean(share)) if scored else 0.0,
                    lowest=_number(min(altered)) if altered else None,
                )
            )
    return rows
