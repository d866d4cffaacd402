"""Write docs/results.md, docs/results-safety.md and the tables of the README and docs/ablations.md from kept results.

Run: python -m experiments.results [--take FOLDER ...]

``--take`` first copies the results of ``medq evaluate``, ``medq ablate`` (of the plans in recipes) and ``medq judge``
from their output folders to benchmark/results. Systems that an evaluation leaves out keep the rows that
they had on the same images, without a paired test. No number of these pages is typed by hand.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from medq_uni.ablate.plan import AblationPlan
from medq_uni.ablate.table import markdown
from medq_uni.config_json import from_json, read_json
from medq_uni.evaluate.page import CONVENTIONS, interval, number, p_value
from medq_uni.files import write_text
from medq_uni.safety.tables import SHARES, safety_tables

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "benchmark" / "results"
PAGE, SAFETY, README = ROOT / "docs" / "results.md", ROOT / "docs" / "results-safety.md", ROOT / "README.md"
ABLATIONS = ROOT / "docs" / "ablations.md"
RECIPES = ROOT / "recipes"
ABLATION_PLANS = ("ablations", "ablations-words")
"""Plans of the folder of recipes whose tables are in docs/ablations.md, between marks of the same name."""
PLANS = ("baselines", *ABLATION_PLANS)
"""Plans whose results are kept, under the same name."""
DESCRIPTIONS = "descriptions.md"
TASKS = {
    "ct-low-dose": "CT low dose",
    "mr-undersampling": "MR undersampling",
    "mr-motion": "MR motion",
    "mr-noise": "MR noise",
    "pet-low-count": "PET low count",
}
LIMITS = """**What they do not show.** The degradations are simulated, the alternative ones of the test of shift too. There are
few real subjects (two of MR, patches of PET), no readers and no patients' lesions. Real references have noise of their
own, which counts as truth here: removing it lowers the score. A p-value over two subjects cannot be small. Grades and
pairs come from the same code as the training pairs.
"""
BUDGET = """Trained by `medq ablate recipes/baselines.json --source DIR`: the same pairs, as many crops of the same
size, input views, pixel losses and scorer for every network. MedQ-UNI is the micro model here, not nano, which has
seen many times as many pairs. These are short trainings of small networks from one seed; they say nothing about the
published ones, and the seconds of training depend on what else the machine did. All meet the same crops in the same
order; MedQ-UNI learns to assess their slices in the same steps, and is told wrong things about some of them.
Two more trainings of its recipe are scored on the same pairs in docs/ablations.md (the first row of the second table
is their mean): what one seed is ahead or behind by less than 0.6 dB, another may not be.
"""
UNSEEN = "unseen"
NOTES = {
    UNSEEN: "Generality: nothing like these images was trained on. Pictures and the Shepp-Logan head are taken for CT, "
    "MR and PET; a foreign contrast is a phantom of another modality in their values, a chest for MR. They show what "
    "a network does outside its training, and nothing about patients. Images that our assessor refuses are among the "
    "failed: nothing came back for them, which is what refusing is for.\n",
}
Json = dict[str, Any]


def main() -> None:
    """Write the four files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--take", type=Path, nargs="*", default=[], help="output folders of the commands")
    for folder in parser.parse_args().take:
        take(folder)
    write_text(PAGE, page())
    write_text(SAFETY, safety_page())
    write_text(README, with_table(README.read_text(encoding="utf-8"), "results", readme_table()))
    for name in ABLATION_PLANS:
        write_text(ABLATIONS, with_table(ABLATIONS.read_text(encoding="utf-8"), name, ablation_table(name)))


def take(folder: Path) -> None:
    """Copy the results of a command to those that are kept."""
    if (folder / "slots.csv").is_file():
        write_text(KEPT / DESCRIPTIONS, (folder / "tables.md").read_text(encoding="utf-8"))
        return
    path = folder / "results.json"
    if not path.is_file():
        raise SystemExit(f"{folder} holds no results of medq evaluate, ablate or judge.")
    found = json.loads(path.read_text(encoding="utf-8"))
    if "plan" in found:
        found["plan"]["test"]["data"] = []  # where volumes lie on this machine is nobody's business
        name = plan_name(plan_of(found))
        if name is None:
            raise SystemExit(f"{folder} holds results of another plan, or of an earlier form of one of {list(PLANS)}.")
    else:
        if found["safety"] is None:
            raise SystemExit(f"{folder} has no checks of safety. Run medq evaluate with --safety.")
        found["safety"] = safety_tables(found["safety"])
        name = "evaluation"
        if (KEPT / f"{name}.json").is_file():
            found = with_kept(found, _kept(name))
    write_text(KEPT / f"{name}.json", json.dumps(found, indent=1) + "\n")


