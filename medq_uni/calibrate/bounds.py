"""How far a risk that was measured on some subjects may be exceeded on others.

Hoeffding-Bentkus bound of risk-controlling prediction sets (Bates, Angelopoulos, Lei, Malik, Jordan 2021, JACM 68:43,
section 3.1): for losses between 0 and 1 of exchangeable subjects. It says nothing where the subjects of the future are
others than those of the calibration: another scanner, protocol or population.
"""

from __future__ import annotations

import math

from scipy.stats import binom

RISK, CONFIDENCE = 0.1, 0.9
"""What is promised: harm to less than this share of the images, with this probability over the subjects measured."""


def p_value(risk: float, count: int, limit: float) -> float:
    """Return how likely a mean loss this low is, were the true risk ``limit``: the smaller of both bounds, at most 1.

    Args:
        risk: Mean loss of the subjects, in [0, 1].
        count: How many subjects.
        limit: Risk that is to be ruled out, in (0, 1).
    """
    below = min(risk, limit)
    hoeffding = math.exp(-count * _divergence(below, limit))
    bentkus = math.e * float(binom.cdf(math.ceil(count * risk), count, limit))
    return min(hoeffding, bentkus, 1.0)


def upper_bound(risk: float, count: int, *, confidence: float = CONFIDENCE) -> float:
    """Return what the true risk lies below with this confidence; 1 without subjects.

    Args:
        risk: Mean loss of the subjects, in [0, 1].
        count: How many subjects.
        confidence: Probability over the draw of the subjects.
    """
    low, high = risk, 1.0
    if count == 0 or p_value(risk, count, 1 - 1e-9) > 1 - confidence:
        return 1.0
    for _ in range(50):
        middle = (low + high) / 2
        if middle > 0 and p_value(risk, count, middle) <= 1 - confidence:
            high = middle
        else:
            low = middle
    return high


def subjects_needed(limit: float = RISK, *, confidence: float = CONFIDENCE) -> int:
    """Return how many subjects, none of them harmed, promise that a risk lies below a limit."""
    return next(count for count in range(1, 100_000) if p_value(0.0, count, limit) <= 1 - confidence)


def _divergence(a: float, b: float) -> float:
    """Return the Kullback-Leibler divergence of two coins."""
    first = a * math.log(a / b) if a > 0 else 0.0
    second = (1 - a) * math.log((1 - a) / (1 - b)) if a < 1 else 0.0
    return first + second
