"""What the page of results says of the sweep over the chain of acquisition, and its tables and plots in full."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medq_uni.csv_text import csv_of
from medq_uni.evaluate.sweep_plots import sweep_plots
from medq_uni.evaluate.sweep_tables import SweepResults, at_a_glance, markdown
from medq_uni.files import write_bytes

KEPT_SWEEP = Path(__file__).parents[1] / "benchmark" / "results" / "sweep.json"
PLOTS = Path(__file__).parents[1] / "docs" / "sweep"
RUN = "`medq evaluate --sweep benchmark/sweep/chains.json --source DIR`"


def sweep_part() -> list[str]:
    """Return the first part of docs/results.md; nothing where no sweep is kept."""
    found = kept_sweep()
    if found is None:
        return []
    plots = [f"![{task}](sweep/{task}.png)\n" for task in dict.fromkeys(row.task for row in found.gains)]
    return [
        "## Over the chain of acquisition\n",
        f"One nuisance of the scanner at a time, at one strength, by {RUN} ({_about()}): gain in PSNR over the input; "
        "filters are dashed.\n",
        *plots,
        markdown(at_a_glance(found)),
    ]


def sweep_csv() -> dict[str, str]:
    """Return the tables in full, by the names of their files in docs/tables."""
    found = kept_sweep()
    if found is None:
        return {}
    rows = {"sweep-gains": found.gains, "sweep-said": found.said}
    return {f"{name}.csv": csv_of([_rounded(asdict(row)) for row in own]) for name, own in rows.items() if own}


def write_plots() -> None:
    """Write the plots of the kept sweep to docs/sweep."""
    found = kept_sweep()
    for task, png in ({} if found is None else sweep_plots(found.gains)).items():
        write_bytes(PLOTS / f"{task}.png", png)


def kept_sweep() -> SweepResults | None:
    """Return the sweep that is kept, None where there is none."""
    return SweepResults.of(json.loads(KEPT_SWEEP.read_text(encoding="utf-8"))) if KEPT_SWEEP.is_file() else None


def of_evaluation(results: dict[str, Any]) -> dict[str, Any]:
    """Return what is kept of the results of ``medq evaluate --sweep``."""
    (benchmark,) = results["benchmarks"]
    about = {name: results[name] for name in ("software", "date")} | {"sha256": benchmark["sha256"]}
    identities = {one["name"]: one["identity"][:12] for one in results["systems"] if one["kind"] == "model"}
    found = {"gains": [_rounded(row) for row in results["sweep"]["gains"]], "said": results["sweep"]["said"]}
    return about | {"weights": identities} | found


def _about() -> str:
    kept = json.loads(KEPT_SWEEP.read_text(encoding="utf-8"))
    weights = ", ".join(f"{name} {identity}" for name, identity in kept["weights"].items())
    return f"{kept['date']}, {kept['software']}, weights of {weights}"


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}
