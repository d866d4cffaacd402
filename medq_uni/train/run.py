"""A run in one process: pairs, network, stages, steps, checkpoints."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import torch

from medq_uni import __version__
from medq_uni.config import ConfigError
from medq_uni.config_json import to_json
from medq_uni.data.dataset_pairs import DatasetPairs
from medq_uni.data.pair_cache import TrainingPairs, build_pair_cache
from medq_uni.data.pairs import PairsConfig
from medq_uni.errors import MedQError
from medq_uni.files import write_text
from medq_uni.pretrained.memory import GIB
from medq_uni.seeding import generator_of
from medq_uni.train.checkpoint import (
    DIVERGED,
    CheckpointError,
    Progress,
    TrainingState,
    WeightAverage,
    load_checkpoint,
    load_moments,
    newest_checkpoint,
    save_checkpoint,
)
from medq_uni.train.memory import SavedBytes, held_bytes
from medq_uni.train.objective import Losses
from medq_uni.train.optimizer import build_optimizer, choose_trainable, set_rate
from medq_uni.train.parallel import DistContext, average_gradients, clip_gradients
from medq_uni.train.recipe import StageConfig, TrainConfig, differences, is_changeable, read_recipe, recipe_hash
from medq_uni.train.run_log import LOG, Report, RunLogger
from medq_uni.train.sampling import BaselineBatchBuilder, BatchBuilder, Prefetcher, TrainBatch, next_seed
from medq_uni.train.tasks import TrainingTask, training_task

RECIPE, GENERATED, DATASET = "recipe.json", "generated-{}.json", "dataset.sha256"
"""The recipe of a run, what its model wrote about the pairs when a stage began, and the hash of a built dataset."""


class DivergenceError(MedQError):
    """A loss or gradient became NaN or infinite."""


class OutOfMemoryError(MedQError):
    """A step does not fit; says what makes it smaller."""


class Run:
    """State of one run in one process."""

    def __init__(
        self, config: TrainConfig, folder: Path, device: torch.device, dist: DistContext, pools: Path | None = None
    ) -> None:
        self.config, self.folder, self.device, self.dist = config, folder, device, dist
        self.pools = pools or folder
        self.hash = recipe_hash(config)
        self.progress = Progress(stage=0, step=0, seconds=0.0, recipe_hash=self.hash, software=__version__)
        self.loaded: Path | None = None
        self.changed: list[str] = []
        self.validated, self.goes_on = 0.0, False
        self.journal: RunLogger | None = None
        self.workers = 1

    def find(self, resume: bool, may_change: bool = False) -> tuple[Path, Progress] | None:
        """Return the checkpoint to go on from, refuse one that is in the way.

        Args:
            resume: Whether to go on at all.
            may_change: Whether to go on with other learning rates, batches and crops of the stages that are left.
        """
        first = self.dist.is_first
        found, before = self.dist.as_first_says(self._kept() if first else (None, None))
        if found is None:
            return None
        if not resume:
            raise CheckpointError(
                f"{self.folder} holds a run already. Pass --resume to go on with it, or another folder."
            )
        path, progress = found
        self.goes_on = True
        if progress.recipe_hash != self.hash:
            self._refuse_another(before, progress if may_change else None)
        if first and progress.software != __version__:
            warnings.warn(
                f"{self.folder}: the checkpoint is of {progress.software or 'an earlier version'} of medq-uni, this is "
                f"{__version__}. Later batches may differ from those of a run by one version.",
                stacklevel=2,
            )
        return path, replace(progress, recipe_hash=self.hash, software=__version__)

    def _kept(self) -> tuple[tuple[Path, Progress] | None, TrainConfig | ConfigError | None]:
        """Return the newest checkpoint and the recipe of the run, or why it cannot be read; clear away what is left.

        A run without any checkpoint leaves nothing that another one may use.
        """
        found, path = newest_checkpoint(self.folder), self.folder / RECIPE
        if found is None:
            for left in (self.folder / LOG, *self.folder.glob(GENERATED.format("*"))):
                left.unlink(missing_ok=True)  # about weights that were never kept, and perhaps other pairs
            return None, None
        if found[1].recipe_hash == self.hash or not path.is_file():
            return found, None
        try:
            before = read_recipe(path)
        except ConfigError as error:  # of a version with other keys
            return found, error
        return found, before if recipe_hash(before) == found[1].recipe_hash else None

    def _refuse_another(self, before: TrainConfig | ConfigError | None, progress: Progress | None) -> None:
        """Refuse to go on with a recipe that differs in more than what may change; None lets nothing change."""
        if isinstance(before, ConfigError):
            raise CheckpointError(
                f"{self.folder} holds a run whose recipe this version cannot read, so it cannot go on: {before} "
                "Use another folder, or go on with the version that began it."
            ) from before
        self.changed = [] if before is None else differences(before, self.config)
        stage = None if progress is None else self._stage_left(progress)
        wrong = [key for key in self.changed if stage is None or not is_changeable(key, stage)]
        if before is None or wrong:
            named = f" It differs in {', '.join(wrong[:4])}{' and more' if len(wrong) > 4 else ''}." if wrong else ""
            raise CheckpointError(f"{self.folder} holds a run of another recipe.{named} Use another folder.")

    def _stage_left(self, progress: Progress) -> int:
        """Return the first stage that is not finished."""
        stages = self.config.stages[progress.stage :]
        return progress.stage + (not stages or progress.step >= stages[0].steps)

    def prepare(self, workers: int, report: Report, wandb: str | None) -> None:
        """Build or open the pools and the model; ``workers`` processes draw pairs and, for a GPU, steps."""
        self.workers = workers
        config, folder, dist = self.config, self.folder, self.dist
        folder.mkdir(parents=True, exist_ok=True)
        names = tuple(stage.name for stage in config.stages)
        if dist.is_first:
            write_text(folder / RECIPE, to_json(config))
            self.journal = RunLogger(folder, names, wandb=wandb, report=report)
        pools = dist.in_turn(lambda: self._pools(workers, report))
        self.learner = training_task(config, *pools, self.device, dist)
        self.model = self.learner.model
        self.state = TrainingState(
            self.model,
            WeightAverage(config.ema_decay),
            None,
            generator_of(config.seed),
            is_base_kept=config.initial is None,
        )

    def load(self, path: Path, progress: Progress) -> None:
        """Go on from a checkpoint."""
        load_checkpoint(path, self.state, progress)
        self.loaded, self.progress = path, progress
        if self.journal is not None:
            self.journal.forget_after(progress.stage, progress.step)
            place = {"stage": self.config.stages[progress.stage].name, "step": progress.step}
            self.journal.write({"event": "resumed", **place})
            if self.changed:
                self.journal.write({"event": "recipe changed", **place, "keys": self.changed})

    def close(self) -> None:
        """Finish the log."""
        if self.journal is not None:
            self.journal.close()

    def _pools(self, workers: int, report: Report) -> tuple[TrainingPairs, TrainingPairs]:
        def drawn(name: str, pairs: PairsConfig) -> TrainingPairs:
            def progress(done: int, total: int) -> None:
                report({"event": name, "step": done, "steps": total})

            return build_pair_cache(pairs, self.pools / name, workers=workers, progress=progress)

        config = self.config
        if config.pairs is not None:
            pool = drawn("train_pairs", config.pairs)
        else:
            assert config.dataset is not None, "checked by the recipe"
            pool = DatasetPairs(config.dataset, "train")
            self._refuse_another_dataset(pool.content_sha256)
        return pool, drawn("val_pairs", config.val_pairs)

    def _refuse_another_dataset(self, sha256: str) -> None:
        """Remember which dataset a run is trained on, and refuse to go on with a later build at the same path."""
        path = self.folder / DATASET
        before = path.read_text(encoding="utf-8").strip() if self.goes_on and path.is_file() else sha256
        if before != sha256:
            raise CheckpointError(
                f"{self.config.dataset} is another dataset than the run in {self.folder} began with (content sha256 "
                f"{sha256[:12]}, not {before[:12]}). Give that one with --dataset, or train in another folder."
            )
        if self.dist.is_first:
            write_text(path, sha256 + "\n")

    def go(self, deadline: float) -> bool:
        """Run the remaining stages until the deadline; return whether all are done."""
        for number in range(self.progress.stage, len(self.config.stages)):
            if number > self.progress.stage:
                self.progress = replace(self.progress, stage=number, step=0)
                self.loaded = None
            try:
                is_done = self._stage(self.config.stages[number], deadline)
            except (MemoryError, RuntimeError) as error:
                if not _is_full(error):
                    raise
                raise OutOfMemoryError(_smaller(self.config.stages[number], self.learner, self.dist)) from error
            if not is_done:
                return False
        return True

    def drawer(self, stage: StageConfig) -> BatchBuilder | BaselineBatchBuilder:
        """Return what draws the steps of a stage."""
        return self.learner.drawer(stage, self.folder / GENERATED.format(self.progress.stage), self._averaged)

    def _stage(self, stage: StageConfig, deadline: float) -> bool:
        choose_trainable(self.model, self.config, stage)
        optimizer = build_optimizer(self.model, self.config, stage)
        self.state = replace(self.state, optimizer=optimizer)
        self.state.average.track(self.model)
        if self.loaded is not None:
            load_moments(self.loaded, self.model, optimizer)
        drawer = self.drawer(stage)
        self._tell_memory(drawer)
        is_gpu = self.device.type == "cuda"
        workers = self.workers if is_gpu else 1  # else the cores are wanted for the computation
        feed = Prefetcher(drawer, self.state.generator.get_state(), workers=workers, pinned=is_gpu)
        try:
            return self._steps(stage, feed, optimizer, deadline)
        finally:
            feed.close()

    def _steps(self, stage: StageConfig, feed: Prefetcher, optimizer: torch.optim.AdamW, deadline: float) -> bool:
        dist = self.dist
        began = saved = time.monotonic()
        before, step, self.validated = self.progress.seconds, self.progress.step, 0.0

        def spent() -> float:
            return time.monotonic() - began

        if self.config.initial is not None and self.progress.stage == step == 0:
            self._validate(stage, step)  # what there was before
        while step < stage.steps:
            if dist.as_first_flags(time.monotonic() > deadline):
                break
            terms = self._step(stage, feed, optimizer, step)
            step += 1
            if step % self.config.log_every == 0:
                self._log(stage, step, terms, before + spent(), feed.seconds / spent())
            if step % self.config.validate_every == 0 or step == stage.steps:
                self._validate(stage, step)
            if dist.as_first_flags(time.monotonic() - saved > 60 * self.config.checkpoint_minutes):
                self._save(step, before + spent())
                saved = time.monotonic()
        self._save(step, before + spent())
        self._tell_pace(stage, step, feed, spent() - self.validated)
        return step >= stage.steps

    def _tell_memory(self, drawer: BatchBuilder | BaselineBatchBuilder) -> None:
        """Log what the stage will need: what must be held, and activations as one sample of a batch keeps them."""
        stage, world = drawer.stage, self.dist.world
        largest = drawer.shapes[-1]
        # the largest objective of a stage, with its largest crops; every process computes one sample
        sample = replace(stage, batch_size=world, token_budget=0, crop_size=largest.side, crop_sizes=())
        one = replace(drawer, stage=replace(sample, assess_share=0.0, noise_start=0.0))
        with SavedBytes(self.model) as saved:
            self.losses(stage, one.draw(next_seed(generator_of(self.config.seed, self.progress.stage))))
        if self.journal is not None:
            activations = saved.total * largest.count // world
            values = {"held_gib": held_bytes(self.model) / GIB, "activations_gib": activations / GIB}
            line = {"event": "memory", "stage": stage.name, "step": self.progress.step}
            self.journal.write({**line, **{name: round(value, 3) for name, value in values.items()}})

    def losses(self, stage: StageConfig, draw: TrainBatch) -> tuple[Losses, torch.Tensor]:
        """Return the loss terms of a step, and their weighted sum."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bfloat16):
            terms = self.learner.losses(draw)
        weights = asdict(stage.weights)
        zero = torch.zeros((), device=self.device)
        return terms, sum((weights.get(name, 1.0) * value for name, value in terms.items()), zero)

    def _step(self, stage: StageConfig, feed: Prefetcher, optimizer: torch.optim.AdamW, step: int) -> Losses:
        set_rate(optimizer, stage, step)
        before, dist = feed.state, self.dist
        terms, total = self.losses(stage, feed.take())
        if dist.any(not math.isfinite(total.item())):
            raise self._diverged(stage, step, terms, before)
        optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        learning = [p for group in optimizer.param_groups for p in group["params"]]
        average_gradients(learning, dist)
        norm = clip_gradients(learning, self.config.gradient_clip, dist)
        if not math.isfinite(norm):
            raise self._diverged(stage, step, {**terms, "gradient": torch.tensor(norm)}, before)
        optimizer.step()
        self.state.average.update(self.model)
        self.state.generator.set_state(feed.state)
        return terms

    def _diverged(self, stage: StageConfig, step: int, terms: Losses, generator: torch.Tensor) -> DivergenceError:
        """Keep the moment before the step, and return the error that names its losses."""
        self.state.generator.set_state(generator)
        self._save(step, self.progress.seconds, name=DIVERGED)
        found = ", ".join(f"{name} {float(value.detach()):g}" for name, value in terms.items())
        return DivergenceError(
            f"stage {stage.name!r}, step {step}: not finite ({found}). Weights and batch of that moment are in "
            f"{self.folder / DIVERGED}; compute it again with --replay. To go on from the last checkpoint, lower "
            "the learning rate of this stage in the recipe and --resume."
        )

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Give the network its averaged weights, and evaluation mode, for a while."""
        self.state.average.swap(self.model)
        self.model.eval()
        yield
        self.state.average.swap(self.model)
        self.model.train()

    def _validate(self, stage: StageConfig, step: int) -> None:
        began = time.monotonic()
        with self._averaged():
            scores = {name: round(value, 4) for name, value in self.learner.validate(stage).items()}
        if self.journal is not None:
            self.journal.write({"event": "validation", "stage": stage.name, "step": step, **scores})
        self.validated += time.monotonic() - began

    def _tell_pace(self, stage: StageConfig, step: int, feed: Prefetcher, seconds: float) -> None:
        """Log samples per second since a stage was begun or gone on with, and the share of time that waited."""
        if self.journal is None or not feed.samples:
            return
        pace = {"samples_per_s": round(feed.samples / seconds, 2), "waited": round(feed.seconds / seconds, 4)}
        if self.device.type == "cuda":
            pace["peak_gib"] = round(torch.cuda.max_memory_allocated(self.device) / GIB, 3)
        self.journal.write({"event": "pace", "stage": stage.name, "step": step, **pace})

    def _save(self, step: int, seconds: float, name: str = "") -> None:
        updates = self.state.average.updates
        self.progress = replace(self.progress, step=step, seconds=seconds, updates=updates)
        save_checkpoint(self.folder, self.state, self.progress, self.dist, name)

    def _log(self, stage: StageConfig, step: int, terms: Losses, seconds: float, waited: float) -> None:
        values = {name: round(self.dist.mean(float(value.detach())), 5) for name, value in terms.items()}
        if self.journal is not None:
            line = {"event": "step", "stage": stage.name, "step": step, "steps": stage.steps}
            self.journal.write({**line, "seconds": round(seconds, 1), "waited": round(waited, 4), **values})


def _is_full(error: Exception) -> bool:
    """Return whether an error says that memory is full, that of a GPU or of the machine."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)


def _smaller(stage: StageConfig, learner: TrainingTask, dist: DistContext) -> str:
    key, size = ("token_budget", stage.token_budget) if stage.token_budget else ("batch_size", stage.batch_size)
    crops, side = ("crop_sizes", max(stage.crop_sizes)) if stage.crop_sizes else ("crop_size", stage.crop_size)
    ways = [f"{key} below {size}", f"{crops} below {side}", *learner.smaller()]
    ways += [f"more processes than {dist.world}"]
    listed = ", ".join(ways)
    return f"stage {stage.name!r}: out of memory. Any of these needs less: {listed}. Change the recipe and --resume."
