"""Ablations: recipes that differ in one thing, trained on the same pairs at equal budget, scored on the same set."""

from __future__ import annotations

import copy
import csv
import functools
import io
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from medq_uni.config import ConfigError, SamplerConfig, from_json, read_json, to_json
from medq_uni.data.pairs import PairsConfig, generator_of
from medq_uni.data.pool import PairPool, build_pool
from medq_uni.evaluate.restoration import clustered_interval
from medq_uni.io.atomic import write_text
from medq_uni.metrics import psnr, ssim
from medq_uni.pretrained import load_pretrained
from medq_uni.taxonomy import Severity
from medq_uni.train.generated import describe_pool
from medq_uni.train.journal import Report
from medq_uni.train.loop import train
from medq_uni.train.publish import publish
from medq_uni.train.recipe import Layout, TrainConfig
from medq_uni.train.validate import decode_one, native, scoring_values
from medq_uni.train.words import Words

Told = Literal["label", "predicted", "shuffled", "nothing"]
INPUT = "degraded input"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row of the table."""

    name: str
    """What it is called there."""
    changes: dict[str, Any] = field(default_factory=dict)
    """New values of keys of the base recipe, by dotted path; a stage is named: ``stages.joint.weights.l1``."""
    weights_of: str | None = None
    """Variant whose trained weights are used; None trains its own."""
    told: Told = "predicted"
    """What the restoration is told in the test: the true label, what the model itself writes, the label of another
    pair, or nothing."""
    layout: Layout = "joint"
    """What is read in the test."""
    sampler: SamplerConfig | None = None
    """How it samples in the test; None takes that of the recipe."""


@dataclass(frozen=True, kw_only=True)
class AblationPlan:
    """What is compared."""

    about: tuple[str, ...]
    """Command, hardware, hours and expected result, for people."""
    base: str
    """Recipe file, beside the plan; its variant without changes comes first."""
    test: PairsConfig
    """Pairs that are scored; never trained or validated on."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of the weights and batches; every variant is trained with each."""
    variants: tuple[Variant, ...]
    """The rows; differences are to the first."""

    def __post_init__(self) -> None:
        """Check names."""
        names = [variant.name for variant in self.variants]
        if not names or len(set(names)) != len(names):
            raise ConfigError("variants: at least one, each with a name of its own.")
        trained = [variant.name for variant in self.variants if variant.weights_of is None]
        for variant in self.variants:
            if variant.weights_of is not None and variant.weights_of not in trained:
                raise ConfigError(f"variant {variant.name!r}: weights_of {variant.weights_of!r} is not trained here.")


@dataclass(frozen=True)
class Score:
    """One restored test pair."""

    pair: int
    modality: str
    task: str
    subject: str
    psnr: float
    """dB, on the scoring range."""
    ssim: float


def read_plan(path: Path) -> tuple[AblationPlan, dict[str, TrainConfig]]:
    """Return a plan and the recipe of every variant that is trained.

    Raises:
        ConfigError: If a file is missing or wrong, a change names no key, or budgets differ.
    """
    plan = read_json(AblationPlan, path, where="recipes/")
    base_path = Path(path).parent / plan.base
    if not base_path.is_file():
        raise ConfigError(f"{path}: base {plan.base!r} is not beside it.")
    base = json.loads(base_path.read_text(encoding="utf-8"))
    recipes = {v.name: changed(base, v.changes) for v in plan.variants if v.weights_of is None}
    budgets = {name: sum(s.steps * s.batch_size * s.crop_size**2 for s in c.stages) for name, c in recipes.items()}
    if len(set(budgets.values())) > 1:
        listed = ", ".join(f"{name} {pixels / 1e6:.1f} M" for name, pixels in budgets.items())
        raise ConfigError(f"{path}: budgets differ in pixels seen ({listed}). Make steps x batch x crop equal.")
    return plan, recipes


def changed(base: dict[str, Any], changes: dict[str, Any]) -> TrainConfig:
    """Return a recipe with some keys changed.

    Args:
        base: The recipe's JSON values.
        changes: New values by dotted path; entries of a list of stages are named.

    Raises:
        ConfigError: If a path leads nowhere; the message names it.
    """
    values = copy.deepcopy(base)
    for path, value in changes.items():
        *parents, last = path.split(".")
        place = values
        for part in parents:
            found = next((one for one in place if one["name"] == part), None) if isinstance(place, list) else None
            if isinstance(place, list) and found is None:
                raise ConfigError(f"{path}: there is no stage {part!r}.")
            place = found if found is not None else place.setdefault(part, {})
        place[last] = value
    return from_json(TrainConfig, json.dumps(values))


def run_ablations(
    path: Path,
    folder: Path,
    *,
    max_minutes: float | None = None,
    workers: int = 1,
    device: str | None = None,
    report: Report | None = None,
) -> bool:
    """Train and score every variant with every seed, and write the table; go on where an earlier call stopped.

    Args:
        path: Plan.
        folder: Where runs, scores and the table go.
        max_minutes: Stop after this time, within a training too.
        workers: Processes that draw the pairs.
        device: Where to compute.
        report: Called with every line of the logs.

    Returns:
        Whether all is done.
    """
    plan, recipes = read_plan(path)
    deadline = None if max_minutes is None else time.monotonic() + 60 * max_minutes
    test = build_pool(plan.test, folder / "pools" / "test_pairs", workers=workers)
    for seed in plan.seeds:
        for variant in plan.variants:
            target = _scores_path(folder, variant, seed)
            if target.is_file():
                continue
            name = variant.weights_of or variant.name
            run, recipe = folder / "runs" / f"{_slug(name)}-{seed}", replace(recipes[name], seed=seed)
            about = {"variant": name, "seed": seed}
            if not (run / "model" / "manifest.json").is_file():
                trained = train(
                    recipe,
                    run,
                    resume=True,
                    max_minutes=None if deadline is None else max(0.0, (deadline - time.monotonic()) / 60),
                    workers=workers,
                    device=device,
                    pools=folder / "pools",
                    report=functools.partial(_tell, report, about),
                )
                if not trained.is_finished:
                    return False
                publish(trained, recipe, folder / "pools", run / "model")
            write_text(target, json.dumps([asdict(one) for one in score(run / "model", variant, recipe, test)]))
    write_tables(plan, folder, test)
    return True


