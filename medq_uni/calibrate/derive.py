"""From what a model did to images whose truth is known to its calibration."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from scipy.optimize import minimize

from medq_uni.calibrate.bounds import CONFIDENCE, RISK, p_value, upper_bound
from medq_uni.calibrate.evidence import LEVELS, SHARES, Evidence
from medq_uni.measurement import Quantity
from medq_uni.pretrained.calibration import VERSION, Calibration, FigureError, OperatingPoint, Step
from medq_uni.taxonomy import Modality, Severity, Task

MOST_FLAGGED = 0.05
"""Share of good images that may count as degraded."""
HARM_DB = 0.1
"""An image is harmed if its PSNR falls by more than this."""
FEWEST_IMAGES = 20
"""Below this many images a grade takes the step of its task, and a task of less than a quarter of it the whole one."""
NUM_BINS = 10
COVERED = 0.683
INSIDE = 0.9
"""Share of the true values that the interval of a figure holds."""


def calibration_of(rows: Sequence[Evidence], identity: str, scales: dict[Modality, float]) -> Calibration:
    """Return the calibration that follows from the rows.

    Args:
        rows: One per image.
        identity: Hash of model and images.
        scales: Factor on the predicted standard deviation under which the rows were measured, by modality.
    """
    by_modality = {modality: [row for row in rows if row.modality is modality] for modality in Modality}
    known = {modality: own for modality, own in by_modality.items() if own}
    points = {modality: point for modality, own in known.items() if (point := operating_point(own)) is not None}
    flagged = [row for row in rows if row.modality not in points or row.log_odds >= points[row.modality].cut]
    return Calibration(
        version=VERSION,
        source_sha256=identity,
        subjects={modality: len({row.subject for row in own}) for modality, own in known.items()},
        images={modality: len(own) for modality, own in known.items()},
        operating_points=points,
        steps=steps_of(flagged),
        spread_scale=_scales(flagged, scales),
        figures=figure_errors(row for row in rows if row.severity is not Severity.NONE),
    )


def figure_errors(rows: Iterable[Evidence]) -> dict[Quantity, FigureError]:
    """Return how well every quantity is read, from those of which at least twenty values are known.

    Args:
        rows: Degraded images: in a good one there is nothing to measure but its own noise, whose truth nobody knows.
    """
    found, known = {}, list(rows)
    for quantity in Quantity:
        own = [row.readings[quantity] for row in known if quantity in row.readings]
        if len(own) >= FEWEST_IMAGES:
            errors = np.array([abs(one.found - one.true) for one in own])
            ratios = errors / np.array([one.deviation for one in own])
            factor = float(np.quantile(ratios, INSIDE))
            found[quantity] = FigureError(error=float(np.median(errors)), factor=max(factor, 1e-6))
    return found


def operating_point(rows: Sequence[Evidence]) -> OperatingPoint | None:
    """Return when an image of one modality counts as degraded; None without good images, or without degraded ones.

    The cut is the conformal quantile of the good images: of new ones like them at most a twentieth lies above. With
    fewer than nineteen good images no number of them bears that out, and the cut lies above them all.
    """
    good = np.array([row.log_odds for row in rows if row.severity is Severity.NONE])
    bad = np.array([row.log_odds for row in rows if row.severity is not Severity.NONE])
    worse = np.array([row.log_odds for row in rows if row.severity.level >= Severity.MODERATE.level])
    if not len(good) or not len(worse):
        return None
    place = min(math.ceil((len(good) + 1) * (1 - MOST_FLAGGED)), len(good))
    cut = float(np.nextafter(np.sort(good)[place - 1], math.inf))
    log_odds, degraded = np.concatenate([good, bad]), np.repeat([0.0, 1.0], [len(good), len(bad)])
    temperature, offset = best_scaling(log_odds, degraded)
    return OperatingPoint(
        temperature=temperature,
        offset=offset,
        cut=cut,
        flagged=float((good >= cut).mean()),
        noticed=float((worse >= cut).mean()),
        error=calibration_error(_sigmoid((log_odds - offset) / temperature), degraded),
    )


def best_scaling(log_odds: np.ndarray, degraded: np.ndarray) -> tuple[float, float]:
    """Return temperature and offset with the least negative log-likelihood (Platt 1999).

    The targets are a little off 0 and 1, as Platt has them, so that images that are told apart without an error do not
    make the probability certain.
    """
    number = float(degraded.sum())
    other = len(degraded) - number
    target = np.where(degraded > 0, (number + 1) / (number + 2), 1 / (other + 2))

    def loss(x: np.ndarray) -> float:
        scaled = (log_odds - x[1]) / math.exp(x[0])
        return float((np.logaddexp(0, scaled) - target * scaled).mean())

    start = np.array([0.0, float(np.median(log_odds))])
    found = minimize(loss, start, method="Nelder-Mead", options={"xatol": 1e-4, "fatol": 1e-8, "maxiter": 2000}).x
    return math.exp(float(np.clip(found[0], math.log(0.1), math.log(30.0)))), float(found[1])


def calibration_error(probability: np.ndarray, degraded: np.ndarray) -> float:
    """Return the expected calibration error: |frequency - probability| in ten bins, weighted by their images."""
    bins = np.minimum((probability * NUM_BINS).astype(int), NUM_BINS - 1)
    return float(
        sum(
            (bins == number).mean() * abs(probability[bins == number].mean() - degraded[bins == number].mean())
            for number in np.unique(bins)
        )
    )


def steps_of(rows: Iterable[Evidence]) -> dict[Task, dict[Severity, Step]]:
    """Return which share of a correction to apply by task and grade that the assessment names.

    Args:
        rows: Images that count as degraded; the good ones among them have nothing to gain and do not count here.
    """
    said: dict[tuple[Task, Severity], list[Evidence]] = defaultdict(list)
    for row in rows:
        for one in row.said if row.gains else ():
            said[one.task, one.severity].append(row)
    found: dict[Task, dict[Severity, Step]] = {}
    for task in Task:
        grades = {grade: said[task, grade] for grade in list(Severity)[1:]}
        pooled = [row for own in grades.values() for row in own]
        if len(pooled) < FEWEST_IMAGES / 4:
            continue
        found[task] = {grade: best_step(own if len(own) >= FEWEST_IMAGES else pooled) for grade, own in grades.items()}
    return found


def best_step(rows: Sequence[Evidence]) -> Step:
    """Return the largest share that keeps the risk of harm below a tenth.

    Where the subjects are enough, with 90 % confidence: shares are tried upwards, as long as the bound holds (fixed
    sequence, so that trying several costs nothing). Where they are not, the share with the largest mean gain of those
    that harmed at most a tenth of the images; that promises nothing, and the bound says so. 0 where there is none.
    """
    by_subject: dict[str, list[Evidence]] = defaultdict(list)
    for row in rows:
        by_subject[row.subject].append(row)
    count = len(by_subject)
    harmed, gains = (
        [
            float(np.mean([np.mean([of(row.gains[place]) for row in own]) for own in by_subject.values()]))
            for place in range(len(SHARES))
        ]
        for of in (_is_harmed, float)
    )
    place = -1
    while place + 1 < len(SHARES) and p_value(harmed[place + 1], count, RISK) <= 1 - CONFIDENCE:
        place += 1
    if place < 0:
        able = [number for number in range(len(SHARES)) if harmed[number] <= RISK and gains[number] > 0]
        if not able:
            return Step(share=0.0, harmed=0.0, bound=0.0, subjects=count)
        place = max(able, key=lambda number: gains[number])
    bound = upper_bound(harmed[place], count)
    return Step(share=SHARES[place], harmed=harmed[place], bound=bound, subjects=count)


def _is_harmed(gain: float) -> float:
    return float(gain < -HARM_DB)


def _scales(rows: Iterable[Evidence], before: dict[Modality, float]) -> dict[Task, float]:
    """Return the factor on the predicted standard deviation that covers 68.3 % of the errors, mean over subjects."""
    ratios: dict[Task, dict[str, list[tuple[float, ...]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        for one in row.said if row.ratios else ():
            ratios[one.task][row.subject].append(row.ratios)
    found = {}
    for task, by_subject in ratios.items():
        if sum(map(len, by_subject.values())) >= FEWEST_IMAGES / 4:
            own = covering_scale([each for each in by_subject.values()])
            found[task] = round(own * before.get(task.modality, 1.0), 4)
    return found


def covering_scale(subjects: Sequence[Sequence[Sequence[float]]]) -> float:
    """Return the scale at which 68.3 % of the errors lie within one scaled standard deviation.

    Args:
        subjects: Of every subject the images, of each the quantiles of |error| / deviation at the levels of evidence.
    """

    def covered(scale: float) -> float:
        return float(np.mean([np.mean([np.interp(scale, one, LEVELS, 0.0, 1.0) for one in own]) for own in subjects]))

    low, high = 1e-3, 1e3
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if covered(middle) < COVERED else (low, middle)
    return high


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -60, 60))))
