"""Calibration: does the uncertainty map say how large the error is, and where."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from medq_uni.physics.effect import foreground
from medq_uni.safety.output_cache import Measurement, OutputCache, SafetyCase, SafetySettings, degraded_only
from medq_uni.taxonomy import Modality

LEVELS = tuple(round(0.05 * k, 2) for k in range(1, 20))
"""Nominal coverages of the central intervals of a Gaussian."""
ONE_SIGMA, WIDE = 2 * NormalDist().cdf(1) - 1, 0.95
REMOVED = tuple(round(0.05 * k, 2) for k in range(20))
"""Shares of pixels that sparsification removes."""
MOST_PIXELS = 20_000
"""Of one slice, evenly taken, for the conformal quantile."""


@dataclass(frozen=True, eq=False)
class Errors:
    """Absolute error and predicted standard deviation of the pixels of one slice, (N,) each."""

    error: np.ndarray
    sigma: np.ndarray


def check_calibration(
    outputs: OutputCache, safety_cases: Sequence[SafetyCase], settings: SafetySettings
) -> list[Measurement]:
    """Return one row for each group and modality of the degraded cases, over the pixels of the body.

    Slices that come back without an uncertainty are counted and left out; a system without any has rows of counts.
    """
    found: dict[tuple[str, Modality], list[Errors | None]] = {}
    for safety_case in degraded_only(safety_cases):
        output = outputs.output(safety_case)
        if output is not None:
            reference = safety_case.pair.reference
            errors = None
            if output.uncertainty is not None:
                body = foreground(reference)
                # MR and PET in units of the mean signal, so that slices can be pooled
                unit = 1.0 if reference.modality is Modality.CT else float(reference.voxels[body].mean())
                error = np.abs(output.image.voxels[body].astype(np.float64) - reference.voxels[body]) / unit
                errors = Errors(error, output.uncertainty.voxels[body].astype(np.float64) / unit)
            found.setdefault((safety_case.group, safety_case.pair.task.modality), []).append(errors)
    rows = []
    for (group, modality), listed in found.items():
        known = [errors for errors in listed if errors is not None]
        row: Measurement = {"group": group, "modality": modality.value, "slices": len(known)}
        row["without"] = len(listed) - len(known)
        rows.append(row | (calibration(known) if known else {}))
    return rows


def calibration(slices: Sequence[Errors]) -> Measurement:
    """Return how honest predicted standard deviations are.

    ``coverage``: share of pixels whose error is within z sigma, by nominal level (mean over slices). ``ece``: mean
    absolute difference of coverage and level over 19 levels (after Kuleshov et al. 2018). ``ause``: area between the
    sparsification curve, the mean error left when the pixels with the largest sigma are removed, and that of removing
    the largest errors, both over the mean error of all (Ilg et al. 2018); 0 is a perfect order. ``conformal_*``: the
    factor on sigma that covers 95 % of every second slice (split conformal, Lei et al. 2018), and the coverage and
    mean width of the interval on the others; None below two slices. Pixels of a slice are not exchangeable with those
    of another, so that this coverage is measured, not guaranteed.
    """
    curve = np.mean([[covered(one, level) for level in LEVELS] for one in slices], axis=0)
    orders = [sparsification(one) for one in slices]
    by_sigma, by_error = (np.mean([order[i] for order in orders], axis=0) for i in (0, 1))
    row: Measurement = {
        "coverage_one_sigma": float(np.mean([covered(one, ONE_SIGMA) for one in slices])),
        "coverage_95": float(np.mean([covered(one, WIDE) for one in slices])),
        "ece": float(np.abs(curve - np.array(LEVELS)).mean()),
        "ause": float((by_sigma - by_error).mean()),
        "coverage": curve.tolist(),
        "conformal_factor": None,
        "conformal_coverage": None,
        "conformal_width": None,
    }
    if len(slices) > 1:
        factor = conformal_factor(slices[::2])
        rest = slices[1::2]
        row["conformal_factor"] = factor
        row["conformal_coverage"] = float(np.mean([(one.error <= factor * one.sigma).mean() for one in rest]))
        row["conformal_width"] = float(np.mean([2 * factor * one.sigma.mean() for one in rest]))
    return row


def covered(errors: Errors, level: float) -> float:
    """Return the share of pixels whose error lies within the central Gaussian interval of a nominal level."""
    return float((errors.error <= NormalDist().inv_cdf((1 + level) / 2) * errors.sigma).mean())


def sparsification(errors: Errors) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean error left after removing shares of the pixels, by sigma and by the error itself.

    Both are relative to the mean error of all pixels; zero where there is no error.
    """
    kept = [max(1, len(errors.error) - math.floor(share * len(errors.error))) for share in REMOVED]
    whole = max(float(errors.error.mean()), 1e-12)
    curves = []
    for key in (errors.sigma, errors.error):
        means = np.cumsum(errors.error[np.argsort(key, kind="stable")])
        curves.append(np.array([means[count - 1] / count / whole for count in kept]))
    return curves[0], curves[1]


def conformal_factor(slices: Sequence[Errors]) -> float:
    """Return the factor on sigma that covers 95 % of the pixels of some slices, each slice counting for as much."""
    ratios = [one.error / np.maximum(one.sigma, 1e-12) for one in slices]
    least = min(MOST_PIXELS, *(len(ratio) for ratio in ratios))
    pooled = list(itertools.chain.from_iterable(r[np.linspace(0, len(r) - 1, least).astype(int)] for r in ratios))
    rank = min(math.ceil((len(pooled) + 1) * WIDE), len(pooled))
    return float(np.sort(pooled)[rank - 1])
