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
from medq_uni.config_json import chosen, from_json, read_json
from medq_uni.data.pairs import PairsConfig
from medq_uni.json_text import parse_json
from medq_uni.train.stage import Group, ObjectiveName, StageConfig

LabelForm = Literal["description", "class", "constant"]

LEARNING: dict[ObjectiveName, set[Group]] = {
    "codec": {"decoder", "spread"},
    "restore": {"decoder", "spread", "ir", "iqa"},
    "assess": {"iqa"},
    "joint": {"decoder", "spread", "ir", "iqa"},
    "baseline": {"baseline"},
}
"""Weights that an objective can train."""
NAME = re.compile(r"[A-Za-z0-9._-]{1,40}")
"""What a model may be called."""
PIXEL_LOSSES = ("l1", "l2", "ssim")
"""Loss terms of a baseline, beside its own, which it weighs itself."""
RENAMED_KEYS = {
    "label": "labels.form",
    "wrong_labels": "labels.wrong_share",
    "descriptions": "labels.file",
    "checkpoint_minutes": "save_interval_minutes",
    "validate_every": "validation_interval",
    "log_every": "log_interval",
    "stages.batch_size": "crops.batch_size",
    "stages.token_budget": "crops.token_budget",
    "stages.crop_size": "crops.sides, a list",
    "stages.crop_sizes": "crops.sides",
    "stages.emphasis": "crops.task_weights, a whole number for each task",
    "stages.learning_rate": "optimizer.learning_rate",
    "stages.decoder_rate": "optimizer.decoder_lr_factor",
    "stages.warmup_steps": "optimizer.lr_warmup_steps",
    "stages.weights": "losses",
    "stages.text": "conditioning",
    "stages.text.misread": "conditioning.corrupted",
    "stages.noise_start": "flow.noise_share",
    "stages.noise_pixel_time": "flow.noise_pixel_time",
    "stages.final_time": "flow.single_step_share",
    "stages.assess_beside": "assess_same_pairs",
}
"""Keys of earlier recipes by their dotted path, and where they are now. A recipe that has one is refused, and told."""
GONE_KEYS = ("weight_decay", "betas", "stages.final_rate", "stages.text.max_generated")
"""Keys of earlier recipes that nothing takes the place of."""


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
class LabelsConfig:
    """What is said about the pairs of a run."""

    form: LabelForm = "description"
    """What the restoration is told: the description, the kinds of degradation alone, or one text for all images, which
    tells nothing and takes as many tokens as a description."""
    wrong_share: float = 0.0
    """Probability with which every slot of a label is wrong: noisy pseudo-labels."""
    file: str | None = None
    """File of descriptions that experts agreed on (``medq annotate export``), of a dataset whose split has the same
    ``pairs``; they take the place of those that follow from the records. None uses the records alone."""


NOT_OF_BASELINES: dict[str, object] = {
    "name": None,
    "model": None,
    "tokenizer": None,
    "initial": None,
    "lora": None,
    "recompute": False,
    "sampler": SamplerConfig(),
    "labels": LabelsConfig(),
}
"""Keys of a recipe that mean nothing for a baseline, and the values that leave them out."""


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
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    """What is said about the pairs."""
    seed: int = 0
    """Seed of the weights and of every batch."""
    ema_decay: float = 0.998
    """Decay of the averaged weights, which are the ones that are kept."""
    gradient_clip: float = 1.0
    """Largest gradient norm."""
    bfloat16: bool | None = None
    """Whether to compute in bfloat16 where the operation allows it. None times a step in it and in float32, in both
    memory formats and with half of the threads, and takes what is fastest on the machine at hand."""
    save_interval_minutes: float = 5.0
    """Minutes between checkpoints."""
    validation_interval: int = 500
    """Steps between validations."""
    log_interval: int = 10
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
            wrong_sides = [side for side in stage.crops.sides if side % baseline.multiple]
            if wrong_sides:
                raise ConfigError(
                    f"stage {stage.name!r}: a crop of {wrong_sides[0]} pixels is not a multiple of "
                    f"{baseline.multiple}, which a {baseline.kind} of {len(baseline.blocks)} levels needs."
                )
            unknown = [name for name, weight in asdict(stage.losses).items() if weight and name not in PIXEL_LOSSES]
            if unknown:
                raise ConfigError(
                    f"stage {stage.name!r}: a baseline has no loss {', '.join(unknown)}; its losses are "
                    f"{', '.join(PIXEL_LOSSES)}."
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
        ConfigError: If the file is missing or wrong; the message names the key, and where a key of earlier recipes is
            now.
    """
    try:
        return read_json(TrainConfig, path, where="recipes/")
    except ConfigError as error:
        if not Path(path).is_file():
            raise
        raise _with_moved_keys(error, Path(path).read_text(encoding="utf-8")) from error


def recipe_from_json(text: str) -> TrainConfig:
    """Return the recipe that a JSON text holds.

    Raises:
        ConfigError: As :func:`read_recipe`.
    """
    try:
        return from_json(TrainConfig, text)
    except ConfigError as error:
        raise _with_moved_keys(error, text) from error


def recipe_hash(config: TrainConfig) -> str:
    """Return a hash of what a recipe chooses: words about it, and keys that a later version adds, do not count."""
    return hashlib.sha256(json.dumps(chosen(replace(config, about=())), sort_keys=True).encode()).hexdigest()


def check_crops(stages: tuple[StageConfig, ...], model: ModelConfig) -> None:
    """Check that the crops of all stages can be cut into the tokens of a network.

    Raises:
        ConfigError: If one cannot; says which.
    """
    for stage in stages:
        for side in stage.crops.sides:
            if side % model.token_pixels:
                size = model.token_pixels
                raise ConfigError(
                    f"stage {stage.name!r}: a crop of {side} pixels cannot be cut into tokens of {size}. "
                    f"Take {-(-side // size) * size}."
                )


def _with_moved_keys(error: ConfigError, text: str) -> ConfigError:
    """Return an error that also says where the keys of an earlier recipe are now, if the text has any."""
    try:
        paths = _paths(parse_json(text))
    except ValueError:
        return error
    moved = [f"{path.rpartition('.')[2]!r} is called {new!r}" for path, new in RENAMED_KEYS.items() if path in paths]
    gone = [f"{path.rpartition('.')[2]!r} is gone" for path in GONE_KEYS if path in paths]
    return ConfigError(f"{error} Of its keys, {', '.join(moved + gone)} now.") if moved or gone else error


def _paths(value: Any, path: str = "") -> set[str]:
    """Return the dotted paths of all keys in a JSON value; members of a list have that of the list."""
    if isinstance(value, list):
        return {found for one in value for found in _paths(one, path)}
    if not isinstance(value, dict):
        return set()
    paths = {f"{path}.{key}" if path else key: one for key, one in value.items()}
    return set(paths).union(*(_paths(one, place) for place, one in paths.items()))
