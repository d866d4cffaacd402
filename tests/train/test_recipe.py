import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from medq_uni.config import ConfigError
from medq_uni.config_json import to_json
from medq_uni.pretrained.load import Pretrained
from medq_uni.train.recipe import LabelsConfig, LoraConfig, read_recipe, recipe_from_json
from medq_uni.train.stage import ConditioningConfig
from medq_uni.train.trainer import Trained
from tests.train.tiny import baseline_recipe, stage, tiny_recipe

PLANS = ("dataset", "ablations", "baselines")
FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = [path for path in FOLDER.glob("*.json") if not path.name.startswith(PLANS)]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_recipe_of_the_project_reads(path: Path):
    assert read_recipe(path).about


@pytest.mark.parametrize("path", [p for p in RECIPES if "nano" in p.name], ids=lambda path: path.name)
def test_crops_of_recipes_that_begin_with_nano_fit_its_tokens(path: Path, nano: Pretrained):
    size = nano.config.token_pixels
    sides = [side for one in read_recipe(path).stages for side in one.crops.sides]
    assert not [side for side in sides if side % size]


def paths_of(values: object, path: str = "") -> set[str]:
    """Return the dotted paths of the keys in a JSON value that hold a value, without numbers of stages."""
    if isinstance(values, list) and values and isinstance(values[0], dict):
        return {found for one in values for found in paths_of(one, path)}
    if not isinstance(values, dict) or path in ("stages.crops.task_weights", "model", "pairs", "val_pairs", "baseline"):
        return {path}
    return {found for key, one in values.items() for found in paths_of(one, f"{path}.{key}" if path else key)}


def test_every_key_is_used_by_a_recipe_or_has_a_reason():
    """What no recipe sets is listed in docs/training.md with the reason why it can be set."""
    every = paths_of(
        json.loads(to_json(baseline_recipe()))
        | {"labels": asdict(LabelsConfig()), "lora": asdict(LoraConfig()), "sampler": {}}
    )
    every = {path for path in every if path} - {"sampler"}
    used = {path for recipe in RECIPES for path in paths_of(json.loads(recipe.read_text()))}
    for plan in FOLDER.glob("*.json"):
        for variant in json.loads(plan.read_text()).get("variants", ()):
            for key, value in variant.get("changes", {}).items():
                first, *rest = key.split(".")
                used |= paths_of(value, ".".join([first, *rest[1:]] if first == "stages" else [first, *rest]))
    text = (FOLDER.parent / "docs" / "training.md").read_text(encoding="utf-8")
    section = text.partition("## Keys that no recipe sets")[2].partition("\n## ")[0]
    reasons = set(re.findall(r"^- `([a-z0-9_.]+)`: ", section, re.M))
    assert every - used == reasons


def test_a_key_of_an_earlier_recipe_is_refused_with_its_new_name():
    values = json.loads(to_json(baseline_recipe()))
    values |= {"log_every": 1, "betas": [0.9, 0.98]}
    values["stages"][0] |= {"crop_size": 64, "text": {"misread": 0.1}}
    with pytest.raises(ConfigError) as caught:
        recipe_from_json(json.dumps(values))
    for said in ("'log_every' is called 'log_interval'", "'crop_size' is called 'crops.sides, a list'"):
        assert said in str(caught.value)
    for said in ("'misread' is called 'conditioning.corrupted'", "'betas' is gone"):
        assert said in str(caught.value)
    assert "'learning_rate'" not in str(caught.value)  # where it belongs it is no old key


@pytest.mark.parametrize(
    ("objective", "changes", "message"),
    [
        ("joint", {"trainable": ("spread",)}, r'"assess_share": 0'),
        ("assess", {"trainable": ("decoder", "ir")}, "can train iqa, trainable is decoder, ir"),
        ("codec", {"trainable": ("ir",)}, "can train decoder, spread"),
        ("codec", {"sides": (50,)}, "crop of 50 pixels .* Take 64"),
        ("codec", {"sides": (32, 40)}, "crop of 40 pixels .* Take 48"),
        ("codec", {"learning_rate": -1e-4}, "learning_rate and lr_warmup_steps must not be negative"),
        ("codec", {"lr_warmup_steps": -1}, "learning_rate and lr_warmup_steps must not be negative"),
    ],
)
def test_a_stage_that_could_not_run_is_refused_when_it_is_read(objective: str, changes: dict, message: str):
    with pytest.raises(ConfigError, match=f"stage '{objective}': .*{message}"):
        tiny_recipe(stage(objective, **changes))


def test_crops_that_do_not_fit_a_pretrained_model_are_refused_by_stage(tmp_path: Path, train: Callable[..., Trained]):
    config = replace(tiny_recipe(stage("joint")), model=None, tokenizer=None, initial="nano")
    config = replace(config, stages=(stage("joint", sides=(40,)),))
    with pytest.raises(ConfigError, match="stage 'joint': a crop of 40 pixels"):
        train(config, tmp_path)


def test_shares_of_what_is_told_are_shares():
    with pytest.raises(ConfigError, match=r"shares of one whole.*0.9, 0.9, 0.15, 0"):
        ConditioningConfig(reference=0.9, generated=0.9)
    with pytest.raises(ConfigError, match="none below 0"):
        ConditioningConfig(edited=-0.1)
