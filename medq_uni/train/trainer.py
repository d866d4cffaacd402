"""Training by a recipe: stages, the loop, a step, checkpoints.

A step is here, what it meets is drawn in :mod:`medq_uni.train.sampling`, and its losses are computed in
:mod:`medq_uni.train.objective`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from medq_uni import __version__
from medq_uni.baselines.network import Baseline
from medq_uni.config_json import to_json
from medq_uni.errors import MedQError
from medq_uni.files import write_text
from medq_uni.model.medq import MedQ
from medq_uni.pretrained.memory import GIB
from medq_uni.seeding import generator_of
from medq_uni.tokenizer import Tokenizer
from medq_uni.train.checkpoint import (
    DIVERGED,
    RunPosition,
    TrainingState,
    WeightAverage,
    load_checkpoint,
    load_moments,
    save_checkpoint,
    sole_writer,
)
from medq_uni.train.memory import is_out_of_memory, stage_memory, what_needs_less, with_pairs
from medq_uni.train.objective import Losses
from medq_uni.train.optimizer import build_optimizer, choose_trainable, set_rate
from medq_uni.train.pace import PACE, TIMED_PAIRS, Pace, choose_pace, kept_pace
from medq_uni.train.parallel import DistContext, average_gradients, clip_gradients, dist_context
from medq_uni.train.prefetch import Prefetcher, next_seed
from medq_uni.train.recipe import TrainConfig, recipe_hash
from medq_uni.train.resume import GENERATED, RECIPE, Resumed, find_checkpoint
from medq_uni.train.run_log import Report, RunLogger
from medq_uni.train.run_pairs import RunPairs, check_dataset
from medq_uni.train.sampling import AnyBuilder, TrainBatch
from medq_uni.train.stage import StageConfig
from medq_uni.train.tasks import TrainingTask, training_task


class DivergenceError(MedQError):
    """A loss or gradient became NaN or infinite."""


class OutOfMemoryError(MedQError):
    """A step does not fit; says what makes it smaller."""


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How a recipe is run; nothing here changes what comes of it."""

    resume: bool = False
    """Go on from the newest checkpoint in the folder; without it a folder with a checkpoint is refused."""
    may_change: bool = False
    """Whether a resumed run may have other learning rates, batches and crops in the stages that are not finished
    (:func:`medq_uni.train.resume.is_changeable`)."""
    max_minutes: float | None = None
    """Stop, with a checkpoint, after this time."""
    workers: int = 1
    """Processes that draw the pairs, and where a GPU computes also the batches."""
    device: str | torch.device | None = None
    """Where to compute; a GPU where there is one. Processes that ``torchrun`` has started train together."""
    wandb: str | None = None
    """Project on wandb that gets the log too; None sends nothing anywhere."""
    pairs_folder: Path | None = None
    """Where drawn pairs are kept, for several runs on the same pairs; by default the folder of the run."""
    report: Report = lambda line: None
    """Called with every line of the log."""


@dataclass(frozen=True, eq=False)
class Trained:
    """What a run leaves: the averaged weights, and whether all stages are done."""

    model: MedQ | Baseline
    tokenizer: Tokenizer | None
    """None for a baseline, which reads no text."""
    is_finished: bool
    is_first: bool = True
    """Whether this process, of all that trained together, writes files and holds the model."""


@dataclass(eq=False)
class Run:
    """A run in one process."""

    config: TrainConfig
    folder: Path
    task: TrainingTask
    state: TrainingState
    """Weights, their average, the optimizer's moments and the random numbers."""
    position: RunPosition
    moments: Path | None = None
    """Checkpoint whose moments the next stage begins with."""
    logger: RunLogger | None = None
    """None in all processes but the first."""
    workers: int = 1
    pace: Pace | None = None
    """How steps are computed; None as long as no stage has begun."""
    validated_s: float = 0.0
    """Time that the validations of the present stage took."""

    @property
    def dist(self) -> DistContext:
        """The processes that train together."""
        return self.task.dist

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.task.device

    def log(self, event: str, stage: StageConfig, step: int, **values: object) -> None:
        """Write a line about a stage, in the first process."""
        if self.logger is not None:
            self.logger.write({"event": event, "stage": stage.name, "step": step, **values})


