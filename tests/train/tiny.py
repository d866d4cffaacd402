"""Tiny recipes: networks that train in seconds, on pairs of 64 pixels that are stored with the tests."""

import json
from dataclasses import replace
from pathlib import Path

from medq_uni.baselines.network import BaselineConfig
from medq_uni.config import FidelityCodecConfig, ModelConfig, TransformerConfig, VisionConfig
from medq_uni.data.pairs import PairsConfig
from medq_uni.pretrained.load import folder_of
from medq_uni.tokenizer import Tokenizer
from medq_uni.train.losses import LossWeights
from medq_uni.train.recipe import TrainConfig
from medq_uni.train.stage import ConditioningConfig, CropsConfig, FlowConfig, OptimizerConfig, StageConfig

ALL = LossWeights(flow=1.0, l1=1.0, l2=1.0, ssim=0.5, spread=0.05, text=1.0, slots=1.0)
BESIDE = {"assess_same_pairs": True, "corrupted": 0.1}
NAFNET = BaselineConfig(kind="nafnet", width=4, blocks=(1, 1))
PIX2PIX = BaselineConfig(kind="pix2pix", width=4, blocks=(1, 1, 1))
TRAIN_PAIRS = PairsConfig(count=10, seed=1, phantom_sizes=(64,))
VAL_PAIRS = replace(TRAIN_PAIRS, count=5, seed=2, split="val", none_fraction=0.0)
GROUPS = {
    "optimizer": ("learning_rate", "decoder_lr_factor", "lr_warmup_steps"),
    "crops": ("batch_size", "token_budget", "sides", "task_weights"),
    "conditioning": ("reference", "generated", "edited", "corrupted", "instructed"),
    "flow": ("noise_share", "noise_pixel_time", "single_step_share"),
}


def with_changes(stage: StageConfig, **changes: object) -> StageConfig:
    """Return a stage with other values of keys, those of its groups by their own names."""
    for group, keys in GROUPS.items():
        found = {key: changes.pop(key) for key in keys if key in changes}
        stage = replace(stage, **{group: replace(getattr(stage, group), **found)}) if found else stage
    return replace(stage, **changes)


def stage(objective: str, **changes: object) -> StageConfig:
    """Return a short stage of one objective; see :func:`with_changes`."""
    trainable = {"codec": ("decoder", "spread"), "restore": ("decoder", "spread", "ir"), "assess": ("iqa",)}
    plain = {
        "name": objective,
        "objective": objective,
        "trainable": trainable.get(objective, ("decoder", "spread", "ir", "iqa")),
        "steps": 6,
        "losses": ALL,
    }
    named = {key: changes.pop(key) for key in ("trainable", "assess_share") if key in changes}
    crops, optimizer = CropsConfig(batch_size=4, sides=(64,)), OptimizerConfig(lr_warmup_steps=2)
    return with_changes(StageConfig(crops=crops, optimizer=optimizer, **(plain | named)), **changes)


def baseline_stage(**changes: object) -> StageConfig:
    """Return a short stage of a baseline."""
    losses = LossWeights(l1=0.2, l2=1.0, ssim=0.2)
    return stage("baseline", **({"trainable": ("baseline",), "losses": losses} | changes))


def tiny_recipe(*stages: StageConfig) -> TrainConfig:
    """Return a recipe of a tiny MedQ-UNI."""
    tokenizer = Tokenizer.from_file(folder_of("nano") / "tokenizer.json")
    transformer = TransformerConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
    )
    vision = VisionConfig(
        in_channels=2,
        patch_size=16,
        hidden_size=24,
        intermediate_size=32,
        num_layers=1,
        num_heads=2,
        max_patches_per_side=32,
        stem_channels=(4, 8, 8, 16),
    )
    model = ModelConfig(
        name="tiny",
        transformer=transformer,
        vision=vision,
        codec=FidelityCodecConfig(widths=(4, 8, 8, 8)),
        tokens=tokenizer.special,
    )
    return TrainConfig(
        about=("a test",),
        model=model,
        tokenizer="nano",
        pairs=TRAIN_PAIRS,
        val_pairs=VAL_PAIRS,
        stages=stages,
        bfloat16=False,
        validation_interval=1000,
    )


def baseline_recipe(baseline: BaselineConfig = NAFNET, *stages: StageConfig, **changes: object) -> TrainConfig:
    """Return a recipe of a tiny baseline."""
    values = {
        "about": ("a test",),
        "baseline": baseline,
        "pairs": TRAIN_PAIRS,
        "val_pairs": VAL_PAIRS,
        "stages": stages or (baseline_stage(),),
        "bfloat16": False,
        "validation_interval": 1000,
        "log_interval": 1,
    }
    return TrainConfig(**(values | changes))


def all_stages() -> TrainConfig:
    """Return a recipe with a stage of every objective."""
    return tiny_recipe(*(stage(objective) for objective in ("codec", "restore", "assess")), stage("joint", **BESIDE))


def golden_recipe() -> TrainConfig:
    """Return the recipe behind the golden losses."""
    stages = [stage(objective, steps=10) for objective in ("codec", "restore", "assess", "joint")]
    return replace(tiny_recipe(*stages, stage("joint", name="beside", steps=10, **BESIDE)), log_interval=2)


def step_lines(folder: Path) -> list[dict]:
    """Return the lines of a log about steps."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == "step"]


def losses(folder: Path) -> list[dict]:
    """Return the losses in a log, without times."""
    dropped = ("seconds", "waited", "event", "steps")
    return [{key: value for key, value in line.items() if key not in dropped} for line in step_lines(folder)]
