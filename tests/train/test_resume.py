import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from medq_uni.train.checkpoint import CheckpointError, sole_writer
from medq_uni.train.parallel import DistContext
from medq_uni.train.recipe import TrainConfig
from medq_uni.train.replay import replay
from medq_uni.train.resume import is_changeable
from medq_uni.train.run_log import read_log
from medq_uni.train.trainer import DivergenceError, Trained
from tests.train.tiny import (
    ALL_STEPS,
    FIRST,
    SECOND,
    assert_same_weights,
    baseline_recipe,
    checkpoints,
    contents,
    losses,
    stage,
    steps,
    tiny_recipe,
    two_stages,
    with_changes,
)


def test_a_run_is_not_overwritten_without_resume_and_not_resumed_by_another_recipe(
    tmp_path: Path, train: Callable[..., Trained]
):
    config = tiny_recipe(stage("codec", steps=1))
    train(config, tmp_path)
    with pytest.raises(CheckpointError, match="--resume"):
        train(config, tmp_path)
    with pytest.raises(CheckpointError, match="another recipe"):
        train(replace(config, seed=5), tmp_path, resume=True)
    assert train(replace(config, about=("other words",)), tmp_path, resume=True).is_finished


def test_a_run_that_another_version_goes_on_with_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn, train: Callable[..., Trained]
):
    config = tiny_recipe(stage("codec", steps=1))
    train(config, tmp_path)
    train(config, tmp_path, resume=True)
    assert not [one for one in recwarn if "version" in str(one.message)]
    monkeypatch.setattr("medq_uni.train.resume.__version__", "99.0")
    with pytest.warns(UserWarning, match=r"checkpoint is of \d.* this is 99\.0"):
        train(config, tmp_path, resume=True)


def test_a_run_goes_on_with_another_rate_of_a_stage_that_is_left(tmp_path: Path, train: Callable[..., Trained]):
    config = tiny_recipe(stage("codec", steps=2), stage("joint", learning_rate=math.inf, lr_warmup_steps=0))
    with pytest.raises(DivergenceError, match="lower the learning rate"):
        train(config, tmp_path)

    def with_rates(*rates: float) -> TrainConfig:
        stages = (with_changes(s, learning_rate=rate) for s, rate in zip(config.stages, rates, strict=True))
        return replace(config, stages=tuple(stages))

    mended = with_rates(config.stages[0].optimizer.learning_rate, 1e-4)
    with pytest.raises(CheckpointError, match=r"differs in stages\.1\.optimizer\.learning_rate"):
        train(mended, tmp_path, resume=True)
    with pytest.raises(CheckpointError, match=r"differs in stages\.0\.optimizer\.learning_rate\. Use"):
        train(with_rates(1e-4, 1e-4), tmp_path, resume=True, may_change=True)
    assert train(mended, tmp_path, resume=True, may_change=True).is_finished
    (line,) = [line for line in read_log(tmp_path / "log.jsonl") if line["event"] == "recipe changed"]
    assert (line["stage"], line["step"], line["keys"]) == ("codec", 2, ["stages.1.optimizer.learning_rate"])
    assert train(mended, tmp_path, resume=True).is_finished
    with pytest.raises(CheckpointError, match="of another recipe"):
        replay(mended, tmp_path)


def test_a_run_that_was_killed_before_its_first_checkpoint_leaves_nothing_to_the_next(
    tmp_path: Path, train: Callable[..., Trained]
):
    (tmp_path / "log.jsonl").write_text('{"event": "step", "stage": "of another recipe", "step": 10}\n')
    (tmp_path / "generated-0.json").write_text('{"0": [1, 2, 3]}')
    train(tiny_recipe(stage("codec", steps=1)), tmp_path)
    assert {line["stage"] for line in read_log(tmp_path / "log.jsonl")} == {"codec"}
    assert not (tmp_path / "generated-0.json").exists()


