import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from medq_uni.config import ConfigError
from medq_uni.evaluate.evaluation import evaluate
from medq_uni.evaluate.runner import SliceRecord
from medq_uni.evaluate.sweep import Sweep, read_sweep
from medq_uni.evaluate.sweep_plots import sweep_plots, write_sweep
from medq_uni.evaluate.sweep_tables import (
    SweepResults,
    assessor_rows,
    at_a_glance,
    markdown,
    sweep_results,
    sweep_rows,
    sweep_tables,
)
from medq_uni.physics.degrade import apply_records
from medq_uni.physics.effect import effect
from medq_uni.systems.build import INPUT, SystemSpec, read_specs
from medq_uni.taxonomy import Task

CHAINS = Path(__file__).parents[2] / "benchmark" / "sweep" / "chains.json"
SPECS = [SystemSpec(INPUT, "input", ""), SystemSpec("tv", "classical", "tv"), SystemSpec("net", "model", "x")]


@pytest.fixture(scope="module")
def recipe() -> dict:
    """The public recipe on one small phantom of every task, two points of the first curve of CT, MR noise and PET."""
    found = json.loads(CHAINS.read_text())
    for part in ("phantoms", "val"):
        found[part] |= {"count": 5, "phantom_sizes": [64]}
    curves = {curve["task"]: curve for curve in reversed(found["curves"])}
    found["curves"] = [curves[task] for task in ("ct-low-dose", "mr-noise", "pet-low-count")]
    for curve in found["curves"]:
        curve["points"] = curve["points"][::2][:2]
    return found


@pytest.fixture(scope="module")
def sweep(recipe: dict, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    path = tmp_path_factory.mktemp("sweep") / "small.json"
    path.write_text(json.dumps(recipe))
    return read_sweep(path)


def test_one_reference_goes_through_all_points_at_one_strength(sweep: Sweep):
    assert sweep.places == ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1))
    ct, mr, pet = (sweep.benchmark.test[at : at + 2] for at in (0, 2, 4))
    for task, pair in zip((Task.CT_LOW_DOSE, Task.MR_NOISE, Task.PET_LOW_COUNT), (ct, mr, pet), strict=True):
        assert {case.task for case in pair} == {task}
        assert np.array_equal(pair[0].reference.voxels, pair[1].reference.voxels)
        assert not np.array_equal(pair[0].degraded.voxels, pair[1].degraded.voxels)
        assert pair[0].records[0].seed == pair[1].records[0].seed
    assert {case.records[0].params["noise_sd_hu"] for case in ct} == {40.0}
    assert {case.records[0].params["sigma_fraction"] for case in mr} == {0.07}
    for case in pet:
        assert effect(case.degraded, case.reference, case.task) == pytest.approx(0.3, rel=0.1)
    for case in sweep.benchmark.test:
        assert np.array_equal(apply_records(case.reference, case.records).voxels, case.degraded.voxels)


def test_every_parameter_of_the_public_recipe_is_one_of_its_scanner():
    found = json.loads(CHAINS.read_text())
    assert {curve["task"] for curve in found["curves"]} == {task.value for task in Task}
    peaks = next(curve for curve in found["curves"] if "peak" in curve["name"])
    values = [point["params"]["kernel_peak"] for point in peaks["points"]]
    assert (min(values), max(values)) == (0.08, 0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"params": {"kernel_peek": 0.1}}, "'kernel_peek' is no parameter of the scanner of ct-low-dose"),
        ({"points": []}, "needs points"),
        ({"effect": 20.0}, "a strength among its params"),
        ({"params": {"noise_sd_hu": 40.0}, "points": [{"label": "1", "params": {}}]}, "'dose_fraction' is missing"),
    ],
)
def test_a_curve_that_cannot_be_drawn_is_refused(recipe: dict, change: dict, message: str, tmp_path: Path):
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps(recipe | {"curves": [recipe["curves"][0] | change]}))
    with pytest.raises(ConfigError, match=message):
        read_sweep(path)


