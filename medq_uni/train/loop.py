"""One training loop for every stage and size: batches, losses, optimizer, average, checkpoints."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medq_uni.config import to_json
from medq_uni.data.batches import BatchSampler
from medq_uni.data.pairs import generator_of
from medq_uni.data.pool import build_pool
from medq_uni.model.medq import MedQ, codec_module
from medq_uni.pretrained import folder_of, load_pretrained
from medq_uni.tokenizer import Tokenizer
from medq_uni.train.checkpoint import (
    CheckpointError,
    Progress,
    WeightAverage,
    read_checkpoint,
    restore,
    restore_optimizer,
    save_checkpoint,
)
from medq_uni.train.generated import describe_pool
from medq_uni.train.recipe import Group, StageConfig, TrainConfig
from medq_uni.train.steps import Losses, Stepper
from medq_uni.train.validate import validate

log = logging.getLogger(__name__)
Report = Callable[[dict[str, Any]], None]
CALIBRATION_PAIRS = 256
IR_PREFIXES = ("vae2llm.", "llm2vae.", "shrinkage.", "time_embedder.")


class DivergenceError(RuntimeError):
    """A loss became NaN or infinite."""


@dataclass(frozen=True, eq=False)
class Trained:
    """What a run leaves: the averaged weights, and whether all stages are done."""

    model: MedQ
    tokenizer: Tokenizer
    is_finished: bool


def group_of(name: str) -> Group:
    """Return which trainable group a parameter belongs to, by its name."""
    if name.startswith("codec."):
        return "spread" if name.startswith("codec.spread.") else "decoder"
    return "ir" if ".ir." in name or name.startswith(IR_PREFIXES) else "iqa"


def learning_rate(stage: StageConfig, step: int) -> float:
    """Return the rate of step ``step``: linear warm-up, then a cosine to zero."""
    if step < stage.warmup_steps:
        return stage.learning_rate * (step + 1) / stage.warmup_steps
    done = (step - stage.warmup_steps) / max(stage.steps - stage.warmup_steps, 1)
    return stage.learning_rate * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def train(
    config: TrainConfig,
    folder: Path,
    *,
    resume: bool = False,
    max_minutes: float | None = None,
    workers: int = 1,
    report: Report | None = None,
) -> Trained:
    """Run the stages of a recipe, or go on with a run that was stopped.

    Args:
        config: The recipe.
        folder: Where pools, checkpoints and the log (``log.jsonl``) are kept.
        resume: Go on from the checkpoint in ``folder``; without it a folder with a checkpoint is refused.
        max_minutes: Stop, with a checkpoint, after this time.
        workers: Processes that draw the pairs.
        report: Called with every line of the log.

    Raises:
        CheckpointError: If there is a checkpoint and ``resume`` is false, or it is of another recipe.
        DivergenceError: If a loss is NaN or infinite; the last checkpoint stays.
    """
    run = _Run(config, Path(folder), report or (lambda line: None))
    run.prepare(workers, resume)
    deadline = math.inf if max_minutes is None else time.monotonic() + 60 * max_minutes
    is_finished = run.go(deadline)
    run.average.swap(run.model)
    return Trained(run.model.eval(), run.tokenizer, is_finished)


class _Run:
    """State of one run."""

    def __init__(self, config: TrainConfig, folder: Path, report: Report) -> None:
        self.config, self.folder, self.report = config, folder, report
        self.hash = hashlib.sha256(to_json(config).encode()).hexdigest()
        self.generator = generator_of(config.seed)
        self.progress = Progress(stage=0, step=0, seconds=0.0, recipe_hash=self.hash)
        self.tensors: dict[str, torch.Tensor] = {}

    def prepare(self, workers: int, resume: bool) -> None:
        """Build or open the pools, the model and, on resume, the state."""
        config, folder = self.config, self.folder
        found = read_checkpoint(folder)
        if found is not None and not resume:
            raise CheckpointError(f"{folder} holds a run already. Pass --resume to go on with it, or another folder.")
        folder.mkdir(parents=True, exist_ok=True)
        self.pool, self.val_pool = (
            build_pool(pairs, folder / name, workers=workers, progress=self._pool_progress(name))
            for name, pairs in (("train_pairs", config.pairs), ("val_pairs", config.val_pairs))
        )
        tokenizer = Path(config.tokenizer)
        if not tokenizer.is_file():
            tokenizer = folder_of(config.tokenizer) / "tokenizer.json"
        self.tokenizer = Tokenizer.from_file(tokenizer)
        self.model = self._initial_model()
        self.average = WeightAverage(self.model, config.ema_decay)
        (folder / "recipe.json").write_text(to_json(config), encoding="utf-8")
        if found is not None:
            self.tensors, self.progress, updates = found
            if self.progress.recipe_hash != self.hash:
                raise CheckpointError(f"{folder} holds a run of another recipe. Use another folder.")
            restore(self.tensors, updates, model=self.model, average=self.average, generator=self.generator)
        codec_module(self.model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _initial_model(self) -> MedQ:
        if self.config.initial is not None:
            return load_pretrained(self.config.initial).model.train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            model = MedQ(self.config.model)
        codec = model.codec
        if hasattr(codec, "calibrate"):
            count = min(CALIBRATION_PAIRS, len(self.pool))
            codec.calibrate(torch.stack([self.pool.views(i)[0] for i in range(count)]))
        return model.train()

    def go(self, deadline: float) -> bool:
        """Run the remaining stages until the deadline; return whether all are done."""
        for number in range(self.progress.stage, len(self.config.stages)):
            if number > self.progress.stage:
                self.progress = replace(self.progress, stage=number, step=0)
                self.tensors = {}
            if not self._stage(self.config.stages[number], deadline):
                return False
        return True

    def _stage(self, stage: StageConfig, deadline: float) -> bool:
        optimizer = self._optimizer(stage)
        restore_optimizer(self.tensors, self.model, optimizer)
        token_pixels = self.config.model.token_pixels
        sampler = BatchSampler(self.pool, token_pixels=token_pixels, emphasis=stage.emphasis)
        generated = self._generated(stage)
        stepper = Stepper(self.model, self.tokenizer, stage, sampler, generated)
        began, saved, step = time.monotonic(), time.monotonic(), self.progress.step
        before = self.progress.seconds
        while step < stage.steps:
            if time.monotonic() > deadline:
                self._save(optimizer, step, before + time.monotonic() - began)
                return False
            terms = self._step(stepper, stage, optimizer, step)
            step += 1
            if step % 10 == 0:
                self._log(stage, step, terms, before + time.monotonic() - began)
            if step % self.config.validate_every == 0 or step == stage.steps:
                self._validate(stage, step)
            if time.monotonic() - saved > 60 * self.config.checkpoint_minutes:
                self._save(optimizer, step, before + time.monotonic() - began)
                saved = time.monotonic()
        self._save(optimizer, step, before + time.monotonic() - began)
        return True

    def _step(self, stepper: Stepper, stage: StageConfig, optimizer: torch.optim.Optimizer, step: int) -> Losses:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(stage, step)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.bfloat16):
            terms = stepper.losses(self.generator)
        weights = asdict(stage.weights)
        total = sum((weights[name] * value for name, value in terms.items()), torch.zeros(()))
        if not torch.isfinite(total):
            found = ", ".join(f"{name} {float(value.detach()):g}" for name, value in terms.items())
            raise DivergenceError(
                f"stage {stage.name!r}, step {step}: the loss is {float(total.detach()):g} ({found}). "
                "Lower the learning rate."
            )
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        learning = [p for group in optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(learning, self.config.gradient_clip)
        optimizer.step()
        self.average.update(self.model)
        return terms

    def _optimizer(self, stage: StageConfig) -> torch.optim.AdamW:
        decayed: list[nn.Parameter] = []
        plain: list[nn.Parameter] = []
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(group_of(name) in stage.trainable)
            if parameter.requires_grad:
                (decayed if parameter.ndim > 1 else plain).append(parameter)
        groups = [
            {"params": decayed, "weight_decay": self.config.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=stage.learning_rate, betas=self.config.betas)

    def _generated(self, stage: StageConfig) -> dict[int, list[int]]:
        """Return what the model itself writes about the pool at the start of a joint stage."""
        if stage.layout != "joint" or stage.text.generated <= 0:
            return {}
        path = self.folder / f"generated-{self.progress.stage}.json"
        if not path.is_file():
            self.average.swap(self.model)
            texts = describe_pool(self.model.eval(), self.tokenizer, self.pool, stage.text.max_generated)
            self.average.swap(self.model)
            self.model.train()
            path.write_text(json.dumps(texts))
        return {int(index): ids for index, ids in json.loads(path.read_text()).items()}

    def _validate(self, stage: StageConfig, step: int) -> None:
        self.average.swap(self.model)
        scores = validate(self.model.eval(), self.tokenizer, self.val_pool, stage.layout)
        self.average.swap(self.model)
        self.model.train()
        self._write({"event": "validation", "stage": stage.name, "step": step, **scores})

    def _save(self, optimizer: torch.optim.Optimizer, step: int, seconds: float) -> None:
        self.progress = replace(self.progress, step=step, seconds=seconds)
        save_checkpoint(
            self.folder,
            model=self.model,
            average=self.average,
            optimizer=optimizer,
            generator=self.generator,
            progress=self.progress,
        )

    def _log(self, stage: StageConfig, step: int, terms: Losses, seconds: float) -> None:
        values = {name: round(float(value.detach()), 5) for name, value in terms.items()}
        line = {"event": "step", "stage": stage.name, "step": step, "steps": stage.steps}
        self._write({**line, "seconds": round(seconds, 1), **values})

    def _pool_progress(self, name: str) -> Callable[[int, int], None]:
        return lambda done, total: self.report({"event": name, "step": done, "steps": total})

    def _write(self, line: dict[str, Any]) -> None:
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.report(line)
