"""Write the pages of results in docs, their tables in docs/tables, and the tables of the README and docs/ablations.md.

Run: python -m experiments.results [--take FOLDER ...]

``--take`` first copies the results of ``medq evaluate``, with ``--sweep`` too, ``medq ablate`` (of the plans in
recipes) and ``medq judge`` from their output folders to benchmark/results. Systems that an evaluation leaves out keep
the rows that they had on the same images, without a paired test. No number of these pages is typed by hand.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.result_pages import (
    DESCRIPTIONS,
    KEPT,
    ROOT,
    Json,
    ablation_table,
    kept,
    page,
    plan_of,
    safety_page,
    tables,
)
from experiments.sweep_page import KEPT_SWEEP, of_evaluation, write_plots
from experiments.worklist_page import worklist_table
from medq_uni.ablate.plan import AblationPlan
from medq_uni.config_json import read_json
from medq_uni.files import write_text
from medq_uni.safety.tables import safety_tables

PAGE, SAFETY, README = ROOT / "docs" / "results.md", ROOT / "docs" / "results-safety.md", ROOT / "README.md"
TABLES = ROOT / "docs" / "tables"
ABLATIONS = ROOT / "docs" / "ablations.md"
RECIPES = ROOT / "recipes"
ABLATION_PLANS = ("ablations", "ablations-words")
"""Plans of the folder of recipes whose tables are in docs/ablations.md, between marks of the same name."""
WORKLIST = "department"
"""Name of the benchmark in benchmark/worklist."""
PLANS = ("baselines", *ABLATION_PLANS)
"""Plans whose results are kept, under the same name."""


def main() -> None:
    """Write all pages and tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--take", type=Path, nargs="*", default=[], help="output folders of the commands")
    for folder in parser.parse_args().take:
        take(folder)
    write_plots()
    write_text(PAGE, page())
    write_text(SAFETY, safety_page())
    found = tables()
    for name, text in found.items():
        write_text(TABLES / name, text)
    for path in TABLES.glob("*.csv"):
        if path.name not in found:
            path.unlink()
    write_text(README, readme(README.read_text(encoding="utf-8")))
    for name in ABLATION_PLANS:
        write_text(ABLATIONS, with_table(ABLATIONS.read_text(encoding="utf-8"), name, ablation_table(name)))


def take(folder: Path) -> None:
    """Copy the results of a command to those that are kept."""
    if (folder / "aspects.csv").is_file():
        write_text(KEPT / DESCRIPTIONS, (folder / "tables.md").read_text(encoding="utf-8"))
        return
    path = folder / "results.json"
    if not path.is_file():
        raise SystemExit(f"{folder} holds no results of medq evaluate, ablate or judge.")
    found = json.loads(path.read_text(encoding="utf-8"))
    if "sweep" in found:
        write_text(KEPT_SWEEP, json.dumps(of_evaluation(found), indent=1) + "\n")
        return
    if "plan" in found:
        found["plan"]["test"]["data"] = []  # where volumes lie on this machine is nobody's business
        name = plan_name(plan_of(found))
        if name is None:
            raise SystemExit(f"{folder} holds results of another plan, or of an earlier form of one of {list(PLANS)}.")
    elif [one["name"] for one in found["benchmarks"]] == [WORKLIST]:
        name = "worklist"
    else:
        if found.get("safety") is None:
            raise SystemExit(f"{folder} has no checks of safety. Run medq evaluate with --safety.")
        found["safety"] = safety_tables(found["safety"])
        name = "evaluation"
        if (KEPT / f"{name}.json").is_file():
            found = with_kept(found, kept(name))
    write_text(KEPT / f"{name}.json", json.dumps(found, indent=1) + "\n")


def plan_name(plan: AblationPlan) -> str | None:
    """Return the name of the plan among the recipes that this one is, wherever its real volumes come from."""
    for name in PLANS:
        listed = read_json(AblationPlan, RECIPES / f"{name}.json", where="recipes/")
        test = replace(listed.test, data=plan.test.data)
        if replace(listed, test=test, about=plan.about) == plan:
            return name
    return None


def with_kept(found: Json, kept: Json) -> Json:
    """Return new results with the rows of systems that only the kept ones have, where all images are the same.

    Such a system says when it was measured; how it differs from ours is not known any more, for ours was measured anew.
    """
    hashes = [{one["name"]: one["sha256"] for one in results["benchmarks"]} for results in (found, kept)]
    measured = {one["name"] for one in found["systems"]}
    left = {one["name"] for one in kept["systems"]} - measured
    if hashes[0] != hashes[1] or found["against"] != kept["against"]:
        if left:
            print(f"left out, measured on other images or against another system: {', '.join(sorted(left))}")
        return found
    old = [one if "measured" in one else one | {"measured": kept["date"]} for one in kept["systems"]]
    systems = _interleaved(found["systems"], old, left, lambda one: ((), one["name"]))
    before_by = {(title, *header): rows for title, header, rows, _ in kept["safety"]}
    safety = []
    for title, header, rows, note in found["safety"]:
        place = header.index("system")
        earlier = before_by.get((title, *header), [])
        merged = _interleaved(rows, earlier, left, lambda row, at=place: (tuple(row[:at]), row[at]))
        safety.append([title, header, merged, note])
    benchmarks = []
    for new, before in zip(found["benchmarks"], kept["benchmarks"], strict=True):
        unpaired = {"difference": None, "difference_interval": [None, None], "p_value": None}
        rows = {
            name: _interleaved(
                new[name],
                [row | (unpaired if "p_value" in row else {}) for row in before[name]],
                left,
                lambda row: ((row["group"], row.get("part", row.get("modality"))), row["system"]),
            )
            for name in ("by_modality", "by_task", "good_images")
        }
        noted = {
            name: [*new[name], *(one for one in before.get(name, []) if one["system"] in left)]
            for name in ("failed", "warned")
        }
        benchmarks.append(new | rows | noted)
    return found | {"systems": systems, "benchmarks": benchmarks, "safety": safety}


def _interleaved(new: list[Any], old: list[Any], left: set[str], key: Callable[[Any], tuple[Any, str]]) -> list[Any]:
    """Return the new rows, and the old ones of the systems ``left``, in the old order; rows that had none go last."""
    waiting: dict[Any, list[Any]] = {}
    for row in new:
        waiting.setdefault(key(row), []).append(row)
    rows = []
    for row in old:
        rows += [row] if key(row)[1] in left else waiting.pop(key(row), [])
    return rows + [row for found in waiting.values() for row in found]


def readme(text: str) -> str:
    """Return the README with the table that the kept results give."""
    return with_table(text, "worklist", worklist_table(short=True))


def with_table(text: str, name: str, table: str) -> str:
    """Return a page with a table in the place of the one between the marks of this name."""
    block = re.compile(rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)", re.S)
    return block.sub(lambda found: found[1] + table + found[2], text)


if __name__ == "__main__":
    main()
