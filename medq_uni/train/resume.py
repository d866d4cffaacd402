"""Whether a run may go on: from which checkpoint, with which recipe, and with what changed."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medq_uni import __version__
from medq_uni.config import ConfigError
from medq_uni.config_json import to_json
from medq_uni.train.checkpoint import CheckpointError, RunPosition, newest_checkpoint
from medq_uni.train.parallel import DistContext
from medq_uni.train.recipe import TrainConfig, read_recipe, recipe_hash
from medq_uni.train.run_log import LOG

RECIPE, GENERATED = "recipe.json", "generated-{}.json"
"""The recipe of a run, and what its model wrote about the pairs when a stage began, in its folder."""
CHANGEABLE = ("save_interval_minutes", "gradient_clip", "log_interval", "recompute", "validation_interval", "bfloat16")
"""Keys that may change while a run goes on; the numbers because a run may go on on another machine."""
CHANGEABLE_OF_STAGES = (
    "optimizer.learning_rate",
    "optimizer.decoder_lr_factor",
    "crops.batch_size",
    "crops.token_budget",
    "crops.sides",
)
"""Keys that may change of stages that are not finished: what helps when a loss diverges, or memory is too small."""


@dataclass(frozen=True)
class Resumed:
    """What a run goes on from."""

    path: Path
    """Folder of the checkpoint."""
    position: RunPosition
    """Where it stands."""
    changed_keys: list[str] = field(default_factory=list)
    """Keys of the recipe that have other values since."""


def find_checkpoint(
    config: TrainConfig, folder: Path, dist: DistContext, *, resume: bool, may_change: bool = False
) -> Resumed | None:
    """Return the checkpoint to go on from, None for a new run; refuse one that is in the way.

    Args:
        config: The recipe.
        folder: Of the run.
        dist: The processes that train together; the first one looks.
        resume: Whether to go on at all.
        may_change: Whether to go on with other learning rates, batches and crops of the stages that are left.

    Raises:
        CheckpointError: If there is a checkpoint and ``resume`` is false, or it is of another recipe.
    """
    found, before = dist.as_first_says(_kept(config, folder) if dist.is_first else (None, None))
    if found is None:
        return None
    if not resume:
        raise CheckpointError(f"{folder} holds a run already. Pass --resume to go on with it, or another folder.")
    path, position = found
    changed: list[str] = []
    if position.recipe_hash != recipe_hash(config):
        changed = _changed(config, before, folder, position if may_change else None)
    if dist.is_first and position.software != __version__:
        warnings.warn(
            f"{folder}: the checkpoint is of {position.software or 'an earlier version'} of medq-uni, this is "
            f"{__version__}. Later batches may differ from those of a run by one version.",
            stacklevel=2,
        )
    return Resumed(path, replace(position, recipe_hash=recipe_hash(config), software=__version__), changed)


def differences(before: TrainConfig, after: TrainConfig) -> list[str]:
    """Return the keys in which two recipes differ, by dotted path (``stages.1.crops.sides``); words do not count."""
    flat = [_flat(json.loads(to_json(replace(one, about=())))) for one in (before, after)]
    return sorted(key for key in flat[0].keys() | flat[1].keys() if flat[0].get(key) != flat[1].get(key))


def is_changeable(key: str, stage: int) -> bool:
    """Return whether a run in a stage (from 0) can go on with another value of a key."""
    first, *rest = key.split(".")
    if first == "stages" and len(rest) > 1:
        return ".".join(rest[1:]) in CHANGEABLE_OF_STAGES and int(rest[0]) >= stage
    return key in CHANGEABLE


Kept = tuple[tuple[Path, RunPosition] | None, TrainConfig | ConfigError | None]
"""The newest checkpoint, and the recipe of a run that has another one, or why it cannot be read."""


def _kept(config: TrainConfig, folder: Path) -> Kept:
    """Return what there is of a run; clear away what one without any checkpoint has left."""
    found, path = newest_checkpoint(folder), folder / RECIPE
    if found is None:
        for left in (folder / LOG, *folder.glob(GENERATED.format("*"))):
            left.unlink(missing_ok=True)  # about weights that were never kept, and perhaps other pairs
        return None, None
    if found[1].recipe_hash == recipe_hash(config) or not path.is_file():
        return found, None
    try:
        before = read_recipe(path)
    except ConfigError as error:  # of a version with other keys
        return found, error
    return found, before if recipe_hash(before) == found[1].recipe_hash else None


def _changed(
    config: TrainConfig, before: TrainConfig | ConfigError | None, folder: Path, position: RunPosition | None
) -> list[str]:
    """Return the keys that changed; refuse those that may not, and all of them where there is no position."""
    if isinstance(before, ConfigError):
        raise CheckpointError(
            f"{folder} holds a run whose recipe this version cannot read, so it cannot go on: {before} "
            "Use another folder, or go on with the version that began it."
        ) from before
    changed = [] if before is None else differences(before, config)
    stage = None if position is None else _stage_left(config, position)
    wrong = [key for key in changed if stage is None or not is_changeable(key, stage)]
    if before is None or wrong:
        named = f" It differs in {', '.join(wrong[:4])}{' and more' if len(wrong) > 4 else ''}." if wrong else ""
        raise CheckpointError(f"{folder} holds a run of another recipe.{named} Use another folder.")
    return changed


def _stage_left(config: TrainConfig, position: RunPosition) -> int:
    """Return the first stage that is not finished."""
    stages = config.stages[position.stage :]
    return position.stage + (not stages or position.step >= stages[0].steps)


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        value = {str(place): one for place, one in enumerate(value)}
    if not isinstance(value, dict):
        return {path: value}
    found: dict[str, Any] = {}
    for key, one in value.items():
        found |= _flat(one, f"{path}.{key}" if path else key)
    return found
