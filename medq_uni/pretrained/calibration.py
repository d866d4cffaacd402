"""What was measured of a model on good images of known subjects: when to say so, how far to go, how sure it is.

A calibration lies beside the weights as ``calibration.json`` and counts for their hash, because results depend on it.
``medq calibrate`` writes it; a model without one decides by its most likely word and applies the whole correction.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from medq_uni.config import ConfigError
from medq_uni.config_json import from_json, to_json
from medq_uni.files import read_text, write_text
from medq_uni.measurement import Quantity
from medq_uni.taxonomy import Modality, Severity, Task

CALIBRATION_FILE = "calibration.json"
"""File of a model folder."""
VERSION = 1
MOST_ERROR = {
    Quantity.NOISE_SD: math.log(1.35),
    Quantity.NOISE_FREQUENCY: 0.5,
    Quantity.ACCELERATION: math.log2(1.35),
    Quantity.MOTION: math.log(1.35),
    Quantity.DOSE_REDUCTION: math.log(1.35),
}
"""Largest median error with which a figure is stated, on the scale of networks: about a third of the value, of the
frequency 0.05 cycles per pixel."""


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """When an image of one modality counts as degraded."""

    temperature: float
    """Log-odds of the network, less the offset, are divided by it: then they are those of a frequency."""
    offset: float
    """Log-odds of the network at which every second image is degraded."""
    cut: float
    """Log-odds of the network, as they are, from which on an image counts as degraded."""
    flagged: float
    """Share of the good images that counted as degraded."""
    noticed: float
    """Share of the moderately and severely degraded images that did."""
    error: float
    """Expected calibration error of the probability."""

    def probability(self, log_odds: float) -> float:
        """Return how often an image with these log-odds was degraded."""
        scaled = (log_odds - self.offset) / self.temperature
        return 1 / (1 + math.exp(-max(min(scaled, 60.0), -60.0)))


@dataclass(frozen=True, kw_only=True)
class Step:
    """Which share of a correction is applied where the assessment says one degradation, at one grade."""

    share: float
    """From 0, which leaves the image as it is, to 1."""
    harmed: float
    """Share of the images that came back worse with it, mean over subjects."""
    bound: float
    """What that share lies below for new subjects, at the confidence of the calibration; 1 promises nothing."""
    subjects: int
    """That were said to have this degradation at this grade."""


@dataclass(frozen=True, kw_only=True)
class FigureError:
    """How well a model reads one quantity, on the scale on which networks are told it."""

    error: float
    """Median absolute error."""
    factor: float
    """On the error that the model expects, after which nine of ten true values lie inside."""

    def is_useful(self, quantity: Quantity) -> bool:
        """Return whether the error is small enough for the figure to be stated."""
        return self.error <= MOST_ERROR[quantity]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What was measured of a model; see the module."""

    version: int
    """Of the form of this file."""
    source_sha256: str
    """Hash of the images and degradations it was measured on."""
    subjects: dict[Modality, int]
    """How many people they come from."""
    images: dict[Modality, int]
    """How many images, good and degraded ones."""
    operating_points: dict[Modality, OperatingPoint] = field(default_factory=dict)
    """By modality; without one the most likely word decides."""
    steps: dict[Task, dict[Severity, Step]] = field(default_factory=dict)
    """By what the assessment says; where nothing was measured the whole correction is applied."""
    spread_scale: dict[Task, float] = field(default_factory=dict)
    """Factor on the predicted standard deviation after which it covers 68.3 % of the errors, by what was said."""

    figures: dict[Quantity, FigureError] = field(default_factory=dict)
    """How well every quantity is read; one that is missing is not stated."""

    def __post_init__(self) -> None:
        """Refuse a form that this version does not know, and numbers that cannot be."""
        if self.version != VERSION:
            raise ConfigError(f"calibration: this version reads form {VERSION}, got {self.version}. Calibrate again.")
        shares = [step.share for grades in self.steps.values() for step in grades.values()]
        if any(not 0 <= share <= 1 for share in shares):
            raise ConfigError("calibration: a step is a share from 0 to 1.")
        positive = [point.temperature for point in self.operating_points.values()] + [*self.spread_scale.values()]
        positive += [figure.factor for figure in self.figures.values()]
        if any(not (math.isfinite(number) and number > 0) for number in positive):
            raise ConfigError("calibration: temperatures and scales are positive.")

    def step(self, said: Iterable[tuple[Task, Severity]]) -> float:
        """Return which share of a correction is applied to an image with these degradations: the least of theirs."""
        known = [self.steps.get(task, {}).get(grade) for task, grade in said]
        return min((step.share for step in known if step is not None), default=1.0)

    def scale(self, said: Iterable[Task]) -> float | None:
        """Return the factor on the predicted standard deviation, the largest of theirs; None where none is known."""
        return max((self.spread_scale[task] for task in said if task in self.spread_scale), default=None)


def save_calibration(calibration: Calibration, folder: Path) -> str:
    """Write it into a model folder, and return the name of its file; the manifest is not touched."""
    write_text(folder / CALIBRATION_FILE, to_json(calibration))
    return CALIBRATION_FILE


def load_calibration(path: Path) -> Calibration:
    """Return the calibration that a file holds.

    Raises:
        ConfigError: If it is none; says why.
    """
    return from_json(Calibration, read_text(path))
