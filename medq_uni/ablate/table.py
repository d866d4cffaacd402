"""The table of an ablation: means by modality, differences with intervals and by seed, size, work, training time."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medq_uni.ablate.plan import AblationPlan, folder_name
from medq_uni.ablate.scores import Score, Size, input_scores
from medq_uni.config_json import to_json
from medq_uni.data.pair_cache import TrainingPairs
from medq_uni.files import write_text
from medq_uni.json_text import load_json
from medq_uni.statistics import known_interval

INPUT = "degraded input"
READ = ("right_verdict", "right_severity", "right_mr_type")
"""What an assessor names rightly."""


@dataclass(frozen=True)
class Measured:
    """What is known of one variant trained with one seed."""

    of: str
    """Hash of what was measured: recipe, way of testing, and test pairs."""
    scores: list[Score]
    size: Size
    seconds: float
    """Of the training, its validations with it."""
    rate: float
    """Multiple of the recipe's learning rates."""
    reading: dict[str, float]
    """Shares of the test pairs whose verdict, severity and, in MR, type it names rightly; empty where nobody asked."""

    @staticmethod
    def path(folder: Path, name: str, seed: int) -> Path:
        """Return the file of a variant."""
        return folder / "scores" / f"{folder_name(name)}-{seed}.json"

    def to_json(self) -> str:
        """Return what :meth:`read` reads."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def read(cls, path: Path, of: str) -> Measured | None:
        """Return what is in a file; None where there is none, or it is about something else than ``of``."""
        values = load_json(path) if path.is_file() else {}
        if values.get("of") != of:
            return None
        return cls(**values | {"scores": [Score(**one) for one in values["scores"]], "size": Size(**values["size"])})


def write_tables(plan: AblationPlan, folder: Path, test: TrainingPairs, found: Mapping[str, list[Measured]]) -> None:
    """Write ``results.json``, ``results.csv`` and ``results.md``.

    Args:
        plan: What is compared.
        folder: Where the files go.
        test: Pairs that were scored.
        found: By variant, what was measured with each seed.
    """
    before = input_scores(test)
    rows: list[dict[str, Any]] = [{"variant": INPUT, "cost": {}, "scores": _scores([before], [before])}]
    first = dict(zip(plan.seeds, found[plan.variants[0].name], strict=True))
    for variant in plan.variants:
        per_seed, seeds = found[variant.name], plan.seeds_of(variant)
        scores = _scores([one.scores for one in per_seed], [first[seed].scores for seed in seeds])
        rows.append({"variant": variant.name, "seeds": len(seeds), "cost": _cost(per_seed), "scores": scores})
    write_text(folder / "results.json", json.dumps({"plan": json.loads(to_json(plan)), "rows": rows}, indent=2) + "\n")
    flat = [_flat(row, modality) for row in rows for modality in row["scores"]]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(flat[-1]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    write_text(folder / "results.csv", buffer.getvalue())
    write_text(folder / "results.md", markdown(plan, rows))


def _flat(row: dict[str, Any], modality: str) -> dict[str, Any]:
    """Return one row of the CSV."""
    values, cost = row["scores"][modality], row["cost"]
    by_seed = " ".join(f"{one:.4f}" for one in values["delta_by_seed"])
    right = dict.fromkeys(READ) | cost.get("reading", {})
    plain = {name: value for name, value in cost.items() if name != "reading"}
    return {"variant": row["variant"], "modality": modality, **values, "delta_by_seed": by_seed, **plain, **right}


def _cost(per_seed: Sequence[Measured]) -> dict[str, Any]:
    """Return size and work, which no seed changes, mean training time, learning rate, and how well it reads."""
    reading = [one.reading for one in per_seed]
    return {
        "parameters": per_seed[0].size.parameters,
        "gflops": per_seed[0].size.gflops,
        "seconds": float(np.mean([one.seconds for one in per_seed])),
        "rate": per_seed[0].rate,
        "reading": {name: float(np.mean([one[name] for one in reading])) for name in reading[0]},
    }


def _scores(per_seed: Sequence[list[Score]], first: Sequence[list[Score]]) -> dict[str, Any]:
    """Return means per modality, and the difference to the first variant: its 95 % interval over subjects, and by seed.

    The interval knows about subjects, the differences by seed about another training.
    """
    scores: dict[str, Any] = {}
    for modality in sorted({one.modality for one in per_seed[0]}):
        ours = [one for scored in per_seed for one in scored if one.modality == modality]
        theirs = [one for scored in first for one in scored if one.modality == modality]
        values, similarity = np.array([o.psnr for o in ours]), np.array([o.ssim for o in ours])
        subjects = [one.subject for one in ours]
        scores[modality] = {
            "psnr": float(values.mean()),
            "psnr_sd": float(values.std()),
            "ssim": float(similarity.mean()),
            "ssim_sd": float(similarity.std()),
            "pairs": len({one.pair for one in ours}),
            "subjects": len(set(subjects)),
        }
        delta = values - np.array([one.psnr for one in theirs])
        low, high = known_interval(delta, subjects)
        scores[modality] |= {"delta": float(delta.mean()), "delta_low": low, "delta_high": high}
        by_seed = delta.reshape(len(per_seed), -1).mean(axis=1)
        scores[modality]["delta_by_seed"] = [float(one) for one in by_seed]
    return scores


def markdown(plan: AblationPlan, rows: Sequence[dict[str, Any]]) -> str:
    """Return the table: size, work and time, then PSNR, SSIM and the difference to the first variant by modality."""
    modalities = list(rows[0]["scores"])
    is_tuned = bool(plan.learning_rates)
    reads = any(row["cost"].get("reading") for row in rows)
    more = [" rate |"] * is_tuned + [" right (%) |"] * reads
    head = " M | GFLOPs | train s |" + "".join(more)
    rule = "---|" * (4 + len(more))
    head += "".join(f" {m.upper()} PSNR | SSIM | difference (95 %) |" for m in modalities)
    lines = [f"| variant |{head}", f"|{rule}" + "---|---|---|" * len(modalities)]
    for place, row in enumerate(rows):
        cost = row["cost"]
        cells = " | | |" + " |" * len(more)
        if cost:
            cells = f" {cost['parameters'] / 1e6:.2f} | {cost['gflops']:.1f} | {cost['seconds']:.0f} |"
            cells += f" x {cost['rate']:g} |" if is_tuned else ""
            right = cost.get("reading") or {}
            cells += f" {' / '.join(f'{100 * right[name]:.0f}' for name in READ if name in right)} |" if reads else ""
        for values in row["scores"].values():
            cells += f" {values['psnr']:.2f} | {values['ssim']:.3f} | {_difference(values) if place > 1 else ''} |"
        lines.append(f"| {row['variant']} |{cells}")
    counts = ", ".join(f"{v['pairs']} {m.upper()}" for m, v in rows[0]["scores"].items())
    lines.append(f"\nTest pairs: {counts}; seeds: {len(plan.seeds)}. Differences in dB to {plan.variants[0].name!r}.")
    fewer = [v.name for v in plan.variants if len(plan.seeds_of(v)) < len(plan.seeds)]
    if fewer:
        lines.append(f"Fewer seeds, whose differences are to the same seeds: {', '.join(fewer)}.")
    if len(plan.seeds) > 1:
        lines.append("In parentheses the 95 % interval over subjects; in brackets the least and the largest by seed.")
    lines.append("M: million parameters. GFLOPs: work of a slice of 256 x 256 pixels, its description with it.")
    if reads:
        lines.append("Right: verdicts, severities and, in MR, types of degradation that the variant names rightly.")
    if is_tuned:
        tried = ", ".join(f"{rate:g}" for rate in plan.learning_rates)
        share = f"{100 * plan.tuning_share:g} %"
        lines.append(
            f"Rate: of {tried} times the recipe's, the one with the best validation gain after {share} of the steps."
        )
    return "\n".join(lines) + "\n"


def _difference(values: dict[str, Any]) -> str:
    """Return a difference with its interval, and with its range by seed where there are several."""
    cell = f"{values['delta']:+.2f}"
    if values["delta_low"] is not None:
        cell += f" ({values['delta_low']:+.2f} to {values['delta_high']:+.2f})"
    by_seed = values.get("delta_by_seed", [])  # results written before seeds were told apart have none
    if len(by_seed) > 1:
        cell += f" [{min(by_seed):+.2f} to {max(by_seed):+.2f}]"
    return cell
