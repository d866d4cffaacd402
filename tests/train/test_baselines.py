"""Baselines are trained by the same loop as MedQ-UNI."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from medq_uni.baselines.network import BaselineConfig
from medq_uni.baselines.pix2pix import Network as Pix2Pix
from medq_uni.cli.main import app
from medq_uni.config import ConfigError, ModelConfig, SamplerConfig
from medq_uni.config_json import from_json, to_json
from medq_uni.pretrained.baselines import load_baseline
from medq_uni.seeding import generator_of
from medq_uni.train.export import publish
from medq_uni.train.losses import LossWeights
from medq_uni.train.recipe import LabelsConfig, LoraConfig, TrainConfig
from medq_uni.train.replay import replay
from medq_uni.train.trainer import DivergenceError, OutOfMemoryError, Trained
from tests.train.tiny import NAFNET, PIX2PIX, baseline_recipe, baseline_stage, losses, stage, tiny_recipe


@pytest.mark.parametrize("baseline", [NAFNET, PIX2PIX], ids=lambda baseline: baseline.kind)
def test_a_finished_baseline_is_published_and_loads(
    baseline: BaselineConfig, tmp_path: Path, train: Callable[..., Trained], pairs_of: Callable[[TrainConfig], Path]
) -> None:
    config = baseline_recipe(baseline)
    trained = train(config, tmp_path / "run")
    assert trained.is_finished
    assert trained.tokenizer is None
    publish(trained, config, pairs_of(config), tmp_path / "model")
    again, card = load_baseline(tmp_path / "model")
    assert set(card["validation"]) >= {"gain_ct-low-dose", "gain_mr-noise", "gain_pet-low-count"}
    assert card["stages"] == ["baseline: 6 steps of 4 x 64 px"]
    for name, value in trained.model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_the_log_has_pixel_losses_own_terms_memory_and_gains(tmp_path: Path, train: Callable[..., Trained]) -> None:
    train(baseline_recipe(PIX2PIX), tmp_path)
    assert losses(tmp_path)[0].keys() >= {"l1", "l2", "ssim", "adversarial", "discriminator"}
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines if line["event"] != "step"] == ["memory", "validation", "pace"]
    assert lines[0]["activations_gib"] >= 0
    assert any(name.startswith("gain_") for name in lines[-2])


def test_a_stopped_run_resumes_to_the_same_losses_and_weights(
    tmp_path: Path, ticking: float, train: Callable[..., Trained]
) -> None:
    config = baseline_recipe(PIX2PIX, baseline_stage(steps=8), baseline_stage(name="second", steps=4))
    whole = train(config, tmp_path / "whole")
    pieces, ticks = train(config, tmp_path / "pieces", max_minutes=0), 0
    while not pieces.is_finished:
        pieces, ticks = (
            train(config, tmp_path / "pieces", resume=True, max_minutes=ticking),
            ticks + 1,
        )
        assert ticks < 200
    assert ticks > 1
    assert losses(tmp_path / "pieces") == losses(tmp_path / "whole")
    for name, value in whole.model.state_dict().items():
        assert torch.equal(pieces.model.state_dict()[name], value), name


def test_the_same_seed_gives_the_same_baseline_and_another_one_another(
    tmp_path: Path, train: Callable[..., Trained]
) -> None:
    torch.manual_seed(1)
    first = train(baseline_recipe(), tmp_path / "a").model
    torch.manual_seed(2)
    again = train(baseline_recipe(), tmp_path / "b").model
    other = train(baseline_recipe(seed=7), tmp_path / "c").model
    assert all(torch.equal(x, y) for x, y in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.unet.intro.weight, other.unet.intro.weight)


def test_what_is_kept_is_the_average_of_the_weights(tmp_path: Path, train: Callable[..., Trained]) -> None:
    slow = train(baseline_recipe(ema_decay=0.0), tmp_path / "none").model
    averaged = train(baseline_recipe(), tmp_path / "averaged").model
    assert losses(tmp_path / "none") == losses(tmp_path / "averaged")
    assert not torch.equal(slow.unet.intro.weight, averaged.unet.intro.weight)


def test_times_are_drawn_for_every_sample_and_replay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: Callable[..., Trained]
) -> None:
    seen: list[torch.Tensor] = []
    learn = Pix2Pix.learn

    def watch(self: Pix2Pix, degraded: torch.Tensor, reference: torch.Tensor, t: torch.Tensor) -> object:
        seen.append(t)
        return learn(self, degraded, reference, t)

    monkeypatch.setattr(Pix2Pix, "learn", watch)
    train(baseline_recipe(PIX2PIX), tmp_path / "a")
    first, seen = seen[1:], []  # the first one tells the memory, of one sample
    train(baseline_recipe(PIX2PIX), tmp_path / "b")
    times = torch.stack(first)
    assert times.shape == (6, 4)
    assert 0 <= times.min() < 0.3 < 0.7 < times.max() < 1
    assert torch.equal(times, torch.stack(seen[1:]))


def test_a_step_that_diverged_can_be_computed_again(tmp_path: Path, train: Callable[..., Trained]) -> None:
    config = baseline_recipe(NAFNET, baseline_stage(learning_rate=float("inf"), lr_warmup_steps=0))
    with pytest.raises(DivergenceError, match="--replay"):
        train(config, tmp_path)
    terms, fault = replay(config, tmp_path)
    assert not all(math.isfinite(value) for value in terms.values())
    assert "nan" in fault


def test_out_of_memory_names_what_a_baseline_can_do_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: Callable[..., Trained]
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Pix2Pix, "learn", full)
    with pytest.raises(OutOfMemoryError, match="a smaller width or fewer blocks of the baseline") as caught:
        train(baseline_recipe(PIX2PIX), tmp_path)
    assert "lora" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer": "nano"}, "leave out tokenizer"),
        ({"initial": "nano", "lora": LoraConfig()}, "leave out initial, lora"),
        ({"recompute": True, "labels": LabelsConfig(wrong_share=0.1)}, "leave out recompute, labels"),
        ({"sampler": SamplerConfig(num_steps=4)}, "leave out sampler"),
        ({"stages": (stage("codec"),)}, "the objective of a baseline"),
        ({"stages": (baseline_stage(sides=(63,)),)}, "not a multiple of 2"),
        ({"stages": (baseline_stage(losses=LossWeights(l1=1.0, flow=1.0)),)}, "no loss flow"),
        ({"baseline": None}, "model is missing"),
    ],
)
def test_a_recipe_that_mixes_baselines_and_models_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        baseline_recipe(**changes)


@pytest.mark.parametrize("key", ["pairs", "val_pairs"])
def test_nothing_is_trained_on_or_chosen_by_unseen_pairs(key: str) -> None:
    with pytest.raises(ConfigError, match="none is trained on, or chosen by"):
        baseline_recipe(**{key: replace(getattr(baseline_recipe(), key), unseen=True, data=())})


def test_validation_never_sees_the_volumes_that_are_trained_on() -> None:
    pairs = replace(baseline_recipe().val_pairs, data=("somewhere",), split="train")
    with pytest.raises(ConfigError, match=r'val_pairs would be drawn .* trained on. Write "split": "val"'):
        baseline_recipe(val_pairs=pairs)
    assert baseline_recipe(val_pairs=replace(pairs, split="val")).val_pairs.split == "val"
    assert baseline_recipe(val_pairs=replace(pairs, real_fraction=0.0)).val_pairs.split == "train"


def test_a_model_has_no_stage_of_a_baseline() -> None:
    config = tiny_recipe(stage("codec"))
    assert isinstance(config.model, ModelConfig)
    with pytest.raises(ConfigError, match="needs a baseline"):
        replace(config, stages=(baseline_stage(),))
    with pytest.raises(ConfigError, match="leave out model, tokenizer"):
        replace(config, baseline=NAFNET, stages=(baseline_stage(),))
    with pytest.raises(ConfigError, match='has trainable \\["baseline"\\]'):
        stage("codec", trainable=("baseline",))


def test_a_recipe_of_a_baseline_survives_json() -> None:
    assert from_json(TrainConfig, to_json(baseline_recipe(PIX2PIX))) == baseline_recipe(PIX2PIX)


def test_the_command_trains_and_writes_a_folder(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text(to_json(baseline_recipe()))
    command = ["train", str(tmp_path / "recipe.json"), "-o", str(tmp_path / "run"), "--workers", "1", "--device", "cpu"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    baseline, card = load_baseline(tmp_path / "run" / "model")
    assert card["about"] == ["a test"]
    assert baseline(torch.rand(1, 2, 8, 8, generator=generator_of(0))).shape == (1, 2, 8, 8)
