"""The whole way of a calibration: draw, measure, derive, write beside the weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medq_uni.calibrate.bounds import CONFIDENCE, RISK, subjects_needed
from medq_uni.calibrate.check import check
from medq_uni.calibrate.derive import calibration_of
from medq_uni.calibrate.evidence import Evidence, Told, identity_of, measure
from medq_uni.config import ConfigError
from medq_uni.data.pairs import PairsConfig
from medq_uni.measurement import NAMES, Quantity
from medq_uni.pretrained.calibration import Calibration, FigureError
from medq_uni.pretrained.load import Pretrained, folder_of, load_pretrained, with_calibration
from medq_uni.systems.cases import Case, drawn_cases
from medq_uni.taxonomy import Modality, Severity

GRADES = (Severity.NONE, Severity.NONE, Severity.MILD, Severity.MODERATE, Severity.SEVERE)
"""Turns of the grades: good images are needed for the cut, and a department has many."""
SCANNER_FRACTION = 0.67


@dataclass(frozen=True)
class Calibrated:
    """What came of a calibration."""

    calibration: Calibration
    rows: tuple[Evidence, ...]
    sha256: str
    """Hash of the calibrated model."""


def pairs_config(sources: Sequence[str], *, split: str, count: int, seed: int) -> PairsConfig:
    """Return which images are drawn: real ones alone, two of five good, most degraded as scanners do."""
    return PairsConfig(
        count=count,
        seed=seed,
        data=tuple(sources),
        split=split,
        real_fraction=1.0,
        grades=GRADES,
        scanner_fraction=SCANNER_FRACTION,
    )


def calibrate(
    model: str, cases: Sequence[Case], folder: Path, *, device: str | None = None, progress: Told | None = None
) -> Calibrated:
    """Write a calibrated copy of a model.

    Args:
        model: Name or folder of the model.
        cases: Good and degraded slices of subjects that it was not trained on.
        folder: Of the copy; what was measured is kept there too, so that a stopped calibration goes on.
        device: Where to compute.
        progress: Called with the number of images done and their total.

    Raises:
        ConfigError: If there are no images, or the folder is that of the model.
        WeightsMismatch: If the model cannot be read.
    """
    if not cases:
        raise ConfigError("no images to calibrate on: the sources have no usable slice in this split.")
    source = folder_of(model)
    if folder.resolve() == source.resolve():
        raise ConfigError(f"{folder} holds the model itself, which stays as it is. Give another folder.")
    pretrained = load_pretrained(model, device=device or "cpu")
    rows = measure(pretrained, cases, folder, progress=progress)
    found = calibration_of(rows, identity_of(pretrained, cases), _scales(pretrained))
    return Calibrated(found, tuple(rows), with_calibration(source, folder, found))


def check_model(
    model: str, cases: Sequence[Case], folder: Path, *, device: str | None = None, progress: Told | None = None
) -> str:
    """Return tables of what the calibration of a model is worth on other people; nothing of the model changes.

    Args:
        model: Name or folder of a calibrated model.
        cases: Slices of subjects that neither it nor its calibration has seen.
        folder: Where what was measured is kept.
        device: Where to compute.
        progress: Called with the number of images done and their total.

    Raises:
        ConfigError: If there are no images, or the model has no calibration.
    """
    if not cases:
        raise ConfigError("no images to check on: the sources have no usable slice in this split.")
    pretrained = load_pretrained(model, device=device or "cpu")
    if pretrained.calibration is None:
        raise ConfigError(f"{model} has no calibration. Run medq calibrate without --check first.")
    rows = measure(pretrained, cases, folder, progress=progress)
    return check(rows, pretrained.calibration, _scales(pretrained))


def draw(config: PairsConfig) -> list[Case]:
    """Return the images of :func:`pairs_config`."""
    return list(drawn_cases(config))


def _scales(pretrained: Pretrained) -> dict[Modality, float]:
    return {Modality(name): scale for name, scale in pretrained.uncertainty_scale.items()}


def summary(found: Calibration) -> str:
    """Return what a calibration says, in tables, and what it can promise."""
    lines = ["| modality | subjects | images | good ones flagged | moderate and severe noticed | calibration error |"]
    lines.append("|---|---|---|---|---|---|")
    for modality, count in found.subjects.items():
        point = found.operating_points.get(modality)
        cells = "- | - | -" if point is None else f"{point.flagged:.0%} | {point.noticed:.0%} | {point.error:.2f}"
        lines.append(f"| {modality.value.upper()} | {count} | {found.images[modality]} | {cells} |")
    lines += ["", "| said to be | share applied | harmed | harmed at most, 90 % confidence | subjects |"]
    lines.append("|---|---|---|---|---|")
    for task, grades in found.steps.items():
        for grade, step in grades.items():
            cells = f"{step.share:g} | {step.harmed:.0%} | {step.bound:.0%} | {step.subjects}"
            lines.append(f"| {grade.value} {task.value} | {cells} |")
    lines += ["", "| figure | median error | stated |", "|---|---|---|"]
    for quantity, figure in found.figures.items():
        lines.append(
            f"| {NAMES[quantity]} | {_error(quantity, figure)} | {'yes' if figure.is_useful(quantity) else 'no'} |"
        )
    return "\n".join([*lines, "", promise(found)])


def _error(quantity: Quantity, figure: FigureError) -> str:
    if quantity is Quantity.NOISE_FREQUENCY:
        return f"{0.1 * figure.error:.3f} per pixel"
    base = 2.0 if quantity is Quantity.ACCELERATION else math.e
    return f"{base**figure.error - 1:.0%}"


def promise(found: Calibration) -> str:
    """Return in words what holds for new subjects like these, and what cannot be said."""
    held = [
        f"{grade.value} {task.value}"
        for task, grades in found.steps.items()
        for grade, step in grades.items()
        if step.share > 0 and step.bound <= RISK
    ]
    limit = f"harm to less than {RISK:.0%} of the images of new subjects like these, with {CONFIDENCE:.0%} confidence"
    if not held:
        return f"Promises nothing: {limit}, needs at least {subjects_needed()} subjects of whom none is harmed."
    return f"Promises {limit}, for: {', '.join(held)}. For the others there were too few subjects, or too much harm."
