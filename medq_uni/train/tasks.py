"""Who is trained: MedQ-UNI or a baseline. Everything in which the two differ for the training loop is here."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from medq_uni.baselines.network import Baseline, build_baseline
from medq_uni.config import ConfigError, Execution, ModelConfig
from medq_uni.data.batches import BatchSampler
from medq_uni.files import write_text
from medq_uni.json_text import load_json
from medq_uni.model.device_placement import put
from medq_uni.model.medq import MedQ, codec_module
from medq_uni.pretrained.load import folder_of, load_pretrained
from medq_uni.tokenizer import Tokenizer
from medq_uni.train.buckets import CROP_GRID
from medq_uni.train.conditioning import PairTexts, read_described
from medq_uni.train.lora import add_lora, merged
from medq_uni.train.objective import BaselineObjective, Objective
from medq_uni.train.pair_quantities import PairQuantities
from medq_uni.train.parallel import DistContext, shard, whole
from medq_uni.train.recipe import TrainConfig, check_crops
from medq_uni.train.run_pairs import RunPairs
from medq_uni.train.sampling import AnyBuilder, BaselineBatchBuilder, BatchBuilder
from medq_uni.train.stage import StageConfig
from medq_uni.train.validate import baseline_gains, described, inference_of, validate

CALIBRATION_PAIRS = 256
MAX_GENERATED = 1000
"""Pairs about which the model writes as a joint stage begins; of the others the restoration is told the reference."""
Averaged = Callable[[], AbstractContextManager[None]]
"""Opens a span in which the network has its averaged weights and is in evaluation mode."""


class TrainingTask(ABC):
    """A network in training, with what it meets, what its losses are, and how it is judged.

    Args:
        config: The recipe.
        pairs: Training and validation pairs.
        device: Where to compute.
        dist: The processes that train together.
    """

    model: nn.Module
    objective: Objective | BaselineObjective
    """Computes the losses of a batch."""
    tokenizer: Tokenizer | None = None

    def __init__(self, config: TrainConfig, pairs: RunPairs, device: torch.device, dist: DistContext) -> None:
        self.config, self.pairs, self.device, self.dist = config, pairs, device, dist

    @abstractmethod
    def builder(self, stage: StageConfig, written: Path, averaged: Averaged) -> AnyBuilder:
        """Return what draws the batches of a stage.

        Args:
            stage: What is trained.
            written: File for what the network itself writes about the pairs as the stage begins.
            averaged: See :data:`Averaged`.
        """

    @abstractmethod
    def validate(self, stage: StageConfig) -> dict[str, float]:
        """Return ``gain_<task>`` in dB, and how often an assessment is right; in evaluation mode."""

    @abstractmethod
    def finished(self) -> MedQ | Baseline:
        """Return the network whole, in evaluation mode; of several processes the first one has it."""

    @abstractmethod
    def smaller(self) -> list[str]:
        """Return what in the recipe, beside batch and crop, makes a step need less memory."""


class MedQTask(TrainingTask):
    """MedQ-UNI, new or pretrained."""

    model: MedQ

    def __init__(self, config: TrainConfig, pairs: RunPairs, device: torch.device, dist: DistContext) -> None:
        super().__init__(config, pairs, device, dist)
        self.model, tokenizer = dist.in_turn(self._initial)
        check_crops(config.stages, self.model.config)
        self.tokenizer, labels = tokenizer, config.labels
        experts = read_described(labels.file, pairs.train)
        self.texts = PairTexts(pairs.train, tokenizer, labels.form, labels.wrong_share, config.seed, experts)
        self.val_texts = PairTexts(pairs.val, tokenizer, labels.form)
        self.model.to(device)
        codec_module(self.model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.inference = inference_of(self.model, tokenizer)
        self.objective = Objective(self.model, dist, config.recompute)

    def _initial(self) -> tuple[MedQ, Tokenizer]:
        """Return the network to begin with, divided among the processes, and its tokenizer."""
        config, tokenizer, old = self.config, None, None
        if config.initial is not None:
            loaded = load_pretrained(config.initial, execution=Execution(precision="float32"))
            old, tokenizer = loaded.model, loaded.tokenizer
        if config.model is None:
            assert old is not None, "checked by the recipe"
            model, name = old, f"{old.config.name.removesuffix('-tuned')}-tuned"
        else:
            model, name = self._new(config.model), config.model.name
            if old is not None:
                take_weights(model, old)
        model.config = replace(model.config, name=config.name or name)
        if config.tokenizer is not None:
            tokenizer = _tokenizer(config.tokenizer)
        assert tokenizer is not None, "checked by the recipe"
        model.transformer.recompute = config.recompute
        if config.lora is not None:
            add_lora(model, config.lora, config.seed)
        shard(model, self.dist, self.device)
        return model.train(), tokenizer

    def _new(self, size: ModelConfig) -> MedQ:
        """Return a network with random weights whose latent has unit variance over the training pairs."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            model = MedQ(size)
        if hasattr(model.codec, "calibrate"):
            count, train = min(CALIBRATION_PAIRS, len(self.pairs.train)), self.pairs.train
            model.codec.calibrate(torch.stack([train.views(index)[0] for index in range(count)]))
        return model

    def builder(self, stage: StageConfig, written: Path, averaged: Averaged) -> BatchBuilder:
        """Return what draws crops, texts, starts and times."""
        config, train = self.model.config, self.pairs.train
        sampler = BatchSampler(train, token_pixels=config.token_pixels, emphasis=stage.crops.emphasis)
        generated = self._generated(stage, written, averaged)
        quantities = PairQuantities(train) if config.quantity_width or config.told_width else None
        return BatchBuilder(self.texts, stage, config, sampler, generated, self.dist.world, quantities)

    def _generated(self, stage: StageConfig, path: Path, averaged: Averaged) -> dict[int, list[int]]:
        """Return what the model itself writes about the pairs at the start of a joint stage."""
        if stage.objective != "joint" or stage.conditioning.generated <= 0:
            return {}
        if not self.dist.as_first_flags(path.is_file()):
            with averaged():
                texts = described(self.inference, self.pairs.train, MAX_GENERATED)
            if self.dist.is_first:
                write_text(path, json.dumps(texts))
            self.dist.wait()
        return {int(index): ids for index, ids in load_json(path).items()}

    def validate(self, stage: StageConfig) -> dict[str, float]:
        """Return what the objective of a stage is judged by."""
        return validate(self.inference, self.val_texts, stage.objective, self.config.sampler)

    def finished(self) -> MedQ:
        """Return the network whole, without updates beside its weights."""
        if self.dist.world == 1 and self.config.lora is None:
            return self.model.eval()
        state = {}
        for name, value in self.model.state_dict().items():
            one = whole(value.detach())
            if self.dist.is_first:
                state[name] = one.cpu()
        with torch.device("meta"):
            model = MedQ(self.model.config)
        if self.dist.is_first:
            state = merged(state, self.config.lora) if self.config.lora is not None else state
            model.load_state_dict(state, assign=True)
            for name, buffer in self.model.named_buffers():  # tables that are no weights
                put(model, name, buffer, Execution())
            model.to(self.device)
        return model.eval()

    def smaller(self) -> list[str]:
        """Return what a larger network can do without."""
        ways = [] if self.config.recompute else ["recompute: true"]
        return [*ways, "lora" if self.config.lora is None else "a lower rank of lora"]


