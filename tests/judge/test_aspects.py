from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medq_uni.data.reference_text import stated_parameter, true_parameter
from medq_uni.describers.describer import Answer, Outcome
from medq_uni.description import Degradation, QualityDescription
from medq_uni.judge.aspects import (
    AspectScore,
    aspect_markdown,
    aspect_table,
    macro_f1,
    quadratic_kappa,
    quality_accuracy,
)
from medq_uni.systems.cases import Case
from medq_uni.taxonomy import Severity, Task, Verdict

REFUSED = Answer(Outcome.REFUSED, reason="Cannot assess: test.")
FAILED = Answer(Outcome.FAILED, reason="slow")


def by_name(rows: list[AspectScore]) -> dict[str, AspectScore]:
    return {row.name: row for row in rows}


def counts(pairs: list[tuple[int, int]]) -> np.ndarray:
    sums = np.zeros(16)
    for true, found in pairs:
        sums[4 * true + found] += 1
    return sums


def test_known_values_of_kappa():
    assert quadratic_kappa(counts([(0, 0), (3, 3)])) == 1
    assert quadratic_kappa(counts([(0, 3), (3, 0)])) == -1
    assert quadratic_kappa(counts([(2, 2), (2, 2)])) == 1
    # observed 1/4 of 1, expected mean of (t - f)^2 over all pairs of {0,1,2,3} and {0,1,2,2}: 32.0 / 16
    pairs = [(0, 0), (1, 1), (2, 2), (3, 2)]
    expected = np.mean([(t - f) ** 2 for t, _ in pairs for _, f in pairs])
    assert quadratic_kappa(counts(pairs)) == pytest.approx(1 - 0.25 / expected)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30))
def test_kappa_is_that_of_the_definition(pairs: list[tuple[int, int]]):
    observed = np.mean([(t - f) ** 2 for t, f in pairs])
    expected = np.mean([(t - f) ** 2 for t, _ in pairs for _, f in pairs])
    wanted = 1 - observed / expected if expected else 1.0
    assert quadratic_kappa(counts(pairs)) == pytest.approx(wanted)


def test_known_values_of_f1():
    # class 0: 2 there, 1 named, 1 right -> 2/3; class 1: 2 there, 2 named, 2 right -> 1; class 2 is never there
    assert macro_f1(np.array([1, 2, 0, 1, 2, 3, 2, 2, 0.0])) == pytest.approx((2 / 3 + 1) / 2)


def test_the_quality_accuracy_is_exact():
    order = [Verdict.GOOD, Verdict.USABLE, Verdict.REJECT]
    assert [[quality_accuracy(t, f) for f in order] for t in order] == [[2, 1, 0], [1, 2, 1], [0, 1, 2]]


def test_the_truth_scores_full_and_a_refusal_nothing(cases: list[Case], truths: list[QualityDescription]):
    right = [Answer.described(truth) for truth in truths]
    rows = aspect_table(cases, truths, {"right": right, "refused": [REFUSED] * len(cases)})
    full = by_name([row for row in rows if row.describer == "right"])
    none = by_name([row for row in rows if row.describer == "refused"])
    assert full["quality accuracy, 0 to 2"].value == 2
    for name in (
        "verdict accuracy",
        "type macro-F1 within MR",
        "none against degraded, macro-F1, CT",
        "none against degraded, macro-F1, PET",
        "modality accuracy",
        "anatomy accuracy",
    ):
        assert (full[name].value, full[name].low, full[name].high) == (1, 1, 1)
        assert (none[name].value, none[name].answered) == (0, 0)
    assert full["severity, quadratic kappa"].value == 1
    assert none["severity, quadratic kappa"].value is None
    assert none["quality accuracy, 0 to 2"].value == 0
    assert none["cannot assess / not supported, share"].value == 1
    assert none["failed, share"].value == 0
    rank = full["SRCC of stated severity with input PSNR, MR, answered only"]
    assert rank.value > 0.7
    assert none[rank.name].value is None
    assert "| - |" in aspect_markdown(rows)


