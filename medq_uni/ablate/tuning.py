"""The learning rate of a recipe, chosen by short trainings: a comparison at one rate favours whom it suits."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from medq_uni.config import ConfigError
from medq_uni.files import write_text
from medq_uni.json_text import load_json
from medq_uni.train.recipe import TrainConfig, recipe_hash
from medq_uni.train.run_log import LOG, read_log
from medq_uni.train.stage import OptimizerConfig, StageConfig
from medq_uni.train.trainer import DivergenceError, Trained

GAINS = "gains.json"
Train = Callable[[TrainConfig, Path], Trained]
"""Trains a recipe in a folder, or goes on with it, until the time is over."""


def best_rate(recipe: TrainConfig, rates: tuple[float, ...], share: float, folder: Path, train: Train) -> float | None:
    """Return the multiple of a recipe's learning rates with the best mean validation gain; None if the time is over.

    What was found is kept in ``gains.json``, a rate that diverged as null; a later call with the same recipe and share
    goes on from there.

    Args:
        recipe: What is trained.
        rates: Multiples to try.
        share: Share of its steps that is run with each.
        folder: Where the short trainings and their gains go.
        train: How they are trained.

    Raises:
        ConfigError: If all of them diverged.
    """
    path = folder / GAINS
    of = recipe_hash(shortened(recipe, share, 1.0))
    kept = load_json(path) if path.is_file() else {}
    gains: dict[str, float | None] = kept["gains"] if kept.get("recipe") == of else {}
    for rate in rates:
        if f"{rate:g}" in gains:
            continue
        run = folder / f"rate-{rate:g}"
        try:
            if not train(shortened(recipe, share, rate), run).is_finished:
                return None
            gains[f"{rate:g}"] = mean_gain(run)
        except DivergenceError:
            gains[f"{rate:g}"] = None
        write_text(path, json.dumps({"recipe": of, "gains": gains}) + "\n")
    found = {rate: gain for rate in rates if (gain := gains[f"{rate:g}"]) is not None}
    if not found:
        raise ConfigError(f"{folder}: the recipe diverged with every learning rate. Try smaller ones.")
    return max(found, key=lambda rate: found[rate])


def faster(recipe: TrainConfig, rate: float) -> TrainConfig:
    """Return a recipe whose learning rates are multiplied."""

    def scaled(optimizer: OptimizerConfig) -> OptimizerConfig:
        return replace(optimizer, learning_rate=rate * optimizer.learning_rate)

    return replace(recipe, stages=tuple(replace(one, optimizer=scaled(one.optimizer)) for one in recipe.stages))


def shortened(recipe: TrainConfig, share: float, rate: float) -> TrainConfig:
    """Return a recipe with a share of the steps of every stage, its warm-up too, and multiplied learning rates.

    It validates at the end of each stage alone.
    """

    def short(stage: StageConfig) -> StageConfig:
        warmup = round(share * stage.optimizer.lr_warmup_steps)
        optimizer = replace(stage.optimizer, lr_warmup_steps=warmup)
        return replace(stage, steps=max(1, round(share * stage.steps)), optimizer=optimizer)

    stages = tuple(short(stage) for stage in faster(recipe, rate).stages)
    return replace(recipe, stages=stages, validation_interval=max(stage.steps for stage in stages))


def mean_gain(run: Path) -> float:
    """Return the last validation gain of a run in dB, averaged over the tasks.

    Raises:
        ConfigError: If the recipe restores nothing.
    """
    for line in reversed(read_log(run / LOG)):
        gains = [value for name, value in line.items() if name.startswith("gain_")]
        if gains:
            return float(sum(gains) / len(gains))
    raise ConfigError(f"{run}: no validation of a restoration. Learning rates are chosen for recipes that restore.")
