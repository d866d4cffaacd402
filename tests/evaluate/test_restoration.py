import numpy as np
import pytest

from medq_uni.evaluate.restoration import clustered_lower_bound, harm_on_good_images, restoration_table
from medq_uni.evaluate.sets import Case
from medq_uni.evaluate.systems import degraded_input
from medq_uni.image import MedicalImage
from medq_uni.taxonomy import Task


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