def train(config: TrainConfig, folder: Path, options: TrainOptions | None = None) -> Trained:
    """Run the stages of a recipe, or go on with a run that was stopped.

    Args:
        config: The recipe.
        folder: Where pairs, checkpoints and the log (``log.jsonl``, ``tensorboard/``, ``curves.png``) are kept; all
            processes must see it.
        options: How it is run.

    Raises:
        CheckpointError: If there is a checkpoint and the run is not to be resumed, it is of another recipe, or another
            run is writing to the folder.
        DivergenceError: If a loss is NaN or infinite; the moment before is kept, for
            :func:`medq_uni.train.replay.replay`.
        OutOfMemoryError: If a step does not fit into memory.
    """
    options, folder = options or TrainOptions(), Path(folder)
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    with dist_context(device) as dist, sole_writer(folder, dist):
        resumed = find_checkpoint(config, folder, dist, resume=options.resume, may_change=options.may_change)
        with open_run(config, folder, device, dist, resumed, options) as run:
            deadline = math.inf if options.max_minutes is None else time.monotonic() + 60 * options.max_minutes
            is_finished = run_stages(run, deadline)
        run.state.average.swap(run.task.model)
        return Trained(run.task.finished(), run.task.tokenizer, is_finished, dist.is_first)


@contextmanager
def open_run(
    config: TrainConfig,
    folder: Path,
    device: torch.device,
    dist: DistContext,
    resumed: Resumed | None,
    options: TrainOptions,
) -> Iterator[Run]:
    """Yield a run at its beginning, or where it goes on; its log is finished in the end.

    Args:
        config: The recipe.
        folder: Of the run.
        device: Where to compute.
        dist: The processes that train together.
        resumed: What it goes on from.
        options: How it is run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    logger = None
    if dist.is_first:
        write_text(folder / RECIPE, to_json(config))
        names = tuple(stage.name for stage in config.stages)
        logger = RunLogger(folder, names, wandb=options.wandb, report=options.report)
    try:
        place = options.pairs_folder or folder
        pairs = dist.in_turn(lambda: RunPairs.drawn(config, place, workers=options.workers, report=options.report))
        check_dataset(config, pairs, folder, dist, goes_on=resumed is not None)
        task = training_task(config, pairs, device, dist)
        average, is_new = WeightAverage(config.ema_decay), config.initial is None
        state = TrainingState(task.model, average, None, generator_of(config.seed), is_base_kept=is_new)
        begin = RunPosition(0, 0, 0.0, recipe_hash=recipe_hash(config), software=__version__)
        run = Run(config, folder, task, state, begin, logger=logger, workers=options.workers)
        if resumed is not None:
            _load(run, resumed)
            run.pace = None if config.bfloat16 is not None else dist.as_first_says(kept_pace(folder / PACE, device))
            if run.pace is not None:
                run.pace.use(task.model)
        yield run
    finally:
        if logger is not None:
            logger.close()


def run_stages(run: Run, deadline: float) -> bool:
    """Run the stages that are left until the deadline, a time of the monotonic clock; return whether all are done."""
    for number in range(run.position.stage, len(run.config.stages)):
        stage = run.config.stages[number]
        if number > run.position.stage:
            run.position, run.moments = replace(run.position, stage=number, step=0), None
        try:
            is_done = _run_stage(run, stage, deadline)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemoryError(what_needs_less(stage, run.task.smaller(), run.dist.world)) from error
        if not is_done:
            return False
    return True


def _run_stage(run: Run, stage: StageConfig, deadline: float) -> bool:
    model, is_gpu = run.task.model, run.device.type == "cuda"
    choose_trainable(model, run.config, stage)
    optimizer = build_optimizer(model, run.config, stage)
    run.state = replace(run.state, optimizer=optimizer)
    run.state.average.track(model)
    if run.moments is not None:
        load_moments(run.moments, model, optimizer)
    builder = builder_of(run, stage)
    seed = next_seed(generator_of(run.config.seed, run.position.stage))
    needed = stage_memory(model, builder, run.dist.world, seed, lambda batch: losses_of(run, stage, batch))
    run.log("memory", stage, run.position.step, **needed)
    _choose_pace(run, stage, builder, seed)
    workers = run.workers if is_gpu else 1  # else the cores are wanted for the computation
    prefetcher = Prefetcher(builder, run.state.generator.get_state(), workers=workers, pinned=is_gpu)
    try:
        return _run_steps(run, stage, prefetcher, optimizer, deadline)
    finally:
        prefetcher.close()


def _run_steps(
    run: Run, stage: StageConfig, prefetcher: Prefetcher, optimizer: torch.optim.AdamW, deadline: float
) -> bool:
    """Step until the stage is done or the deadline is over; return whether it is done."""
    config, dist = run.config, run.dist
    began = saved = time.monotonic()
    before, step, run.validated_s = run.position.seconds, run.position.step, 0.0

    def spent() -> float:
        return time.monotonic() - began

    if config.initial is not None and run.position.stage == step == 0:
        _validate(run, stage, step)  # what there was before
    while step < stage.steps:
        if dist.as_first_flags(time.monotonic() > deadline):
            break
        terms = train_step(run, stage, prefetcher, optimizer, step)
        step += 1
        if step % config.log_interval == 0:
            _log_losses(run, stage, step, terms, seconds=before + spent(), waited=prefetcher.seconds / spent())
        if step % config.validation_interval == 0 or step == stage.steps:
            _validate(run, stage, step)
        if dist.as_first_flags(time.monotonic() - saved > 60 * config.save_interval_minutes):
            _save(run, step, before + spent())
            saved = time.monotonic()
    _save(run, step, before + spent())
    _log_pace(run, stage, step, prefetcher, spent() - run.validated_s)
    return step >= stage.steps


def train_step(run: Run, stage: StageConfig, prefetcher: Prefetcher, optimizer: torch.optim.AdamW, step: int) -> Losses:
    """Take the next batch, move the weights and their average, and return the losses, unweighted.

    Raises:
        DivergenceError: If a loss or the gradient is not finite; the weights are not moved.
    """
    set_rate(optimizer, stage, step)
    generator = prefetcher.state
    terms, total = losses_of(run, stage, prefetcher.take())
    if run.dist.any(not math.isfinite(total.item())):
        raise _diverged(run, stage, step, terms, generator)
    optimizer.zero_grad(set_to_none=True)
    total.backward()
    learning = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    average_gradients(learning, run.dist)
    norm = clip_gradients(learning, run.config.gradient_clip, run.dist)
    if not math.isfinite(norm):
        raise _diverged(run, stage, step, {**terms, "gradient": torch.tensor(norm)}, generator)
    optimizer.step()
    run.state.average.update(run.task.model)
    run.state.generator.set_state(prefetcher.state)
    return terms


def _choose_pace(run: Run, stage: StageConfig, builder: AnyBuilder, seed: int) -> None:
    """Time how a step is fastest, where the recipe leaves that open."""
    if run.config.bfloat16 is not None or run.pace is not None:
        return
    batch = with_pairs(builder, TIMED_PAIRS * run.dist.world).build(seed)

    def loss(pace: Pace) -> Tensor:
        run.pace = pace
        return losses_of(run, stage, batch)[1]

    run.pace, times = choose_pace(run.task.model, loss, run.folder / PACE, device=run.device, dist=run.dist)
    run.pace.use(run.task.model)
    for pace, seconds in times.items():
        pairs_per_s = round(len(batch.crops.index) / seconds, 2)
        run.log("timed", stage, run.position.step, **asdict(pace), samples_per_s=pairs_per_s)
    run.log("numbers", stage, run.position.step, **asdict(run.pace))


def losses_of(run: Run, stage: StageConfig, batch: TrainBatch) -> tuple[Losses, Tensor]:
    """Return the loss terms of a batch, and their weighted sum."""
    bfloat16 = run.config.bfloat16 if run.pace is None else run.pace.bfloat16
    with torch.autocast(run.device.type, torch.bfloat16, enabled=bool(bfloat16)):
        terms = run.task.objective.losses(batch)
    weights, zero = asdict(stage.losses), torch.zeros((), device=run.device)
    return terms, sum((weights.get(name, 1.0) * value for name, value in terms.items()), zero)


def builder_of(run: Run, stage: StageConfig) -> AnyBuilder:
    """Return what draws the batches of the present stage of a run."""
    return run.task.builder(stage, run.folder / GENERATED.format(run.position.stage), averaged_weights(run))


def averaged_weights(run: Run) -> Callable[[], AbstractContextManager[None]]:
    """Return what gives the network its averaged weights, and evaluation mode, for a while."""

    @contextmanager
    def averaged() -> Iterator[None]:
        model = run.task.model
        run.state.average.swap(model)
        model.eval()
        yield
        run.state.average.swap(model)
        model.train()

    return averaged


def _load(run: Run, resumed: Resumed) -> None:
    """Go on from a checkpoint."""
    load_checkpoint(resumed.path, run.state, resumed.position)
    run.moments, run.position = resumed.path, resumed.position
    stage, step = run.config.stages[resumed.position.stage], resumed.position.step
    if run.logger is not None:
        run.logger.forget_after(resumed.position.stage, step)
    run.log("resumed", stage, step)
    if resumed.changed_keys:
        run.log("recipe changed", stage, step, keys=resumed.changed_keys)


def _save(run: Run, step: int, seconds: float, name: str = "") -> None:
    updates = run.state.average.updates
    run.position = replace(run.position, step=step, seconds=seconds, updates=updates)
    save_checkpoint(run.folder, run.state, run.position, run.dist, name)


def _diverged(run: Run, stage: StageConfig, step: int, terms: Losses, generator: Tensor) -> DivergenceError:
    """Keep the moment before the step, and return the error that names its losses."""
    run.state.generator.set_state(generator)
    _save(run, step, run.position.seconds, name=DIVERGED)
    found = ", ".join(f"{name} {float(value.detach()):g}" for name, value in terms.items())
    return DivergenceError(
        f"stage {stage.name!r}, step {step}: not finite ({found}). Weights and batch of that moment are in "
        f"{run.folder / DIVERGED}; compute it again with --replay. To go on from the last checkpoint, lower "
        "the learning rate of this stage in the recipe and --resume."
    )


def _validate(run: Run, stage: StageConfig, step: int) -> None:
    began = time.monotonic()
    with averaged_weights(run)():
        scores = {name: round(value, 4) for name, value in run.task.validate(stage).items()}
    run.log("validation", stage, step, **scores)
    run.validated_s += time.monotonic() - began


def _log_losses(run: Run, stage: StageConfig, step: int, terms: Losses, *, seconds: float, waited: float) -> None:
    values = {name: round(run.dist.mean(float(value.detach())), 5) for name, value in terms.items()}
    run.log("step", stage, step, steps=stage.steps, seconds=round(seconds, 1), waited=round(waited, 4), **values)


def _log_pace(run: Run, stage: StageConfig, step: int, prefetcher: Prefetcher, seconds: float) -> None:
    """Log samples per second since a stage was begun or gone on with, and the share of time that waited."""
    if not prefetcher.samples:
        return
    pace = {"samples_per_s": round(prefetcher.samples / seconds, 2), "waited": round(prefetcher.seconds / seconds, 4)}
    if run.device.type == "cuda":
        pace["peak_gib"] = round(torch.cuda.max_memory_allocated(run.device) / GIB, 3)
    run.log("pace", stage, step, **pace)
