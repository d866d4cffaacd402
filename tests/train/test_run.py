"""How a run stops, goes on, and refuses to; seen from outside, on baselines, which train in no time."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from medq_uni.train.loop import Trained, train

from medq_uni.train.checkpoint import CheckpointError
from medq_uni.train.recipe import TrainConfig
from medq_uni.train.run_log import read_log
from tests.train.test_baselines import NAFNET, recipe, stage

FIRST, SECOND = stage(name="first", steps=3), stage(name="second", steps=4)


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where the pairs of all runs are."""
    return tmp_path_factory.mktemp("pools")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, pools: Path) -> tuple[Path, Trained]:
    """A run of two stages that nothing interrupted; never write to it."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, train(two_stages(), folder, device="cpu", pools=pools)


def two_stages(**changes: object) -> TrainConfig:
    return recipe(NAFNET, FIRST, SECOND, **changes)


def steps(folder: Path) -> list[tuple[str, int]]:
    return [(line["stage"], line["step"]) for line in read_log(folder / "log.jsonl") if line["event"] == "step"]


def losses(folder: Path) -> list[dict]:
    lines = [line for line in read_log(folder / "log.jsonl") if line["event"] == "step"]
    return [{key: value for key, value in line.items() if key not in ("seconds", "waited")} for line in lines]


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name.startswith("checkpoint"))


def assert_same_weights(one: Trained, other: Trained) -> None:
    for name, value in one.model.state_dict().items():
        assert torch.equal(other.model.state_dict()[name], value), name


ALL_STEPS = [("first", step) for step in (1, 2, 3)] + [("second", step) for step in (1, 2, 3, 4)]


def test_stages_follow_each_other(whole: tuple[Path, Trained]):
    assert whole[1].is_finished
    assert steps(whole[0]) == ALL_STEPS
    assert checkpoints(whole[0]) == ["checkpoint-00-00000003", "checkpoint-01-00000004"]


def test_no_time_makes_a_checkpoint_and_no_step(tmp_path: Path, pools: Path):
    trained = train(two_stages(), tmp_path, device="cpu", pools=pools, max_minutes=0)
    assert not trained.is_finished
    assert steps(tmp_path) == []
    assert checkpoints(tmp_path) == ["checkpoint-00-00000000"]


def test_a_run_goes_on_within_the_stage_that_it_stopped_in(
    tmp_path: Path, pools: Path, ticking: float, whole: tuple[Path, Trained]
):
    config, seen, resume = two_stages(), [], False
    trained = None
    while trained is None or not trained.is_finished:
        trained = train(config, tmp_path, resume=resume, device="cpu", pools=pools, max_minutes=ticking / 2)
        resume = True
        assert steps(tmp_path) == ALL_STEPS[: len(steps(tmp_path))]  # none is left out, none is done twice
        seen.append(len(steps(tmp_path)))
        assert len(seen) < 100
    assert len(set(seen)) > 2
    assert seen[-1] == len(ALL_STEPS)
    assert losses(tmp_path) == losses(whole[0])
    assert_same_weights(trained, whole[1])


def test_a_finished_run_that_is_gone_on_with_does_nothing(
    tmp_path: Path, pools: Path, whole: tuple[Path, Trained], monkeypatch: pytest.MonkeyPatch
):
    train(two_stages(), tmp_path, device="cpu", pools=pools)
    again = train(two_stages(), tmp_path, resume=True, device="cpu", pools=pools)
    assert again.is_finished
    assert steps(tmp_path) == ALL_STEPS
    assert_same_weights(again, whole[1])


def test_steps_behind_the_last_checkpoint_are_done_again_and_logged_once(
    tmp_path: Path, pools: Path, whole: tuple[Path, Trained]
):
    """What a run that was killed leaves: an older checkpoint than its log, and half a checkpoint."""
    train(two_stages(), tmp_path, device="cpu", pools=pools)
    for path in (tmp_path / "checkpoint-01-00000004").iterdir():
        path.unlink()
    (tmp_path / "checkpoint-01-00000004").rename(tmp_path / "checkpoint.part")
    with (tmp_path / "log.jsonl").open("a", encoding="utf-8") as log:
        log.write('{"event": "step", "stage": "second", "st')
    trained = train(two_stages(), tmp_path, resume=True, device="cpu", pools=pools)
    assert losses(tmp_path) == losses(whole[0])
    resumed = [line for line in read_log(tmp_path / "log.jsonl") if line["event"] == "resumed"]
    assert [(line["stage"], line["step"]) for line in resumed] == [("first", 3)]
    assert checkpoints(tmp_path) == checkpoints(whole[0])
    assert_same_weights(trained, whole[1])


def test_checkpoints_are_made_by_the_clock_and_two_are_kept(tmp_path: Path, pools: Path, ticking: float):
    kept: list[list[str]] = []

    def watch(line: dict) -> None:
        if line["event"] == "step":
            kept.append(checkpoints(tmp_path))

    config = recipe(NAFNET, stage(steps=6), checkpoint_minutes=0.0)
    train(config, tmp_path, device="cpu", pools=pools, report=watch)
    assert [len(names) for names in kept] == [0, 1, 2, 2, 2, 2]  # before that of the step itself
    assert kept[-1] == ["checkpoint-00-00000004", "checkpoint-00-00000005"]
    assert checkpoints(tmp_path) == ["checkpoint-00-00000005", "checkpoint-00-00000006"]


@pytest.fixture
def stopped(tmp_path: Path, pools: Path) -> Path:
    """The folder of a run that stopped before its first step."""
    train(two_stages(), tmp_path / "run", device="cpu", pools=pools, max_minutes=0)
    return tmp_path / "run"


def goes_on(folder: Path, config: TrainConfig, pools: Path, **options: object) -> Trained:
    return train(config, folder, resume=True, device="cpu", pools=pools, **options)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_is_refused_to_another_recipe_and_stays_as_it_was(stopped: Path, pools: Path):
    before = contents(stopped)
    with pytest.raises(
        CheckpointError, match=r"holds a run of another recipe\. It differs in seed\. Use another folder"
    ):
        goes_on(stopped, two_stages(seed=3), pools)
    other = two_stages(seed=3, ema_decay=0.5, weight_decay=0.5, gradient_clip=3.0, log_every=2)
    with pytest.raises(CheckpointError, match=r"differs in ema_decay, gradient_clip, log_every, seed and more\. Use"):
        goes_on(stopped, other, pools)
    with pytest.raises(CheckpointError, match=r"differs in ema_decay, seed, weight_decay\. Use"):
        goes_on(stopped, other, pools, may_change=True)
    assert contents(stopped) == before


def test_stages_that_are_left_may_change_and_finished_ones_may_not(tmp_path: Path, pools: Path):
    train(two_stages(), tmp_path, device="cpu", pools=pools)
    for path in (tmp_path / "checkpoint-01-00000004").iterdir():
        path.unlink()
    (tmp_path / "checkpoint-01-00000004").rmdir()  # the first stage is finished, the second is not
    slower = replace(two_stages(), stages=(FIRST, replace(SECOND, learning_rate=1e-5)))
    with pytest.raises(CheckpointError, match=r"differs in stages\.1\.learning_rate\. Use"):
        goes_on(tmp_path, slower, pools)
    other = replace(two_stages(), stages=(replace(FIRST, learning_rate=1e-5), SECOND))
    with pytest.raises(CheckpointError, match=r"differs in stages\.0\.learning_rate\. Use"):
        goes_on(tmp_path, other, pools, may_change=True)
    assert goes_on(tmp_path, slower, pools, may_change=True).is_finished
    changed = [line for line in read_log(tmp_path / "log.jsonl") if line["event"] == "recipe changed"]
    assert [(line["stage"], line["step"], line["keys"]) for line in changed] == [
        ("first", 3, ["stages.1.learning_rate"])
    ]


@pytest.mark.parametrize("damage", ["missing", "of another run"])
def test_a_run_whose_recipe_is_not_known_is_refused_to_another_one(stopped: Path, pools: Path, damage: str):
    path = stopped / "recipe.json"
    if damage == "missing":
        path.unlink()
    else:
        path.write_text(json.dumps(json.loads(path.read_text()) | {"seed": 9}))
    with pytest.raises(CheckpointError, match=r"holds a run of another recipe\. Use another folder"):
        goes_on(stopped, two_stages(log_every=2), pools, may_change=True)
    assert goes_on(stopped, two_stages(), pools, max_minutes=0) is not None  # its own recipe goes on all the same


@pytest.mark.parametrize(("text", "reason"), [("{", "JSON"), ('{"sede": 1}', "Did you mean 'seed'")])
def test_a_run_whose_recipe_cannot_be_read_is_refused_with_the_reason(
    stopped: Path, pools: Path, text: str, reason: str
):
    (stopped / "recipe.json").write_text(text)
    with pytest.raises(CheckpointError, match=rf"cannot read.*recipe\.json.*{reason}.*Use another folder"):
        goes_on(stopped, two_stages(seed=3), pools)


def test_a_folder_that_holds_a_run_needs_leave(stopped: Path, pools: Path):
    before = contents(stopped)
    with pytest.raises(CheckpointError, match=r"holds a run already\. Pass --resume to go on with it"):
        train(two_stages(), stopped, device="cpu", pools=pools)
    assert contents(stopped) == before


def test_going_on_where_nothing_is_begins(tmp_path: Path, pools: Path, whole: tuple[Path, Trained]):
    trained = goes_on(tmp_path / "new", two_stages(), pools)
    assert trained.is_finished
    assert losses(tmp_path / "new") == losses(whole[0])