def test_a_folder_in_which_another_run_writes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: Callable[..., Trained]
):
    monkeypatch.setattr("medq_uni.train.checkpoint.LOCK_SECONDS", 0.0)
    recipe = tiny_recipe(stage("codec", steps=2))
    with sole_writer(tmp_path / "run", DistContext()), pytest.raises(CheckpointError, match="another run"):
        train(recipe, tmp_path / "run")
    train(recipe, tmp_path / "run")  # the folder is free again


def test_settings_of_the_whole_run_may_change_and_others_are_named(tmp_path: Path, train: Callable[..., Trained]):
    config = tiny_recipe(stage("codec", steps=2))
    train(config, tmp_path, max_minutes=0)
    with pytest.raises(CheckpointError, match=r"differs in seed\. Use another folder"):
        train(replace(config, seed=5), tmp_path, resume=True, may_change=True)
    with pytest.raises(CheckpointError, match="of another recipe"):
        train(replace(config, initial="nano", model=None), tmp_path, resume=True, may_change=True)
    other = replace(config, save_interval_minutes=1.0, gradient_clip=2.0, log_interval=1, validation_interval=7)
    assert train(other, tmp_path, resume=True, may_change=True).is_finished


@pytest.mark.parametrize(
    ("key", "stage_left", "may"),
    [
        ("save_interval_minutes", 0, True),
        ("seed", 0, False),
        ("stages.1.optimizer.learning_rate", 1, True),
        ("stages.0.optimizer.learning_rate", 1, False),
        ("stages.1.assess_share", 0, False),
        ("stages", 0, False),
    ],
)
def test_what_may_change(key: str, stage_left: int, may: bool):
    assert is_changeable(key, stage_left) is may


