import json
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from medq_uni.cli.main import app
from medq_uni.config import ConfigError
from medq_uni.evaluate import evaluation, runner
from medq_uni.evaluate.evaluation import evaluate
from medq_uni.evaluate.runner import run_system
from medq_uni.safety.output_cache import SafetySettings
from medq_uni.scoring import data_range_of
from medq_uni.systems.benchmark import Benchmark
from medq_uni.systems.build import INPUT, DegradedInput, SystemSpec, read_specs
from medq_uni.systems.cases import Case
from medq_uni.systems.system import Output
from medq_uni.taxonomy import Task


@pytest.fixture
def benchmark(cases: list[Case]) -> Benchmark:
    return Benchmark("small", tuple(cases), tuple(cases))


@dataclass
class Counting:
    """Returns the input, refuses MR noise, answers nonsense for PET, and counts."""

    name: str = "counting"
    identity: str = "one"
    parameters: int = 0
    calls: int = 0
    is_mended: bool = False

    def restore(self, case: Case) -> Output:
        self.calls += 1
        if self.is_mended:
            return Output(case.degraded)
        if case.task is Task.MR_NOISE:
            raise RuntimeError("out of luck")
        if case.task is Task.PET_LOW_COUNT:
            return Output(case.degraded.with_voxels(np.full(case.degraded.shape, np.nan)))
        return Output(case.degraded)


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Counting:
    system = Counting()
    monkeypatch.setattr(runner, "build", lambda spec: system)
    return system


SPEC = SystemSpec("counting", "model", "x")


def test_a_system_that_fails_is_counted_and_the_others_go_on(benchmark: Benchmark, counting: Counting, tmp_path: Path):
    records = run_system(SPEC, benchmark, tmp_path)
    assert len(records) == len(benchmark.test)
    for record in records:
        wanted = {"mr-noise": "RuntimeError: out of luck", "pet-low-count": "NaN or infinite"}.get(record.task, "")
        assert wanted in record.error
        assert (record.scores is None) == bool(wanted)


def test_a_second_call_computes_only_what_is_missing_or_failed(
    benchmark: Benchmark, counting: Counting, tmp_path: Path
):
    first = run_system(SPEC, benchmark, tmp_path)
    count, failed = counting.calls, sum(bool(record.error) for record in first)
    assert 0 < failed < len(first) - 3
    (path,) = (tmp_path / "scores" / "small").glob("*.jsonl")
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-3]) + "\n" + lines[-3][:20])  # killed while it wrote
    again = run_system(SPEC, benchmark, tmp_path)
    assert failed <= counting.calls - count <= 3 + failed
    assert [(r.case, r.scores) for r in again] == [(r.case, r.scores) for r in first]
    counting.is_mended = True
    assert not any(record.error for record in run_system(SPEC, benchmark, tmp_path))


def test_a_slice_is_scored_on_the_range_that_its_case_has(benchmark: Benchmark, tmp_path: Path):
    (system,) = read_specs(["input"])
    mr = next(case for case in benchmark.test if case.task is Task.MR_NOISE and case.degraded != case.reference)
    cases = mr, replace(mr, data_range=2 * data_range_of(mr.reference))
    own, volume = (record.scores for record in run_system(system, Benchmark("small", cases, ()), tmp_path))
    assert own is not None
    assert volume is not None
    assert volume["psnr"] == pytest.approx(own["psnr"] + 20 * np.log10(2))
    assert volume["psnr_slice"] == own["psnr_slice"]


def test_scores_of_other_definitions_are_not_kept(
    benchmark: Benchmark, counting: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    counting.is_mended = True
    run_system(SPEC, benchmark, tmp_path)
    count = counting.calls
    run_system(SPEC, benchmark, tmp_path)
    assert counting.calls == count
    monkeypatch.setattr(runner, "DEFINITIONS", runner.DEFINITIONS + 1)
    run_system(SPEC, benchmark, tmp_path)
    assert counting.calls == count + len(benchmark.test)


def test_lines_of_slices_are_strict_json_where_a_score_is_infinite_too(benchmark: Benchmark, tmp_path: Path):
    clean = tuple(replace(case, degraded=case.reference) for case in benchmark.test[:2])
    (system,) = read_specs(["input"])
    first = run_system(system, Benchmark("small", clean, ()), tmp_path)
    assert all(record.scores is not None and record.scores["psnr"] == np.inf for record in first)
    (path,) = (tmp_path / "scores" / "small").glob("*.jsonl")
    for line in path.read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)
    again = run_system(system, Benchmark("small", clean, ()), tmp_path)
    assert [record.scores for record in again] == [record.scores for record in first]


def test_other_weights_or_other_slices_are_scored_anew(benchmark: Benchmark, counting: Counting, tmp_path: Path):
    run_system(SPEC, benchmark, tmp_path)
    counting.calls, counting.identity = 0, "two"
    run_system(SPEC, benchmark, tmp_path)
    assert counting.calls == len(benchmark.test)
    run_system(SPEC, Benchmark("small", benchmark.test[:7], ()), tmp_path)
    assert counting.calls == len(benchmark.test) + 7


def test_processes_find_what_one_finds(benchmark: Benchmark, tmp_path: Path):
    (tv,) = read_specs(["input"])
    one = run_system(tv, benchmark, tmp_path / "one")
    two = run_system(tv, benchmark, tmp_path / "two", workers=2)
    assert [(r.case, r.scores) for r in one] == [(r.case, r.scores) for r in two]


