"""Means, intervals and paired tests that know that slices share subjects."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RESAMPLES = 2000


def clustered_interval(values: np.ndarray, subjects: Sequence[str], *, seed: int = 0) -> tuple[float, float]:
    """Return the 2.5 and 97.5 % quantiles of the mean when whole subjects are drawn with replacement (bootstrap).

    NaN where a value is not finite, or there is one subject alone.

    Args:
        values: One per image.
        subjects: Subject of each image.
        seed: Of the resampling.
    """
    names, place = np.unique(np.asarray(subjects), return_inverse=True)
    if len(names) < 2 or not np.isfinite(values).all():
        return float("nan"), float("nan")
    sums = np.bincount(place, weights=values, minlength=len(names))
    counts = np.bincount(place, minlength=len(names))
    drawn = np.random.default_rng(seed).integers(len(names), size=(RESAMPLES, len(names)))
    low, high = np.quantile(sums[drawn].sum(1) / counts[drawn].sum(1), (0.025, 0.975))
    return float(low), float(high)


def known_interval(values: np.ndarray, subjects: Sequence[str]) -> tuple[float, float] | tuple[None, None]:
    """Return :func:`clustered_interval`, or None twice where it is not known."""
    low, high = clustered_interval(values, subjects)
    return (None, None) if np.isnan(low) else (low, high)


def share_interval(count: int, total: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927), as if images were independent of each other.

    Args:
        count: Images of which something is true.
        total: All images, at least one.
    """
    from scipy.stats import binomtest

    found = binomtest(count, total).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def paired_p_value(differences: np.ndarray, subjects: Sequence[str]) -> float:
    """Return the two-sided p-value of the Wilcoxon signed-rank test on the mean difference of each subject.

    Slices of one subject are no independent evidence; with fewer than six subjects no p-value can be below 0.05.
    NaN where no difference is other than zero.

    Args:
        differences: One per image.
        subjects: Subject of each image.
    """
    from scipy.stats import wilcoxon

    names, place = np.unique(np.asarray(subjects), return_inverse=True)
    means = np.bincount(place, weights=differences, minlength=len(names)) / np.bincount(place, minlength=len(names))
    means = means[means != 0]
    return float(wilcoxon(means).pvalue) if len(means) else float("nan")


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number (Holm 1979); NaN stays NaN and does not count."""
    values = np.asarray(p_values, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known])]
    adjusted, highest = values.copy(), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * values[index]))
        adjusted[index] = highest
    return [float(value) for value in adjusted]
