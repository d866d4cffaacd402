import functools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medq_uni.config import ConfigError
from medq_uni.config_json import from_json, to_json
from medq_uni.safety import checks
from medq_uni.safety.checks import CHECKS, run_safety
from medq_uni.safety.output_cache import SafetySettings
from medq_uni.safety.plots import safety_plots
from medq_uni.safety.tables import safety_tables
from medq_uni.systems.build import INPUT
from medq_uni.systems.cases import Case
from medq_uni.systems.system import Output
from medq_uni.taxonomy import Task
from tests.restorers import SMALL, Simple


class Half(Simple):
    """Takes half of the error away, says how large the rest is, and refuses MR motion."""

    def restore(self, case: Case) -> Output:
        self.calls += 1
        if case.task is Task.MR_MOTION:
            raise RuntimeError("out of luck")
        if case.task is Task.MR_UNDERSAMPLING:
            return Output(case.degraded.with_voxels(np.full(case.degraded.shape, np.nan)))
        error = case.degraded.voxels - case.reference.voxels
        rest = case.degraded.with_voxels(1.01 * np.abs(error) / 2)
        return Output(case.reference.with_voxels(case.reference.voxels + error / 2), rest)


@pytest.fixture(scope="module", autouse=True)
def drawn_once() -> Iterator[None]:
    """Draw the cases of settings for all checks of this file together."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checks, "safety_cases_of", functools.cache(checks.safety_cases_of))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluation")


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, Any]:
    systems = [Half(lambda case: case.degraded, "half"), Simple(lambda case: case.degraded, INPUT)]
    return run_safety(systems, SMALL, folder)


def test_a_finished_check_is_not_measured_again(results: dict[str, Any], folder: Path):
    same, done = Simple(lambda case: case.degraded, INPUT), []
    found = run_safety([same], SMALL, folder, lambda *n: done.append(n))["systems"]
    assert found[INPUT] == json.loads(json.dumps(results["systems"][INPUT]))
    assert same.calls == 0
    assert done[-1] == (len(CHECKS), len(CHECKS))
    (name,) = [
        path for path in (folder / "safety").glob("*-good_image_preservation.json") if not path.name.startswith("half")
    ]
    name.unlink()
    run_safety([same], SMALL, folder)
    assert 0 < same.calls <= len(Task)


def test_a_check_in_which_a_case_failed_is_measured_again(tmp_path: Path):
    run_safety([Half(lambda case: case.degraded, "half")], SMALL, tmp_path)
    mended = Simple(lambda case: case.reference, "half")
    found = run_safety([mended], SMALL, tmp_path)["systems"]["half"]
    assert mended.calls > 0
    assert not any(check["failed"] for check in found.values())


def test_other_weights_are_measured_again(results: dict[str, Any], folder: Path):
    other = Simple(lambda case: case.reference, INPUT, identity="two")
    found = run_safety([other], SMALL, folder)["systems"][INPUT]
    assert other.calls > 0
    assert all(row["crc"] == pytest.approx(1) for row in found["lesions"]["rows"])


def test_what_fails_is_counted_with_its_reason(results: dict[str, Any]):
    failed = results["systems"]["half"]["lesions"]["failed"]
    reasons = {label: reason for label, reason in failed.items() if "with lesions" not in label}
    assert len(reasons) == 6
    for label, reason in reasons.items():
        assert ("out of luck" if "mr-motion" in label else "not finite") in reason
    (table,) = [table for table in safety_tables(results) if table[0] == "Failures"]
    assert len(table[2]) == sum(len(c["failed"]) for c in results["systems"]["half"].values())
    tasks = {row["task"] for row in results["systems"]["half"]["hallucination"]["rows"]}
    assert tasks == {"ct-low-dose", "mr-noise", "pet-low-count"}


def test_the_tables_say_what_was_measured(results: dict[str, Any]):
    tables = {title: (header, rows) for title, header, rows, _ in safety_tables(results)}
    for header, rows in tables.values():
        assert all(len(row) == len(header) for row in rows)
    lesions = {(row[1], row[2]): row for row in tables["Lesion insertion and recovery"][1]}
    assert lesions["ct-low-dose", "half"][5].startswith("0 % (0 to ")
    assert ("mr-motion", INPUT) in lesions
    assert ("mr-motion", "half") not in lesions
    noise = {(row[0], row[1]): row for row in tables["Texture: noise power spectrum"][1]}
    assert noise["mr-noise", "half"][2] == "0.250"  # half the error has a quarter of its variance
    assert noise["mr-noise", INPUT][2] == "1.000"
    shift = {(row[0], row[1], row[2]): row for row in tables["Shift of the degradation"][1]}
    assert shift["alternative simulation", "mr-noise", "half"][4] == "+6.02"
    honest = {(row[1], row[2]): row for row in tables["Calibration of the uncertainty map"][1]}
    assert honest["ct", "half"][3] == "100 %"
    assert honest["ct", INPUT][-1] == "3"


def test_the_pictures_are_png_and_missing_measurements_draw_none(results: dict[str, Any]):
    pictures = safety_plots(results)
    assert set(pictures) == {"crc", "nps", "coverage"}
    assert all(data.startswith(b"\x89PNG") and len(data) > 5000 for data in pictures.values())
    only_input = results | {"systems": {INPUT: results["systems"][INPUT]}}
    assert set(safety_plots(only_input)) == {"crc", "nps"}


def test_results_without_systems_have_empty_tables():
    assert all(rows == [] for _, _, rows, _ in safety_tables({"systems": {}}))
    assert safety_plots({"systems": {}}) == {}


def test_two_systems_of_one_name_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="names of their own"):
        run_safety([Simple(lambda c: c.degraded), Simple(lambda c: c.degraded)], SMALL, tmp_path)


def test_settings_are_read_strictly_and_checked():
    assert from_json(SafetySettings, to_json(SMALL)) == SMALL
    with pytest.raises(ConfigError, match="per_grade"):
        replace(SMALL, per_grade=0)
    with pytest.raises(ConfigError, match="positive"):
        replace(SMALL, lesion_hu=())