def test_a_failure_counts_like_a_wrong_answer_and_is_shown(cases: list[Case], truths: list[QualityDescription]):
    answers = [FAILED if number < 5 else Answer.described(truth) for number, truth in enumerate(truths)]
    found = by_name(aspect_table(cases, truths, {"one": answers}))
    score = found["verdict accuracy"]
    assert (score.count, score.answered, score.value) == (20, 15, 0.75)
    assert score.low < 0.75 < score.high
    assert found["failed, share"].value == 0.25
    assert "0.750 (" in aspect_markdown(list(found.values()))
    assert ", 15" in aspect_markdown(list(found.values()))


def test_intervals_know_that_slices_share_subjects(cases: list[Case], truths: list[QualityDescription]):
    answers = [FAILED if number < 10 else Answer.described(truth) for number, truth in enumerate(truths)]
    apart = by_name(aspect_table(cases, truths, {"one": answers}))["severity, quadratic kappa"]
    two = [replace(case, subject=str(number // 10)) for number, case in enumerate(cases)]
    together = by_name(aspect_table(two, truths, {"one": answers}))["severity, quadratic kappa"]
    assert apart.value == together.value
    assert together.high - together.low > apart.high - apart.low


def test_both_kinds_of_a_mixed_image_count(cases: list[Case], truths: list[QualityDescription]):
    place = next(n for n, case in enumerate(cases) if case.task is Task.MR_NOISE and case.severity is not Severity.NONE)
    both = (Degradation(Task.MR_MOTION, Severity.MILD), *truths[place].degradations)
    mixed = replace(truths[place], degradations=both)
    name = "type macro-F1 within MR"
    for said, wanted in ((mixed, 1.0), (truths[place], 0.5)):
        row = by_name(aspect_table([cases[place]], [mixed], {"one": [Answer.described(said)]}))[name]
        assert row.value == wanted


def test_a_stated_parameter_is_compared_with_the_record(cases: list[Case], truths: list[QualityDescription]):
    place = next(
        n for n, case in enumerate(cases) if case.task is Task.CT_LOW_DOSE and case.severity is not Severity.NONE
    )
    case, truth = cases[place], truths[place]
    dose = true_parameter(case.records[0])
    assert dose == 100 * case.records[0].params["dose_fraction"]
    for factor, distance in ((1, 0), (4, 2), (0.5, 1)):
        said = replace(truth, cause=f"a dose of about {factor * dose:.6f} % of the full one")
        (row,) = [r for r in aspect_table([case], [truth], {"x": [Answer.described(said)]}) if "parameter" in r.name]
        assert row.value == pytest.approx(distance, abs=1e-4)
    unstated = replace(truth, cause="the tube current was reduced")
    (row,) = [r for r in aspect_table([case], [truth], {"x": [Answer.described(unstated)]}) if "parameter" in r.name]
    assert (row.count, row.answered, row.value) == (1, 0, None)


@pytest.mark.parametrize(
    ("task", "cause", "wanted"),
    [
        (Task.CT_LOW_DOSE, "the scan used about 25 % of full dose", 25),
        (Task.CT_LOW_DOSE, "12.5 percent of the dose", 12.5),
        (Task.MR_UNDERSAMPLING, "an acceleration factor of about 4", 4),
        (Task.MR_UNDERSAMPLING, "only one in 6 lines was acquired", 6),
        (Task.MR_UNDERSAMPLING, "8-fold acceleration", 8),
        (Task.MR_MOTION, "about 7 pose changes in the scan", 7),
        (Task.PET_LOW_COUNT, "counts about 20 times below full dose", 20),
        (Task.MR_NOISE, "noise of 5 %", None),
        (Task.CT_LOW_DOSE, "the tube current was reduced", None),
    ],
)
def test_parameters_are_read_from_causes(task: Task, cause: str, wanted: float | None):
    assert stated_parameter(cause, task) == wanted
