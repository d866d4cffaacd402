import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from medq_uni.evaluate import runner
from medq_uni.evaluate.runner import CHUNK, Job, picture_path, pictured, run_job, run_system
from medq_uni.scoring import data_range_of
from medq_uni.systems.benchmark import Benchmark
from medq_uni.systems.build import SystemSpec, read_specs
from medq_uni.systems.cases import Case
from medq_uni.systems.system import Output
from medq_uni.taxonomy import Severity, Task


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


def test_slices_are_computed_in_chunks_and_kept_after_each(
    benchmark: Benchmark, counting: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    counting.is_mended = True
    jobs: list[Job] = []

    def killed(job: Job) -> list[runner.SliceRecord]:
        jobs.append(job)
        if len(jobs) == 3:
            raise KeyboardInterrupt
        return run_job(job)

    monkeypatch.setattr(runner, "run_job", killed)
    with pytest.raises(KeyboardInterrupt):
        run_system(SPEC, benchmark, tmp_path)
    assert [[index for index, _ in job.cases] for job in jobs[:2]] == [list(range(6)), list(range(6, 12))]
    assert counting.calls == 2 * CHUNK
    monkeypatch.undo()
    monkeypatch.setattr(runner, "build", lambda spec: counting)
    done: list[tuple[int, int]] = []
    records = run_system(SPEC, benchmark, tmp_path, progress=lambda *counts: done.append(counts))
    assert counting.calls == len(benchmark.test)
    assert [record.case for record in records] == list(range(len(benchmark.test)))
    assert done == [(18, 20), (20, 20)]


def test_another_part_switched_off_is_another_system(benchmark: Benchmark, counting: Counting, tmp_path: Path):
    run_system(SPEC, benchmark, tmp_path)
    counting.calls = 0
    run_system(replace(SPEC, variant="forced"), benchmark, tmp_path)
    assert counting.calls == len(benchmark.test)


def test_of_every_task_the_first_moderately_degraded_slice_is_shown(benchmark: Benchmark):
    shown = [benchmark.test[index] for index in pictured(benchmark)]
    assert [case.task for case in shown] == list(dict.fromkeys(case.task for case in shown))
    assert {case.task for case in shown} == set(Task)
    for case in shown:
        mine = [one for one in benchmark.test if one.task is case.task]
        moderate = [one for one in mine if one.severity is Severity.MODERATE]
        degraded = [one for one in mine if one.severity is not Severity.NONE]
        assert case is (moderate or degraded)[0]
    severe = tuple(case for case in benchmark.test if case.severity in (Severity.NONE, Severity.SEVERE))
    assert {severe[index].severity for index in pictured(Benchmark("small", severe, ()))} == {Severity.SEVERE}


def test_a_slice_whose_picture_is_lost_is_restored_again(benchmark: Benchmark, counting: Counting, tmp_path: Path):
    counting.is_mended = True
    run_system(SPEC, benchmark, tmp_path)
    counting.calls = 0
    picture = picture_path(tmp_path, "small", pictured(benchmark)[0], "counting")
    before = picture.read_bytes()
    picture.unlink()
    run_system(SPEC, benchmark, tmp_path)
    assert counting.calls == 1
    assert picture.read_bytes() == before
