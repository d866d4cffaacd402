"""Plots of a sweep: for every task the gain of every system along every curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from medq_uni.csv_text import csv_of
from medq_uni.evaluate.sweep_tables import SweepResults, SweepRow
from medq_uni.figures import png_of, row_of_panels
from medq_uni.files import write_bytes, write_text

STYLES = {"classical": {"ls": "--", "lw": 0.9, "ms": 2.5}, "model": {"ls": "-", "lw": 1.6, "ms": 4}}


def write_sweep(found: SweepResults, folder: Path) -> dict[str, bytes]:
    """Write ``csv/sweep`` and a plot for every task in ``sweep``; return the plots by task."""
    write_text(folder / "csv" / "sweep" / "gains.csv", csv_of([asdict(row) for row in found.gains]))
    write_text(folder / "csv" / "sweep" / "said.csv", csv_of([asdict(row) for row in found.said]))
    plots = sweep_plots(found.gains)
    for task, png in plots.items():
        write_bytes(folder / "sweep" / f"{task}.png", png)
    return plots


def sweep_plots(rows: Sequence[SweepRow]) -> dict[str, bytes]:
    """Return a PNG for every task: a panel for every curve and set, a line for every system; filters are dashed."""
    return {
        task: _plot(task, [row for row in rows if row.task == task]) for task in dict.fromkeys(r.task for r in rows)
    }


def _plot(task: str, rows: Sequence[SweepRow]) -> bytes:
    panels = list(dict.fromkeys((row.curve, row.group) for row in rows))
    names = list(dict.fromkeys(row.system for row in rows if row.kind != "input"))
    figure, axes = row_of_panels(len(panels), width=2.8 * len(panels) + 1.2, height=3.0)
    for axis, (curve, group) in zip(axes, panels, strict=True):
        mine = [row for row in rows if (row.curve, row.group) == (curve, group)]
        labels = list(dict.fromkeys(row.point for row in mine))
        places = _places(labels)
        for color, name in enumerate(names):
            own = {row.point: row for row in mine if row.system == name}
            gains = [np.nan if label not in own or own[label].gain is None else own[label].gain for label in labels]
            style: dict[str, Any] = STYLES[next(iter(own.values())).kind] if own else {}
            axis.plot(places, gains, marker="o", label=name, color=f"C{color % 10}", **style)
        axis.axhline(0, color="0.6", lw=0.8)
        is_short = sum(map(len, labels)) < 30
        axis.set_xticks(
            places, labels, fontsize=7, rotation=0 if is_short else 30, ha="center" if is_short else "right"
        )
        axis.set_title(f"{curve}\n{group}", fontsize=8)
    axes[0].set_ylabel("gain in PSNR (dB)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=7)
    figure.suptitle(task, fontsize=10)
    return png_of(figure)


def _places(labels: Sequence[str]) -> list[float]:
    """Return where points stand: at their values where these are numbers far enough apart, else one after the other."""
    try:
        values = [float(label) for label in labels]
    except ValueError:
        return [float(place) for place in range(len(labels))]
    span = max(values) - min(values)
    steps = np.diff(values)
    is_even = bool(np.all(steps > 0.08 * span))
    return values if is_even else [float(place) for place in range(len(labels))]
