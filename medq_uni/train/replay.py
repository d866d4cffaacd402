"""Computing a step that diverged once more."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from medq_uni.train.checkpoint import DIVERGED, CheckpointError, newest_checkpoint, sole_writer
from medq_uni.train.optimizer import choose_trainable
from medq_uni.train.parallel import DistContext
from medq_uni.train.prefetch import next_seed
from medq_uni.train.recipe import TrainConfig, recipe_hash
from medq_uni.train.resume import Resumed
from medq_uni.train.trainer import Run, TrainOptions, builder_of, losses_of, open_run


def replay(config: TrainConfig, folder: Path, *, device: str | torch.device = "cpu") -> tuple[dict[str, float], str]:
    """Compute the step at which a run diverged once more.

    Returns:
        Its loss terms, and the operation whose gradient was the first to be NaN, in autograd's words; empty where the
        gradients are finite.

    Args:
        config: Recipe of the run.
        folder: Folder of the run.
        device: Where to compute.

    Raises:
        CheckpointError: If the run did not diverge, was of another recipe, or is being written.
    """
    folder, dist = Path(folder), DistContext()
    if not (folder / DIVERGED).is_dir():
        raise CheckpointError(f"{folder} holds no step that diverged ({DIVERGED} is missing).")
    with sole_writer(folder, dist):
        found = newest_checkpoint(folder, DIVERGED)
        assert found is not None, "a named checkpoint is read or refused"
        if found[1].recipe_hash != recipe_hash(config):
            raise CheckpointError(
                f"the step in {folder / DIVERGED} is of another recipe. Give that of the run, with its --source."
            )
        with open_run(config, folder, torch.device(device), dist, Resumed(*found), TrainOptions()) as run:
            return _replayed(run)


def _replayed(run: Run) -> tuple[dict[str, float], str]:
    stage, fault = run.config.stages[run.position.stage], ""
    choose_trainable(run.task.model, run.config, stage)
    batch = builder_of(run, stage).build(next_seed(run.state.generator))
    terms, total = losses_of(run, stage, batch)
    try:
        with torch.autograd.set_detect_anomaly(True), warnings.catch_warnings(action="ignore"):
            total.backward()
    except RuntimeError as error:
        fault = str(error)
    return {name: float(value.detach()) for name, value in terms.items()}, fault
