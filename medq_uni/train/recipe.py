"""Training recipes: a frozen configuration that a JSON file holds, read strictly."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from medq_uni.baselines.network import BaselineConfig
from medq_uni.config import ConfigError, ModelConfig, SamplerConfig
from medq_uni.config_json import chosen, read_json, to_json
from medq_uni.data.pairs import PairsConfig
from medq_uni.taxonomy import Task
from medq_uni.train.losses import LossWeights

Group = Literal["decoder", "spread", "ir", "iqa", "baseline"]
ObjectiveName = Literal["codec", "restore", "assess", "joint", "baseline"]
LabelForm = Literal["description", "class", "constant"]

CHANGEABLE = ("checkpoint_minutes", "gradient_clip", "log_every", "recompute", "validate_every")
"""Keys that may change while a run goes on."""
CHANGEABLE_OF_STAGES = (
    "learning_rate",
    "decoder_rate",
    "final_rate",
    "batch_size",
    "token_budget",
    "crop_size",
    "crop_sizes",
)
"""Keys that may change of stages that are not finished: what helps when a loss diverges, or memory is too small."""
LEARNING: dict[ObjectiveName, set[Group]] = {
    "codec": {"decoder", "spread"},
    "restore": {"decoder", "spread", "ir", "iqa"},
    "assess": {"iqa"},
    "joint": {"decoder", "spread", "ir", "iqa"},
    "baseline": {"baseline"},
}
"""Weights that a layout can train."""
NAME = re.compile(r"[A-Za-z0-9._-]{1,40}")
"""What a model may be called."""
PIXEL_WEIGHTS = ("l1", "l2", "ssim")
"""Loss terms of a baseline, beside its own, which it weighs itself."""
NOT_OF_BASELINES: dict[str, object] = {
    "name": None,
    "model": None,
    "tokenizer": None,
    "initial": None,
    "lora": None,
    "recompute": False,
    "sampler": SamplerConfig(),
    "descriptions": None,
    "label": "description",
    "wrong_labels": 0.0,
}
"""Keys of a recipe that mean nothing for a baseline, and the values that leave them out."""


@dataclass(frozen=True, kw_only=True)
class TextMix:
    """Shares of what a restoration sample is told about its image; the rest is told nothing."""

    reference: float = 0.45
    """The description that follows from the degradation record."""
    generated: float = 0.25
    """What the model itself wrote about this image when the stage began."""
    max_generated: int = 1000
    """Pairs about which the model writes; the others are told the reference."""
    edited: float = 0.15
    """A description with another severity, and a target that is restored that much."""
    misread: float = 0.0
    """A description that is wrong in places, and the true target: what an assessment that errs leaves to repair."""
    instructed: float = 0.0
    """No description, but an instruction that asks for less, for more, or for noise alone, with a target to match."""

    def __post_init__(self) -> None:
        """Check that these are shares."""
        shares = (self.reference, self.generated, self.edited, self.misread, self.instructed)
        if min(shares) < 0 or sum(shares) > 1 + 1e-9:
            raise ConfigError(
                "text: reference, generated, edited, misread and instructed are shares of one whole, none below 0; "
                f"they are {', '.join(f'{share:g}' for share in shares)}."
            )


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One stage of training."""

    name: str
    """For the log and the checkpoints."""
    objective: ObjectiveName
    """codec: the decoder alone, from the degraded latent. restore: [latent][instruction][target].
    assess: [vision][instruction][description]. joint: all blocks, both losses. baseline: degraded and restored image,
    the only one of a baseline."""
    trainable: tuple[Group, ...]
    """Which weights learn: the decoder of the codec, its prediction of the error, the restoration expert, the
    assessment expert; a baseline learns whole."""
    steps: int
    """Optimizer steps; over them the learning rate falls to ``final_rate``."""
    batch_size: int = 16
    """Pairs per step, where there is no ``token_budget``."""
    token_budget: int = 0
    """Image tokens per step: as many pairs as fit, so that small crops come in larger batches; 0 takes batch_size."""
    crop_size: int = 128
    """Side of the restored crops in pixels."""
    crop_sizes: tuple[int, ...] = ()
    """Several sides instead, of which every step draws one."""
    learning_rate: float = 5e-4
    """Peak learning rate."""
    decoder_rate: float = 1.0
    """Learning rate of the decoder, as a multiple of the others': convolutions bear a higher one than attention."""
    final_rate: float = 0.0
    """Share of the peak that the learning rate falls to: above 0 where the next stage goes on with the same weights."""
    warmup_steps: int = 50
    """Steps of linear warm-up."""
    weights: LossWeights = field(default_factory=LossWeights)
    """Weight of every loss term."""
    text: TextMix = field(default_factory=TextMix)
    """What joint samples are told."""
    noise_start: float = 0.15
    """Share of batches that start from noise, as in the paper; the others start from the degraded latent."""
    noise_pixel_time: float = 0.0
    """Pixel losses of batches that start from noise count up to this time, 1 as in the paper: an early guess from pure
    noise is garbage, and a decoder that learns would unlearn on it."""
    assess_share: float = 0.35
    """Share of joint steps that train the assessment alone, in the objective in which it is asked."""
    assess_beside: bool = False
    """Whether joint steps that restore train the assessment of their pairs too, in the objective in which it is asked,
    instead of the tokens of the description that the restoration reads."""
    emphasis: tuple[Task, ...] = ()
    """Tasks that are drawn once more per round for every mention: those that are learned slowly."""
    final_time: float = 0.6
    """Share of batches at t = 1, where the default sampler makes its single step; else t is uniform."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.steps < 1 or self.batch_size < 1:
            raise ConfigError(f"stage {self.name!r}: steps and batch_size must be at least 1.")
        if self.token_budget < 0 or min((self.crop_size, *self.crop_sizes)) < 1:
            raise ConfigError(f"stage {self.name!r}: token_budget must not be negative, crops must have pixels.")
        if self.decoder_rate <= 0 or not 0 <= self.final_rate <= 1:
            raise ConfigError(f"stage {self.name!r}: decoder_rate must be positive, final_rate between 0 and 1.")
        if self.learning_rate < 0 or self.warmup_steps < 0:
            raise ConfigError(f"stage {self.name!r}: learning_rate and warmup_steps must not be negative.")
        if self.assess_beside and self.objective != "joint":
            raise ConfigError(
                f"stage {self.name!r}: assess_beside is for joint stages, this one is {self.objective!r}."
            )
        if not self.trainable:
            raise ConfigError(f"stage {self.name!r}: trainable is empty; name decoder, spread, ir or iqa.")
        if (self.objective == "baseline") != (self.trainable == ("baseline",)):
            raise ConfigError(
                f'stage {self.name!r}: the objective "baseline" has trainable ["baseline"], no other objective has it.'
            )


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank updates (Hu et al. 2022); they are merged into the weights when a run is published."""

    rank: int = 16
    """Rank of every update."""
    alpha: int = 32
    """Updates are scaled by alpha / rank."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.rank < 1 or self.alpha <= 0:
            raise ConfigError(f"lora: rank and alpha must be positive, got {self.rank} and {self.alpha}.")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A whole recipe."""

    about: tuple[str, ...]
    """Command, hardware, hours and expected result, for people."""
    name: str | None = None
    """What the trained model is called in records and reports; None takes the name in ``model``, or that of ``initial``
    with ``-tuned`` behind it. A model of the released layout is called by its folder instead."""
    model: ModelConfig | None = None
    """Network to train from random weights; None takes that of ``initial``. With both, a network of this size that
    begins with the weights of ``initial``, but for a decoder of another size, which begins anew."""
    baseline: BaselineConfig | None = None
    """Baseline to train from random weights, instead of ``model``: it restores and reads no text."""
    tokenizer: str | None = None
    """Path of the tokenizer file, or the name of a pretrained model whose tokenizer is used; None takes that of
    ``initial``."""
    pairs: PairsConfig | None = None
    """Training pairs, drawn before the first step; None where ``dataset`` holds them."""
    dataset: str | None = None
    """Folder of a built dataset whose split ``train`` is read while training (``medq dataset build``)."""
    val_pairs: PairsConfig
    """Pairs that choose between checkpoints and calibrate the uncertainty; never trained on."""
    stages: tuple[StageConfig, ...]
    """What to do, in order."""
    initial: str | None = None
    """Pretrained model to start from: a name, a folder of ours or of a released checkpoint, or OWNER/NAME on the hub;
    None starts from random weights. See ``model``."""
    lora: LoraConfig | None = None
    """Learn low-rank updates of the linear layers of the blocks instead of the layers themselves."""
    recompute: bool = False
    """Whether activations are computed again in the backward pass, which saves most of their memory."""
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    """How validation samples, and how the finished model is sampled where nobody says otherwise."""
    descriptions: str | None = None
    """File of descriptions that experts agreed on (``medq annotate export``), of a dataset whose split has the same
    ``pairs``; they take the place of those that follow from the records. None uses the records alone."""
    label: LabelForm = "description"
    """What the restoration is told: the description, the kinds of degradation alone, or one text for all images, which
    tells nothing and takes as many tokens as a description."""
    wrong_labels: float = 0.0
    """Probability with which every slot of a label is wrong: noisy pseudo-labels."""
    seed: int = 0
    """Seed of the weights and of every batch."""
    ema_decay: float = 0.998
    """Decay of the averaged weights, which are the ones that are kept."""
    weight_decay: float = 0.01
    """AdamW weight decay."""
    betas: tuple[float, float] = (0.9, 0.98)
    """AdamW moment decays."""
    gradient_clip: float = 1.0
    """Largest gradient norm."""
    bfloat16: bool = True
    """Whether to compute in bfloat16 where the operation allows it."""
    checkpoint_minutes: float = 5.0
    """Minutes between checkpoints."""
    validate_every: int = 500
    """Steps between validations."""
    log_every: int = 10
    """Steps between lines of the log."""

    def __post_init__(self) -> None:
        """Check that there is one network, a tokenizer where it reads text, and stages that fit it."""
        if self.baseline is not None:
            self._check_baseline(self.baseline)
        else:
            self._check_model()
        if (self.pairs is None) == (self.dataset is None):
            raise ConfigError("Give either pairs, which are drawn, or dataset, the folder of a built one.")
        if (self.pairs is not None and self.pairs.unseen) or self.val_pairs.unseen:
            raise ConfigError("unseen pairs are a test of generality: none is trained on, or chosen by. Leave it out.")
        if self.val_pairs.split == "train" and self.val_pairs.data and self.val_pairs.wants_real:
            raise ConfigError(
                'val_pairs would be drawn from the volumes that are trained on. Write "split": "val" there, or '
                '"real_fraction": 0 if phantoms alone should validate.'
            )

    def _check_model(self) -> None:
        if self.name is not None and not NAME.fullmatch(self.name):
            raise ConfigError(f"name: 1 to 40 letters, digits, dots, dashes or underscores, got {self.name!r}.")
        for name in ("model", "tokenizer"):
            if getattr(self, name) is None and self.initial is None:
                raise ConfigError(f"{name} is missing. Give {name}, or initial to start from a pretrained model.")
        for stage in self.stages:
            if stage.objective == "baseline":
                raise ConfigError(
                    f'stage {stage.name!r}: the objective "baseline" needs a baseline. Give baseline instead of model.'
                )
            can_learn = LEARNING[stage.objective]
            if not can_learn.intersection(stage.trainable):
                raise ConfigError(
                    f"stage {stage.name!r}: the objective {stage.objective!r} can train "
                    f"{', '.join(sorted(can_learn))}, trainable is {', '.join(stage.trainable)}."
                )
            if stage.objective == "joint" and stage.assess_share > 0 and "iqa" not in stage.trainable:
                raise ConfigError(
                    f"stage {stage.name!r}: assess_share {stage.assess_share:g} makes steps that train the assessment "
                    'alone, and trainable has no iqa. Write "assess_share": 0.'
                )
        if self.model is not None:
            check_crops(self.stages, self.model)

    def _check_baseline(self, baseline: BaselineConfig) -> None:
        wrong = [name for name, default in NOT_OF_BASELINES.items() if getattr(self, name) != default]
        if wrong:
            raise ConfigError(f"a baseline is trained from random weights, without text: leave out {', '.join(wrong)}.")
        for stage in self.stages:
            if stage.objective != "baseline":
                raise ConfigError(
                    f'stage {stage.name!r}: the objective of a baseline is "baseline", not {stage.objective!r}.'
                )
            wrong_sides = [side for side in (stage.crop_size, *stage.crop_sizes) if side % baseline.multiple]
            if wrong_sides:
                raise ConfigError(
                    f"stage {stage.name!r}: a crop of {wrong_sides[0]} pixels is not a multiple of "
                    f"{baseline.multiple}, which a {baseline.kind} of {len(baseline.blocks)} levels needs."
                )
            unknown = [name for name, weight in asdict(stage.weights).items() if weight and name not in PIXEL_WEIGHTS]
            if unknown:
                raise ConfigError(
                    f"stage {stage.name!r}: a baseline has no loss {', '.join(unknown)}; its weights are those of "
                    f"{', '.join(PIXEL_WEIGHTS)}."
                )

    def with_sources(self, data: tuple[str, ...]) -> TrainConfig:
        """Return the recipe with other sources of real volumes for training and validation."""
        pairs = None if self.pairs is None else replace(self.pairs, data=data)
        return replace(self, pairs=pairs, val_pairs=replace(self.val_pairs, data=data))

    def with_dataset(self, folder: str) -> TrainConfig:
        """Return the recipe with a built dataset in the place of drawn pairs."""
        return replace(self, pairs=None, dataset=folder)


