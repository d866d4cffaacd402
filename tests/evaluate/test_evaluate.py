from pathlib import Path

import numpy as np
import pytest

from medq_uni.description import QualityDescription
from medq_uni.evaluate.assessment import accuracy, assessment_table, macro_f1, quadratic_kappa
from medq_uni.evaluate.restoration import clustered_lower_bound, harm_on_good_images, restoration_table
from medq_uni.evaluate.sets import Case, phantom_cases, set_hash
from medq_uni.evaluate.systems import ModelSystems, degraded_input, nlm, tune_nlm
from medq_uni.image import MedicalImage
from medq_uni.pipeline import Restorer
from medq_uni.report import ReportItem, render, scores, write_report
from medq_uni.taxonomy import Severity, Task


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return list(phantom_cases(1, size=64))


@pytest.fixture(scope="module")
def restorer() -> Restorer:
    return Restorer.from_pretrained("nano", device="cpu")


def test_the_set_holds_every_task_and_grade_and_is_the_same_every_time(cases: list[Case]):
    assert {(c.task, c.severity) for c in cases} == {(t, s) for t in Task for s in Severity}
    assert set_hash(cases) == set_hash(list(phantom_cases(1, size=64)))
    assert set_hash(cases) != set_hash(list(phantom_cases(1, size=64, seed=1)))


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


def test_parts_switched_off_are_other_systems(cases: list[Case], restorer: Restorer):
    model, case = ModelSystems(restorer), next(c for c in cases if c.severity is Severity.SEVERE)
    outputs = [system(case).voxels for system in (model.expert_bypassed, model.path_off, model.codec_only)]
    assert not np.allclose(outputs[0], outputs[1])
    assert scores(model.codec_only(case), case.reference)[0] > 48


def test_nlm_is_tuned_per_task(cases: list[Case]):
    few = [c for c in cases if c.task is Task.MR_NOISE]
    strength = tune_nlm(few)[Task.MR_NOISE]
    best = np.mean([scores(nlm(c, strength), c.reference)[0] for c in few])
    assert best >= np.mean([scores(nlm(c, 0.3), c.reference)[0] for c in few])


def test_a_system_that_changes_nothing_does_no_harm(cases: list[Case]):
    for harm in harm_on_good_images(cases, degraded_input):
        assert harm.unchanged == 1
        assert np.isinf(harm.worst_psnr)


def test_the_bound_counts_subjects_not_slices():
    values = np.array([1.0] * 50 + [-1.0])
    assert clustered_lower_bound(values, ["a"] * 50 + ["b"]) == -1
    assert clustered_lower_bound(values, [str(i) for i in range(51)]) > 0.8


def test_scores_of_words():
    pairs = [("none", "none"), ("none", "mild"), ("severe", "severe"), ("severe", "severe")]
    assert accuracy(pairs) == 0.75
    assert macro_f1(pairs) == pytest.approx((2 / 3 + 1) / 2)
    assert quadratic_kappa([("none", "none"), ("severe", "severe")]) == 1
    assert quadratic_kappa([("none", "severe"), ("severe", "none")]) == -1


def test_a_perfect_assessor_beats_the_majority(cases: list[Case], restorer: Restorer):
    from medq_uni.data.describe import describe
    from medq_uni.data.pairs import generator_of
    from medq_uni.physics import DegradationRecord
    from medq_uni.taxonomy import Anatomy

    def perfect(case: Case) -> QualityDescription:
        params = {"acceleration": 2, "dose_fraction": 0.5, "num_poses": 3, "dose_reduction": 4.0}
        record = DegradationRecord(case.task, case.severity, params)
        return describe(case.task.modality, Anatomy.BODY, record, generator_of(1))

    for row in assessment_table(cases, perfect):
        assert row.value == 1 > row.majority


def test_a_report_is_one_file_with_pictures_and_escapes_what_it_shows(
    cases: list[Case], restorer: Restorer, tmp_path: Path
):
    case = next(c for c in cases if c.severity is Severity.SEVERE)
    item = ReportItem("<script>alert(1)</script>", restorer.restore(case.degraded), reference=case.reference)
    write_report([item], tmp_path / "sub" / "report.html")
    page = (tmp_path / "sub" / "report.html").read_text()
    assert page == render([item])
    assert "<script>alert" not in page
    assert 'src="http' not in page
    assert page.count("data:image/png;base64") == 5
    for words in ("Before", "After", "Truth", "Difference", "Uncertainty", "PSNR", "Research use only"):
        assert words in page
