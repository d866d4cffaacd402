import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medq_uni.calibrate.bounds import CONFIDENCE, RISK, p_value, subjects_needed, upper_bound


def test_without_a_failure_a_tenth_needs_22_subjects():
    assert subjects_needed() == 22
    assert upper_bound(0.0, 22) <= RISK < upper_bound(0.0, 21)


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 0.5), st.integers(1, 200))
def test_the_bound_lies_above_what_was_measured_and_falls_with_the_subjects(risk: float, count: int):
    bound = upper_bound(risk, count)
    assert risk <= bound <= 1
    assert upper_bound(risk, 4 * count) <= bound + 1e-9
    assert upper_bound(risk, count, confidence=0.99) >= bound - 1e-9


def test_nobody_measured_promises_nothing():
    assert upper_bound(0.0, 0) == 1.0


@pytest.mark.parametrize("count", [10, 30, 100])
@pytest.mark.parametrize("limit", [0.1, 0.3])
def test_a_risk_at_the_limit_is_ruled_out_no_more_often_than_said(count: int, limit: float):
    """The law of the bound, by simulation: losses of subjects are shares of their images, here of one or of three."""
    rng = np.random.default_rng(3)
    for images in (1, 3):
        losses = rng.binomial(images, limit, size=(1500, count)).mean(1) / images
        ruled_out = np.mean([p_value(float(loss), count, limit) <= 1 - CONFIDENCE for loss in losses])
        assert ruled_out <= 1 - CONFIDENCE + 0.02