def _tell(report: Report | None, about: dict[str, Any], line: dict[str, Any]) -> None:
    if report is not None:
        report({**about, **line})


@torch.inference_mode()
def score(model: Path, variant: Variant, recipe: TrainConfig, test: PairPool) -> list[Score]:
    """Return the score of every degraded test pair.

    Args:
        model: Folder of the trained weights.
        variant: What is told, and how it is sampled.
        recipe: Of the training.
        test: Pairs.
    """
    loaded = load_pretrained(model)
    words = Words(test, loaded.tokenizer, recipe.label)
    predicted = describe_pool(loaded.model, loaded.tokenizer, test, len(test)) if variant.told == "predicted" else {}
    others = torch.randperm(len(test), generator=generator_of(0)).tolist()
    found = []
    for index, item in enumerate(test.items):
        if item.severity is Severity.NONE:
            continue
        told: Sequence[int] | None = []
        if variant.told == "label":
            told = None  # the layout's own words
        elif variant.told == "predicted":
            told = predicted[index]
        elif variant.told == "shuffled":
            told = words.tokens(others[index], generator_of(index))
        degraded, reference = native(test, index)
        sampler = variant.sampler or recipe.sampler
        restored = decode_one(loaded.model, words, index, degraded, variant.layout, sampler, told).image
        found.append(_scored(test, index, restored, reference))
    return found


def input_scores(test: PairPool) -> list[Score]:
    """Return the scores of the degraded inputs themselves."""
    indices = [index for index, item in enumerate(test.items) if item.severity is not Severity.NONE]
    return [_scored(test, index, *native(test, index)) for index in indices]


def _scored(test: PairPool, index: int, image: torch.Tensor, reference: torch.Tensor) -> Score:
    item = test.items[index]
    (x, span), (y, _) = (scoring_values(test, index, views) for views in (image, reference))
    decibels, similarity = (metric(x[:, None], y[:, None], data_range=span)[0] for metric in (psnr, ssim))
    return Score(index, item.task.modality.value, item.task.value, item.subject, float(decibels), float(similarity))


def write_tables(plan: AblationPlan, folder: Path, test: PairPool) -> None:
    """Write ``results.json``, ``results.csv`` and ``results.md`` from the scores in a folder."""
    before = input_scores(test)
    rows = [_row(INPUT, [before], [before])]
    first = [_read_scores(folder, plan.variants[0], seed) for seed in plan.seeds]
    for variant in plan.variants:
        rows.append(_row(variant.name, [_read_scores(folder, variant, seed) for seed in plan.seeds], first))
    write_text(folder / "results.json", json.dumps({"plan": json.loads(to_json(plan)), "rows": rows}, indent=2) + "\n")
    flat = [{"variant": row["variant"], "modality": m, **values} for row in rows for m, values in row["scores"].items()]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(flat[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    write_text(folder / "results.csv", buffer.getvalue())
    write_text(folder / "results.md", markdown(plan, rows))


def _row(name: str, per_seed: Sequence[list[Score]], first: Sequence[list[Score]]) -> dict[str, Any]:
    """Return means per modality, and the difference to the first variant with its 95 % interval over subjects."""
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
        low, high = clustered_interval(delta, subjects)
        scores[modality] |= {"delta": float(delta.mean()), "delta_low": low, "delta_high": high}
    return {"variant": name, "scores": scores}


def markdown(plan: AblationPlan, rows: Sequence[dict[str, Any]]) -> str:
    """Return the table of the paper's form: PSNR, SSIM and the difference to the first variant, by modality."""
    modalities = list(rows[0]["scores"])
    head = "".join(f" {m.upper()} PSNR | SSIM | difference (95 %) |" for m in modalities)
    lines = [f"| variant |{head}", "|---|" + "---|---|---|" * len(modalities)]
    for place, row in enumerate(rows):
        cells = ""
        for values in row["scores"].values():
            interval = f"{values['delta']:+.2f} ({values['delta_low']:+.2f} to {values['delta_high']:+.2f})"
            cells += f" {values['psnr']:.2f} | {values['ssim']:.3f} | {interval if place > 1 else ''} |"
        lines.append(f"| {row['variant']} |{cells}")
    counts = ", ".join(f"{v['pairs']} {m.upper()}" for m, v in rows[0]["scores"].items())
    lines.append(f"\nTest pairs: {counts}; seeds: {len(plan.seeds)}. Differences in dB to {plan.variants[0].name!r}.")
    return "\n".join(lines) + "\n"


def _read_scores(folder: Path, variant: Variant, seed: int) -> list[Score]:
    return [Score(**values) for values in json.loads(_scores_path(folder, variant, seed).read_text())]


def _scores_path(folder: Path, variant: Variant, seed: int) -> Path:
    return folder / "scores" / f"{_slug(variant.name)}-{seed}.json"


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name.lower())
