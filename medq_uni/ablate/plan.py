"""What an ablation compares: a base recipe and variants of it, other recipes and baselines among them."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from medq_uni.config import ConfigError, SamplerConfig
from medq_uni.config_json import read_json
from medq_uni.data.pairs import PairsConfig
from medq_uni.json_text import load_json
from medq_uni.train.recipe import TrainConfig, recipe_from_json
from medq_uni.train.stage import ObjectiveName

Told = Literal["label", "predicted", "shuffled", "nothing"]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row of the table."""

    name: str
    """What it is called there."""
    changes: dict[str, Any] = field(default_factory=dict)
    """New values of keys of the recipe, by dotted path; a stage is named: ``stages.joint.losses.l1``."""
    recipe: str | None = None
    """Recipe file, beside the plan; None takes the base. The way to put a baseline beside MedQ-UNI."""
    weights_of: str | None = None
    """Variant whose trained weights are used; None trains its own."""
    told: Told = "predicted"
    """What the restoration is told in the test: the true label, what the model itself writes, the label of another
    pair, or nothing. A baseline is told nothing."""
    objective: ObjectiveName = "joint"
    """What is read in the test."""
    sampler: SamplerConfig | None = None
    """How it samples in the test; None takes that of the recipe."""
    seeds: tuple[int, ...] | None = None
    """Some of the plan's seeds, for a variant whose effect is far larger than what a seed does; None takes all."""


@dataclass(frozen=True, kw_only=True)
class AblationPlan:
    """What is compared."""

    about: tuple[str, ...] = ()
    """Command, hardware, hours and expected result, for people."""
    base: str
    """Recipe file, beside the plan, of every variant that names no other."""
    test: PairsConfig
    """Pairs that are scored; never trained or validated on."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of the weights and batches; every variant is trained with each."""
    learning_rates: tuple[float, ...] = ()
    """Multiples of the learning rates of a recipe that are tried; the one with the best mean validation gain trains.
    None are tried where there are none."""
    tuning_share: float = 0.1
    """Share of its steps that every trained variant runs with each of these rates, with the first seed."""
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
            if variant.weights_of is not None and (variant.changes or variant.recipe):
                raise ConfigError(f"variant {variant.name!r}: with weights_of, changes and recipe have no effect.")
        for variant in self.variants:
            if variant.seeds is not None and (variant.weights_of or not set(variant.seeds) <= set(self.seeds)):
                raise ConfigError(f"variant {variant.name!r}: seeds must be some of the plan's, of its own training.")
        if self.variants[0].seeds is not None:
            raise ConfigError(f"variant {self.variants[0].name!r}: the first needs every seed; differences are to it.")
        if any(rate <= 0 for rate in self.learning_rates) or not 0 < self.tuning_share <= 1:
            raise ConfigError("learning_rates must be positive, and tuning_share must lie in (0, 1].")

    def seeds_of(self, variant: Variant) -> tuple[int, ...]:
        """Return the seeds of a variant, in the order of the plan."""
        trained = next(one for one in self.variants if one.name == (variant.weights_of or variant.name))
        return self.seeds if trained.seeds is None else tuple(seed for seed in self.seeds if seed in trained.seeds)


def read_plan(path: Path, sources: Sequence[str] = ()) -> tuple[AblationPlan, dict[str, TrainConfig]]:
    """Return a plan and the recipe of every variant that is trained.

    Args:
        path: File of the plan.
        sources: Sources of real volumes for training, validation and test pairs; none keeps those of the files.

    Raises:
        ConfigError: If a file is missing or wrong, a change names no key, or budgets or pairs differ.
    """
    plan = read_json(AblationPlan, path, where="recipes/")
    _check_folders(path, plan)
    recipes = {
        variant.name: changed(_values(Path(path), variant.recipe or plan.base), variant.changes)
        for variant in plan.variants
        if variant.weights_of is None
    }
    _check_budgets(path, recipes)
    first, *others = recipes.items()
    for name, recipe in others:
        if (recipe.pairs, recipe.dataset, recipe.val_pairs) != (first[1].pairs, first[1].dataset, first[1].val_pairs):
            raise ConfigError(f"{path}: {name!r} is trained or validated on other pairs than {first[0]!r}.")
    if sources:
        plan = replace(plan, test=replace(plan.test, data=tuple(sources)))
        recipes = {name: recipe.with_sources(tuple(sources)) for name, recipe in recipes.items()}
    return plan, recipes


def _check_folders(path: Path, plan: AblationPlan) -> None:
    names: dict[str, str] = {}
    for variant in plan.variants:
        other = names.setdefault(folder_name(variant.name), variant.name)
        if other != variant.name:
            raise ConfigError(f"{path}: {other!r} and {variant.name!r} would share a folder. Give other names.")


def _check_budgets(path: Path, recipes: Mapping[str, TrainConfig]) -> None:
    """Check that all recipes meet as many pixels."""
    for name, recipe in recipes.items():
        if any(stage.crops.token_budget or len(stage.crops.sides) > 1 for stage in recipe.stages):
            raise ConfigError(
                f"{path}: {name} draws crops of several sizes or fills a budget of tokens. Give fixed ones."
            )
    budgets = {
        name: sum(stage.steps * stage.crops.batch_size * stage.crops.sides[0] ** 2 for stage in recipe.stages)
        for name, recipe in recipes.items()
    }
    if len(set(budgets.values())) > 1:
        listed = ", ".join(f"{name} {pixels / 1e6:.1f} M" for name, pixels in budgets.items())
        raise ConfigError(f"{path}: budgets differ in pixels seen ({listed}). Make steps x batch x crop equal.")


def folder_name(name: str) -> str:
    """Return the name of a variant as a part of a path; a plan has no two variants that share one."""
    return "".join(letter if letter.isalnum() else "-" for letter in name.lower())


def _values(plan: Path, name: str) -> dict[str, Any]:
    """Return the JSON values of a recipe beside a plan."""
    path = plan.parent / name
    if not path.is_file():
        raise ConfigError(f"{plan}: recipe {name!r} is not beside it.")
    try:
        values = load_json(path)
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON ({error}).") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: not a recipe, which is an object of keys.")
    return values


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
    return recipe_from_json(json.dumps(values))
