"""How a step is computed is found by timing it, and kept."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from medq_uni.train.checkpoint import CheckpointError
from medq_uni.train.pace import PACE, Pace, choose_pace, fastest, kept_pace, layout_of
from medq_uni.train.parallel import DistContext
from medq_uni.train.trainer import Trained
from tests.train.tiny import stage, tiny_recipe

PLAIN = Pace(bfloat16=False, channels_last=True, threads=4)
CHANGES: list[Callable[[Pace], Pace]] = [
    lambda pace: replace(pace, bfloat16=True),
    lambda pace: replace(pace, channels_last=False),
    lambda pace: replace(pace, threads=2),
]


@pytest.mark.parametrize(
    ("slow", "best"),
    [
        (lambda p: 1 + 12 * p.bfloat16 + p.channels_last, Pace(False, False, 4)),
        (lambda p: 2 - p.bfloat16 + p.threads / 4, Pace(True, True, 2)),
        (lambda p: 1 - 0.02 * p.bfloat16, PLAIN),  # within the noise
    ],
)
def test_one_change_after_the_other_is_kept_where_it_pays(slow: Callable[[Pace], float], best: Pace) -> None:
    found, times = fastest(PLAIN, CHANGES, slow)
    assert found == best
    assert len(times) == 4
    assert all(times[pace] == slow(pace) for pace in times)


def test_what_is_hopeless_is_timed_once() -> None:
    asked: list[Pace] = []

    def seconds(pace: Pace) -> float:
        asked.append(pace)
        return 13.7 if pace.bfloat16 else 1.1

    fastest(PLAIN, CHANGES[:1], seconds)
    assert sum(pace.bfloat16 for pace in asked) == 1


class Sleepy(nn.Module):
    """A network whose step takes longer in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def loss(self, pace: Pace) -> Tensor:
        work = torch.ones(10 if pace.bfloat16 else 4000, 300)
        return (self.weight * (work @ torch.ones(300, 300))).sum()


def test_the_choice_is_kept_for_this_machine_and_leaves_no_gradient(tmp_path: Path) -> None:
    network, device = Sleepy(), torch.device("cpu")
    best, times = choose_pace(network, network.loss, tmp_path / PACE, device=device, dist=DistContext())
    assert best.bfloat16
    assert best in times
    assert network.weight.grad is None
    assert kept_pace(tmp_path / PACE, device) == best
    kept = json.loads((tmp_path / PACE).read_text())
    (tmp_path / PACE).write_text(json.dumps(kept | {"machine": "another"}))
    assert kept_pace(tmp_path / PACE, device) is None
    (tmp_path / PACE).write_text('{"machine": 1}')
    with pytest.raises(CheckpointError, match="Remove it to time them again"):
        kept_pace(tmp_path / PACE, device)


def test_a_recipe_that_leaves_it_open_logs_what_was_timed_and_takes_the_fastest(
    tmp_path: Path, train: Callable[..., Trained]
) -> None:
    recipe = replace(tiny_recipe(stage("codec", steps=1), stage("restore", steps=1)), bfloat16=None)
    trained = train(recipe, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    timed, numbers = ([line for line in lines if line["event"] == name] for name in ("timed", "numbers"))
    assert len(timed) >= 3
    assert all(line["samples_per_s"] > 0 for line in timed)
    assert [line["stage"] for line in numbers] == ["codec"], "timed once, for all stages"
    kept = kept_pace(tmp_path / PACE, torch.device("cpu"))
    assert kept is not None
    assert {key: numbers[0][key] for key in ("bfloat16", "channels_last", "threads")} == vars(kept)
    layout = torch.channels_last if kept.channels_last else torch.contiguous_format
    assert layout_of(trained.model) == layout


def test_a_recipe_that_states_the_numbers_times_nothing(tmp_path: Path, train: Callable[..., Trained]) -> None:
    train(tiny_recipe(stage("codec", steps=1)), tmp_path)
    assert not (tmp_path / PACE).exists()
    assert "timed" not in (tmp_path / "log.jsonl").read_text()
