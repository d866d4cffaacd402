from __future__ import annotations

import math

import pytest

from medq_uni.evaluate.runner import SliceRecord
from medq_uni.evaluate.tables import SCORES
from medq_uni.evaluate.worklist import CAP_DB, WorklistRow, worklist_rows


def record(case: int, psnr: float | None, *, same: bool = False) -> SliceRecord:
    values = None if psnr is None else dict.fromkeys(SCORES, psnr)
    severity = "none" if case < 4 else "mild"
    return SliceRecord(case, "ct-low-dose", severity, f"s{case}", "real", 0.1, values, same, "" if values else "no")


GOOD = [record(i, math.inf, same=True) for i in range(4)]
INPUT = [*GOOD, *(record(i, 30.0) for i in range(4, 8))]


def row(*own: SliceRecord) -> WorklistRow:
    before, after = worklist_rows({"degraded input": INPUT, "own": own})
    assert (before.system, before.psnr) == ("degraded input", (4 * CAP_DB + 4 * 30) / 8)
    assert (before.helped, before.harmed, before.altered, before.failed) == (0, 0, 0, 0)
    return after


def test_helped_harmed_and_altered_are_shares_of_their_kind():
    found = row(*GOOD[:3], record(3, 40.0), record(4, 33.0), record(5, 29.0), record(6, 30.05), record(7, 32.0))
    assert (found.images, found.good) == (8, 4)
    assert (found.helped, found.harmed, found.altered) == (0.5, 0.25, 0.25)
    assert found.psnr == pytest.approx((3 * CAP_DB + 40 + 33 + 29 + 30.05 + 32) / 8)
    low, high = found.psnr_interval
    assert low is not None
    assert high is not None
    assert low < found.psnr < high


def test_a_good_image_that_is_hardly_changed_is_not_altered():
    assert row(record(0, 46.0), *GOOD[1:], *INPUT[4:]).altered == 0


def test_where_a_system_fails_the_reader_is_left_with_the_input():
    found = row(*GOOD, record(4, None), *(record(i, 31.0) for i in (5, 6)))
    assert found.failed == 2
    assert found.psnr == pytest.approx((4 * CAP_DB + 30 + 31 + 31 + 30) / 8)
    assert (found.helped, found.harmed) == (0.5, 0)


@pytest.mark.parametrize("alike", [GOOD, INPUT[4:]], ids=["all good", "none good"])
def test_a_benchmark_that_is_no_mix_has_no_worklist(alike: list[SliceRecord]):
    assert worklist_rows({"degraded input": alike}) == []
