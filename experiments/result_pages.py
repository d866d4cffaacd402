"""What the pages of results say: a summary each, and every table in full as CSV."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from experiments.sweep_page import sweep_csv, sweep_part
from experiments.weights_note import older_weights
from experiments.worklist_page import worklist_table
from medq_uni.ablate.plan import AblationPlan
from medq_uni.ablate.table import markdown
from medq_uni.config_json import from_json
from medq_uni.csv_text import csv_of
from medq_uni.evaluate.page import CONVENTIONS, interval, number
from medq_uni.safety.tables import SHARES
from medq_uni.systems.build import INPUT

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "benchmark" / "results"
DESCRIPTIONS = "descriptions.md"
TASKS = {
    "ct-low-dose": "CT low dose",
    "mr-undersampling": "MR undersampling",
    "mr-motion": "MR motion",
    "mr-noise": "MR noise",
    "pet-low-count": "PET low count",
}
LIMITS = """**What they do not show.** The degradations are simulated, the alternative simulations too. There are
few real subjects (two of MR, patches of PET), no readers and no patients' lesions. Real references have noise of their
own, which counts as truth here: removing it lowers the score. A p-value over two subjects cannot be small. Grades and
pairs come from the same code as the training pairs.
"""
BUDGET = """Trained by `medq ablate recipes/baselines.json --source DIR`: the same pairs, as many crops of the same
size, input views, pixel losses and scorer for every network. MedQ-UNI is the micro model here, not nano, which has
seen many times as many pairs. These are short trainings of small networks from one seed; they say nothing about the
published ones, and the seconds of training depend on what else the machine did. All meet the same crops in the same
order; MedQ-UNI learns to assess their slices in the same steps, and is told wrong things about some of them.
What one seed is ahead or behind by less than 0.6 dB, another may not be.
"""
UNSEEN = "unseen"
NOTES = {
    UNSEEN: "Generality: nothing like these images was trained on. Pictures and the Shepp-Logan head are taken for CT, "
    "MR and PET; a foreign contrast is a phantom of another modality in their values, a chest for MR. They show what "
    "a network does outside its training, and nothing about patients. Images that our assessor refuses are among the "
    "failed: nothing came back for them, which is what refusing is for.\n",
}
SCORED = ("group", "part", "system", "slices", "subjects", "failed", "mean", "gain", "gain_interval", "worse")
COMPARED = ("difference", "difference_interval", "p_value")
ABOUT = {
    "systems": "size, work, time, identity of the weights, strengths of the filters, and why a system did not run",
    "by_modality": "every score of every system: gains, intervals, paired tests, images that failed",
    "by_task": "the same by task",
    "good_images": "what becomes of images that need no restoration",
    "failed": "images on which a system failed, and why",
    "warned": "images that a system restored with a warning",
    "sweep-gains": "the sweep: gain and lead of every system at every point",
    "sweep-said": "the sweep: grades and verdicts of assessors at every point, beside the measured grades",
}
Json = dict[str, Any]


def page() -> str:
    """Return docs/results.md."""
    results = kept("evaluation")
    usual = [one for one in results["benchmarks"] if one["name"] != UNSEEN]
    unseen = [one for one in results["benchmarks"] if one["name"] == UNSEEN]
    parts = [
        "# Results\n",
        "Written by `python -m experiments.results` from the files in `benchmark/results`, which "
        "`make benchmark DATA=DIR` (with the folders of baselines in SYSTEMS) and `medq ablate` leave "
        f"({results['date']}, {results['software']}). Research use only.\n",
        CONVENTIONS + "\n",
        LIMITS,
        *older_weights(KEPT),
        "## A worklist\n",
        worklist_table(),
        *sweep_part(),
        "## In short\n",
        _by_task(),
        _short(results),
        "## By modality\n",
        _by_modality(results, usual),
        _legend(results),
        *(part for one in unseen for part in ("## Unseen\n", NOTES[UNSEEN], _by_modality(results, [one]))),
        "## All tables\n",
        _links(),
        "## Safety\n",
        "What PSNR hides (lesions, hallucination, bias, texture, data consistency, uncertainty, shift): "
        "[summary](results-safety.md), [definitions](safety.md).\n",
        "## Descriptions\n",
        _descriptions(),
        "## Networks trained alike\n",
        BUDGET,
        ablation_table("baselines"),
    ]
    return "\n".join(parts)


def safety_page() -> str:
    """Return docs/results-safety.md."""
    results = kept("evaluation")
    found = {title: (header, rows) for title, header, rows, _ in results["safety"]}
    links = [
        f"- [{title}](tables/{table_name(title)}.csv), {len(rows)} rows. {note}"
        for title, _, rows, note in results["safety"]
        if rows
    ]
    return "\n".join(
        [
            "# Results of the safety checks\n",
            "Written by `python -m experiments.results` from `benchmark/results`. Definitions, thresholds and limits: "
            f"[safety](safety.md). Few phantoms and subjects: hints, not rates. {SHARES} Research use only.\n",
            f"## {results['against']} in short\n",
            _findings(found, results["against"]),
            _measurements(found, results["against"]),
            _honesty(found, results["against"]),
            "## All tables\n",
            "Every system, the filters and the other networks among them:\n",
            *links,
            "",
        ]
    )


def tables() -> dict[str, str]:
    """Return the tables in full, as CSV by the names of their files in docs/tables."""
    results = kept("evaluation")
    found = {"systems": [_system(one) for one in results["systems"]]}
    for name in list(ABOUT)[1:]:
        found[name] = [
            {"benchmark": one["name"]} | _published(row) for one in results["benchmarks"] for row in one.get(name, [])
        ]
    found |= {
        table_name(t): [dict(zip(header, row, strict=True)) for row in rows] for t, header, rows, _ in results["safety"]
    }
    return {f"{name}.csv": csv_of(rows) for name, rows in found.items() if rows} | sweep_csv()


def table_name(title: str) -> str:
    """Return the name of the CSV file of a table of the safety checks."""
    return "safety-" + re.sub(r"[^a-z0-9]+", "-", title.partition("(")[0].lower()).strip("-")


def plan_of(results: Json) -> AblationPlan:
    """Return the plan of the results of ``medq ablate``."""
    return from_json(AblationPlan, json.dumps(results["plan"]))


def ablation_table(name: str) -> str:
    """Return the table of a kept ablation, or how it is made where none was trained since the scorer changed."""
    if not (KEPT / f"{name}.json").is_file():
        return (
            f"Not trained since there is one scorer. `medq ablate recipes/{name}.json -o runs/{name}` trains it, "
            f"`python -m experiments.results --take runs/{name}` prints it here.\n"
        )
    found = kept(name)
    return markdown(plan_of(found), found["rows"])


def _by_task() -> str:
    """Return the gains by task of our system and of the best filter."""
    results = kept("evaluation")
    ours = results["against"]
    sets = [(one, group) for one in results["benchmarks"] if one["name"] != UNSEEN for group in _groups(one)]
    titles = [_title(one, group) for one, group in sets]
    lines = [
        f"Gain of `{ours}` in PSNR over the degraded input in dB (95 % interval over subjects; their number), and of "
        "the best tuned filter on the same slices.",
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


def kept(name: str) -> Json:
    """Return the results that are kept under a name."""
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
    lines += [
        "",
        "PSNR in dB. Which differences can be told from chance stands in the tables, what PSNR does not show below.",
        "",
    ]
    return "\n".join(lines)


def _system(one: Json) -> Json:
    cost = one["cost"] or dict.fromkeys(("parameters", "gflops", "seconds"))
    strengths = ", ".join(f"{task} {strength:g}" for task, strength in one["strengths"].items())
    about = {"name": one["name"], "kind": one["kind"]} | {name: _rounded(value) for name, value in cost.items()}
    about |= {"identity": one["identity"][:12] if one["kind"] == "model" else "", "strengths": strengths}
    return about | {"measured": one.get("measured", ""), "not_run": one["not_run"]}


def _published(row: Json) -> Json:
    """Return a row with the numbers that are published, to four decimals."""
    if "mean" not in row:
        return {name: _rounded(value) for name, value in row.items()}
    spread = {"sd": {name: row["sd"][name] for name in ("psnr", "ssim")}}
    spread["interval"] = {"psnr": row["interval"]["psnr"]}
    return {
        name: _rounded(value)
        for name, value in ({n: row[n] for n in SCORED} | spread | {n: row[n] for n in COMPARED}).items()
    }


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return round(value, 4) if isinstance(value, float) else value


def _by_modality(results: Json, benchmarks: list[Json]) -> str:
    """Return the PSNR of every system that ran, a column for every set and modality."""
    rows = {(one["name"], r["group"], r["part"], r["system"]): r for one in benchmarks for r in one["by_modality"]}
    columns = list(dict.fromkeys(key[:3] for key in rows))
    names = [group if len(benchmarks) == 1 else _title({"name": name}, group) for name, group, _ in columns]
    titles = [f"{name}: {part}" for name, (*_, part) in zip(names, columns, strict=True)]
    lines = [f"| system | M | s | {' | '.join(titles)} |", "|---|---|---|" + "---|" * len(columns)]
    for one in results["systems"]:
        if one["not_run"]:
            continue
        found = [rows.get((*column, one["name"])) for column in columns]
        cells = ["-" if row is None else number(row["mean"]["psnr"]) + ("*" if row["failed"] else "") for row in found]
        cost = one["cost"]
        size = f"{number(cost['parameters'] / 1e6)} | {number(cost['seconds'], 3)}" if cost else "- | -"
        lines.append(f"| {one['name']} | {size} | {' | '.join(cells)} |")
    starred = any(row["failed"] for row in rows.values())
    return "\n".join([*lines, "", *(["\\* Without the images on which the system failed.", ""] if starred else [])])


def _legend(results: Json) -> str:
    absent = [one["name"] for one in results["systems"] if one["not_run"]]
    sizes = ", ".join(
        f"{one['name']} {one['slices']} images of {one['subjects']} subjects" for one in results["benchmarks"]
    )
    return (
        "PSNR in dB. M: parameters in millions. s: seconds for one MR slice of 256 x 256, one system after the other. "
        f"{sizes}. Not run: {', '.join(absent)} ([why](tables/systems.csv)).\n"
    )


def _links() -> str:
    found = tables()
    lines = [f"- [{name}.csv](tables/{name}.csv): {about}" for name, about in ABOUT.items() if f"{name}.csv" in found]
    return "\n".join([*lines, ""])


def _descriptions() -> str:
    """Return how good the verdicts and grades of describers are, and what they do with images out of scope."""
    text = (KEPT / DESCRIPTIONS).read_text(encoding="utf-8")
    chosen = [
        line
        for line in text.splitlines()
        if line.startswith(("| set |", "| out of scope"))
        or re.match(r"\| [^|]+ \| (verdict accuracy|severity, quadratic kappa) \|", line)
    ]
    aspects = [line for line in chosen if not line.startswith("| out of scope")]
    outside = [line for line in chosen if line.startswith("| out of scope")]
    lines = []
    for table in (aspects, outside):
        lines += [table[0], "|" + "---|" * (table[0].count("|") - 1), *table[1:], ""]
    return "\n".join(
        [
            "By `medq judge`. Describers, aspects and limits: [descriptions](descriptions.md). "
            f"[Every aspect](../benchmark/results/{DESCRIPTIONS}).\n",
            *lines,
        ]
    )


def _cells(found: dict[str, Any], title: str, *columns: str, **where: str) -> list[str]:
    """Return cells of the one row of a table whose cells are as said; dashes where there is none."""
    header, rows = found[title]
    for row in rows:
        about = dict(zip(header, row, strict=True))
        if all(about[name] == value for name, value in where.items()):
            return [about[name] for name in columns]
    return ["-"] * len(columns)


def _findings(found: dict[str, Any], ours: str) -> str:
    """Return what becomes of lesions, and what is hallucinated, by set and task."""
    lines = [
        "| set | task | CRC of lesions: input | output | lesions erased | hallucinated per megapixel: input | output |",
        "|---|---|---|---|---|---|---|",
    ]
    for group, task in dict.fromkeys((row[0], row[1]) for row in found["Lesion insertion and recovery"][1]):
        where = {"set": group, "task": task}
        contrast = "CRC, mean +- SD"
        before = _cells(found, "Lesion insertion and recovery", contrast, system=INPUT, **where)
        after = _cells(found, "Lesion insertion and recovery", contrast, "erased", system=ours, **where)
        blobs = [
            _cells(found, "Hallucination", "hallucinated per megapixel", input="degraded", system=name, **where)[0]
            for name in (INPUT, ours)
        ]
        lines.append(f"| {group} | {task} | {' | '.join([*before, *after, *blobs])} |")
    return "\n".join([*lines, ""])


def _measurements(found: dict[str, Any], ours: str) -> str:
    """Return how far the output contradicts the measured data, and gains under shift, by task."""
    shifts = list(dict.fromkeys(row[0] for row in found["Shift of the degradation"][1]))
    lines = [
        f"| task | misfit with the data: input | output | {' | '.join(f'gain (dB), {shift}' for shift in shifts)} |",
        "|---|---|---|" + "---|" * len(shifts),
    ]
    for task in TASKS:
        misfit = [
            _cells(found, "Data consistency", "misfit, mean", task=task, system=name)[0] for name in (INPUT, ours)
        ]
        gains = [
            _cells(found, "Shift of the degradation", "gain (dB)", shift=shift, task=task, system=ours)[0]
            for shift in shifts
        ]
        lines.append(f"| {task} | {' | '.join([*misfit, *gains])} |")
    return "\n".join([*lines, ""])


def _honesty(found: dict[str, Any], ours: str) -> str:
    """Return what becomes of good images, and how honest the uncertainty is, by set and modality."""
    lines = [
        "| set | modality | good images unchanged | at least 45 dB | said good | errors within 1.96 sigma | ECE |",
        "|---|---|---|---|---|---|---|",
    ]
    for group, modality in dict.fromkeys((row[0], row[1]) for row in found["Calibration of the uncertainty map"][1]):
        where = {"set": group, "modality": modality, "system": ours}
        cells = _cells(found, "Good-image preservation", "unchanged", ">= 45 dB", "said good", **where)
        cells += _cells(found, "Calibration of the uncertainty map", "within 1.96 (95 %)", "ECE", **where)
        lines.append(f"| {group} | {modality} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])
