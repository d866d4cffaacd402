import json
from dataclasses import replace
from pathlib import Path

import pytest

from medq_uni.ablate.tuning import best_rate, faster, mean_gain, shortened
from medq_uni.config import ConfigError
from medq_uni.train.recipe import TrainConfig
from medq_uni.train.trainer import DivergenceError, Trained
from tests.train.tiny import NAFNET, baseline_recipe, baseline_stage

RATES = (0.1, 1.0, 10.0)


class Trainer:
    """Writes a log as a training of a recipe would, with a gain that its learning rate earns."""

    def __init__(self, gains: dict[float, float | None], stops_at: float | None = None) -> None:
        self.gains, self.stops_at, self.rates = gains, stops_at, []

    def __call__(self, config: TrainConfig, run: Path) -> Trained:
        rate = round(config.stages[0].optimizer.learning_rate / baseline_stage().optimizer.learning_rate, 6)
        self.rates.append(rate)
        if self.gains[rate] is None:
            raise DivergenceError("not finite")
        run.mkdir(parents=True, exist_ok=True)
        lines = [
            {"event": "validation", "stage": "baseline", "step": n, "gain_a": g, "gain_b": g + 2}
            for n, g in enumerate((0.0, self.gains[rate]))
        ]
        (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return Trained(model=None, tokenizer=None, is_finished=rate != self.stops_at)


def test_the_rate_with_the_best_gain_is_taken_and_kept(tmp_path: Path) -> None:
    trainer = Trainer({0.1: 1.0, 1.0: 3.0, 10.0: 2.0})
    assert best_rate(baseline_recipe(), RATES, 0.5, tmp_path, trainer) == 1.0
    assert json.loads((tmp_path / "gains.json").read_text())["gains"] == {"0.1": 2.0, "1": 4.0, "10": 3.0}
    assert best_rate(baseline_recipe(), RATES, 0.5, tmp_path, trainer) == 1.0
    assert trainer.rates == list(RATES)  # the second call trained nothing
    other = Trainer({0.1: 5.0, 1.0: 3.0, 10.0: 2.0})
    assert best_rate(replace(baseline_recipe(), seed=9), RATES, 0.5, tmp_path, other) == 0.1
    assert other.rates == list(RATES)  # gains of another recipe say nothing


def test_a_rate_that_diverged_is_out(tmp_path: Path) -> None:
    assert best_rate(baseline_recipe(), RATES, 0.5, tmp_path, Trainer({0.1: 1.0, 1.0: 1.5, 10.0: None})) == 1.0
    assert json.loads((tmp_path / "gains.json").read_text())["gains"]["10"] is None
    with pytest.raises(ConfigError, match="diverged with every learning rate"):
        best_rate(baseline_recipe(), RATES, 0.5, tmp_path / "all", Trainer(dict.fromkeys(RATES)))


def test_it_goes_on_where_the_time_was_over(tmp_path: Path) -> None:
    gains = {0.1: 1.0, 1.0: 3.0, 10.0: 2.0}
    assert best_rate(baseline_recipe(), RATES, 0.5, tmp_path, Trainer(gains, stops_at=1.0)) is None
    again = Trainer(gains)
    assert best_rate(baseline_recipe(), RATES, 0.5, tmp_path, again) == 1.0
    assert again.rates == [1.0, 10.0]


def test_a_short_training_is_the_whole_schedule_in_fewer_steps() -> None:
    config = baseline_recipe(
        NAFNET, baseline_stage(steps=100, lr_warmup_steps=20), baseline_stage(name="b", steps=1, lr_warmup_steps=0)
    )
    short = shortened(config, 0.1, 3.0)
    assert [(s.steps, s.optimizer.lr_warmup_steps) for s in short.stages] == [(10, 2), (1, 0)]
    assert [s.optimizer.learning_rate for s in short.stages] == [
        pytest.approx(3 * s.optimizer.learning_rate) for s in config.stages
    ]
    assert short.validation_interval == 10
    assert faster(config, 1.0) == config
    assert replace(short, stages=config.stages, validation_interval=config.validation_interval) == config


def test_a_run_that_restored_nothing_has_no_gain(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"event": "validation", "stage": "a", "step": 1, "right_verdict": 0.5}\n')
    with pytest.raises(ConfigError, match="no validation of a restoration"):
        mean_gain(tmp_path)
