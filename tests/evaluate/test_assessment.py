import pytest

from medq_uni.data.describe import describe
from medq_uni.data.pairs import generator_of
from medq_uni.description import QualityDescription
from medq_uni.evaluate.assessment import accuracy, assessment_table, macro_f1, quadratic_kappa
from medq_uni.evaluate.sets import Case
from medq_uni.physics import DegradationRecord
from medq_uni.taxonomy import Anatomy


def test_scores_of_words():
    pairs = [("none", "none"), ("none", "mild"), ("severe", "severe"), ("severe", "severe")]
    assert accuracy(pairs) == 0.75
    assert macro_f1(pairs) == pytest.approx((2 / 3 + 1) / 2)
    assert quadratic_kappa([("none", "none"), ("severe", "severe")]) == 1
    assert quadratic_kappa([("none", "severe"), ("severe", "none")]) == -1


def test_a_perfect_assessor_beats_the_majority(cases: list[Case]):
    def perfect(case: Case) -> QualityDescription:
        params = {"acceleration": 2, "dose_fraction": 0.5, "num_poses": 3, "dose_reduction": 4.0}
        record = DegradationRecord(case.task, case.severity, params)
        return describe(case.task.modality, Anatomy.BODY, record, generator_of(1))

    for row in assessment_table(cases, perfect):
        assert row.value == 1 > row.majority
