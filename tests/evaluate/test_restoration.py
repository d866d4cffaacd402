import numpy as np
import pytest

from medq_uni.description import QualityDescription
from medq_uni.evaluate.restoration import clustered_lower_bound, coverage, harm_on_good_images, restoration_table
from medq_uni.evaluate.sets import Case
from medq_uni.evaluate.systems import degraded_input
from medq_uni.image import MedicalImage
from medq_uni.restoration import Restoration
from medq_uni.taxonomy import Anatomy, Task, Verdict


def test_the_input_gains_nothing_and_a_tenth_of_its_error_gains_20_db(cases: list[Case]):
    def tenth(case: Case) -> MedicalImage:
        error = case.degraded.voxels - case.reference.voxels
        return case.reference.with_voxels(case.reference.voxels + 0.1 * error)

    rows = restoration_table(
        [c for c in cases if c.task is not Task.CT_LOW_DOSE], {"input": degraded_input, "tenth": tenth}
    )
    for row in rows:
        assert row.count == 3
        assert row.gain == pytest.approx(0 if row.system == "input" else 20, abs=0.01)


def test_a_system_that_changes_nothing_does_no_harm(cases: list[Case]):
    for harm in harm_on_good_images(cases, degraded_input):
        assert harm.unchanged == 1
        assert np.isinf(harm.worst_psnr)


def test_the_bound_counts_subjects_not_slices():
    values = np.array([1.0] * 50 + [-1.0])
    assert clustered_lower_bound(values, ["a"] * 50 + ["b"]) == -1
    assert clustered_lower_bound(values, [str(i) for i in range(51)]) > 0.8


def test_an_exact_spread_covers_everything_and_none_covers_nothing(cases: list[Case]):
    def restore(case: Case, factor: float) -> Restoration:
        error = case.degraded.with_voxels(np.abs(case.degraded.voxels - case.reference.voxels) * factor)
        words = QualityDescription(case.task.modality, Anatomy.BODY, (), "x", "y", Verdict.GOOD)
        return Restoration(case.degraded, words, case.degraded, error, error, {}, 0.0, False)

    noisy = [case for case in cases if case.task is Task.MR_NOISE]
    for factor, one, two in ((1.0, 1.0, 1.0), (0.6, 0.0, 1.0), (0.4, 0.0, 0.0)):
        (row,) = coverage(noisy, lambda case, factor=factor: restore(case, factor))
        assert row.count == 3
        assert row.within_one == pytest.approx(one, abs=0.01)
        assert row.within_two == pytest.approx(two, abs=0.01)
