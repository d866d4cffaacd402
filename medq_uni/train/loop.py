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

from medq_uni.config import ConfigError, Execution, to_json
from medq_uni.data.batches import BatchSampler
from medq_uni.data.descriptions import descriptions_by_number
from medq_uni.data.pairs import generator_of
from medq_uni.data.pool import build_pool
from medq_uni.description import QualityDescription
from medq_uni.io.atomic import write_text
from medq_uni.model.medq import MedQ, codec_module
from medq_uni.pretrained import folder_of, load_pretrained
from medq_uni.tokenizer import Tokenizer
from medq_uni.train.adapters import MARK, add_lora, merged
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
from medq_uni.train.parallel import (
    Ranks,
    average_gradients,
    clip_gradients,
    is_divided,
    ranks,
    shard,
    whole,
)
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
    is_first: bool = True
    """Whether this process, of all that trained together, writes files."""


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
    device: str | torch.device | None = None,
    report: Report | None = None,
) -> Trained:
    """Run the stages of a recipe, or go on with a run that was stopped.

    Args:
        config: The recipe.
        folder: Where pools, checkpoints and the log (``log.jsonl``) are kept.
        resume: Go on from the checkpoint in ``folder``; without it a folder with a checkpoint is refused.
        max_minutes: Stop, with a checkpoint, after this time.
        workers: Processes that draw the pairs.
        device: Where to compute; a GPU where there is one. Processes that ``torchrun`` has started train together.
        report: Called with every line of the log.

    Raises:
        CheckpointError: If there is a checkpoint and ``resume`` is false, or it is of another recipe.
        DivergenceError: If a loss is NaN or infinite; the last checkpoint stays.
    """
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    with ranks(where) as together:
        run = _Run(config, Path(folder), report or (lambda line: None), where, together)
        run.prepare(workers, resume)
        deadline = math.inf if max_minutes is None else time.monotonic() + 60 * max_minutes
        is_finished = run.go(deadline)
        run.average.swap(run.model)
        return Trained(run.finished_model(), run.tokenizer, is_finished, together.is_first)


def _tokenizer(name: str) -> Tokenizer:
    path = Path(name)
    return Tokenizer.from_file(path if path.is_file() else folder_of(name) / "tokenizer.json")


