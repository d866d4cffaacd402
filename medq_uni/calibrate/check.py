"""What a calibration is worth on people it was not derived from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from medq_uni.calibrate.derive import HARM_DB
from medq_uni.calibrate.evidence import LEVELS, SHARES, Evidence
from medq_uni.measurement import NAMES, Quantity
from medq_uni.pretrained.calibration import Calibration
from medq_uni.statistics import known_interval
from medq_uni.taxonomy import Modality, Severity


def check(rows: Sequence[Evidence], calibration: Calibration, scales: dict[Modality, float]) -> str:
    """Return tables of what a calibration does to images that it has not seen.

    Args:
        rows: What the model did to them.
        calibration: That is checked.
        scales: Factor on the predicted standard deviation under which the rows were measured, by modality.
    """
    flagged = [row for row in rows if _is_flagged(row, calibration)]
    return "\n".join(
        [*_verdicts(rows, calibration), "", *_harm(flagged, calibration, scales), "", *_figures(rows, calibration)]
    )


def _is_flagged(row: Evidence, calibration: Calibration) -> bool:
    point = calibration.operating_points.get(row.modality)
    return point is None or row.log_odds >= point.cut


def _verdicts(rows: Sequence[Evidence], calibration: Calibration) -> list[str]:
    lines = [
        "| modality | subjects | good images | flagged | moderate and severe | noticed |",
        "|---|---|---|---|---|---|",
    ]
    for modality in Modality:
        own = [row for row in rows if row.modality is modality]
        good = [row for row in own if row.severity is Severity.NONE]
        worse = [row for row in own if row.severity.level >= Severity.MODERATE.level]
        if own:
            shares = [_share([_is_flagged(row, calibration) for row in some]) for some in (good, worse)]
            counts = f"{len({row.subject for row in own})} | {len(good)} | {shares[0]} | {len(worse)} | {shares[1]}"
            lines.append(f"| {modality.value.upper()} | {counts} |")
    return lines


def _harm(flagged: Sequence[Evidence], calibration: Calibration, scales: dict[Modality, float]) -> list[str]:
    """Return gain, harm and coverage of the degraded images that count as degraded, by what the first word says."""
    by_task: dict[str, list[Evidence]] = defaultdict(list)
    for row in flagged:
        if row.gains:
            by_task[row.said[0].task.value].append(row)
    lines = [
        "| said to be | images | whole correction: gain (dB) | harmed | calibrated: gain (dB) | 95 % | harmed "
        "| errors within 1 sigma | within 2 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for task, own in by_task.items():
        whole = np.array([row.gains[-1] for row in own])
        stepped = np.array([_gain(row, calibration) for row in own])
        low, high = known_interval(stepped, [row.subject for row in own])
        between = "-" if low is None or high is None else f"{low:+.2f} to {high:+.2f}"
        covered = [_covered(own, calibration, scales, sigmas) for sigmas in (1.0, 2.0)]
        before = f"{whole.mean():+.2f} | {_share(whole < -HARM_DB)}"
        after = f"{stepped.mean():+.2f} | {between} | {_share(stepped < -HARM_DB)}"
        lines.append(f"| {task} | {len(own)} | {before} | {after} | {covered[0]} | {covered[1]} |")
    return lines


def _gain(row: Evidence, calibration: Calibration) -> float:
    share = calibration.step((one.task, one.severity) for one in row.said)
    return 0.0 if share == 0 else row.gains[SHARES.index(share)]


def _covered(rows: Sequence[Evidence], calibration: Calibration, scales: dict[Modality, float], sigmas: float) -> str:
    shares = []
    for row in rows:
        scale = calibration.scale(one.task for one in row.said)
        if row.ratios:
            factor = 1.0 if scale is None else scale / scales.get(row.modality, 1.0)
            shares.append(float(np.interp(sigmas * factor, row.ratios, LEVELS, 0.0, 1.0)))
    return f"{np.mean(shares):.0%}" if shares else "-"


def _figures(rows: Sequence[Evidence], calibration: Calibration) -> list[str]:
    lines = [
        "| figure | images | median error on the network's scale | true value inside the interval |",
        "|---|---|---|---|",
    ]
    for quantity in Quantity:
        known = calibration.figures.get(quantity)
        degraded = [row for row in rows if row.severity is not Severity.NONE]
        own = [row.readings[quantity] for row in degraded if quantity in row.readings]
        if known is not None and own:
            errors = np.array([abs(one.found - one.true) for one in own])
            inside = errors <= known.factor * np.array([one.deviation for one in own]) + 1e-9
            lines.append(f"| {NAMES[quantity]} | {len(own)} | {np.median(errors):.2f} | {_share(inside)} |")
    return lines


def _share(flags: Sequence[bool] | np.ndarray) -> str:
    return f"{np.mean(flags):.0%}" if len(flags) else "-"
