import math

import pytest

from medq_uni.evaluate.runner import SliceRecord
from medq_uni.evaluate.tables import SCORES, good_image_rows, rows_by


def record(
    case: int, psnr: float | None, task: str = "ct-low-dose", severity: str = "mild", same: bool = False
) -> SliceRecord:
    values = None if psnr is None else dict.fromkeys(SCORES, psnr)
    error = "" if values else "ValueError: no"
    return SliceRecord(case, task, severity, f"s{case % 10}", "phantoms", 0.1, values, same, error)


RECORDS = {
    "degraded input": [record(i, 20 + i % 3) for i in range(20)],
    "better": [record(i, 23 + i % 3) for i in range(20)],
    "breaks": [record(i, 21.0 + i % 3 if i else None) for i in range(20)],
}


def test_a_row_holds_means_gains_and_what_failed():
    rows = {row.system: row for row in rows_by(lambda task: task.value, RECORDS, "better")}
    before, better, breaks = (rows[name] for name in RECORDS)
    assert (before.gain, before.worse, before.difference) == (0, 0, pytest.approx(-3))
    assert better.gain == pytest.approx(3)
    assert better.mean["psnr"] == pytest.approx(sum(23 + i % 3 for i in range(20)) / 20)
    assert (breaks.slices, breaks.failed, breaks.subjects) == (19, 1, 10)
    assert breaks.difference == pytest.approx(-2)
    assert better.p_value is None
    assert before.p_value < 0.01


def test_modalities_pool_their_tasks():
    mixed = {"degraded input": [record(0, 20, "mr-noise"), record(1, 30, "mr-motion"), record(2, 40)]}
    rows = {row.part: row for row in rows_by(lambda task: task.modality.value, mixed, None)}
    assert rows["mr"].mean["psnr"] == 25
    assert rows["ct"].slices == 1


def test_infinite_scores_are_told_apart_from_numbers():
    perfect = {"degraded input": [record(0, 20)], "oracle": [record(0, math.inf)]}
    (row,) = [r for r in rows_by(lambda task: task.value, perfect, "degraded input") if r.system == "oracle"]
    assert row.mean["psnr"] is None
    assert row.gain is None
    assert row.worse == 0


def test_an_input_without_error_neither_gains_nor_gets_worse():
    records = {
        "degraded input": [record(0, 20), record(1, math.inf)],
        "better": [record(0, 23), record(1, 44)],
    }
    rows = {row.system: row for row in rows_by(lambda task: task.value, records, None)}
    assert (rows["better"].gain, rows["better"].worse) == (3, 0)
    assert (rows["degraded input"].gain, rows["degraded input"].worse) == (0, 0)


def test_good_images_have_a_table_of_their_own():
    good = {
        "degraded input": [record(0, math.inf, severity="none", same=True), record(1, 20)],
        "a": [record(0, 50, severity="none"), record(1, 20)],
        "b": [record(0, 30, severity="none"), record(1, 20)],
    }
    rows = {row.system: row for row in good_image_rows(good)}
    assert (rows["degraded input"].unchanged, rows["degraded input"].lowest) == (1, None)
    assert (rows["a"].unchanged, rows["a"].preserved, rows["a"].lowest) == (0, 1, 50)
    assert (rows["b"].preserved, rows["b"].images) == (0, 1)
