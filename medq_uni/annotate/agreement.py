"""How well reviewers agree: Fleiss' kappa per slot, Cohen's kappa per pair, every reviewer against the majority.

J. L. Fleiss, Psychological Bulletin 76 (1971) 378; J. Cohen, Educational and Psychological Measurement 20 (1960) 37.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from medq_uni.annotate.majority import SLOTS, majority_of, slots_of
from medq_uni.annotate.outcomes import ReviewedImage
from medq_uni.errors import MedQError
from medq_uni.taxonomy import Task

Given = dict[int, dict[str, str]]
"""Values of the slots of one image, by account."""


@dataclass(frozen=True)
class SlotAgreement:
    """Agreement about one slot.

    Attributes:
        images: Images with at least two reviews.
        fleiss_kappa: 1 is full agreement, 0 what chance gives; None where all gave the same value, so that there is
            nothing to tell from chance.
        observed: Share of pairs of reviews that agree.
        interval: Ends of the 95 % interval of fleiss_kappa, by bootstrap over images; None where kappa is, or where
            there is one image.
    """

    images: int
    fleiss_kappa: float | None
    observed: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class PairAgreement:
    """Agreement of two reviewers, over the images that both have reviewed."""

    first: str
    second: str
    images: int
    cohen_kappa: dict[str, float | None]
    observed: dict[str, float]


@dataclass(frozen=True)
class ReviewerAgreement:
    """How often a reviewer gave the value of the majority of the other reviewers and himself, where there is one."""

    name: str
    images: int
    with_majority: dict[str, float | None]


@dataclass(frozen=True)
class Agreement:
    """Agreement in one round."""

    round: int
    images: int
    slots: dict[str, SlotAgreement]
    pairs: tuple[PairAgreement, ...]
    reviewers: tuple[ReviewerAgreement, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as JSON values."""
        return asdict(self)


def fleiss_kappa(counts: Sequence[Sequence[int]] | np.ndarray) -> float | None:
    """Return kappa = (P - P_e) / (1 - P_e) of ratings in categories.

    P is the mean over subjects of the share of agreeing pairs of ratings, P_e the sum of the squared shares of the
    categories. Subjects may have different numbers of ratings; those with fewer than two are left out.

    Args:
        counts: (subjects, categories), how many raters put the subject there.

    Returns:
        None where there is no subject, or only one category was ever used.
    """
    table = np.asarray(counts, dtype=np.float64)
    table = table[table.sum(1) >= 2] if table.size else table
    if not table.size:
        return None
    observed = _agreeing(table).mean()
    expected = ((table.sum(0) / table.sum()) ** 2).sum()
    return None if expected >= 1 - 1e-12 else float((observed - expected) / (1 - expected))


def _agreeing(table: np.ndarray) -> np.ndarray:
    """Return the share of pairs of ratings that agree, for every subject; (subjects, categories) with two or more."""
    ratings = table.sum(1)
    return np.asarray(((table**2).sum(1) - ratings) / (ratings * (ratings - 1)))


def kappa_interval(
    counts: Sequence[Sequence[int]] | np.ndarray, *, draws: int = 2000, seed: int = 0
) -> tuple[float, float] | None:
    """Return the 95 % percentile interval of Fleiss' kappa by bootstrap over subjects.

    Subjects that were rated alike are drawn together, as one multinomial number. Draws in which only one category
    is left have no kappa and do not count.

    Args:
        counts: As for :func:`fleiss_kappa`.
        draws: Times that subjects are drawn, with replacement, as many as there are.
        seed: Of the drawing.

    Returns:
        None where kappa is None, or there is only one subject.
    """
    if fleiss_kappa(counts) is None:
        return None
    table = np.asarray(counts, dtype=np.float64)
    kinds, times = np.unique(table[table.sum(1) >= 2], axis=0, return_counts=True)
    total = int(times.sum())
    if total < 2:
        return None
    drawn = np.random.default_rng(seed).multinomial(total, times / total, size=draws)
    observed = drawn @ _agreeing(kinds) / total
    shares = (drawn @ kinds) / (drawn @ kinds.sum(1))[:, None]
    expected = (shares**2).sum(1)
    has_kappa = expected < 1 - 1e-12
    low, high = np.percentile((observed - expected)[has_kappa] / (1 - expected[has_kappa]), [2.5, 97.5])
    return float(low), float(high)


