import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from medq_uni.pretrained.load import load_pretrained
from medq_uni.train.export import publish
from medq_uni.train.objective import Objective
from medq_uni.train.optimizer import group_of
from medq_uni.train.recipe import TrainConfig
from medq_uni.train.run_log import read_log
from medq_uni.train.trainer import DivergenceError, OutOfMemoryError, Trained
from tests.train.tiny import (
    ALL_STEPS,
    GOLDEN,
    NAFNET,
    all_stages,
    assert_same_weights,
    baseline_recipe,
    baseline_stage,
    checkpoints,
    golden_lines,
    losses,
    stage,
    steps,
    tiny_recipe,
    two_stages,
)


def test_all_stages_run_and_the_published_folder_loads(
    tmp_path: Path, train: Callable[..., Trained], pairs_of: Callable[[TrainConfig], Path]
):
    config = all_stages()
    trained = train(config, tmp_path / "run")
    assert trained.is_finished
    publish(trained, config, pairs_of(config), tmp_path / "model")
    again = load_pretrained(tmp_path / "model")
    assert set(again.uncertainty_scale) == {"ct", "mr", "pet"}
    for name, value in trained.model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[name], value.float(), atol=2e-3, rtol=2e-3)


def test_a_stopped_run_resumes_to_the_same_weights(tmp_path: Path, ticking: float, train: Callable[..., Trained]):
    config = tiny_recipe(stage("codec"), stage("joint", steps=8))
    whole = train(config, tmp_path / "whole")
    pieces = train(config, tmp_path / "pieces", max_minutes=0)
    assert not pieces.is_finished
    ticks = 0
    while not pieces.is_finished:
        pieces = train(config, tmp_path / "pieces", resume=True, max_minutes=ticking)
        ticks += 1
        assert ticks < 200
    assert ticks > 1
    for name, value in whole.model.state_dict().items():
        assert torch.equal(pieces.model.state_dict()[name], value), name


def test_the_pace_of_a_stage_is_logged(tmp_path: Path, train: Callable[..., Trained]):
    train(tiny_recipe(stage("codec", steps=3)), tmp_path, max_minutes=0)
    train(tiny_recipe(stage("codec", steps=3)), tmp_path, resume=True)
    (line,) = [line for line in read_log(tmp_path / "log.jsonl") if line["event"] == "pace"]
    assert line["step"] == 3
    assert line["samples_per_s"] > 0
    assert 0 <= line["waited"] <= 1


def test_only_the_named_groups_learn(tmp_path: Path, train: Callable[..., Trained]):
    config = tiny_recipe(stage("restore", trainable=("ir",), steps=3))
    before = train(tiny_recipe(stage("codec", steps=1, learning_rate=0.0)), tmp_path / "a").model
    after = train(config, tmp_path / "b").model
    start = dict(before.named_parameters())
    changed = {group_of(n) for n, p in after.named_parameters() if not torch.equal(p, start[n])}
    assert changed == {"ir"}


def test_a_loss_that_is_not_finite_stops_with_a_clear_error(tmp_path: Path, train: Callable[..., Trained]):
    config = tiny_recipe(stage("codec", learning_rate=float("inf"), lr_warmup_steps=0))
    with pytest.raises(DivergenceError, match="learning rate"):
        train(config, tmp_path)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError(), MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_out_of_memory_says_what_needs_less(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: Callable[..., Trained]
):
    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr(Objective, "losses", full)
    with pytest.raises(OutOfMemoryError, match=r"batch_size below 4, sides of crops below 64, recompute: true"):
        train(tiny_recipe(stage("codec")), tmp_path)


def test_the_losses_of_a_tiny_run_are_the_golden_ones(tmp_path: Path):
    found, expected = golden_lines(tmp_path), json.loads((GOLDEN / "losses_tiny.json").read_text())
    assert [line["stage"] for line in found] == [line["stage"] for line in expected]
    for one, other in zip(found, expected, strict=True):
        numbers = [{k: v for k, v in line.items() if k != "stage"} for line in (one, other)]
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-3, abs=1e-4)


def test_stages_follow_each_other(whole: tuple[Path, Trained]):
    assert whole[1].is_finished
    assert steps(whole[0]) == ALL_STEPS
    assert checkpoints(whole[0]) == ["checkpoint-00-00000003", "checkpoint-01-00000004"]


def test_no_time_makes_a_checkpoint_and_no_step(tmp_path: Path, train: Callable[..., Trained]):
    trained = train(two_stages(), tmp_path, max_minutes=0)
    assert not trained.is_finished
    assert steps(tmp_path) == []
    assert checkpoints(tmp_path) == ["checkpoint-00-00000000"]


def test_a_run_goes_on_within_the_stage_that_it_stopped_in(
    tmp_path: Path, ticking: float, whole: tuple[Path, Trained], train: Callable[..., Trained]
):
    config, seen, resume = two_stages(), [], False
    trained = None
    while trained is None or not trained.is_finished:
        trained = train(config, tmp_path, resume=resume, max_minutes=ticking / 2)
        resume = True
        assert steps(tmp_path) == ALL_STEPS[: len(steps(tmp_path))]  # none is left out, none is done twice
        seen.append(len(steps(tmp_path)))
        assert len(seen) < 100
    assert len(set(seen)) > 2
    assert seen[-1] == len(ALL_STEPS)
    assert losses(tmp_path) == losses(whole[0])
    assert_same_weights(trained, whole[1])


def test_checkpoints_are_made_by_the_clock_and_two_are_kept(
    tmp_path: Path, ticking: float, train: Callable[..., Trained]
):
    kept: list[list[str]] = []

    def watch(line: dict) -> None:
        if line["event"] == "step":
            kept.append(checkpoints(tmp_path))

    config = baseline_recipe(NAFNET, baseline_stage(steps=6), save_interval_minutes=0.0)
    train(config, tmp_path, report=watch)
    assert [len(names) for names in kept] == [0, 1, 2, 2, 2, 2]  # before that of the step itself
    assert kept[-1] == ["checkpoint-00-00000004", "checkpoint-00-00000005"]
    assert checkpoints(tmp_path) == ["checkpoint-00-00000005", "checkpoint-00-00000006"]