def plan_of(results: Json) -> AblationPlan:
    """Return the plan of the results of ``medq ablate``."""
    return from_json(AblationPlan, json.dumps(results["plan"]))


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
            for name in ("failed", "doubted")
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


def page() -> str:
    """Return docs/results.md."""
    results = _kept("evaluation")
    parts = [
        "# Results\n",
        "Written by `python -m experiments.results` from the files in `benchmark/results`, which "
        f"`make benchmark DATA=DIR` (with the folders of baselines in SYSTEMS) and `medq ablate` leave "
        f"({results['date']}, {results['software']}). Research use only.\n",
        CONVENTIONS + "\n",
        LIMITS,
        "## In short\n",
        _short(results),
        "## Systems\n",
        _costs(results),
        *(_benchmark(one, results["against"]) for one in results["benchmarks"]),
        "## Safety\n",
        "What PSNR hides (lesions, inventions, bias, texture, data consistency, uncertainty, shift): "
        "[tables](results-safety.md), [definitions](safety.md).\n",
        "## Descriptions\n",
        "Describers, slots and limits: [descriptions](descriptions.md). By `medq judge`.\n",
        (KEPT / DESCRIPTIONS).read_text(encoding="utf-8"),
        "## Networks trained alike\n",
        BUDGET,
        ablation_table("baselines"),
    ]
    return "\n".join(parts)


def safety_page() -> str:
    """Return docs/results-safety.md."""
    results = _kept("evaluation")
    head = (
        "# Results of the safety checks\n\nWritten by `python -m experiments.results` from `benchmark/results`. "
        "Definitions, thresholds and limits: [safety](safety.md). Few phantoms and subjects: hints, not rates. "
        f"{SHARES} Research use only.\n"
    )
    return "\n".join([head, *(_table(*one) for one in results["safety"] if one[2])])


def with_table(text: str, name: str, table: str) -> str:
    """Return a page with a table in the place of the one between the marks of this name."""
    block = re.compile(rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)", re.S)
    return block.sub(lambda found: found[1] + table + found[2], text)


def ablation_table(name: str) -> str:
    """Return the table of a kept ablation."""
    kept = _kept(name)
    return markdown(plan_of(kept), kept["rows"])


def readme_table() -> str:
    """Return the gains by task of our system and of the best filter."""
    results = _kept("evaluation")
    ours = results["against"]
    sets = [(one, group) for one in results["benchmarks"] if one["name"] != UNSEEN for group in _groups(one)]
    titles = [_title(one, group) for one, group in sets]
    lines = [
        f"Gain of `{ours}` in PSNR over the degraded input in dB (95 % interval over subjects; their number), and of "
        "the best tuned filter on the same slices. [All results](docs/results.md), with SSIM, costs, harm, safety, "
        "learned baselines and what the numbers do not show.",
        "",
        "| task |" + "".join(f" {title}: {ours} | best filter |" for title in titles),
        "|---|" + "---|---|" * len(sets),
    ]
    filters = {one["name"] for one in results["systems"] if one["kind"] == "classical"}
    for task, title in TASKS.items():
        cells = ""
        for one, group in sets:
            rows = [r for r in one["by_task"] if (r["part"], r["group"]) == (task, group) and r["gain"] is not None]
            mine = next((r for r in rows if r["system"] == ours), None)
            best = max((r for r in rows if r["system"] in filters), key=lambda r: r["gain"], default=None)
            gain = "-"
            if mine is not None:
                spread = f"{interval(mine['gain_interval'], 1)}; {mine['subjects']}"
                gain = f"{number(mine['gain'], 1, True)} ({spread})"
            cells += f" {gain} | " + ("- |" if best is None else f"{number(best['gain'], 1, True)} {best['system']} |")
        lines.append(f"| {title} |{cells}")
    return "\n".join(lines) + "\n"


def _title(benchmark: Json, group: str) -> str:
    return group if group.startswith(benchmark["name"]) else f"{benchmark['name']}: {group}"


def _groups(benchmark: Json) -> list[str]:
    return list(dict.fromkeys(row["group"] for row in benchmark["by_task"]))


def _kept(name: str) -> Json:
    found: Json = json.loads((KEPT / f"{name}.json").read_text(encoding="utf-8"))
    return found


