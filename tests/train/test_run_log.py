import json
from pathlib import Path

import pytest
from PIL import Image

from medq_uni.train.run_log import CURVES, LOG, TENSORBOARD, RunLogger, draw_curves, read_log


def line(stage: str, step: int, **values: float) -> dict:
    return {"event": "step", "stage": stage, "step": step, "steps": 20, **values}


def logger(folder: Path, seen: list[dict]) -> RunLogger:
    return RunLogger(folder, ("one", "two"), report=seen.append)


def test_every_line_is_kept_reported_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("medq_uni.train.run_log.draw_curves", draw_curves)  # trainings of tests leave it out
    seen: list[dict] = []
    one = logger(tmp_path, seen)
    lines = [line("one", 10, flow=1.0), line("one", 20, flow=0.5), line("two", 10, flow=0.4, text=2.0)]
    for each in lines:
        one.write(each)
    one.close()
    assert read_log(tmp_path / LOG) == lines == seen
    with Image.open(tmp_path / CURVES) as picture:
        assert picture.size[0] > 300
    assert list((tmp_path / TENSORBOARD).glob("events*"))


def test_lines_after_the_checkpoint_are_dropped_for_they_come_again(tmp_path: Path):
    one = logger(tmp_path, [])
    for stage, step in (("one", 10), ("one", 20), ("two", 10), ("two", 20)):
        one.write(line(stage, step, flow=1.0))
    one.forget_after(1, 10)
    assert [(x["stage"], x["step"]) for x in read_log(tmp_path / LOG)] == [("one", 10), ("one", 20), ("two", 10)]
    one.close()


def test_a_line_cut_short_by_a_crash_is_left_out(tmp_path: Path):
    path = tmp_path / LOG
    path.write_text(json.dumps(line("one", 10, flow=1.0)) + '\n{"event": "st')
    assert len(read_log(path)) == 1


def test_a_log_without_numbers_draws_nothing(tmp_path: Path):
    draw_curves(tmp_path / LOG, tmp_path / CURVES)
    assert not (tmp_path / CURVES).exists()
