from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from medq_uni.calibrate.evidence import ROWS
from medq_uni.calibrate.run import GRADES, calibrate, pairs_config
from medq_uni.cli.main import app
from medq_uni.config import ConfigError
from medq_uni.data.pairs import PairsConfig
from medq_uni.pretrained.calibration import CALIBRATION_FILE
from medq_uni.pretrained.load import WeightsMismatch, folder_of, load_pretrained
from medq_uni.systems.cases import Case, drawn_cases
from medq_uni.taxonomy import Modality


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return list(drawn_cases(PairsConfig(count=10, seed=5, phantom_sizes=(64,), grades=GRADES)))


@pytest.fixture(scope="module")
def folder(cases: list[Case], tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("calibrated")
    calibrate("nano", cases, target)
    return target


def test_a_calibrated_copy_has_the_same_weights_and_another_hash(folder: Path):
    before, after = load_pretrained("nano"), load_pretrained(folder)
    assert after.calibration is not None
    assert after.sha256 != before.sha256
    assert sum(after.calibration.images.values()) == 10
    for name, value in before.model.state_dict().items():
        assert torch.equal(value, after.model.state_dict()[name])


def test_a_stopped_calibration_goes_on_and_comes_to_the_same(folder: Path, cases: list[Case], tmp_path: Path):
    lines = (folder / ROWS).read_text().splitlines(keepends=True)
    (tmp_path / ROWS).write_text("".join(lines[:6]) + lines[6][:20])
    told: list[int] = []
    done = calibrate("nano", cases, tmp_path, progress=lambda number, total: told.append(number))
    assert done.calibration == load_pretrained(folder).calibration
    assert (tmp_path / ROWS).read_text() == (folder / ROWS).read_text()
    assert told[-1] == 10


def test_rows_of_other_images_are_not_mixed_in(folder: Path, cases: list[Case]):
    with pytest.raises(ConfigError, match="other images"):
        calibrate("nano", cases[:5], folder)


def test_the_model_itself_is_never_changed(cases: list[Case]):
    with pytest.raises(ConfigError, match="stays as it is"):
        calibrate("nano", cases, folder_of("nano"))


def test_an_altered_calibration_is_noticed(folder: Path, cases: list[Case], tmp_path: Path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    path = tmp_path / CALIBRATION_FILE
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"source_sha256": "x"}))
    with pytest.raises(WeightsMismatch, match="altered"):
        load_pretrained(tmp_path)


def test_images_are_real_good_ones_among_them_and_none_is_an_error(tmp_path: Path):
    config = pairs_config(["somewhere"], split="val", count=40, seed=1)
    assert config.wants_only_real
    with pytest.raises(ConfigError, match="no images"):
        calibrate("nano", [], tmp_path)


def test_the_command_asks_for_images(tmp_path: Path):
    result = CliRunner().invoke(app, ["calibrate", "nano", "-o", str(tmp_path)])
    assert result.exit_code == 1
    assert "--source" in result.output


def test_every_modality_is_met_good_and_degraded(cases: list[Case]):
    assert {case.task.modality for case in cases} == set(Modality)
