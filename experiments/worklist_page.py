"""What the pages of results say of the worklist: good and degraded images together, as a department has them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medq_uni.evaluate.page import interval, number, percent
from medq_uni.evaluate.worklist import NOTE

KEPT_WORKLIST = Path(__file__).parents[1] / "benchmark" / "results" / "worklist.json"


def worklist_table(*, short: bool = False) -> str:
    """Return what becomes of a mix of real images, half of them good; best mean PSNR first.

    Args:
        short: Four columns alone.
    """
    if not KEPT_WORKLIST.is_file():
        return "Not measured yet: `make benchmark DATA=DIR`.\n"
    (found,) = json.loads(KEPT_WORKLIST.read_text(encoding="utf-8"))["benchmarks"]
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        "system": lambda row: str(row["system"]),
        "mean PSNR (dB)": lambda row: number(row["psnr"]),
        "95 %": lambda row: interval(row["psnr_interval"], 1, False),
        "degraded images helped": lambda row: percent(row["helped"]),
        "degraded images harmed": lambda row: percent(row["harmed"]),
        "good images altered": lambda row: percent(row["altered"]),
    }
    if short:
        columns = {name: cell for name, cell in columns.items() if name not in ("95 %", "degraded images helped")}
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    ranked = sorted(found["worklist"], key=lambda row: -row["psnr"])
    lines += [f"| {' | '.join(cell(row) for cell in columns.values())} |" for row in ranked]
    about = f"{found['slices']} real images of {found['subjects']} subjects, half of them good. {NOTE}"
    return "\n".join([*lines, "", about, ""])