def records_of(sweep: Sweep, gains: list[float], said: str = "") -> list[SliceRecord]:
    return [
        SliceRecord(
            number,
            case.task.value,
            case.severity.value,
            case.subject,
            case.group,
            0.1,
            None if math.isnan(gain) else {"psnr": 30 + gain},
            said=said,
            verdict="good" if said else "",
        )
        for number, (case, gain) in enumerate(zip(sweep.benchmark.test, gains, strict=True))
    ]


@pytest.fixture
def records(sweep: Sweep) -> dict[str, list[SliceRecord]]:
    return {
        INPUT: records_of(sweep, [0.0] * 6),
        "tv": records_of(sweep, [2.0, 2.0, 1.0, 1.0, 1.0, 1.0]),
        "net": records_of(sweep, [5.0, 0.5, 4.0, 0.9, math.nan, 1.0], "none"),
    }


def test_a_lead_is_over_the_best_filter_and_a_cliff_is_listed(sweep: Sweep, records: dict[str, list[SliceRecord]]):
    rows = {(row.curve, row.point, row.system): row for row in sweep_rows(sweep, records, SPECS)}
    first, second = (point.label for point in sweep.recipe.curves[0].points)
    curve, pet = sweep.recipe.curves[0].name, sweep.recipe.curves[2]
    assert rows[curve, first, "net"].lead == pytest.approx(3.0)
    fallen = rows[curve, second, "net"]
    assert (fallen.filter, fallen.filter_gain, fallen.lead) == ("tv", pytest.approx(2.0), pytest.approx(-1.5))
    failed = rows[pet.name, pet.points[0].label, "net"]
    assert (failed.gain, failed.lead, failed.images, failed.failed) == (None, None, 0, 1)
    tables = {title: cells for title, _, cells, _ in sweep_tables(sweep_results(sweep, records, SPECS))}
    assert [row[3] for row in tables["Cliffs"]] == [second]  # 0.1 dB below on MR is none
    assert tables["Lead over the best filter"][0][4:] == ["-1.50", f"at {second}", "+3.00", "1 of 2"]
    assert len(tables["Every point"]) == 12


def test_what_the_assessor_says_is_counted_beside_the_measured_grade(
    sweep: Sweep, records: dict[str, list[SliceRecord]]
):
    row = assessor_rows(sweep, records)[0]
    assert row.system == "net"
    assert (row.images, row.said["none"], row.verdicts["good"], row.right) == (1, 1, 1, 0)
    assert row.measured[sweep.benchmark.test[0].severity.value] == 1
    text = markdown(at_a_glance(sweep_results(sweep, records, SPECS)))
    assert "0.08 (1 of 1), 0.16 (1 of 1)" in text


def test_results_come_back_from_json_and_are_drawn(sweep: Sweep, records: dict[str, list[SliceRecord]], tmp_path: Path):
    found = sweep_results(sweep, records, SPECS)
    assert SweepResults.of(json.loads(json.dumps(asdict(found)))) == found
    plots = write_sweep(found, tmp_path)
    assert set(plots) == {curve.task.value for curve in sweep.recipe.curves}
    assert all(png.startswith(b"\x89PNG") for png in plots.values())
    assert (tmp_path / "sweep" / "ct-low-dose.png").is_file()
    assert len((tmp_path / "csv" / "sweep" / "gains.csv").read_text().splitlines()) == 1 + len(found.gains)
    assert sweep_plots([replace(row, point=f"word {row.point}") for row in found.gains])


def test_a_sweep_is_evaluated_like_any_benchmark(sweep: Sweep, tmp_path: Path):
    done = evaluate([sweep.benchmark], read_specs(["gaussian"]), tmp_path)
    rows = sweep_rows(sweep, done.records[sweep.benchmark.name], done.specs)
    gains = {row.point: row.gain for row in rows if row.system == "gaussian" and row.task == "mr-noise"}
    assert all(gain is not None for gain in gains.values())
    assert all(row.gain == 0 for row in rows if row.system == INPUT)
