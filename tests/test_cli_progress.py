import json
from collections.abc import Callable

import pytest

from medq_uni.cli import shared
from medq_uni.cli.shared import progress_bar, progress_bars
from medq_uni.cli.training import _reporter


def lines(capsys: pytest.CaptureFixture) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_without_a_terminal_progress_is_a_line_a_second_and_the_last(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    clock = iter([0.0, 0.0, 0.4, 0.9, 1.5, 1.5, 1.6, 9.0])
    monkeypatch.setattr(shared.time, "monotonic", lambda: next(clock))
    with progress_bar("pairs") as progress:
        for done in range(1, 7):
            progress(done, 6)
    assert [line["done"] for line in lines(capsys)] == [1, 4, 6]


def test_bars_follow_each_other(capsys: pytest.CaptureFixture):
    with progress_bars() as bars:
        bars("one")(2, 2)
        bars("two")(3, 3)
    assert [(line["event"], line["done"]) for line in lines(capsys)] == [("one", 2), ("two", 3)]


def test_training_shows_draws_and_stages_under_their_names(capsys: pytest.CaptureFixture):
    opened: list[str] = []

    def bars(label: str) -> Callable[[int, int], None]:
        opened.append(label)
        return lambda done, total: None

    report = _reporter(bars)
    for line in (
        {"event": "train_pairs", "step": 1, "steps": 2},
        {"event": "train_pairs", "step": 2, "steps": 2},
        {"event": "memory", "stage": "codec", "step": 0, "held_gib": 0.5, "activations_gib": 1.25},
        {"event": "step", "stage": "codec", "step": 10, "steps": 20},
        {"event": "validation", "stage": "codec", "step": 20, "gain_mr-noise": 1.5},
        {"event": "pace", "stage": "codec", "step": 20, "samples_per_s": 12.34, "waited": 0.0123, "peak_gib": 2.5},
        {"event": "recipe changed", "stage": "codec", "step": 20, "keys": ["stages.1.learning_rate"]},
        {"event": "step", "stage": "joint", "step": 10, "steps": 20},
    ):
        report(line)
    assert opened == ["train pairs", "codec", "joint"]
    said = capsys.readouterr()
    assert "codec: 0.50 GiB for weights and optimizer, about 1.25 GiB for a step" in said.err
    assert "codec: 12.3 samples per second, 1.2 % of the time waiting for them, at most 2.50 GiB on the GPU" in said.err
    assert "codec: goes on with another stages.1.learning_rate" in said.err
    assert json.loads(said.out)["gain_mr-noise"] == 1.5
