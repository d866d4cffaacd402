"""Print the results tables of the small benchmark: phantoms, a shift of the simulation, and real volumes if given.

The sets are those of ``benchmark/*.json``, drawn again here; ``--dataset DIR`` scores a dataset that was built.
Run: python -m benchmarks.restoration [--data SOURCE] [--dataset DIR] [-o DIR]      (2 CPU cores, about 5 minutes)
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from medq_uni.data.dataset import read_dataset_recipe
from medq_uni.data.pairs import PairsConfig
from medq_uni.evaluate.assessment import Judged, assessment_table
from medq_uni.evaluate.restoration import Coverage, Harm, Row, coverage, harm_on_good_images, restoration_table
from medq_uni.evaluate.sets import Case, dataset_cases, drawn_cases, set_hash
from medq_uni.evaluate.systems import ModelSystems, degraded_input, nlm, tune_nlm
from medq_uni.pipeline import Restorer

BENCHMARK = Path(__file__).parents[1] / "benchmark"


def main() -> None:
    """Score every system and print markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", help="source of real volumes, FOLDER or KIND:FOLDER; split test is used")
    parser.add_argument("--dataset", type=Path, help="score the split test of this dataset instead")
    parser.add_argument("--model", default="nano")
    parser.add_argument("-o", "--output", type=Path, help="folder for results.json")
    options = parser.parse_args()
    restorer = Restorer.from_pretrained(options.model)
    strengths = tune_nlm(list(drawn_cases(_pairs("phantoms", "val"))))
    model = ModelSystems(restorer)
    systems = {
        "degraded input": degraded_input,
        "NLM, tuned": lambda case: nlm(case, strengths[case.task]),
        "nano": model.default,
        "IR expert bypassed": model.expert_bypassed,
        "fidelity path off": model.path_off,
        "codec only (bound)": model.codec_only,
    }
    print(f"Date {datetime.date.today()}, weights sha256 {restorer.pretrained.sha256[:12]}.")
    results = {}
    sets = _sets(options.data, options.dataset)
    for title, cases in sets.items():
        rows = restoration_table(cases, systems, progress=_progress(title))
        harm = harm_on_good_images(cases, model.default)
        honest = coverage(cases, model.restoration)
        judged = assessment_table(cases, lambda case: model.restoration(case).description, progress=_progress(title))
        _print_tables(title, cases, rows, harm, judged, honest)
        results[title] = {
            "sha256": set_hash(cases),
            "restoration": [asdict(row) for row in rows],
            "harm": [asdict(row) for row in harm],
            "assessment": [asdict(row) for row in judged],
            "coverage": [asdict(row) for row in honest],
        }
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "results.json").write_text(json.dumps(results, indent=2, default=str) + "\n")


def _sets(data: str | None, dataset: Path | None) -> dict[str, list[Case]]:
    if dataset is not None:
        return {dataset.name: list(dataset_cases(dataset, "test"))}
    sets = {
        "Phantoms": list(drawn_cases(_pairs("phantoms", "test"))),
        "Phantoms, simulated in the second way": list(drawn_cases(_pairs("shift", "test"))),
    }
    if data is not None:
        pairs = replace(_pairs("real", "test"), data=(data,))
        sets["Real volumes (split test)"] = list(drawn_cases(pairs))
    return sets


def _pairs(recipe: str, split: str) -> PairsConfig:
    return read_dataset_recipe(BENCHMARK / f"{recipe}.json").splits[split]


def _print_tables(
    title: str, cases: list[Case], rows: list[Row], harm: list[Harm], judged: list[Judged], honest: list[Coverage]
) -> None:
    print(f"\n### {title}\n\nSet sha256 {set_hash(cases)[:12]}, {len(cases)} slices.\n")
    print("| set | task | system | PSNR (dB) | SSIM | gain (dB) | 95 % low | worse | slices / subjects |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row in sorted(rows, key=lambda r: (r.group, list(type(r.task)).index(r.task))):
        print(
            f"| {row.group} | {row.task.value} | {row.system} | {row.psnr:.2f} +- {row.psnr_sd:.2f} "
            f"| {row.ssim:.4f} | {row.gain:+.2f} | {row.gain_low:+.2f} | {100 * row.worse:.0f} % "
            f"| {row.count} / {row.subjects} |"
        )
    print("\n| set | good images | returned bit-identical | lowest PSNR of the others (dB) |\n|---|---|---|---|")
    for one in harm:
        print(f"| {one.group} | {one.modality}, {one.count} | {100 * one.unchanged:.0f} % | {one.worst_psnr:.1f} |")
    print("\n| set | assessment | slices | nano | majority guess |\n|---|---|---|---|---|")
    for score in judged:
        print(f"| {score.group} | {score.name} | {score.count} | {score.value:.3f} | {score.majority:.3f} |")
    print("\n| set | uncertainty | within 1 sd (68 % is honest) | within 2 sd |\n|---|---|---|---|")
    for row in honest:
        shares = f"{100 * row.within_one:.0f} % | {100 * row.within_two:.0f} %"
        print(f"| {row.group} | {row.modality}, {row.count} | {shares} |")


def _progress(title: str) -> Callable[[int, int], None]:
    def show(done: int, total: int) -> None:
        end = "\n" if done == total else ""
        print(f"\r{title}: {done}/{total}", end=end, file=sys.stderr, flush=True)

    return show


if __name__ == "__main__":
    main()
