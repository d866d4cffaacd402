from dataclasses import replace
from pathlib import Path

import pytest

from medq_uni.config import ConfigError
from medq_uni.pretrained.load import load_pretrained
from medq_uni.train.loop import CheckpointError, train
from medq_uni.train.recipe import is_changeable, read_recipe
from tests.train.test_loop import stage, tiny_recipe

PLANS = ("dataset", "ablations", "baselines")
RECIPES = [p for p in (Path(__file__).parents[2] / "recipes").glob("*.json") if not p.name.startswith(PLANS)]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_recipe_of_the_project_reads(path: Path):
    assert read_recipe(path).about


@pytest.mark.parametrize("path", [p for p in RECIPES if "nano" in p.name], ids=lambda path: path.name)
def test_crops_of_recipes_that_begin_with_nano_fit_its_tokens(path: Path):
    size = load_pretrained("nano").config.token_pixels
    sides = [side for one in read_recipe(path).stages for side in (one.crop_sizes or (one.crop_size,))]
    assert not [side for side in sides if side % size]


@pytest.mark.parametrize(
    ("objective", "changes", "message"),
    [
        ("joint", {"trainable": ("spread",)}, r'"assess_share": 0'),
        ("assess", {"trainable": ("decoder", "ir")}, "can train iqa, trainable is decoder, ir"),
        ("codec", {"trainable": ("ir",)}, "can train decoder, spread"),
        ("codec", {"crop_size": 50}, "crop of 50 pixels .* Take 64"),
        ("codec", {"crop_sizes": (32, 40)}, "crop of 40 pixels .* Take 48"),
        ("codec", {"learning_rate": -1e-4}, "learning_rate and warmup_steps must not be negative"),
        ("codec", {"warmup_steps": -1}, "learning_rate and warmup_steps must not be negative"),
    ],
)
def test_a_stage_that_could_not_run_is_refused_when_it_is_read(objective: str, changes: dict, message: str):
    with pytest.raises(ConfigError, match=f"stage '{objective}': .*{message}"):
        tiny_recipe(stage(objective, **changes))


def test_crops_that_do_not_fit_a_pretrained_model_are_refused_by_stage(tmp_path: Path):
    config = replace(tiny_recipe(stage("joint")), model=None, tokenizer=None, initial="nano")
    config = replace(config, stages=(stage("joint", crop_size=40),))
    with pytest.raises(ConfigError, match="stage 'joint': a crop of 40 pixels"):
        train(config, tmp_path)


def test_settings_of_the_whole_run_may_change_and_others_are_named(tmp_path: Path):
    config = tiny_recipe(stage("codec", steps=2))
    train(config, tmp_path, max_minutes=0)
    with pytest.raises(CheckpointError, match=r"differs in seed\. Use another folder"):
        train(replace(config, seed=5), tmp_path, resume=True, may_change=True)
    with pytest.raises(CheckpointError, match="of another recipe"):
        train(replace(config, initial="nano", model=None), tmp_path, resume=True, may_change=True)
    other = replace(config, checkpoint_minutes=1.0, gradient_clip=2.0, log_every=1, validate_every=7)
    assert train(other, tmp_path, resume=True, may_change=True).is_finished


@pytest.mark.parametrize(
    ("key", "stage_left", "may"),
    [
        ("checkpoint_minutes", 0, True),
        ("seed", 0, False),
        ("stages.1.learning_rate", 1, True),
        ("stages.0.learning_rate", 1, False),
        ("stages.1.assess_share", 0, False),
        ("stages", 0, False),
    ],
)
def test_what_may_change(key: str, stage_left: int, may: bool):
    assert is_changeable(key, stage_left) is may