def read_recipe(path: Path) -> TrainConfig:
    """Return the recipe of a JSON file.

    Raises:
        ConfigError: If the file is missing or wrong; the message names the key.
    """
    return read_json(TrainConfig, path, where="recipes/")


def recipe_hash(config: TrainConfig) -> str:
    """Return a hash of what a recipe chooses: words about it, and keys that a later version adds, do not count."""
    return hashlib.sha256(json.dumps(chosen(replace(config, about=())), sort_keys=True).encode()).hexdigest()


def differences(before: TrainConfig, after: TrainConfig) -> list[str]:
    """Return the keys in which two recipes differ, by dotted path (``stages.1.learning_rate``); words do not count."""
    flat = [_flat(json.loads(to_json(replace(one, about=())))) for one in (before, after)]
    return sorted(key for key in flat[0].keys() | flat[1].keys() if flat[0].get(key) != flat[1].get(key))


def is_changeable(key: str, stage: int) -> bool:
    """Return whether a run in a stage (from 0) can go on with another value of a key."""
    first, *rest = key.split(".")
    if first == "stages" and len(rest) > 1:
        return rest[-1] in CHANGEABLE_OF_STAGES and int(rest[0]) >= stage
    return key in CHANGEABLE


def check_crops(stages: tuple[StageConfig, ...], model: ModelConfig) -> None:
    """Check that the crops of all stages can be cut into the tokens of a network.

    Raises:
        ConfigError: If one cannot; says which.
    """
    for stage in stages:
        for side in stage.crop_sizes or (stage.crop_size,):
            if side % model.token_pixels:
                size = model.token_pixels
                raise ConfigError(
                    f"stage {stage.name!r}: a crop of {side} pixels cannot be cut into tokens of {size}. "
                    f"Take {-(-side // size) * size}."
                )


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        value = {str(place): one for place, one in enumerate(value)}
    if not isinstance(value, dict):
        return {path: value}
    found: dict[str, Any] = {}
    for key, one in value.items():
        found |= _flat(one, f"{path}.{key}" if path else key)
    return found
