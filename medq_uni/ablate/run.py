"""Ablations: recipes that differ in one thing, trained on the same pairs at equal budget, scored on the same set.

A plan may name other recipes too, those of baselines among them: they are trained by the same loop and scored alike.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medq_uni.ablate.plan import AblationPlan, Variant, folder_name, read_plan
from medq_uni.ablate.scores import open_variant, score, size_of
from medq_uni.ablate.table import Measured, write_tables
from medq_uni.ablate.tuning import best_rate, faster
from medq_uni.config import ConfigError
from medq_uni.config_json import chosen, to_json
from medq_uni.data.pair_cache import build_pair_cache
from medq_uni.files import write_text
from medq_uni.scoring import DEFINITIONS
from medq_uni.train.checkpoint import newest_checkpoint
from medq_uni.train.export import publish
from medq_uni.train.recipe import TrainConfig, read_recipe, recipe_hash
from medq_uni.train.resume import RECIPE
from medq_uni.train.run_log import Report
from medq_uni.train.trainer import Trained, TrainOptions, train


def run_ablations(
    path: Path,
    folder: Path,
    *,
    sources: Sequence[str] = (),
    max_minutes: float | None = None,
    workers: int = 1,
    device: str | None = None,
    report: Report | None = None,
) -> bool:
    """Train and score every variant with every seed, and write the table; go on where an earlier call stopped.

    Scores of an earlier call are taken where recipe, way of testing and test pairs are the same; else they are measured
    again.

    Args:
        path: Plan.
        folder: Where runs, scores and the table go.
        sources: Real volumes, in the place of those that the files name.
        max_minutes: Stop after this time, within a training too.
        workers: Processes that draw the pairs.
        device: Where to compute.
        report: Called with every line of the logs.

    Returns:
        Whether all is done.
    """
    plan, recipes = read_plan(path, sources)
    deadline = None if max_minutes is None else time.monotonic() + 60 * max_minutes
    test = build_pair_cache(plan.test, folder / "pairs" / "test_pairs", workers=workers)
    trainer = _Trainer(plan, folder, workers, device, deadline, report)
    found: dict[str, list[Measured]] = defaultdict(list)
    for seed in plan.seeds:
        for variant in plan.variants:
            if seed not in plan.seeds_of(variant):
                continue
            name = variant.weights_of or variant.name
            recipe, target = recipes[name], Measured.path(folder, variant.name, seed)
            of = _of(plan, variant, replace(recipe, seed=seed))
            if (kept := Measured.read(target, of)) is not None:
                found[variant.name].append(kept)
                continue
            rate = trainer.rate(name, recipe)
            run = None if rate is None else trainer.trained(name, replace(faster(recipe, rate), seed=seed))
            if rate is None or run is None:
                return False
            opened = open_variant(run / "model", variant, recipe, device)
            scores, reading = score(opened, test)
            measured = Measured(of, scores, size_of(opened, test), _seconds(run), rate, reading)
            write_text(target, measured.to_json())
            found[variant.name].append(measured)
    write_tables(plan, folder, test, found)
    return True


def _of(plan: AblationPlan, variant: Variant, recipe: TrainConfig) -> str:
    """Return a hash of all that the scores of a variant depend on."""
    tuning = (plan.learning_rates, plan.tuning_share) if plan.learning_rates else ()
    tested = variant.told, variant.objective, to_json(variant.sampler) if variant.sampler else None, chosen(plan.test)
    of = [DEFINITIONS, recipe_hash(recipe), tuning, tested]
    return hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class _Trainer:
    """Trains the variants of a plan."""

    plan: AblationPlan
    folder: Path
    workers: int
    device: str | None
    deadline: float | None
    report: Report | None

    def rate(self, name: str, recipe: TrainConfig) -> float | None:
        """Return the multiple of its learning rates that a variant trains with; None if the time is over."""
        plan = self.plan
        if not plan.learning_rates:
            return 1.0
        short = replace(recipe, seed=plan.seeds[0])
        return best_rate(
            short,
            plan.learning_rates,
            plan.tuning_share,
            self.folder / "tuning" / folder_name(name),
            lambda changed, run: self._train(changed, run, f"{name}, {run.name}"),
        )

    def trained(self, name: str, recipe: TrainConfig) -> Path | None:
        """Return the folder of a finished run with its model; None if the time is over.

        Raises:
            ConfigError: If there is a finished run of another recipe.
        """
        run = self.folder / "runs" / f"{folder_name(name)}-{recipe.seed}"
        if (run / "model" / "manifest.json").is_file():
            if recipe_hash(read_recipe(run / RECIPE)) != recipe_hash(recipe):
                raise ConfigError(f"{run} holds a run of another recipe. Use another folder.")
            return run
        trained = self._train(recipe, run, name)
        if not trained.is_finished:
            return None
        publish(trained, recipe, self.folder / "pairs", run / "model")
        return run

    def _train(self, recipe: TrainConfig, run: Path, name: str) -> Trained:
        def tell(line: dict[str, object]) -> None:
            if self.report is not None:
                self.report({"variant": name, "seed": recipe.seed, **line})

        minutes = None if self.deadline is None else max(0.0, (self.deadline - time.monotonic()) / 60)
        options = TrainOptions(
            resume=True,
            max_minutes=minutes,
            workers=self.workers,
            device=self.device,
            pairs_folder=self.folder / "pairs",
            report=tell,
        )
        return train(recipe, run, options)


def _seconds(run: Path) -> float:
    """Return how long a run trained, its validations with it."""
    found = newest_checkpoint(run)
    assert found is not None, "a finished run ends with a checkpoint"
    return found[1].seconds
