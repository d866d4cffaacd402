from dataclasses import replace

import numpy as np
import pytest

from medq_uni.safety.output_cache import OutputCache, SafetyCase, altered_case, degraded_only
from medq_uni.systems.cases import Case
from medq_uni.systems.system import Output
from medq_uni.taxonomy import Severity, Task
from tests.restorers import Simple


def test_a_case_is_restored_once(safety_cases: list[SafetyCase]):
    system = Simple(lambda case: case.degraded)
    outputs = OutputCache(system)
    first = outputs.output(safety_cases[0])
    assert first is not None
    assert outputs.output(safety_cases[0]) is first
    assert system.calls == 1


def test_a_failure_is_noted_for_every_check_that_meets_it(safety_cases: list[SafetyCase]):
    def fails(case: Case) -> None:
        raise RuntimeError("out of luck " * 50)

    outputs = OutputCache(Simple(fails))
    assert outputs.output(safety_cases[0]) is None
    (reason,) = outputs.failed.values()
    assert reason.startswith("RuntimeError: out of luck")
    assert len(reason) == 200
    outputs.failed = {}
    assert outputs.output(safety_cases[0]) is None
    assert list(outputs.failed) == [safety_cases[0].label]
    assert outputs.system.calls == 1


@pytest.mark.parametrize(("change", "reason"), [("shape", "has shape"), ("nan", "not finite"), ("sigma", "not finite")])
def test_an_output_that_cannot_be_measured_is_a_failure(safety_cases: list[SafetyCase], change: str, reason: str):
    case = safety_cases[0]
    degraded = case.case.degraded
    nothing = degraded.with_voxels(np.full(degraded.shape, np.nan, np.float32))

    def restore() -> Output:
        if change == "shape":
            return Output(replace(degraded, voxels=degraded.voxels[:, :-1]))
        return Output(nothing) if change == "nan" else Output(degraded, uncertainty=nothing)

    outputs = OutputCache(Simple(lambda case: case.degraded))
    assert outputs.attempt("other", restore, degraded) is None
    assert reason in outputs.failed["other"]


def test_a_case_degraded_again_from_the_same_truth_is_the_same(safety_cases: list[SafetyCase]):
    for case in degraded_only(safety_cases):
        again = altered_case(case, case.pair.reference)
        if case.pair.task is not Task.PET_LOW_COUNT:
            assert np.array_equal(again.degraded.voxels, case.pair.degraded.voxels)
        assert again.task is case.pair.task


def test_rows_say_what_they_were_measured_on(safety_cases: list[SafetyCase]):
    good = next(case for case in safety_cases if case.is_good)
    assert good.row(psnr=1.0) == {
        "case": good.label,
        "group": "phantoms",
        "modality": good.pair.task.modality.value,
        "task": good.pair.task.value,
        "severity": "none",
        "psnr": 1.0,
    }
    assert all(case.pair.severity is not Severity.NONE for case in degraded_only(safety_cases))
