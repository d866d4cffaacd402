"""Training by a recipe: start, go on, and compute a step that diverged once more."""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from medq_uni.baselines.network import Baseline
from medq_uni.model.medq import MedQ
from medq_uni.tokenizer import Tokenizer
from medq_uni.train.checkpoint import DIVERGED, CheckpointError, newest_checkpoint, sole_writer
from medq_uni.train.optimizer import choose_trainable
from medq_uni.train.parallel import DistContext, dist_context
from medq_uni.train.recipe import TrainConfig
from medq_uni.train.run import DivergenceError, OutOfMemoryError, Run
from medq_uni.train.run_log import Report
from medq_uni.train.sampling import next_seed

__all__ = ["CheckpointError", "DivergenceError", "OutOfMemoryError", "Trained", "replay", "train"]


@dataclass(frozen=True, eq=False)
class Trained:
    """What a run leaves: the averaged weights, and whether all stages are done."""

    model: MedQ | Baseline
    tokenizer: Tokenizer | None
    """None for a baseline, which reads no text."""
    is_finished: bool
    is_first: bool = True
    """Whether this process, of all that trained together, writes files and holds the model."""


def train(
    config: TrainConfig,
    folder: Path,
    *,
    resume: bool = False,
    may_change: bool = False,
    max_minutes: float | None = None,
    workers: int = 1,
    device: str | torch.device | None = None,
    wandb: str | None = None,
    pools: Path | None = None,
    report: Report | None = None,
) -> Trained:
    """Run the stages of a recipe, or go on with a run that was stopped.

    Args:
        config: The recipe.
        folder: Where pools, checkpoints and the log (``log.jsonl``, ``tensorboard/``, ``curves.png``) are kept; all
            processes must see it.
        resume: Go on from the newest checkpoint in ``folder``; without it a folder with a checkpoint is refused.
        may_change: Whether a resumed run may have other learning rates, batches and crops in the stages that are not
            finished (:func:`medq_uni.train.recipe.is_changeable`).
        max_minutes: Stop, with a checkpoint, after this time.
        workers: Processes that draw the pairs, and where a GPU computes also the steps.
        device: Where to compute; a GPU where there is one. Processes that ``torchrun`` has started train together.
        wandb: Project on wandb that gets the log too; None sends nothing anywhere.
        pools: Where drawn pairs are kept, for several runs on the same pairs; by default ``folder``.
        report: Called with every line of the log.

    Raises:
        CheckpointError: If there is a checkpoint and ``resume`` is false, it is of another recipe, or another run is
            writing to the folder.
        DivergenceError: If a loss is NaN or infinite; the moment before is kept, for :func:`replay`.
        OutOfMemoryError: If a step does not fit into memory.
    """
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    with dist_context(where) as dist, sole_writer(Path(folder), dist):
        run = Run(config, Path(folder), where, dist, pools)
        found = run.find(resume, may_change)
        run.prepare(workers, report or (lambda line: None), wandb)
        if found is not None:
            run.load(*found)
        try:
            deadline = math.inf if max_minutes is None else time.monotonic() + 60 * max_minutes
            is_finished = run.go(deadline)
        finally:
            run.close()
        run.state.average.swap(run.model)
        return Trained(run.learner.finished(), run.learner.tokenizer, is_finished, dist.is_first)


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
    run = Run(config, Path(folder), torch.device(device), DistContext())
    if not (run.folder / DIVERGED).is_dir():
        raise CheckpointError(f"{folder} holds no step that diverged ({DIVERGED} is missing).")
    with sole_writer(run.folder, run.dist):
        return _replay(run)


def _replay(run: Run) -> tuple[dict[str, float], str]:
    found = newest_checkpoint(run.folder, DIVERGED)
    assert found is not None, "a named checkpoint is read or refused"
    if found[1].recipe_hash != run.hash:
        raise CheckpointError(
            f"the step in {run.folder / DIVERGED} is of another recipe. Give that of the run, with its --source."
        )
    run.goes_on = True
    run.prepare(1, lambda line: None, None)
    run.load(*found)
    stage = run.config.stages[run.progress.stage]
    choose_trainable(run.model, run.config, stage)
    try:
        terms, total, fault = *run.losses(stage, run.drawer(stage).draw(next_seed(run.state.generator))), ""
        with torch.autograd.set_detect_anomaly(True), warnings.catch_warnings(action="ignore"):
            total.backward()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        fault = str(error)
    finally:
        run.close()
    return {name: float(value.detach()) for name, value in terms.items()}, fault
