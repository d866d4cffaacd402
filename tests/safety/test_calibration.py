import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medq_uni.safety.calibration import Errors, calibration, check_calibration, conformal_factor, covered
from medq_uni.safety.output_cache import OutputCache, SafetyCase
from medq_uni.systems.cases import Case
from medq_uni.systems.system import Output
from tests.restorers import SMALL, Simple


def honest(count: int = 4, pixels: int = 20_000, scale: float = 1.0) -> list[Errors]:
    source = np.random.default_rng(3)
    sigmas = [source.uniform(1, 10, pixels) for _ in range(count)]
    return [Errors(np.abs(source.normal(0, sigma)), scale * sigma) for sigma in sigmas]


def test_an_honest_map_covers_what_it_says():
    row = calibration(honest())
    assert row["coverage_one_sigma"] == pytest.approx(0.683, abs=0.005)
    assert row["coverage_95"] == pytest.approx(0.95, abs=0.005)
    assert row["ece"] < 0.005
    assert row["conformal_factor"] == pytest.approx(1.96, rel=0.03)
    assert row["conformal_coverage"] == pytest.approx(0.95, abs=0.01)
    assert row["conformal_width"] == pytest.approx(2 * 1.96 * 5.5, rel=0.03)


def test_a_map_that_is_too_sure_is_found_out_and_conformal_scaling_repairs_it():
    row = calibration(honest(scale=0.5))
    assert row["coverage_one_sigma"] == pytest.approx(0.383, abs=0.01)
    assert row["ece"] > 0.2
    assert row["conformal_factor"] == pytest.approx(3.92, rel=0.03)
    assert row["conformal_coverage"] == pytest.approx(0.95, abs=0.01)


def test_the_order_of_the_errors_themselves_is_perfect_and_a_constant_is_not():
    error = np.abs(np.random.default_rng(5).normal(0, 1, 5000))
    assert calibration([Errors(error, 2 * error)])["ause"] == 0
    assert calibration([Errors(error, np.ones_like(error))])["ause"] > 0.2
    assert calibration([Errors(error, 1 / (error + 0.1))])["ause"] > 0.5


@given(st.floats(0.05, 0.95), st.floats(1, 20))
def test_coverage_grows_with_the_map(level: float, scale: float):
    (one,) = honest(count=1, pixels=500)
    assert covered(one, level) <= covered(Errors(one.error, scale * one.sigma), level)


def test_one_slice_has_no_conformal_width_and_large_slices_count_for_no_more():
    assert calibration(honest(count=1))["conformal_width"] is None
    small, large = honest(count=1, pixels=1000)[0], honest(count=1, pixels=50_000, scale=0.1)[0]
    assert conformal_factor([small, large]) > conformal_factor([small])


def test_slices_without_a_map_are_counted(safety_cases: list[SafetyCase], unchanged: OutputCache):
    class Sure(Simple):
        def restore(self, case: Case) -> Output:
            error = 1.01 * np.abs(case.degraded.voxels - case.reference.voxels)
            return Output(case.degraded, case.degraded.with_voxels(error))

    degraded = sum(not safety_case.is_good for safety_case in safety_cases)
    without = check_calibration(unchanged, safety_cases, SMALL)
    assert sum(row["without"] for row in without) == degraded
    assert all(row["slices"] == 0 for row in without)
    rows = check_calibration(OutputCache(Sure(lambda case: case.degraded)), safety_cases, SMALL)
    assert sum(row["slices"] for row in rows) == degraded
    assert all(row["coverage_one_sigma"] == 1 for row in rows)
    assert all(row["ause"] == pytest.approx(0, abs=1e-9) for row in rows)