class _Run:
    """State of one run."""

    def __init__(
        self, config: TrainConfig, folder: Path, report: Report, device: torch.device, together: Ranks
    ) -> None:
        self.config, self.folder, self.report = config, folder, report
        self.device, self.together = device, together
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
        self._open_pools(workers)
        self.model, self.tokenizer = self._initial()
        self.model.transformer.recompute = config.recompute
        if config.lora is not None:
            add_lora(self.model, config.lora, config.seed)
        self.model.to(self.device)
        shard(self.model, self.together)
        self.average = WeightAverage(config.ema_decay)
        if self.together.is_first:
            (folder / "recipe.json").write_text(to_json(config), encoding="utf-8")
        if found is not None:
            self.tensors, self.progress, updates = found
            if self.progress.recipe_hash != self.hash:
                raise CheckpointError(f"{folder} holds a run of another recipe. Use another folder.")
            restore(self.tensors, updates, model=self.model, average=self.average, generator=self.generator)
        codec_module(self.model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _open_pools(self, workers: int) -> None:
        """Draw the pairs, in the first process; the others wait for it."""
        for turn in (True, False):
            if self.together.is_first == turn:
                self.pool, self.val_pool = (
                    build_pool(pairs, self.folder / name, workers=workers, progress=self._pool_progress(name))
                    for name, pairs in (("train_pairs", self.config.pairs), ("val_pairs", self.config.val_pairs))
                )
            self.together.wait()

    def _described(self) -> dict[int, QualityDescription]:
        """Return what experts say about pairs, by index.

        Raises:
            ConfigError: If it speaks of another modality than the pair, so that it belongs to another dataset.
        """
        if self.config.descriptions is None:
            return {}
        found = descriptions_by_number(Path(self.config.descriptions), len(self.pool))
        for index, description in found.items():
            if description.modality is not self.pool.items[index].task.modality:
                raise ConfigError(
                    f"{self.config.descriptions}: pair {index} is {self.pool.items[index].task.modality.value}, its "
                    f"description speaks of {description.modality.value}. Use the recipe of the annotated dataset."
                )
        return found

    def _initial(self) -> tuple[MedQ, Tokenizer]:
        config, tokenizer = self.config, None
        if config.initial is not None:
            loaded = load_pretrained(config.initial, execution=Execution(precision="float32"))
            model, tokenizer = loaded.model, loaded.tokenizer
        else:
            assert config.model is not None, "checked by the recipe"
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(config.seed)
                model = MedQ(config.model)
            if hasattr(model.codec, "calibrate"):
                count = min(CALIBRATION_PAIRS, len(self.pool))
                model.codec.calibrate(torch.stack([self.pool.views(i)[0] for i in range(count)]))
        if config.tokenizer is not None:
            tokenizer = _tokenizer(config.tokenizer)
        assert tokenizer is not None, "checked by the recipe"
        return model.train(), tokenizer

    def finished_model(self) -> MedQ:
        """Return the network whole, without updates beside its weights; of several processes the first one has it."""
        if self.together.world == 1 and self.config.lora is None:
            return self.model.eval()
        state = {name: whole(value.detach()) for name, value in self.model.state_dict().items()}
        if self.config.lora is not None:
            state = merged(state, self.config.lora)
        with torch.device("meta"):
            model = MedQ(self.model.config)
        if self.together.is_first:
            model.load_state_dict(state, assign=True)
            model.reset_tables(self.device)
        return model.eval()

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
        if stage.batch_size % self.together.world:
            raise ConfigError(
                f"stage {stage.name!r}: batch_size {stage.batch_size} cannot be divided among {self.together.world} "
                "processes. Choose a multiple."
            )
        optimizer = self._optimizer(stage)
        self.average.track(self.model)
        restore_optimizer(self.tensors, self.model, optimizer)
        token_pixels = self.model.config.token_pixels
        sampler = BatchSampler(self.pool, token_pixels=token_pixels, emphasis=stage.emphasis)
        generated = self._generated(stage)
        stepper = Stepper(
            self.model,
            self.tokenizer,
            stage,
            sampler,
            generated,
            self.together,
            self.config.recompute,
            self._described(),
        )
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
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bfloat16):
            terms = stepper.losses(self.generator)
        weights = asdict(stage.weights)
        total = sum((weights[name] * value for name, value in terms.items()), torch.zeros((), device=self.device))
        if not torch.isfinite(total):
            found = ", ".join(f"{name} {float(value.detach()):g}" for name, value in terms.items())
            raise DivergenceError(
                f"stage {stage.name!r}, step {step}: the loss is {float(total.detach()):g} ({found}). "
                "Lower the learning rate."
            )
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        learning = [p for group in optimizer.param_groups for p in group["params"]]
        average_gradients(learning, self.together)
        clip_gradients(learning, self.config.gradient_clip, self.together)
        optimizer.step()
        self.average.update(self.model)
        return terms

    def _optimizer(self, stage: StageConfig) -> torch.optim.AdamW:
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, parameter in self.model.named_parameters():
            is_base = self.config.lora is not None and name.startswith("transformer.") and MARK not in name
            parameter.requires_grad_(group_of(name) in stage.trainable and not is_base)
            if parameter.requires_grad:
                # decayed first; divided weights and whole ones cannot be stepped in one go
                groups.setdefault((parameter.ndim <= 1, is_divided(parameter)), []).append(parameter)
        decay = self.config.weight_decay
        listed = [
            {"params": parameters, "weight_decay": 0.0 if is_plain else decay}
            for (is_plain, _), parameters in sorted(groups.items(), key=lambda pair: pair[0])
        ]
        return torch.optim.AdamW(listed, lr=stage.learning_rate, betas=self.config.betas)

    def _generated(self, stage: StageConfig) -> dict[int, list[int]]:
        """Return what the model itself writes about the pool at the start of a joint stage."""
        if stage.layout != "joint" or stage.text.generated <= 0:
            return {}
        path = self.folder / f"generated-{self.progress.stage}.json"
        is_there = path.is_file()
        self.together.wait()
        if not is_there:
            self.average.swap(self.model)
            texts = describe_pool(self.model.eval(), self.tokenizer, self.pool, stage.text.max_generated)
            self.average.swap(self.model)
            self.model.train()
            if self.together.is_first:
                write_text(path, json.dumps(texts))
            self.together.wait()
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
            only_learned=self.config.initial is not None,
            is_first=self.together.is_first,
        )
        self.together.wait()

    def _log(self, stage: StageConfig, step: int, terms: Losses, seconds: float) -> None:
        values = {name: round(self.together.mean(float(value.detach())), 5) for name, value in terms.items()}
        line = {"event": "step", "stage": stage.name, "step": step, "steps": stage.steps}
        self._write({**line, "seconds": round(seconds, 1), **values})

    def _pool_progress(self, name: str) -> Callable[[int, int], None]:
        return lambda done, total: self.report({"event": name, "step": done, "steps": total})

    def _write(self, line: dict[str, Any]) -> None:
        if not self.together.is_first:
            return
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.report(line)
