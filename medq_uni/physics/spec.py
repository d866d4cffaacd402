"""What the physics of one task consists of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from medq_uni.errors import MedQError
from medq_uni.physics.after_scanner import AFTER_LIMITS
from medq_uni.physics.observer import Observer
from medq_uni.physics.record import DEFAULT_METHOD, MEASURED, SCANNER_METHOD, DegradationRecord, Params, RecordError
from medq_uni.taxonomy import Severity, Task


class Stage(IntEnum):
    """When in an acquisition a degradation happens; several of one image happen in this order."""

    MOVEMENT = 0
    """The object moves."""
    SAMPLING = 1
    """Parts of the measurement are skipped."""
    DETECTION = 2
    """The measurement is noisy."""


class Method(Protocol):
    """One way of simulating a degradation: a pure function of the slice, the parameters and the generator's state."""

    def __call__(
        self, image: Tensor, *, params: Params, spacing_mm: tuple[float, float], generator: torch.Generator
    ) -> Tensor:
        """Return the degraded slice (H, W); of MR slices it may be complex.

        Args:
            image: (H, W) in its physical units; of MR it may be complex, where another degradation came before.
            params: As the task's ``draw`` returns them.
            spacing_mm: Pixel spacing (row, column).
            generator: Source of every random number.
        """


def without_spacing(function: Callable[..., Tensor]) -> Method:
    """Return a simulation that does not depend on the size of a pixel in the form of :class:`Method`."""

    def method(image: Tensor, *, params: Params, spacing_mm: tuple[float, float], generator: torch.Generator) -> Tensor:
        return function(image, params=params, generator=generator)

    return method


@dataclass(frozen=True)
class EffectScale:
    """How strong a degradation is, measured on the image, and what its grades mean."""

    unit: str
    measure: Callable[[np.ndarray, np.ndarray], float]
    """From the error and the truth inside the body, each (n,), to the effect in ``unit``."""
    bounds: tuple[float, float, float]
    """Least effect of mild, moderate and severe, calibrated on training images (``python -m experiments.grades``)."""
    observer: Observer | None = None
    """Who says how much noise hides, where its texture is not that of the default; None where structure is lost."""
    is_relative: bool = False
    """Whether the effect is a multiple of the signal."""

    def grade(self, effect: float) -> Severity:
        """Return the grade of a measured effect."""
        return Severity.from_level(sum(effect >= bound for bound in self.bounds))


def standard_deviation(error: np.ndarray, truth: np.ndarray) -> float:
    """Return the standard deviation of the error, in the units of the image."""
    return float(error.std())


def nrmse(error: np.ndarray, truth: np.ndarray) -> float:
    """Return the norm of the error over the norm of the truth; 0 where the truth is 0."""
    norm = float(np.linalg.norm(truth))
    return float(np.linalg.norm(error)) / norm if norm > 0 else 0.0


@dataclass(frozen=True)
class DataConsistency:
    """How images agree with what the simulated scanner has measured of a slice."""

    misfit: Callable[[Tensor], float]
    """From an image (H, W) to how far it contradicts the measurement; 0 for the truth."""
    unseen_share: Callable[[Tensor], float | None] | None = None
    """From a change (H, W) to the share of its energy that was not measured; None for no change.

    It is None itself where a measurement does not part an image into what it sees and what not.
    """


@dataclass(frozen=True)
class Scanner:
    """A task simulated as the whole chain of acquisition, its parameters drawn far beyond what one scanner does."""

    draw: Callable[[Severity, torch.Generator], Params]
    """Draws every parameter of the chain so that a grade, mild to severe, is filled."""
    method: Method
    """Takes what ``draw`` returns."""
    limits: Mapping[str, tuple[float, float]]
    """Least and largest value of parameters that would else break the simulation."""
    has_after: bool = False
    """Whether something may happen to the image after the scanner (:mod:`medq_uni.physics.after_scanner`)."""


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """All that the package knows of the physics of one task."""

    task: Task
    stage: Stage
    draw: Callable[[Severity, torch.Generator], Params]
    """Draws parameters that fill a grade, mild to severe."""
    default: Method
    alternatives: Mapping[str, Method]
    """Independent simulations of the same degradation, by the name that a record states: for tests of shift."""
    effect: EffectScale
    limits: Mapping[str, tuple[float, float]]
    """Least and largest value of parameters that would else break the simulation."""
    beyond: Params
    """Parameters beyond what ``draw`` gives, hence beyond what is trained on."""
    params_of_dose: Callable[[float], Params] | None = None
    """From a dose reduction (full dose over this dose) to its parameters; None where no dose is reduced."""
    scanner: Scanner | None = None
    """The method ``scanner``, with parameters of its own; None where the task has no such."""
    consistency: Callable[..., DataConsistency] | None = None
    """From the truth and the other arguments of ``default`` to what it measured; None where this cannot be replayed."""

    @property
    def is_noise(self) -> bool:
        """Whether the degradation is noise and nothing else: it adds to the noise that an image already has."""
        return self.stage is Stage.DETECTION

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the ways in which the task can be simulated, the default first, then the scanner."""
        scanner = () if self.scanner is None else (SCANNER_METHOD,)
        return (DEFAULT_METHOD, *scanner, *self.alternatives)

    def method(self, name: str) -> Method:
        """Return one of the ways of simulating the task.

        Raises:
            MedQError: If there is none of this name.
        """
        if name not in self.methods:
            raise MedQError(f"{self.task.value} has no method {name!r}; it has {', '.join(self.methods)}.")
        if self.scanner is not None and name == SCANNER_METHOD:
            return self.scanner.method
        return self.default if name == DEFAULT_METHOD else self.alternatives[name]

    def drawn(self, severity: Severity, generator: torch.Generator, name: str) -> Params:
        """Return parameters of one of the ways of simulating the task, drawn to fill a grade, mild to severe.

        Raises:
            MedQError: If there is none of this name.
        """
        self.method(name)  # refuses a name that the task does not know
        if self.scanner is not None and name == SCANNER_METHOD:
            return self.scanner.draw(severity, generator)
        return self.draw(severity, generator)

    def check(self, record: DegradationRecord) -> None:
        """Refuse a record of this task that cannot be replayed.

        Raises:
            RecordError: If the pair was measured, the method is unknown, or a parameter is out of range.
        """
        if record.method == MEASURED:
            raise RecordError(
                "the record is of a pair measured at two doses; there is nothing to replay. "
                "Take the lower dose itself, or a record of simulated degradation."
            )
        if record.method not in self.methods:
            known = ", ".join(self.methods)
            raise RecordError(f"{self.task.value} has no method {record.method!r}; this software knows {known}.")
        scanner = self.scanner if record.method == SCANNER_METHOD else None
        limits = self.limits if scanner is None else {**scanner.limits, **AFTER_LIMITS}
        for name, (low, high) in limits.items():
            value = record.params.get(name)
            if value is not None and not low <= value <= high:
                raise RecordError(f"{self.task.value}: {name} must lie between {low:g} and {high:g}, got {value:g}.")
