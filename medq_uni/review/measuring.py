"""Agreement and the quality of drafts, counted beside the requests: of 150,000 reviews that takes many seconds."""

from __future__ import annotations

import base64
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from medq_uni.annotate.agreement import Agreement, measure_agreement
from medq_uni.annotate.plots import plot_rounds
from medq_uni.annotate.rounds import RoundReport, measure_round
from medq_uni.annotate.store import Store

WAIT_S = 2.0
"""How long a page waits for a count before it does without."""
LONG_S, RESTS = 2.0, 10
"""A count that takes longer than LONG_S rests for RESTS times as long before the next: a page that somebody leaves open
must not slow the reviewers."""
Stamps = dict[int, tuple[int, ...]]
"""What was there when it was counted, by round; see :meth:`medq_uni.annotate.outcomes.Outcomes.stamp`."""


@dataclass(frozen=True)
class MeasuredRounds:
    """What was counted.

    Attributes:
        stamps: Of every round.
        agreements: One per round, in their order.
        reports: Of the same rounds.
        plot: PNG of both, in base64.
        at: When it was begun, in UTC.
    """

    stamps: Stamps
    agreements: tuple[Agreement, ...]
    reports: tuple[RoundReport, ...]
    plot: str
    at: datetime


class Measurement:
    """Counts what is in a store, one count at a time, and keeps the last one; a round that did not change is kept."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._counting: threading.Thread | None = None
        self._measured: MeasuredRounds | None = None
        self._rounds: dict[int, tuple[tuple[int, ...], Agreement, RoundReport]] = {}
        self._error: Exception | None = None
        self._rest_until = 0.0

    def read(self, wait_s: float | None = None) -> tuple[MeasuredRounds | None, bool]:
        """Return the last count, None before the first, and whether it has everything; begin a new one if not.

        Args:
            wait_s: How long to wait for a new one, in seconds; :data:`WAIT_S` by default.

        Raises:
            StoreError: If the store could not be read.
        """
        stamps = {round: self._store.outcomes.stamp(round) for round in self._store.outcomes.rounds()}
        with self._lock:
            if self._measured is not None and self._measured.stamps == stamps:
                return self._measured, True
            is_idle = self._counting is None or not self._counting.is_alive()
            if is_idle and time.monotonic() < self._rest_until:
                return self._measured, False
            if self._counting is None or is_idle:
                self._counting = threading.Thread(target=self._count, args=(stamps,), daemon=True)
                self._counting.start()
            counting = self._counting
        counting.join(WAIT_S if wait_s is None else wait_s)
        with self._lock:
            error, self._error = self._error, None
            if error is not None:
                raise error
            return self._measured, self._measured is not None and self._measured.stamps == stamps

    def _count(self, stamps: Stamps) -> None:
        at, began = datetime.now(UTC), time.monotonic()
        try:
            names = {account.id: account.name for account in self._store.accounts.all()}
            for round, stamp in stamps.items():
                if round not in self._rounds or self._rounds[round][0] != stamp:
                    agreement = measure_agreement(round, self._store.outcomes.reviewed(round), names)
                    self._rounds[round] = (stamp, agreement, measure_round(self._store, round))
            agreements = tuple(self._rounds[round][1] for round in stamps)
            reports = tuple(self._rounds[round][2] for round in stamps)
            plot = base64.b64encode(plot_rounds(agreements, reports)).decode("ascii") if stamps else ""
        except Exception as error:  # noqa: BLE001 - whoever waits for the count, or asks next, is told
            with self._lock:
                self._error = error
            return
        taken = time.monotonic() - began
        with self._lock:
            self._measured = MeasuredRounds(stamps, agreements, reports, plot, at)
            self._rest_until = time.monotonic() + (RESTS * taken if taken > LONG_S else 0.0)
