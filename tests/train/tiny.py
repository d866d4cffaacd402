"""Tiny recipes: networks that train in seconds, on pairs of 64 pixels that are stored with the tests."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medq_uni.baselines.network import BaselineConfig
from medq_uni.config import FidelityCodecConfig, ModelConfig, TransformerConfig, VisionConfig
from medq_uni.config_json import chosen
from medq_uni.data.pair_cache import CACHED_SIDE
from medq_uni.data.pairs import PairsConfig
from medq_uni.pretrained.load import folder_of
from medq_uni.tokenizer import Tokenizer
from medq_uni.train.losses import LossWeights
from medq_uni.train.recipe import TrainConfig
from medq_uni.train.stage import CropsConfig, OptimizerConfig, StageConfig
from medq_uni.train.trainer import Trained, TrainOptions, train

GOLDEN = Path(__file__).parents[1] / "golden"
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


def make_quick(patch: pytest.MonkeyPatch) -> None:
    """Leave out what takes longer than a tiny training: texts about many pairs, and the picture of the curves."""
    patch.setattr("medq_uni.train.tasks.MAX_GENERATED", 3)
    patch.setattr("medq_uni.train.run_log.draw_curves", lambda log, target: None)


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


FIRST, SECOND = baseline_stage(name="first", steps=3), baseline_stage(name="second", steps=4)
ALL_STEPS = [("first", step) for step in (1, 2, 3)] + [("second", step) for step in (1, 2, 3, 4)]


def two_stages(**changes: object) -> TrainConfig:
    """Return a recipe of a baseline with two stages."""
    return baseline_recipe(NAFNET, FIRST, SECOND, **changes)


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


def unpack(name: str, pairs: PairsConfig, target: Path) -> None:
    """Write stored pairs, or the first of them, as a cache of pairs that were drawn.

    Drawn pairs differ from processor to processor by the rounding of its FFT, and the L1 loss follows the sign of an
    error however small; on the same pairs the losses agree to five digits.
    """
    target.mkdir(parents=True)
    lines = (GOLDEN / name / "pairs.jsonl").read_text().splitlines(keepends=True)
    (target / "pairs.jsonl").write_text("".join(lines[: pairs.count]))
    with np.load(GOLDEN / name / "pairs.npz") as stored:
        pixels = stored["pixels"][: pairs.count]
    beyond = CACHED_SIDE - pixels.shape[-1]
    np.save(target / "pairs.npy", np.pad(pixels, [(0, 0)] * 2 + [(0, beyond)] * 2, mode="edge"))
    (target / "config.json").write_text(json.dumps(chosen(pairs), sort_keys=True))


def unpack_pairs(config: TrainConfig, folder: Path) -> None:
    """Write the caches of a recipe whose pairs are stored; those of any other are left to be drawn."""
    stored = {"train_pairs": (config.pairs, TRAIN_PAIRS), "val_pairs": (config.val_pairs, VAL_PAIRS)}
    for name, (pairs, all_of_them) in stored.items():
        if pairs is None or pairs.count > all_of_them.count:
            continue
        if replace(pairs, count=all_of_them.count) == all_of_them:
            unpack(name, pairs, folder / name)


def golden_lines(folder: Path) -> list[dict]:
    """Return the losses of the first steps of every stage, on stored pairs."""
    recipe = golden_recipe()
    unpack_pairs(recipe, folder / "pairs")
    train(recipe, folder / "run", TrainOptions(device="cpu", pairs_folder=folder / "pairs"))
    return losses(folder / "run")


def steps(folder: Path) -> list[tuple[str, int]]:
    """Return the stage and number of every step in a log."""
    return [(line["stage"], line["step"]) for line in step_lines(folder)]


def checkpoints(folder: Path) -> list[str]:
    """Return the names of the checkpoints of a run."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name.startswith("checkpoint"))


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file in a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_same_weights(one: Trained, other: Trained) -> None:
    for name, value in one.model.state_dict().items():
        assert torch.equal(other.model.state_dict()[name], value), name
