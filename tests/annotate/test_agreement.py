from datetime import UTC, datetime
from io import BytesIO

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from medq_uni.annotate.agreement import (
    Agreement,
    PairAgreement,
    SlotAgreement,
    cohen_kappa,
    fleiss_kappa,
    kappa_interval,
    measure_agreement,
)
from medq_uni.annotate.majority import SLOTS
from medq_uni.annotate.outcomes import ReviewedImage
from medq_uni.annotate.plots import plot_kappa, plot_pairs, plot_rounds
from medq_uni.annotate.records import ReviewEntry, Revision, State
from medq_uni.annotate.rounds import RoundReport

FLEISS_1971 = """
0 0 0 6 0  0 3 0 0 3  0 1 4 0 1  0 0 0 0 6  0 3 0 3 0  2 0 4 0 0  0 0 4 0 2  2 0 3 1 0  2 0 0 4 0  0 0 0 0 6
1 0 0 5 0  1 1 0 4 0  0 3 3 0 0  1 0 0 5 0  0 2 0 3 1  0 0 5 0 1  3 0 0 1 2  5 1 0 0 0  0 2 0 4 0  1 0 2 0 3
0 0 0 0 6  0 1 0 5 0  0 2 0 1 3  2 0 0 4 0  1 0 0 4 1  0 5 0 1 0  4 0 0 0 2  0 2 0 4 0  1 0 5 0 0  0 0 0 0 6
"""
"""Psychiatric diagnoses: 30 patients, 6 psychiatrists, 5 categories."""
TEN_BY_FOURTEEN = """
0 0 0 0 14  0 2 6 4 2  0 0 3 5 6  0 3 9 2 0  2 2 8 1 1  7 7 0 0 0  3 2 6 3 0  2 5 3 2 2  6 5 2 1 0  0 2 2 3 7
"""
"""The worked example of the article on Fleiss' kappa in Wikipedia: 10 subjects, 14 raters, 5 categories."""


def table_of(text: str) -> list[list[int]]:
    numbers = [int(word) for word in text.split()]
    return [numbers[start : start + 5] for start in range(0, len(numbers), 5)]


@pytest.mark.parametrize(
    ("text", "raters", "totals", "kappa"),
    [(FLEISS_1971, 6, [26, 26, 30, 55, 43], 0.430), (TEN_BY_FOURTEEN, 14, [20, 28, 39, 21, 32], 0.210)],
)
def test_fleiss_kappa_of_published_tables(text: str, raters: int, totals: list[int], kappa: float):
    table = table_of(text)
    assert {sum(row) for row in table} == {raters}
    assert [sum(column) for column in zip(*table, strict=True)] == totals
    assert fleiss_kappa(table) == pytest.approx(kappa, abs=5e-4)


def test_fleiss_kappa_by_hand():
    # P = (1 + 1/3) / 2 = 2/3; shares 1/2 and 1/2, P_e = 1/2; kappa = (2/3 - 1/2) / (1/2) = 1/3
    assert fleiss_kappa([[3, 0], [0, 3], [2, 1], [1, 2]]) == pytest.approx(1 / 3)
    assert fleiss_kappa([[3, 0], [0, 3]]) == 1
    assert fleiss_kappa([[1, 1], [1, 1]]) == -1
    assert fleiss_kappa([[3, 0], [3, 0]]) is None
    assert fleiss_kappa([]) is None
    assert fleiss_kappa([[1, 0], [0, 1]]) is None  # one rating each: nothing to compare
    assert fleiss_kappa([[3, 0], [0, 3], [1, 0]]) == fleiss_kappa([[3, 0], [0, 3]])


@pytest.mark.parametrize("text", [FLEISS_1971, TEN_BY_FOURTEEN])
def test_the_interval_of_kappa_is_that_of_a_plain_bootstrap_over_subjects(text: str):
    table = np.array(table_of(text))
    generator = np.random.default_rng(7)
    drawn = [fleiss_kappa(table[generator.integers(0, len(table), len(table))]) for _ in range(4000)]
    assert kappa_interval(table, draws=4000) == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.015)


def test_an_interval_is_narrower_with_more_subjects_and_absent_without_kappa():
    table = [[3, 0], [0, 3], [2, 1], [1, 2]] * 3
    few, many = kappa_interval(table), kappa_interval(table * 100)
    assert few is not None
    assert many is not None
    assert few[0] < many[0] < 1 / 3 < many[1] < few[1]
    assert many[1] - many[0] == pytest.approx((few[1] - few[0]) / 10, rel=0.25)
    assert kappa_interval([[3, 0], [3, 0]]) is None
    assert kappa_interval([[2, 1], [1, 0]]) is None  # one subject with two ratings
    assert kappa_interval([]) is None