class BaselineTask(TrainingTask):
    """A baseline, new; every process holds it whole."""

    model: Baseline

    def __init__(self, config: TrainConfig, pairs: RunPairs, device: torch.device, dist: DistContext) -> None:
        super().__init__(config, pairs, device, dist)
        assert config.baseline is not None, "checked by the recipe"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model = build_baseline(config.baseline).to(device).train()
        self.objective = BaselineObjective(self.model, device, dist)

    def builder(self, stage: StageConfig, written: Path, averaged: Averaged) -> BaselineBatchBuilder:
        """Return what draws crops, on the grid on which those of our small models lie, and times."""
        sampler = BatchSampler(self.pairs.train, token_pixels=CROP_GRID, emphasis=stage.crops.emphasis)
        return BaselineBatchBuilder(stage, sampler, self.dist.world)

    def validate(self, stage: StageConfig) -> dict[str, float]:
        """Return the gains alone."""
        return baseline_gains(self.model, self.pairs.val)

    def finished(self) -> Baseline:
        """Return the network."""
        return self.model.eval()

    def smaller(self) -> list[str]:
        """Return what a smaller baseline has less of."""
        return ["a smaller width or fewer blocks of the baseline"]


def training_task(config: TrainConfig, pairs: RunPairs, device: torch.device, dist: DistContext) -> TrainingTask:
    """Return the network of a recipe, at its beginning, with all that its training needs."""
    kind = MedQTask if config.baseline is None else BaselineTask
    return kind(config, pairs, device, dist)


def take_weights(model: MedQ, old: MedQ) -> None:
    """Give a new network the weights of an old one, which may have another decoder.

    A decoder that holds all weights of the old one and more goes on from it; any other begins anew, on the old latent.
    So does a head that reads quantities where the old one has none.

    Raises:
        ConfigError: If they differ in more than the decoder.
    """
    theirs, mine = old.state_dict(), model.state_dict()
    unlike = {name for name, x in theirs.items() if name not in mine or mine[name].shape != x.shape}
    if any(name.startswith("codec.") for name in unlike):
        learned = {name for name, _ in old.named_parameters() if name.startswith("codec.")}
        theirs = {name: x for name, x in theirs.items() if name not in learned}
    new = ("codec.", "quantity_head.")
    other = [name for name in mine if not name.startswith(new) and name not in theirs]
    other += [name for name in unlike if name in theirs]
    if other:
        raise ConfigError(
            f"model and initial differ in more than the decoder: {', '.join(sorted(other)[:3])} "
            f"({len(other)} in all). Give a model that differs from it in codec alone, or leave out one of the two."
        )
    model.load_state_dict(theirs, strict=False)


def _tokenizer(name: str) -> Tokenizer:
    path = Path(name)
    return Tokenizer.from_file(path if path.is_file() else folder_of(name) / "tokenizer.json")
