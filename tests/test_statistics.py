import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medq_uni.statistics import clustered_interval, holm, known_interval, paired_p_value, share_interval


def test_the_interval_counts_subjects_not_slices():
    values = np.array([1.0] * 50 + [-1.0])
    assert clustered_interval(values, ["a"] * 50 + ["b"])[0] == -1
    assert clustered_interval(values, [str(i) for i in range(51)])[0] > 0.8


def test_one_subject_alone_has_no_interval():
    assert np.isnan(clustered_interval(np.arange(5.0), ["a"] * 5)).all()


def test_the_interval_of_independent_normal_values_is_that_of_the_mean():
    values = np.random.default_rng(0).normal(3, 2, 400)
    low, high = clustered_interval(values, [str(i) for i in range(400)])
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.1)


def test_many_slices_of_few_subjects_are_no_evidence():
    many, few = ["a"] * 100 + ["b"] * 100, [str(i) for i in range(200)]
    differences = np.random.default_rng(0).normal(1, 0.5, 200)
    assert paired_p_value(differences, many) >= 0.5
    assert paired_p_value(differences, few) < 1e-6


def test_equal_systems_have_no_p_value():
    assert math.isnan(paired_p_value(np.zeros(8), [str(i) for i in range(8)]))


def test_holm_on_a_case_computed_by_hand():
    assert holm([0.01, 0.04, 0.03, math.nan])[:3] == pytest.approx([0.03, 0.06, 0.06])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_never_lowers_and_keeps_the_order(p_values: list[float]):
    adjusted = holm(p_values)
    assert all(a >= p and a <= 1 for a, p in zip(adjusted, p_values, strict=True))
    order = np.argsort(p_values, kind="stable")
    assert list(np.array(adjusted)[order]) == sorted(adjusted)


def test_the_interval_of_a_share_is_that_of_wilson():
    # by hand: p = 0.8, n = 10, z = 1.959964: center (p + z^2 / 2n) / (1 + z^2 / n), half width as in Wilson 1927
    z, p, n = 1.959964, 0.8, 10
    center = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert share_interval(8, 10) == pytest.approx((center - half, center + half), rel=1e-6)


@given(st.integers(1, 50).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_of_a_share_holds_it_and_is_never_certain(counts: tuple[int, int]):
    low, high = share_interval(*counts)
    assert 0 <= low <= counts[0] / counts[1] <= high <= 1
    assert low < high


def test_an_interval_is_the_same_every_time_and_another_seed_changes_it_little():
    values, subjects = np.random.default_rng(1).normal(0, 1, 60), [str(i // 3) for i in range(60)]
    first = clustered_interval(values, subjects)
    assert first == clustered_interval(values, subjects)
    other = clustered_interval(values, subjects, seed=1)
    assert other != first
    assert other == pytest.approx(first, abs=0.1 * (first[1] - first[0]))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_interval_of_values_that_are_not_finite_is_not_known(bad: float):
    assert np.isnan(clustered_interval(np.array([1.0, bad, 2.0]), ["a", "b", "c"])).all()
    assert known_interval(np.array([1.0, bad, 2.0]), ["a", "b", "c"]) == (None, None)


def test_an_interval_that_is_known_is_the_interval():
    values = np.arange(6.0)
    assert known_interval(values, list("abcdef")) == clustered_interval(values, list("abcdef"))
    assert known_interval(values, ["a"] * 6) == (None, None)


def test_equal_values_have_an_interval_without_width():
    assert clustered_interval(np.full(4, 2.5), list("abcd")) == (2.5, 2.5)


@given(st.permutations(range(12)))
def test_the_order_of_images_does_not_matter_to_a_paired_test(order: list[int]):
    differences = np.arange(12.0) - 3
    subjects = np.array([str(i // 2) for i in range(12)])
    expected = paired_p_value(differences, list(subjects))
    assert paired_p_value(differences[order], list(subjects[order])) == pytest.approx(expected)
    assert paired_p_value(-differences, list(subjects)) == pytest.approx(expected)


def test_a_paired_test_on_a_case_computed_by_hand():
    # six subjects, all better: two of the 2**6 signs are as extreme
    assert paired_p_value(np.arange(1.0, 7.0), list("abcdef")) == pytest.approx(2 / 2**6)
    assert paired_p_value(np.arange(1.0, 6.0), list("abcde")) > 0.05


def test_holm_of_nothing_and_of_what_is_not_known():
    assert holm([]) == []
    assert all(map(math.isnan, holm([math.nan, math.nan])))
    assert holm([0.6, 0.7]) == [1.0, 1.0]
