"""What a sweep found: gains along every curve, cliffs, and what assessors say of one strength in all textures."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medq_uni.evaluate.page import Table, number
from medq_uni.evaluate.runner import SliceRecord
from medq_uni.evaluate.sweep import Curve, Point, Sweep
from medq_uni.systems.build import INPUT, SystemSpec
from medq_uni.taxonomy import Severity, Verdict

CLIFF_DB = 0.2
"""A system that is farther below the best tuned filter falls off a cliff."""
NOTE = (
    "Degradations of one strength; along a curve one nuisance of the scanner alone is varied. Lead: mean gain in PSNR "
    f"minus that of the filter that is best at that point, tuned on phantoms; more than {CLIFF_DB:g} dB below it is a "
    "cliff."
)


@dataclass(frozen=True)
class SweepRow:
    """One system at one point of one curve, over the images of one set."""

    task: str
    curve: str
    point: str
    group: str
    system: str
    kind: str
    """``input``, ``classical`` or ``model``."""
    images: int
    """Scored; those that failed are not among them."""
    failed: int
    gain: float | None
    """Mean PSNR above the degraded input, dB."""
    filter: str
    """The tuned filter with the largest gain at this point; empty where none ran."""
    filter_gain: float | None
    lead: float | None
    """``gain`` minus ``filter_gain``."""


@dataclass(frozen=True)
class AssessorRow:
    """What one system says of the images at one point, beside the grades that were measured."""

    task: str
    curve: str
    point: str
    group: str
    system: str
    images: int
    """Of which it says something."""
    measured: dict[str, int]
    """Images by the grade that was measured."""
    said: dict[str, int]
    """Images by the worst grade that it says."""
    verdicts: dict[str, int]
    """Images by verdict."""
    right: int
    """Images of which it says the measured grade."""


@dataclass(frozen=True)
class SweepResults:
    """All that a sweep found."""

    gains: tuple[SweepRow, ...]
    said: tuple[AssessorRow, ...]

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> SweepResults:
        """Return the results that JSON holds, as :func:`dataclasses.asdict` writes them."""
        gains = tuple(SweepRow(**row) for row in values["gains"])
        return cls(gains, tuple(AssessorRow(**row) for row in values["said"]))


Records = Mapping[str, Sequence[SliceRecord]]
"""By system, the degraded input first."""


def sweep_results(sweep: Sweep, records: Records, specs: Sequence[SystemSpec]) -> SweepResults:
    """Return gains and statements at every point.

    Args:
        sweep: What was restored.
        records: Of the sweep's benchmark.
        specs: Systems that ran.
    """
    return SweepResults(tuple(sweep_rows(sweep, records, specs)), tuple(assessor_rows(sweep, records)))


def sweep_rows(sweep: Sweep, records: Records, specs: Sequence[SystemSpec]) -> list[SweepRow]:
    """Return the gain of every system at every point, with its lead over the best filter there.

    Args:
        sweep: What was restored.
        records: Of the sweep's benchmark.
        specs: Systems that ran.
    """
    kinds = {spec.name: spec.kind for spec in specs}
    before = {r.case: r.scores["psnr"] for r in records[INPUT] if r.scores}
    rows = []
    for curve, point, group, cases in _cells(sweep, records[INPUT]):
        found: dict[str, tuple[list[float], int]] = {}
        for name, own in records.items():
            mine = [own[case] for case in cases]
            gains = [r.scores["psnr"] - before[r.case] for r in mine if r.scores and r.case in before]
            found[name] = [gain for gain in gains if math.isfinite(gain)], sum(r.scores is None for r in mine)
        means = {name: float(np.mean(gains)) if gains else None for name, (gains, _) in found.items()}
        filters = {name: mean for name, mean in means.items() if kinds[name] == "classical" and mean is not None}
        best = max(filters, key=lambda name: filters[name], default="")
        for name, (gains, failed) in found.items():
            mean, bound = means[name], filters.get(best)
            lead = None if mean is None or bound is None else mean - bound
            rows.append(
                SweepRow(
                    task=curve.task.value,
                    curve=curve.name,
                    point=point.label,
                    group=group,
                    system=name,
                    kind=kinds[name],
                    images=len(gains),
                    failed=failed,
                    gain=mean,
                    filter=best,
                    filter_gain=bound,
                    lead=lead,
                )
            )
    return rows


def assessor_rows(sweep: Sweep, records: Records) -> list[AssessorRow]:
    """Return what every system that describes says of the images at every point."""
    rows = []
    for curve, point, group, cases in _cells(sweep, records[INPUT]):
        for name, own in records.items():
            told = [own[case] for case in cases if own[case].said]
            if told:
                rows.append(
                    AssessorRow(
                        task=curve.task.value,
                        curve=curve.name,
                        point=point.label,
                        group=group,
                        system=name,
                        images=len(told),
                        measured=_counted([r.severity for r in told], Severity),
                        said=_counted([r.said for r in told], Severity),
                        verdicts=_counted([r.verdict for r in told], Verdict),
                        right=sum(r.said == r.severity for r in told),
                    )
                )
    return rows


def sweep_tables(found: SweepResults) -> list[Table]:
    """Return the tables of a sweep, what matters most first."""
    return [*at_a_glance(found), _points(found.gains)]


def at_a_glance(found: SweepResults) -> list[Table]:
    """Return the tables that fit on a screen: leads, cliffs, what assessors say."""
    return [_leads(found.gains), _cliffs(found.gains), _textures(found.said)]


def markdown(tables: Sequence[Table]) -> str:
    """Return tables as Markdown, those without rows left out."""
    lines = []
    for title, header, rows, note in tables:
        if rows:
            lines += [f"### {title}", "", f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
            lines += [f"| {' | '.join(row)} |" for row in rows]
            lines += ["", *([note, ""] if note else [])]
    return "\n".join(lines)


def _cells(sweep: Sweep, records: Sequence[SliceRecord]) -> list[tuple[Curve, Point, str, list[int]]]:
    """Return the images of every point and set."""
    cells: dict[tuple[tuple[int, int], str], list[int]] = {}
    for place, record in zip(sweep.places, records, strict=True):
        cells.setdefault((place, record.group), []).append(record.case)
    curves = sweep.recipe.curves
    return [
        (curves[curve], curves[curve].points[point], group, cases) for ((curve, point), group), cases in cells.items()
    ]


def _counted(values: Sequence[str], words: type[Severity] | type[Verdict]) -> dict[str, int]:
    counts = Counter(values)
    return {word.value: counts[word.value] for word in words}


def _models(rows: Sequence[SweepRow]) -> list[SweepRow]:
    return [row for row in rows if row.kind == "model" and row.lead is not None]


def _leads(rows: Sequence[SweepRow]) -> Table:
    """Return where along every curve a network leads least."""
    curves: dict[tuple[str, str, str, str], list[SweepRow]] = {}
    for row in _models(rows):
        curves.setdefault((row.system, row.task, row.curve, row.group), []).append(row)
    found = []
    for key, own in curves.items():
        worst = min(own, key=lambda row: row.lead or 0.0)
        best = max(own, key=lambda row: row.lead or 0.0)
        off = sum((row.lead or 0.0) < -CLIFF_DB for row in own)
        cells = [number(worst.lead, 2, True), f"at {worst.point}", number(best.lead, 2, True), f"{off} of {len(own)}"]
        found.append([*key, *cells])
    header = ["system", "task", "varied", "set", "least lead (dB)", "where", "largest lead (dB)", "cliffs"]
    return "Lead over the best filter", header, found, NOTE


def _cliffs(rows: Sequence[SweepRow]) -> Table:
    off = sorted((row for row in _models(rows) if (row.lead or 0.0) < -CLIFF_DB), key=lambda row: row.lead or 0.0)
    cells = [
        [
            row.system,
            row.task,
            row.curve,
            row.point,
            row.group,
            number(row.gain, 2, True),
            f"{number(row.filter_gain, 2, True)} {row.filter}",
            number(row.lead, 2, True),
        ]
        for row in off
    ]
    header = ["system", "task", "varied", "at", "set", "gain (dB)", "best filter (dB)", "lead (dB)"]
    return "Cliffs", header, cells, f"All points at which a network is more than {CLIFF_DB:g} dB below the best filter."


def _textures(rows: Sequence[AssessorRow]) -> Table:
    """Return, by curve, how often an assessor says the measured grade, and where it says that nothing is wrong."""
    curves: dict[tuple[str, str, str, str], list[AssessorRow]] = {}
    for row in rows:
        curves.setdefault((row.system, row.task, row.curve, row.group), []).append(row)
    found = []
    for key, own in curves.items():
        images = sum(row.images for row in own)
        missed = [row for row in own if row.said[Severity.NONE]]
        counts = [
            ", ".join(f"{word} {n}" for word, n in _summed([getattr(row, part) for row in own]).items() if n)
            for part in ("measured", "said", "verdicts")
        ]
        where = ", ".join(f"{row.point} ({row.said[Severity.NONE]} of {row.images})" for row in missed)
        found.append([*key, *counts, f"{100 * sum(row.right for row in own) / images:.0f} %", where or "-"])
    header = ["system", "task", "varied", "set", "measured", "said", "verdicts", "right grade", "said none at"]
    note = "One strength in all textures: what an assessor says should not depend on the nuisance. Numbers of images."
    return "What the assessor says of one strength", header, found, note


def _summed(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    return {word: sum(one[word] for one in counts) for word in counts[0]}


def _points(rows: Sequence[SweepRow]) -> Table:
    cells = [
        [
            row.task,
            row.curve,
            row.point,
            row.group,
            row.system,
            number(row.gain, 2, True),
            number(row.lead, 2, True),
            str(row.images),
            str(row.failed),
        ]
        for row in rows
        if row.kind != "input"
    ]
    header = ["task", "varied", "at", "set", "system", "gain (dB)", "lead (dB)", "images", "failed"]
    return "Every point", header, cells, ""
