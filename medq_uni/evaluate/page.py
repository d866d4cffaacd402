"""The evaluation as one self-contained HTML page: tables, curves, pictures, every image."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medq_uni.evaluate.runner import SliceRecord, picture_path
from medq_uni.evaluate.worklist import NOTE
from medq_uni.figures import png_of, row_of_panels
from medq_uni.files import write_text
from medq_uni.systems.build import INPUT
from medq_uni.taxonomy import Severity, Task

TEMPLATE = Path(__file__).with_name("page.html.j2")
PAGE = "report.html"
CONVENTIONS = (
    "PSNR and SSIM in float64 (Wang et al. 2004: Gaussian window 11 x 11, sigma 1.5, no padding), mean and standard "
    "deviation over images; a volume is one image, whose scores are means over its slices. CT is clipped to "
    "[-160, 240] HU with a data range of 400; MR and PET go from 0 to the 99.9th percentile of the reference, of its "
    "whole volume where it is a slice of one. "
    "Intervals are 95 %, bootstrap over subjects. p: Wilcoxon signed-rank test on subject means against the system "
    "that all are compared with, Holm-adjusted; a difference is a system minus it. Of n subjects no p-value "
    "can be below 2 / 2^n, which Holm multiplies by the number of systems: with fewer than six subjects an "
    "interval says little and no p-value can be below 0.05. Filters are tuned per task on validation images and told "
    "the task; networks are told the modality alone."
)
Found = Mapping[str, Mapping[str, Sequence[SliceRecord]]]
"""Records by benchmark and system."""
Table = tuple[str, list[str], list[list[str]], str]
"""Title, header, rows, note."""


@dataclass(frozen=True)
class Section:
    """A part of the page that somebody else makes: tables and plots of other measurements."""

    title: str
    note: str
    """What stands under the title."""
    tables: Sequence[Table]
    """Those without rows are left out."""
    plots: Mapping[str, bytes] = field(default_factory=dict)
    """PNG pictures by name."""
    is_first: bool = False
    """Whether it stands before the benchmarks, not behind."""


def write_page(results: dict[str, Any], found: Found, folder: Path, sections: Sequence[Section] = ()) -> None:
    """Write ``report.html``, which needs no other file and no network.

    Args:
        results: What ``results.json`` holds.
        found: Records of single slices.
        folder: Of the evaluation; its pictures are taken up.
        sections: What stands beside the benchmarks.
    """
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {"number": number, "interval": interval, "p": p_value, "percent": percent}
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        results=results,
        conventions=CONVENTIONS,
        worklist_note=NOTE,
        cost_plot=_data(_cost_plot(results)),
        benchmarks=[_benchmark(one, found[one["name"]], folder, _bounds(results)) for one in results["benchmarks"]],
        first=[_section(one) for one in sections if one.is_first],
        sections=[_section(one) for one in sections if not one.is_first],
        conditions=json.dumps(results["systems"], indent=2),
    )
    write_text(folder / PAGE, page)


def summary(results: dict[str, Any]) -> str:
    """Return the tables by modality as Markdown, in the form of the paper's Table 1."""
    lines = []
    for benchmark in results["benchmarks"]:
        rows = benchmark["by_modality"]
        columns = list(dict.fromkeys((row["group"], row["part"]) for row in rows))
        at = {(row["system"], row["group"], row["part"]): row for row in rows}
        head = "".join(f" {part.upper()}, {group}: PSNR (dB) | SSIM |" for group, part in columns)
        lines += [f"### {benchmark['name']}", "", f"| system |{head}", "|---|" + "---|---|" * len(columns)]
        for system in results["systems"]:
            cells = [_cell(at.get((system["name"], *column)), system["not_run"]) for column in columns]
            lines.append(f"| {system['name']} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def _cell(row: dict[str, Any] | None, not_run: str) -> str:
    if row is None or row["mean"]["psnr"] is None:
        return f"{'not run' if not_run else 'failed' if row and row['failed'] else '-'} | -"
    failed = f" ({row['failed']} failed)" if row["failed"] else ""
    mean, sd = row["mean"], row["sd"]
    return (
        f"{number(mean['psnr'])} +- {number(sd['psnr'])}{failed} | {number(mean['ssim'], 4)} +- {number(sd['ssim'], 3)}"
    )


def number(value: float | None, digits: int = 2, sign: bool = False) -> str:
    """Return a number as tables print it; a dash where there is none."""
    return "-" if value is None else f"{value:{'+' if sign else ''}.{digits}f}"


def interval(both: Sequence[float | None], digits: int = 2, sign: bool = True) -> str:
    """Return an interval as tables print it."""
    low, high = (number(value, digits, sign) for value in both)
    return "" if low == high == "-" else f"{low} to {high}"


def percent(value: float | None) -> str:
    """Return a share as tables print it."""
    return "-" if value is None else f"{value:.0%}"


def p_value(value: float | None) -> str:
    """Return a p-value as tables print it."""
    return "" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _bounds(results: dict[str, Any]) -> set[str]:
    """Return the systems that restore nothing but show a bound; they would flatten every plot."""
    return {one["name"] for one in results["systems"] if one["variant"] == "codec-only"}


def _benchmark(
    results: dict[str, Any], records: Mapping[str, Sequence[SliceRecord]], folder: Path, bounds: set[str]
) -> dict[str, Any]:
    first = list(records[INPUT])
    return {
        **results,
        "curve": _data(_severity_plot(records, bounds)),
        "gallery": [_shown(results["name"], index, records, folder) for index in results["pictured"]],
        "images": [
            {
                "about": first[place],
                "scores": {name: own[place] for name, own in records.items()},
            }
            for place in range(len(first))
        ],
    }


def _shown(benchmark: str, index: int, records: Mapping[str, Sequence[SliceRecord]], folder: Path) -> dict[str, Any]:
    about = next(record for record in records[INPUT] if record.case == index)
    panels = []
    for name in ("reference", *records):
        path = picture_path(folder, benchmark, index, name)
        scores = None if name == "reference" else next(r for r in records[name] if r.case == index).scores
        if path.is_file():
            panels.append({"name": name, "png": _data(path.read_bytes()), "scores": scores})
    return {"about": about, "panels": panels}


def _section(section: Section) -> dict[str, Any]:
    plots = [{"name": name, "png": _data(png)} for name, png in section.plots.items()]
    tables = [table for table in section.tables if table[2]]
    return {"title": section.title, "note": section.note, "tables": tables, "plots": plots}


def _data(png: bytes) -> str:
    return base64.b64encode(png).decode()


def _severity_plot(records: Mapping[str, Sequence[SliceRecord]], bounds: set[str]) -> bytes:
    """Draw the mean gain of every system by grade, one panel per task."""
    grades = [severity for severity in Severity if severity is not Severity.NONE]
    before = {r.case: r.scores["psnr"] for r in records[INPUT] if r.scores}
    tasks = [task for task in Task if any(r.task == task for r in records[INPUT])]
    figure, axes = row_of_panels(len(tasks), width=2.6 * len(tasks) + 1, height=2.9)
    for axis, task in zip(axes, tasks, strict=True):
        for color, (name, own) in enumerate(records.items()):
            if name in bounds:
                continue
            gains = [
                [r.scores["psnr"] - before[r.case] for r in own if r.task == task and r.severity == grade and r.scores]
                for grade in grades
            ]
            means = [float(np.mean(values)) if values else np.nan for values in gains]
            axis.plot(range(len(grades)), means, marker="o", ms=3, lw=1, label=name, color=_color(color))
        axis.axhline(0, color="0.6", lw=0.8)
        axis.set_xticks(range(len(grades)), [grade.value for grade in grades], fontsize=7)
        axis.set_title(task.value, fontsize=9)
    axes[0].set_ylabel("gain in PSNR (dB)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=6)
    return png_of(figure)


def _cost_plot(results: dict[str, Any]) -> bytes:
    """Draw the mean gain over tasks against the seconds of a slice, one panel per benchmark."""
    count = len(results["benchmarks"])
    figure, axes = row_of_panels(count, width=2.6 * count + 1, height=2.9)
    bounds = _bounds(results)
    seconds = {one["name"]: one["cost"]["seconds"] for one in results["systems"] if one["cost"]}
    for axis, benchmark in zip(axes, results["benchmarks"], strict=True):
        for color, name in enumerate(seconds):
            if name == INPUT or name in bounds:
                continue
            gains = [row["gain"] for row in benchmark["by_task"] if row["system"] == name and row["gain"] is not None]
            if gains:
                place = (seconds[name], float(np.mean(gains)))
                axis.semilogx(*place, "o", ms=4, color=_color(color))
                axis.annotate(name, place, xytext=(3, 3), textcoords="offset points", fontsize=6)
        axis.margins(x=0.2, y=0.15)
        axis.set_title(benchmark["name"], fontsize=9)
        axis.set_xlabel("seconds per slice of 256 x 256")
    axes[0].set_ylabel("mean gain over tasks (dB)")
    return png_of(figure)


def _color(place: int) -> Any:
    """Return the color of a system, the same in every plot of the page, by its place among those that ran."""
    import matplotlib

    return matplotlib.colormaps["tab20"]((2 * place) % 20 + place // 10)
