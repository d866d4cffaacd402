import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest

from medq_uni.config import ConfigError
from medq_uni.evaluate import evaluation
from medq_uni.evaluate.evaluation import evaluate, write_evaluation
from medq_uni.evaluate.page import Section
from medq_uni.systems.benchmark import Benchmark
from medq_uni.systems.build import INPUT, DegradedInput, SystemSpec, read_specs
from medq_uni.systems.cases import Case
from medq_uni.systems.system import Output
from medq_uni.taxonomy import Task


@pytest.fixture
def benchmark(cases: list[Case]) -> Benchmark:
    return Benchmark("small", tuple(cases), tuple(cases))


@dataclass
class Refusing:
    """Refuses every image."""

    name: str = "refusing"
    identity: str = "one"
    parameters: int = 0

    def restore(self, case: Case) -> Output:
        raise RuntimeError("out of luck")


def test_results_are_strict_json_and_the_page_needs_no_network(benchmark: Benchmark, tmp_path: Path):
    write_evaluation(evaluate([benchmark], read_specs(["tv", "bm3d", "no/such"]), tmp_path), tmp_path)
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
        results = write_evaluation(evaluate([benchmark], read_specs(["input"]), tmp_path), tmp_path)
        (one,) = results["benchmarks"]
        of_ct = [number for number, case in enumerate(benchmark.test) if case.task is Task.CT_LOW_DOSE]
        assert [(row["system"], row["case"], row["warning"]) for row in one["warned"]] == [
            (INPUT, number, "Never seen.") for number in of_ct
        ]
        assert f"Restored with a warning ({len(of_ct)})" in (tmp_path / "report.html").read_text()
        assert one["failed"] == []
    assert not [warning for warning in recwarn if "Never seen" in str(warning.message)]


def test_other_measurements_are_a_part_of_results_and_page(benchmark: Benchmark, tmp_path: Path):
    done = evaluate([benchmark], read_specs(["input"]), tmp_path)
    tables = [("Full", ["a", "b"], [["1", "2"]], "Said of it."), ("Nothing", ["a"], [], "")]
    section = Section("Other checks", "What they are.", tables, {"curve": b"PNG"})
    results = write_evaluation(done, tmp_path, more={"other": {"rows": 1}}, sections=[section])
    assert json.loads((tmp_path / "results.json").read_text()) == json.loads(json.dumps(results))
    assert results["other"] == {"rows": 1}
    page = (tmp_path / "report.html").read_text()
    assert '<h3 id="other-checks-1">Full</h3>' in page
    assert "Said of it." in page
    assert "UE5H" in page
    assert "Nothing" not in page


def test_a_system_that_cannot_restore_the_probe_of_costs_has_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(evaluation, "build", lambda spec: Refusing())
    (system,) = evaluation._with_costs([evaluation.EvaluatedSystem(SystemSpec("refusing", "model", "x"))], None)
    assert system.cost is None


def test_names_that_cannot_be_told_apart_are_refused_before_anything_is_scored(benchmark: Benchmark, tmp_path: Path):
    with pytest.raises(ConfigError, match="two benchmarks are called 'small'"):
        evaluate([benchmark, benchmark], read_specs(["input"]), tmp_path)
    with pytest.raises(ConfigError, match="'nano' is no system of this evaluation"):
        evaluate([benchmark], read_specs(["tv"]), tmp_path, against="nano")
    assert not list(tmp_path.iterdir())


def test_without_validation_slices_filters_do_not_run_and_the_others_do(benchmark: Benchmark, tmp_path: Path):
    results = evaluate([Benchmark("small", benchmark.test, ())], read_specs(["tv"]), tmp_path).results
    assert "split val" in results["systems"][1]["not_run"]
    assert results["benchmarks"][0]["by_task"][0]["system"] == INPUT