def cohen_kappa(first: Sequence[str], second: Sequence[str]) -> float | None:
    """Return kappa = (p_o - p_e) / (1 - p_e) of two raters of the same subjects.

    Returns:
        None where there is no subject, or both always gave the same single category.

    Raises:
        MedQError: If the two have not rated the same number of subjects.
    """
    if len(first) != len(second):
        raise MedQError(f"both raters need the same subjects, got {len(first)} and {len(second)} ratings.")
    if not first:
        return None
    one, other = np.asarray(first), np.asarray(second)
    observed = float((one == other).mean())
    expected = sum(float((one == value).mean()) * float((other == value).mean()) for value in {*first, *second})
    return None if expected >= 1 - 1e-12 else (observed - expected) / (1 - expected)


def measure_agreement(round: int, images: Iterable[ReviewedImage], names: dict[int, str]) -> Agreement:
    """Return the agreement of the finished reviews of a round.

    A kind of degradation is looked at in images of its modality alone; elsewhere all agree that it is not there.

    Args:
        round: Number of the round.
        images: Of the round; see :meth:`medq_uni.annotate.outcomes.Outcomes.reviewed`.
        names: What the accounts are called.
    """
    given: list[Given] = []
    for image in images:
        one = {review.account_id: slots_of(review.entry.description()) for review in image.reviews}
        if len(one) >= 2:
            given.append(one)
    accounts = sorted({account for one in given for account in one})
    relevant = {slot: _relevant(slot, given) for slot in SLOTS}
    return Agreement(
        round=round,
        images=len(given),
        slots={slot: _slot_agreement(relevant[slot], slot) for slot in SLOTS},
        pairs=tuple(_pair_agreement(relevant, a, b, names) for a, b in combinations(accounts, 2)),
        reviewers=tuple(_reviewer_agreement(relevant, account, names) for account in accounts),
    )


def _relevant(slot: str, given: list[Given]) -> list[Given]:
    """Return the images of the modality in which a kind of degradation occurs, and all of them for another slot."""
    if slot not in set(Task):
        return given
    modality = Task(slot).modality.value
    return [one for one in given if any(values["modality"] == modality for values in one.values())]


def _slot_agreement(given: list[Given], slot: str) -> SlotAgreement:
    if not given:
        return SlotAgreement(0, None, None, None)
    values = sorted({values[slot] for one in given for values in one.values()})
    table = np.zeros((len(given), len(values)))
    for row, one in zip(table, given, strict=True):
        for found in one.values():
            row[values.index(found[slot])] += 1
    observed = float(_agreeing(table).mean())
    return SlotAgreement(len(given), fleiss_kappa(table), observed, kappa_interval(table))


def _pair_agreement(relevant: dict[str, list[Given]], a: int, b: int, names: dict[int, str]) -> PairAgreement:
    kappas: dict[str, float | None] = {}
    observed: dict[str, float] = {}
    for slot, given in relevant.items():
        both = [(one[a][slot], one[b][slot]) for one in given if a in one and b in one]
        kappas[slot] = cohen_kappa([first for first, _ in both], [second for _, second in both])
        if both:
            observed[slot] = sum(first == second for first, second in both) / len(both)
    images = sum(a in one and b in one for one in relevant[SLOTS[0]])
    return PairAgreement(names[a], names[b], images, kappas, observed)


def _reviewer_agreement(relevant: dict[str, list[Given]], account: int, names: dict[int, str]) -> ReviewerAgreement:
    shares: dict[str, float | None] = {}
    for slot, given in relevant.items():
        hits = []
        for one in given:
            if account in one:
                winner = majority_of(Counter(found[slot] for found in one.values()), len(one))
                if winner is not None:
                    hits.append(one[account][slot] == winner)
        shares[slot] = sum(hits) / len(hits) if hits else None
    return ReviewerAgreement(names[account], sum(account in one for one in relevant[SLOTS[0]]), shares)
