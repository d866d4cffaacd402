import pytest

from medq_uni.description import QualityDescription
from medq_uni.safety.output_cache import OutputCache, SafetyCase
from medq_uni.safety.shift import ALTERNATIVE, BEYOND_RANGE, DESCRIPTION_SWAP, MIXED, check_shift, gain_of
from medq_uni.systems.cases import Case
from medq_uni.systems.system import Output
from medq_uni.taxonomy import Severity, Task
from tests.restorers import SMALL, Simple


class Conditioning(Simple):
    """Is better, the more degradations it is told of."""

    def restore_told(self, case: Case, description: QualityDescription) -> Output:
        if description.degradations and description.degradations[0].task is case.task:
            share = 0.5 if description.worst is case.severity else 0.8
        else:
            share = 0.9
        error = case.degraded.voxels - case.reference.voxels
        return Output(case.reference.with_voxels(case.reference.voxels + share * error))


def test_every_kind_of_shift_is_simulated_and_the_truth_gains_without_bound(
    safety_cases: list[SafetyCase], oracle: OutputCache
):
    rows = check_shift(oracle, safety_cases, SMALL)
    assert not oracle.failed
    assert {row["family"] for row in rows} == {BEYOND_RANGE, MIXED, ALTERNATIVE}
    for family in (BEYOND_RANGE, ALTERNATIVE):
        assert {row["task"] for row in rows if row["family"] == family} == set(Task)
    assert all(gain_of(row) == float("inf") for row in rows)
    assert all(row["severity"] == Severity.SEVERE for row in rows if row["family"] == BEYOND_RANGE)


def test_what_changes_nothing_gains_nothing(safety_cases: list[SafetyCase], unchanged: OutputCache):
    assert all(gain_of(row) == 0 for row in check_shift(unchanged, safety_cases, SMALL))


def test_a_system_that_listens_is_worse_when_it_is_told_wrong_things(safety_cases: list[SafetyCase]):
    rows = [
        r
        for r in check_shift(OutputCache(Conditioning(lambda c: c.degraded)), safety_cases, SMALL)
        if r["family"] == DESCRIPTION_SWAP
    ]
    gains = {
        told: [gain_of(row) for row in rows if row["told"] == told]
        for told in ("oracle", "predicted", "shuffled", "none")
    }
    assert all(len(values) == len(Task) for values in gains.values())
    assert gains["predicted"] == pytest.approx([0] * len(Task))
    assert min(gains["oracle"]) > max(gains["shuffled"]) > 0
    assert min(gains["oracle"]) > max(gains["none"]) > 0