def _short(results: Json) -> str:
    """Return our PSNR by modality beside those of the best filter and of the best other network that was trained."""
    ours = results["against"]
    kinds = {one["name"]: "filter" if one["kind"] == "classical" else one["kind"] for one in results["systems"]}
    kinds |= {one["name"]: "part" for one in results["systems"] if one["variant"]}
    lines = [
        f"| set | part | input | {ours} | best filter | best other network | subjects |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in results["benchmarks"]:
        for group, part in dict.fromkeys((row["group"], row["part"]) for row in one["by_modality"]):
            rows = [r for r in one["by_modality"] if (r["group"], r["part"]) == (group, part) and r["mean"]["psnr"]]
            value = {row["system"]: row["mean"]["psnr"] for row in rows}
            best = [
                max(((value[name], name) for name in value if kinds[name] == kind and name != ours), default=None)
                for kind in ("filter", "model")
            ]
            cells = [number(value.get("degraded input")), number(value.get(ours))]
            cells += ["-" if found is None else f"{number(found[0])} {found[1]}" for found in best]
            subjects = max((row["subjects"] for row in rows), default=0)
            lines.append(f"| {_title(one, group)} | {part} | {' | '.join(cells)} | {subjects} |")
    lines += ["", "PSNR in dB. Which differences can be told from chance, and what PSNR does not show: below.", ""]
    return "\n".join(lines)


def _costs(results: Json) -> str:
    lines = ["| system | parameters (M) | GFLOPs | seconds | |", "|---|---|---|---|---|"]
    for one in results["systems"]:
        cost = one["cost"]
        cells = "- | - | -"
        if cost:
            work = number(cost["gflops"], 1) if cost["parameters"] else "-"
            cells = f"{number(cost['parameters'] / 1e6)} | {work} | {number(cost['seconds'], 3)}"
        identity = one["identity"][:12] if one["kind"] == "model" else ""
        note = f"not run: {one['not_run']}" if one["not_run"] else identity
        note += f", measured {one['measured']}, on the same images" if "measured" in one and not one["not_run"] else ""
        lines.append(f"| {one['name']} | {cells} | {note} |")
    lines += ["", "One MR slice of 256 x 256, one system after the other. Operations of filters are not counted.", ""]
    return "\n".join(lines)


def _table(title: str, header: list[str], rows: list[list[str]], note: str) -> str:
    lines = [f"## {title}\n", f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, "", note, ""])


def _benchmark(results: Json, against: str) -> str:
    missing = {
        "Failed": results["failed"],
        "Restored with a warning": results.get("doubted", []),
        "Listed pairs that cannot be read": results["unreadable"],
    }
    failed = "".join(f" **{what}: {len(found)}.**" for what, found in missing.items() if found)
    return "\n".join(
        [
            f"## {results['name'].capitalize()}\n",
            f"{results['slices']} images of {results['subjects']} subjects, "
            f"set sha256 {results['sha256'][:12]}.{failed}\n",
            NOTES.get(results["name"], ""),
            "### By modality\n",
            _rows(results["by_modality"], against),
            "### By task\n",
            _rows(results["by_task"], against),
            "### Good images\n",
            _harm(results["good_images"]),
        ]
    )


def _rows(rows: list[Json], against: str) -> str:
    lines = [
        f"| part | set | system | PSNR (dB) | SSIM | gain (dB) | 95 % | worse | against {against} (dB) | p "
        "| wide PSNR | own-range PSNR | foreground PSNR, SSIM | images / subjects |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        mean, sd = row["mean"], row["sd"]
        failed = f", {row['failed']} failed" if row["failed"] else ""
        worse = "-" if row["worse"] is None else f"{100 * row['worse']:.0f} %"
        gain = f"{number(row['gain'], 2, True)} | {interval(row['gain_interval'])} | {worse}"
        lines.append(
            f"| {row['part']} | {row['group']} | {row['system']} | {number(mean['psnr'])} +- {number(sd['psnr'])} "
            f"| {number(mean['ssim'], 4)} | {gain} "
            f"| {number(row['difference'], 2, True)} | {p_value(row['p_value'])} | {number(mean['psnr_wide'])} "
            f"| {number(mean['psnr_slice'])} | {number(mean['psnr_foreground'])}, {number(mean['ssim_foreground'], 4)} "
            f"| {row['slices']} / {row['subjects']}{failed} |"
        )
    return "\n".join(lines) + "\n"


def _harm(rows: list[Json]) -> str:
    lines = ["| modality | set | system | bit-identical | at least 45 dB | lowest PSNR of the altered | images |"]
    lines.append("|---|---|---|---|---|---|---|")
    for row in rows:
        shares = f"{100 * row['unchanged']:.0f} % | {100 * row['unharmed']:.0f} %"
        name = f"{row['modality']} | {row['group']} | {row['system']}"
        lines.append(f"| {name} | {shares} | {number(row['lowest'], 1)} | {row['images']} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