def test_results_are_strict_json_and_the_page_needs_no_network(benchmark: Benchmark, tmp_path: Path):
    evaluate([benchmark], read_specs(["tv", "bm3d", "no/such"]), tmp_path)
    results = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)
    systems = {one["name"]: one for one in results["systems"]}
    assert list(systems) == [INPUT, "tv", "bm3d", "such"]
    assert systems["such"]["not_run"]
    rows = {(row["system"], row["part"]): row for row in results["benchmarks"][0]["by_task"]}
    assert rows[INPUT, "ct-low-dose"]["gain"] == 0
    assert rows["tv", "ct-low-dose"]["gain"] > 1
    page = (tmp_path / "report.html").read_text()
    assert "Research use only" in page
    assert "not run: no/such" in page
    assert "http" not in page.replace("http-equiv", "")
    pictures = page.count("data:image/png")
    assert pictures == 2 + 5 * 3  # two plots; reference, input and tv of five tasks


def test_a_warning_stays_with_the_image_that_it_is_about(
    benchmark: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
):
    def restore(system: DegradedInput, case: Case) -> Output:
        if case.task is Task.CT_LOW_DOSE:
            warnings.warn("Never seen.", stacklevel=1)
        return Output(case.degraded)

    monkeypatch.setattr(DegradedInput, "restore", restore)
    for _ in range(2):  # computed, and taken from the scores that were kept
        results = evaluate([benchmark], read_specs(["input"]), tmp_path)
        (one,) = results["benchmarks"]
        of_ct = [number for number, case in enumerate(benchmark.test) if case.task is Task.CT_LOW_DOSE]
        assert [(row["system"], row["case"], row["warning"]) for row in one["doubted"]] == [
            (INPUT, number, "Never seen.") for number in of_ct
        ]
        assert f"Restored with a warning ({len(of_ct)})" in (tmp_path / "report.html").read_text()
        assert one["failed"] == []
    assert not [warning for warning in recwarn if "Never seen" in str(warning.message)]


def test_safety_is_a_part_of_results_and_page(benchmark: Benchmark, tmp_path: Path):
    settings = SafetySettings(size_px=96, per_grade=1, shift_count=1)
    results = evaluate([benchmark], read_specs(["tv"]), tmp_path, safety=settings)
    assert set(results["safety"]["systems"]) == {INPUT, "tv"}
    assert json.loads((tmp_path / "results.json").read_text())["safety"]["systems"]["tv"]["lesions"]["rows"]
    page = (tmp_path / "report.html").read_text()
    assert "Do no harm" in page


def test_a_system_that_cannot_restore_the_probe_of_costs_has_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(evaluation, "build", lambda spec: Counting())  # refuses MR noise, which the probe is
    (entry,) = evaluation._with_costs([evaluation.Entry(SPEC)], None)
    assert entry.cost is None


def test_names_that_cannot_be_told_apart_are_refused_before_anything_is_scored(benchmark: Benchmark, tmp_path: Path):
    with pytest.raises(ConfigError, match="two benchmarks are called 'small'"):
        evaluate([benchmark, benchmark], read_specs(["input"]), tmp_path)
    with pytest.raises(ConfigError, match="'nano' is no system of this evaluation"):
        evaluate([benchmark], read_specs(["tv"]), tmp_path, against="nano")
    assert not list(tmp_path.iterdir())


def test_without_validation_slices_filters_do_not_run_and_the_others_do(benchmark: Benchmark, tmp_path: Path):
    results = evaluate([Benchmark("small", benchmark.test, ())], read_specs(["tv"]), tmp_path)
    assert "split val" in results["systems"][1]["not_run"]
    assert results["benchmarks"][0]["by_task"][0]["system"] == INPUT


def test_the_command(tmp_path: Path):
    recipe = tmp_path / "tiny.json"
    split = {"count": 5, "seed": 1, "phantom_sizes": [48], "grades": ["moderate"]}
    recipe.write_text(json.dumps({"name": "tiny", "splits": {"test": split, "val": {**split, "seed": 2}}}))
    arguments = ["evaluate", "--benchmark", str(recipe), "-o", str(tmp_path / "out"), "--systems"]
    done = CliRunner().invoke(app, [*arguments, "wavelet"])
    assert done.exit_code == 0, done.output
    assert "| wavelet |" in done.stdout
    incomplete = CliRunner().invoke(app, [*arguments, "wavelet,no/such/folder"])
    assert incomplete.exit_code == 3
    assert "not run" in incomplete.stdout
    assert "warning: folder was not run: " in incomplete.stderr
    for systems, message in (("nanoo", "'nanoo' is none of input, "), ("", "name at least one")):
        unknown = CliRunner().invoke(app, [*arguments, systems])
        assert unknown.exit_code == 1
        assert message in unknown.stderr
    wrong = CliRunner().invoke(app, [*arguments, "tv,tv"])
    assert wrong.exit_code == 1
    assert "tv stands twice" in wrong.output


def test_the_command_says_how_much_is_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    asked = []

    def instead(*args: object, safety: SafetySettings | None, **kwargs: object) -> None:
        asked.append(safety)
        raise ConfigError("enough")

    monkeypatch.setattr(evaluation, "evaluate", instead)
    recipe = tmp_path / "tiny.json"
    recipe.write_text(json.dumps({"name": "tiny", "splits": {"test": {"count": 1, "seed": 1, "phantom_sizes": [48]}}}))
    arguments = ["evaluate", "--benchmark", str(recipe), "-o", str(tmp_path / "out"), "--systems", "input"]
    CliRunner().invoke(app, arguments)
    CliRunner().invoke(app, [*arguments, "--safety"])
    CliRunner().invoke(app, [*arguments, "--safety", "--safety-phantoms", "1", "--safety-slices", "7"])
    assert asked == [None, SafetySettings(), SafetySettings(per_grade=1, shift_count=1, real_count=7)]
