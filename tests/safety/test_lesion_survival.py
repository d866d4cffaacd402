import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medq_uni.data.lesions import inserted, lesion_at
from medq_uni.image import MedicalImage
from medq_uni.physics.record import MEASURED
from medq_uni.safety.lesion_survival import check_lesions, contrast_of, draw_lesions
from medq_uni.safety.output_cache import REAL, OutputCache, SafetyCase, SafetySettings, altered_case, degraded_only
from medq_uni.taxonomy import Modality, Task
from tests.restorers import SMALL, Simple


def test_the_truth_recovers_every_lesion(safety_cases: list[SafetyCase], oracle: OutputCache):
    rows = check_lesions(oracle, safety_cases, SMALL)
    assert {row["task"] for row in rows} == set(Task)
    assert all(row["crc"] == pytest.approx(1, abs=1e-6) for row in rows)
    assert {row["radius_px"] for row in rows} == {3.0, 5.0}


def test_what_changes_nothing_recovers_what_is_in_the_input(safety_cases: list[SafetyCase], unchanged: OutputCache):
    rows = check_lesions(unchanged, safety_cases, SMALL)
    assert all(row["crc"] == row["crc_of_input"] for row in rows)
    added = [row["crc"] for row in rows if row["task"] == "ct-low-dose"]
    assert np.allclose(added, 1, atol=0.05)  # low dose adds noise and takes no contrast away


def test_a_system_that_wipes_lesions_out_recovers_nothing(safety_cases: list[SafetyCase]):
    def flat(case):
        return case.degraded.with_voxels(np.zeros_like(case.degraded.voxels))

    assert all(row["crc"] == 0 for row in check_lesions(OutputCache(Simple(flat)), safety_cases, SMALL))


@given(radius=st.floats(2, 10), amplitude=st.floats(-80, 80).filter(lambda v: abs(v) > 1))
def test_the_contrast_of_a_lesion_is_nearly_its_amplitude(radius: float, amplitude: float):
    image = MedicalImage(np.zeros((1, 64, 64)), modality=Modality.CT)
    lesion = lesion_at(image, (32, 30), radius, abs(amplitude), is_dark=amplitude < 0)
    change = inserted(image, [lesion]).voxels[0].astype(np.float64)
    assert contrast_of(change, lesion) / amplitude == pytest.approx(1, abs=0.55 / radius)


def test_lesions_lie_apart_and_in_tissue(safety_cases: list[SafetyCase]):
    settings = SafetySettings(size_px=128)
    for number, safety_case in enumerate(safety_cases):
        lesions = draw_lesions(safety_case.pair.reference, settings, number)
        for one, other in itertools.combinations(lesions, 2):
            assert math.dist(one.place, other.place) > one.radius_px + other.radius_px + 6
        if safety_case.pair.task.modality is Modality.PET:
            assert all(lesion.amplitude > 0 for lesion in lesions)
        assert lesions == draw_lesions(safety_case.pair.reference, settings, number)


def test_nothing_added_is_the_case_itself(safety_cases: list[SafetyCase]):
    for safety_case in degraded_only(safety_cases):
        again = altered_case(safety_case, safety_case.pair.reference)
        assert np.allclose(again.degraded.voxels, safety_case.pair.degraded.voxels, atol=1e-5), safety_case.label


def test_a_system_that_fails_is_noted_and_has_no_row(safety_cases: list[SafetyCase]):
    def fails(case):
        raise RuntimeError("out of luck")

    outputs = OutputCache(Simple(fails))
    assert check_lesions(outputs, safety_cases, SMALL) == []
    assert set(outputs.failed.values()) == {"RuntimeError: out of luck"}
    assert any("with lesions" in label for label in outputs.failed)


def test_real_slices_get_lesions_too_but_not_those_scanned_at_two_doses(
    safety_cases: list[SafetyCase], oracle: OutputCache
):
    noisy = next(
        safety_case for safety_case in degraded_only(safety_cases) if safety_case.pair.task is Task.CT_LOW_DOSE
    )
    real = replace(noisy, group=REAL)
    rows = check_lesions(oracle, [real], SMALL)
    assert rows
    assert {row["group"] for row in rows} == {REAL}
    (record,) = noisy.pair.records
    measured = replace(real, pair=replace(noisy.pair, records=(replace(record, method=MEASURED),)))
    assert check_lesions(oracle, [measured], SMALL) == []
