import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from medq_uni.train.checkpoint import CheckpointError, sole_writer
from medq_uni.train.parallel import DistContext
from medq_uni.train.replay import replay
from medq_uni.train.trainer import DivergenceError, Trained
from tests.train.tiny import stage, tiny_recipe, unpack_pairs


def test_replay_with_another_recipe_touches_nothing(tmp_path: Path, train: Callable[..., Trained]):
    config = tiny_recipe(stage("codec", learning_rate=math.inf, lr_warmup_steps=0))
    with pytest.raises(DivergenceError):
        train(config, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert config.pairs is not None
    with pytest.raises(CheckpointError, match="of another recipe"):
        replay(replace(config, pairs=replace(config.pairs, seed=777)), tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_step_that_diverged_can_be_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: Callable[..., Trained]
):
    monkeypatch.setattr("medq_uni.train.checkpoint.LOCK_SECONDS", 0.0)
    config = tiny_recipe(stage("codec", learning_rate=float("inf"), lr_warmup_steps=0))
    unpack_pairs(config, tmp_path)
    with pytest.raises(DivergenceError, match="--replay"):
        train(config, tmp_path, pairs_folder=tmp_path)
    first = json.loads((tmp_path / "diverged" / "progress.json").read_text())["progress"]["step"]
    assert first > 0  # the first step is taken from sound weights
    with sole_writer(tmp_path, DistContext()), pytest.raises(CheckpointError, match="another run"):
        replay(config, tmp_path)
    terms, fault = replay(config, tmp_path)
    assert not all(math.isfinite(value) for value in terms.values())
    assert "returned nan values" in fault
    with pytest.raises(CheckpointError, match="no step that diverged"):
        replay(config, tmp_path / "other")