def test_cohen_kappa_by_hand():
    # the textbook table of 50 proposals: both yes 20, first only 5, second only 10, both no 15: kappa = 0.4
    first = ["yes"] * 25 + ["no"] * 25
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    assert cohen_kappa(first, second) == pytest.approx(0.4)
    assert cohen_kappa(["a", "b"], ["a", "b"]) == 1
    assert cohen_kappa(["a", "b"], ["b", "a"]) == -1
    assert cohen_kappa(["a", "a"], ["a", "a"]) is None
    assert cohen_kappa([], []) is None
    with pytest.raises(ValueError, match="the same subjects"):
        cohen_kappa(["a"], [])


def reviewed(key: str, *descriptions) -> ReviewedImage:
    now = datetime.now(UTC)
    steps = [Revision(1, ReviewEntry.of(one), True, account, now) for account, one in enumerate(descriptions, start=1)]
    return ReviewedImage(key, 1, State.AGREED, tuple(steps), None)


NAMES = {1: "ann", 2: "$bob_{x}$ \u4e2d", 3: "<b>cat</b>"}


def test_agreement_of_reviews_by_hand(graded):
    mild, severe = graded("mild"), graded("severe")
    images = [reviewed("a", mild, mild, mild), reviewed("b", severe, severe, mild), reviewed("c", severe)]
    found = measure_agreement(1, images, NAMES)
    assert found.images == 2  # one review alone has nothing to agree with
    slot = found.slots["ct-low-dose"]
    assert slot.observed == pytest.approx((1 + 1 / 3) / 2)
    # shares mild 4/6, severe 2/6: P_e = 20/36; kappa = (24/36 - 20/36) / (16/36) = 1/4
    assert slot.fleiss_kappa == pytest.approx(0.25)
    assert found.slots["modality"].fleiss_kappa is None
    assert found.slots["mr-noise"].images == 0
    assert [one.with_majority["ct-low-dose"] for one in found.reviewers] == [1, 1, 0.5]
    pairs = {(one.first, one.second): one for one in found.pairs}
    assert pairs["ann", NAMES[2]].cohen_kappa["ct-low-dose"] == 1
    assert pairs["ann", NAMES[3]].observed["ct-low-dose"] == 0.5
    assert pairs["ann", NAMES[3]].cohen_kappa["ct-low-dose"] == 0  # the second never varies
    assert found.to_dict()["slots"]["verdict"]["images"] == 2


def test_a_plot_is_drawn_for_any_names_and_for_rounds_without_results(graded):
    mild, severe = graded("mild"), graded("severe")
    some = measure_agreement(1, [reviewed("a", mild, severe, mild), reviewed("b", severe, severe, mild)], NAMES)
    none = measure_agreement(2, [], NAMES)
    reports = [
        RoundReport(1, ("nano",), 2, 1, 0.5, 0.5, 0.1, {"verdict": 1}),
        RoundReport(2, (), 0, 0, None, None, None, {}),
    ]
    for agreements in ([some, none], [none, some]):
        with Image.open(BytesIO(plot_rounds(agreements, reports))) as picture:
            assert picture.width > 500
            assert len(picture.convert("L").getcolors()) > 10


def test_a_plot_shows_kappa_however_low():
    slots = {slot: SlotAgreement(2, -1.0, 0.0, (-1.0, -0.5)) for slot in SLOTS}
    figure = Figure()
    axis = figure.subplots()
    plot_kappa(axis, [Agreement(1, 2, slots, (), ())])
    assert axis.get_ylim()[0] < -1
    assert len({float(bar[0].get_xdata()[0]) for bar in axis.containers}) == len(SLOTS)  # none hides another


def test_numbers_in_a_plot_can_be_read_on_light_and_dark_cells():
    pairs = tuple(
        PairAgreement(first, second, 2, {"verdict": kappa}, {})
        for first, second, kappa in (("ann", "bob", -0.4), ("ann", "cy", 0.95), ("bob", "cy", 0.5))
    )
    figure = Figure()
    axis = figure.subplots()
    plot_pairs(axis, Agreement(1, 2, {}, pairs, ()))
    colors = {text.get_text(): text.get_color() for text in axis.texts}
    assert colors["-0.40"] == "white"
    assert colors["0.95"] == "black"