def test_a_run_of_an_earlier_version_is_refused_and_the_reason_is_said(tmp_path: Path, train: Callable[..., Trained]):
    config = baseline_recipe()
    train(config, tmp_path, max_minutes=0)
    values = json.loads((tmp_path / "recipe.json").read_text())
    values["stages"][0]["crop_size"] = 64
    (tmp_path / "recipe.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"cannot read, so it cannot go on: .*'crop_size' is called"):
        train(replace(config, seed=1), tmp_path, resume=True, may_change=True)


def test_a_finished_run_that_is_gone_on_with_does_nothing(
    tmp_path: Path, whole: tuple[Path, Trained], monkeypatch: pytest.MonkeyPatch, train: Callable[..., Trained]
):
    train(two_stages(), tmp_path)
    again = train(two_stages(), tmp_path, resume=True)
    assert again.is_finished
    assert steps(tmp_path) == ALL_STEPS
    assert_same_weights(again, whole[1])


def test_steps_behind_the_last_checkpoint_are_done_again_and_logged_once(
    tmp_path: Path, whole: tuple[Path, Trained], train: Callable[..., Trained]
):
    """What a run that was killed leaves: an older checkpoint than its log, and half a checkpoint."""
    train(two_stages(), tmp_path)
    for path in (tmp_path / "checkpoint-01-00000004").iterdir():
        path.unlink()
    (tmp_path / "checkpoint-01-00000004").rename(tmp_path / "checkpoint.part")
    with (tmp_path / "log.jsonl").open("a", encoding="utf-8") as log:
        log.write('{"event": "step", "stage": "second", "st')
    trained = train(two_stages(), tmp_path, resume=True)
    assert losses(tmp_path) == losses(whole[0])
    resumed = [line for line in read_log(tmp_path / "log.jsonl") if line["event"] == "resumed"]
    assert [(line["stage"], line["step"]) for line in resumed] == [("first", 3)]
    assert checkpoints(tmp_path) == checkpoints(whole[0])
    assert_same_weights(trained, whole[1])


@pytest.fixture
def stopped(tmp_path: Path, train: Callable[..., Trained]) -> Path:
    """The folder of a run that stopped before its first step."""
    train(two_stages(), tmp_path / "run", max_minutes=0)
    return tmp_path / "run"


def test_a_run_is_refused_to_another_recipe_and_stays_as_it_was(stopped: Path, train: Callable[..., Trained]):
    before = contents(stopped)
    with pytest.raises(
        CheckpointError, match=r"holds a run of another recipe\. It differs in seed\. Use another folder"
    ):
        train(two_stages(seed=3), stopped, resume=True)
    other = two_stages(seed=3, ema_decay=0.5, bfloat16=True, gradient_clip=3.0, log_interval=2)
    with pytest.raises(
        CheckpointError, match=r"differs in bfloat16, ema_decay, gradient_clip, log_interval and more\. Use"
    ):
        train(other, stopped, resume=True)
    with pytest.raises(CheckpointError, match=r"differs in ema_decay, seed\. Use"):
        train(other, stopped, resume=True, may_change=True)
    assert contents(stopped) == before


def test_stages_that_are_left_may_change_and_finished_ones_may_not(tmp_path: Path, train: Callable[..., Trained]):
    train(two_stages(), tmp_path)
    for path in (tmp_path / "checkpoint-01-00000004").iterdir():
        path.unlink()
    (tmp_path / "checkpoint-01-00000004").rmdir()  # the first stage is finished, the second is not
    slower = replace(two_stages(), stages=(FIRST, with_changes(SECOND, learning_rate=1e-5)))
    with pytest.raises(CheckpointError, match=r"differs in stages\.1\.optimizer\.learning_rate\. Use"):
        train(slower, tmp_path, resume=True)
    other = replace(two_stages(), stages=(with_changes(FIRST, learning_rate=1e-5), SECOND))
    with pytest.raises(CheckpointError, match=r"differs in stages\.0\.optimizer\.learning_rate\. Use"):
        train(other, tmp_path, resume=True, may_change=True)
    assert train(slower, tmp_path, resume=True, may_change=True).is_finished
    changed = [line for line in read_log(tmp_path / "log.jsonl") if line["event"] == "recipe changed"]
    assert [(line["stage"], line["step"], line["keys"]) for line in changed] == [
        ("first", 3, ["stages.1.optimizer.learning_rate"])
    ]


@pytest.mark.parametrize("damage", ["missing", "of another run"])
def test_a_run_whose_recipe_is_not_known_is_refused_to_another_one(
    stopped: Path, damage: str, train: Callable[..., Trained]
):
    path = stopped / "recipe.json"
    if damage == "missing":
        path.unlink()
    else:
        path.write_text(json.dumps(json.loads(path.read_text()) | {"seed": 9}))
    with pytest.raises(CheckpointError, match=r"holds a run of another recipe\. Use another folder"):
        train(two_stages(log_interval=2), stopped, resume=True, may_change=True)
    assert train(two_stages(), stopped, resume=True, max_minutes=0) is not None  # its own recipe goes on all the same


@pytest.mark.parametrize(("text", "reason"), [("{", "JSON"), ('{"sede": 1}', "Did you mean 'seed'")])
def test_a_run_whose_recipe_cannot_be_read_is_refused_with_the_reason(
    stopped: Path, text: str, reason: str, train: Callable[..., Trained]
):
    (stopped / "recipe.json").write_text(text)
    with pytest.raises(CheckpointError, match=rf"cannot read.*recipe\.json.*{reason}.*Use another folder"):
        train(two_stages(seed=3), stopped, resume=True)


def test_a_folder_that_holds_a_run_needs_leave(stopped: Path, train: Callable[..., Trained]):
    before = contents(stopped)
    with pytest.raises(CheckpointError, match=r"holds a run already\. Pass --resume to go on with it"):
        train(two_stages(), stopped)
    assert contents(stopped) == before


def test_going_on_where_nothing_is_begins(tmp_path: Path, whole: tuple[Path, Trained], train: Callable[..., Trained]):
    trained = train(two_stages(), tmp_path / "new", resume=True)
    assert trained.is_finished
    assert losses(tmp_path / "new") == losses(whole[0])
