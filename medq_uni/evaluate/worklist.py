"""What a system does to a mix of good and degraded images, as a department has it: how much it helps, and harms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medq_uni.evaluate.runner import SliceRecord
from medq_uni.statistics import known_interval
from medq_uni.systems.system import PRESERVED_DB
from medq_uni.taxonomy import Severity

CAP_DB = 50.0
"""Largest PSNR that an image counts with: a good image that comes back unchanged has an infinite one, and differences
above this are not seen."""
HARM_DB = 0.1
"""A degraded image is harmed if its PSNR falls by more than this, and helped if it rises by more."""
NOTE = (
    f"An image counts with at most {CAP_DB:g} dB, and one on which a system failed with the score of the input. Helped "
    f"and harmed: the PSNR rises or falls by more than {HARM_DB:g} dB. Altered: below {PRESERVED_DB:g} dB against the "
    "input."
)
"""What the table means."""


@dataclass(frozen=True)
class WorklistRow:
    """What one system does to all images of a benchmark, the good ones among them."""

    system: str
    images: int
    """Scored; those that failed count with the input's score, because the input is what a reader is left with."""
    good: int
    """Images among them that need no restoration."""
    failed: int
    psnr: float
    """Mean over all images in dB, each at most :data:`CAP_DB`."""
    psnr_interval: tuple[float | None, float | None]
    """95 % of the mean, subjects resampled."""
    helped: float | None
    """Share of the degraded images that gain more than :data:`HARM_DB`."""
    harmed: float | None
    """Share of the degraded images that lose more."""
    altered: float | None
    """Share of the good images that come back with less than 45 dB against the input."""


def worklist_rows(records: Mapping[str, Sequence[SliceRecord]]) -> list[WorklistRow]:
    """Return a row for every system; none where all images are good, or none is.

    Args:
        records: By system, the degraded input first.
    """
    before = {r.case: r for r in next(iter(records.values())) if r.scores}
    is_good = {case: r.severity == Severity.NONE for case, r in before.items()}
    if not any(is_good.values()) or all(is_good.values()):
        return []
    return [_row(name, {r.case: r for r in own}, before) for name, own in records.items()]


def _row(name: str, own: Mapping[int, SliceRecord], before: Mapping[int, SliceRecord]) -> WorklistRow:
    cases = list(before)
    good = np.array([before[case].severity == Severity.NONE for case in cases])
    start = np.array([_psnr(before[case], before[case]) for case in cases])
    end = np.array([_psnr(own.get(case, before[case]), before[case]) for case in cases])
    change = end[~good] - start[~good]
    preserved = np.array([_is_preserved(own.get(case, before[case])) for case in cases])
    capped = np.minimum(end, CAP_DB)
    return WorklistRow(
        system=name,
        images=len(cases),
        good=int(good.sum()),
        failed=sum(1 for case in cases if case not in own or own[case].scores is None),
        psnr=float(capped.mean()),
        psnr_interval=known_interval(capped, [before[case].subject for case in cases]),
        helped=_share(change > HARM_DB),
        harmed=_share(change < -HARM_DB),
        altered=_share(~preserved[good]),
    )


def _psnr(record: SliceRecord, before: SliceRecord) -> float:
    """Return the PSNR of an image, that of the input where the system failed."""
    scores = record.scores or before.scores
    assert scores is not None, "inputs without scores are left out"
    return scores["psnr"]


def _is_preserved(record: SliceRecord) -> bool:
    return record.scores is None or record.is_unchanged or record.scores["psnr"] >= PRESERVED_DB


def _share(flags: np.ndarray) -> float | None:
    return float(flags.mean()) if len(flags) else None
