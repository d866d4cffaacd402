from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medq_uni.io.rescale import Rescale, Stored, decimal_string, physical, quantize

RESCALES = st.builds(
    Rescale,
    st.sampled_from([1.0, 0.1, 9.12329, 2.5e-5, -2.0]),
    st.sampled_from([0.0, -1024.0, 3.75]),
    st.sampled_from([1.0, 2.1567e-4]),
)


@given(
    rescale=RESCALES,
    dtype=st.sampled_from(["uint8", "int16", "uint16", "int32"]),
    seed=st.integers(0, 2**32 - 1),
    change=st.floats(-2.0, 2.0),
)
def test_untouched_voxels_keep_their_value_and_the_others_are_nearest(rescale, dtype, seed, change):
    rng = np.random.default_rng(seed)
    source = Stored(rng.integers(20, 100, (2, 3, 4)).astype(dtype), rescale)
    values = physical(*source)
    values[1] += np.float32(change * abs(rescale.slope * rescale.factor))
    made = quantize(values, source)
    again = physical(*made)
    np.testing.assert_array_equal(again[0], values[0])
    step = abs(made.rescale.slope * made.rescale.factor)
    assert step <= abs(rescale.slope * rescale.factor)
    assert np.abs(again - values).max() <= 0.5001 * step + 1e-6 * np.abs(values).max()
    assert made.values.dtype == source.values.dtype


def test_step_becomes_as_fine_as_the_type_allows():
    source = Stored(np.array([[0, 10]], np.int16), Rescale(1.0, 0.0, 1.0))
    made = quantize(np.array([[0.3, 10]], np.float32), source)
    assert made.rescale.slope == 1 / 2048  # 10 * 2048 fits into int16, 10 * 4096 does not
    assert made.values[0, 1] == 10 * 2048


def test_fixed_rescale_stays():
    source = Stored(np.array([[0, 10]], np.int16), Rescale())
    made = quantize(np.array([[0.3, 7.6]], np.float32), source, is_fixed=True)
    assert made.rescale == Rescale()
    np.testing.assert_array_equal(made.values, [[0, 8]])


def test_values_below_the_range_move_the_intercept():
    source = Stored(np.array([[0, 1000]], np.uint16), Rescale(1.0, -1024.0, 1.0))
    values = np.array([[-3000.0, 1500.0]], np.float32)
    made = quantize(values, source, max_step=1.0)
    np.testing.assert_array_equal(physical(*made), values)


def test_values_wider_than_the_type_get_a_coarser_step():
    source = Stored(np.array([[0, 200]], np.uint8), Rescale(1.0, 0.0, 1.0))
    values = np.array([[-500.0, 900.0]], np.float32)
    made = quantize(values, source)
    assert np.abs(physical(*made) - values).max() <= made.rescale.slope / 2


@pytest.mark.parametrize("value", [1.0, -1024.0, 1 / 3, 1e-12 / 7, 123456789.123456, -2.5e20])
def test_decimal_strings_fit_sixteen_characters(value):
    text = decimal_string(value)
    assert len(text) <= 16
    assert float(text) == pytest.approx(value, rel=1e-8)
