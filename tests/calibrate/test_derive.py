from __future__ import annotations

import numpy as np
import pytest

from medq_uni.calibrate.check import check
from medq_uni.calibrate.derive import (
    best_scaling,
    best_step,
    calibration_error,
    calibration_of,
    covering_scale,
    operating_point,
    steps_of,
)
from medq_uni.calibrate.evidence import LEVELS, SHARES, Evidence, Read, Said
from medq_uni.calibrate.run import promise, summary
from medq_uni.measurement import Quantity
from medq_uni.taxonomy import Modality, Severity, Task


def row(
    index: int,
    log_odds: float,
    severity: Severity = Severity.MODERATE,
    gains: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0),
    subject: str | None = None,
) -> Evidence:
    is_good = severity is Severity.NONE
    said = (Said(task=Task.CT_LOW_DOSE, severity=Severity.MODERATE),)
    ratios = () if is_good else tuple(2.0 * level for level in LEVELS)
    return Evidence(
        index=index,
        subject=subject or f"s{index}",
        modality=Modality.CT,
        severity=severity,
        log_odds=log_odds,
        said=said,
        gains=() if is_good else gains,
        readings={Quantity.NOISE_SD: Read(true=0.1 * index, found=0.1 * index + 0.1, deviation=0.05)},
        ratios=ratios,
    )


GOOD = [row(i, -4 + i / 10, Severity.NONE) for i in range(40)]
BAD = [row(100 + i, 1 + i / 10) for i in range(40)]


def test_the_cut_lies_above_all_but_a_twentieth_of_the_good_images():
    point = operating_point([*GOOD, *BAD])
    assert point is not None
    assert point.flagged <= 0.05
    assert -4 + 3.8 < point.cut < 1
    assert point.noticed == 1


def test_with_few_good_images_the_cut_lies_above_them_all():
    point = operating_point([*GOOD[:10], *BAD])
    assert point is not None
    assert point.flagged == 0
    assert point.cut == pytest.approx(GOOD[9].log_odds)


def test_without_good_images_nothing_is_cut():
    assert operating_point(BAD) is None


def test_temperature_and_offset_make_log_odds_those_of_a_frequency():
    rng = np.random.default_rng(1)
    true = rng.normal(0, 2, 4000)
    degraded = (rng.random(4000) < 1 / (1 + np.exp(-true))).astype(float)
    temperature, offset = best_scaling(5 * true + 3, degraded)
    assert temperature == pytest.approx(5, rel=0.15)
    assert offset == pytest.approx(3, abs=0.6)
    honest, loud = (1 / (1 + np.exp(-factor * true)) for factor in (1, 5))
    assert calibration_error(honest, degraded) < 0.03 < calibration_error(loud, degraded)


def test_a_step_that_enough_subjects_bear_out_is_promised():
    step = best_step([row(i, 1.0) for i in range(30)])
    assert (step.share, step.harmed, step.subjects) == (1.0, 0.0, 30)
    assert step.bound <= 0.1


def test_few_subjects_promise_nothing_and_the_best_harmless_share_is_taken():
    gains = (0.4, 0.6, 0.3, -0.5)
    step = best_step([row(i, 1.0, gains=gains) for i in range(6)])
    assert (step.share, step.harmed) == (0.5, 0.0)
    assert step.bound > 0.1


def test_where_every_share_harms_none_is_applied():
    assert best_step([row(i, 1.0, gains=(-0.3, -0.5, -0.7, -1.0)) for i in range(30)]).share == 0


def test_slices_of_one_subject_count_as_one():
    assert best_step([row(i, 1.0, subject="one") for i in range(200)]).bound > 0.5


def test_a_task_that_was_hardly_met_has_no_step():
    assert steps_of([row(i, 1.0) for i in range(3)]) == {}
    assert set(steps_of([row(i, 1.0) for i in range(30)])) == {Task.CT_LOW_DOSE}


def test_the_scale_covers_68_percent():
    uniform = [tuple(2.0 * level for level in LEVELS)]
    assert covering_scale([uniform, uniform]) == pytest.approx(2 * 0.683, rel=0.01)


def test_a_calibration_says_what_it_can_promise():
    much = calibration_of([*GOOD, *BAD], "hash", {Modality.CT: 3.0})
    assert much.spread_scale[Task.CT_LOW_DOSE] == pytest.approx(3 * 2 * 0.683, rel=0.01)
    assert much.subjects == {Modality.CT: 80}
    assert "Promises harm to less than 10%" in promise(much)
    assert much.figures[Quantity.NOISE_SD].error == pytest.approx(0.1)
    assert much.figures[Quantity.NOISE_SD].factor == pytest.approx(2.0)
    assert "| noise SD | 11% | yes |" in summary(much)
    little = calibration_of([*GOOD[:8], *BAD[:8]], "hash", {})
    assert promise(little).startswith("Promises nothing")
    assert "22 subjects" in promise(little)
    assert "| CT | 16 | 16 |" in summary(little)
    assert len(SHARES) == 4


def test_a_calibration_is_checked_on_other_people():
    found = calibration_of([*GOOD, *BAD], "hash", {Modality.CT: 3.0})
    others = [row(500 + i, -3.0, Severity.NONE) for i in range(10)] + [
        row(600 + i, 0.9 if i else -9.0) for i in range(10)
    ]
    text = check(others, found, {Modality.CT: 3.0})
    assert "| CT | 20 | 10 | 0% | 10 | 90% |" in text
    assert "| ct-low-dose | 9 | +2.00 | 0% | +2.00 | +2.00 to +2.00 | 0% | 68% | 100% |" in text
    assert "| noise SD | 10 | 0.10 | 100% |" in text
