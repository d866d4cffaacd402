"""What the safety checks run on: settings, slices whose degradation can be replayed, and outputs that are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from medq_uni.config import ConfigError
from medq_uni.data.pairs import Pair, PairsConfig, draw_pair
from medq_uni.image import MedicalImage
from medq_uni.physics import pet
from medq_uni.physics.degrade import apply_records, slice_generator
from medq_uni.systems.cases import Case
from medq_uni.systems.system import Output, System
from medq_uni.taxonomy import Severity, Task

PHANTOMS, REAL = "phantoms", "real"
LONGEST_REASON = 200
Measurement = dict[str, Any]
"""One measurement; JSON values only."""


@dataclass(frozen=True, kw_only=True)
class SafetySettings:
    """How much is checked. The default is small: about two minutes on one core for the embedded model."""

    seed: int = 20264
    """Of phantoms, degradations, lesions."""
    size_px: int = 192
    """Side of the phantoms."""
    per_grade: int = 2
    """Phantoms of every task and grade, good ones included."""
    sources: tuple[str, ...] = ()
    """Real volumes (FOLDER or KIND:FOLDER), split test; lesions, hallucination, bias, good-image preservation and
    calibration look at them too."""
    real_count: int = 40
    """Slices drawn from them."""
    lesion_radii_px: tuple[float, ...] = (3.0, 5.0, 8.0, 12.0)
    """One lesion of every radius is put into a slice that has room for it."""
    lesion_hu: tuple[float, ...] = (10.0, 20.0, 30.0, 50.0)
    """Contrasts of lesions in CT, brighter or darker; they take turns."""
    lesion_fractions: tuple[float, ...] = (0.1, 0.3, 0.6, 1.0)
    """Contrasts in MR and PET as a fraction of the local mean."""
    edge_radius_px: float = 14.0
    """Radius of the disc whose edge is measured."""
    roi_px: int = 32
    """Side of the squares in which noise power spectra are measured."""
    shift_count: int = 2
    """Cases of every task for each way in which the test can differ from training."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if min(self.per_grade, self.real_count, self.shift_count) < 1 or self.roi_px < 8:
            raise ConfigError("safety: per_grade, real_count and shift_count must be at least 1, roi_px at least 8.")
        lengths = (self.lesion_radii_px, self.lesion_hu, self.lesion_fractions)
        if not all(values and min(values) > 0 for values in lengths) or self.edge_radius_px <= 0:
            raise ConfigError("safety: radii and contrasts of lesions must be positive, at least one of each.")


@dataclass(frozen=True, eq=False)
class SafetyCase:
    """A pair whose degradation is known, and the case that a system is given."""

    label: str
    """Names it in lists of failures; says nothing about a patient."""
    group: str
    """``phantoms`` or ``real``."""
    pair: Pair

    @cached_property
    def case(self) -> Case:
        """Return what a system sees."""
        return case_of(self.pair, self.group)

    @property
    def is_good(self) -> bool:
        """Whether there is nothing to restore."""
        return self.pair.severity is Severity.NONE

    def row(self, **values: Any) -> Measurement:
        """Return a row of measurements with what it was measured on."""
        pair = self.pair
        about = {"case": self.label, "group": self.group, "modality": pair.task.modality.value}
        return about | {"task": pair.task.value, "severity": pair.severity.value} | values


def case_of(pair: Pair, group: str) -> Case:
    """Return the case of a pair."""
    return Case(pair.task, pair.severity, pair.subject, group, pair.degraded, pair.reference)


def altered_case(safety_case: SafetyCase, reference: MedicalImage) -> Case:
    """Return the case of a slice with another reference, degraded by the same records with the same noise.

    In PET the coincidences of the added activity are added to those of the slice's own scan.

    Args:
        safety_case: A phantom or a real slice whose degradation was simulated.
        reference: The slice's with signals added; in PET nowhere below it.
    """
    if safety_case.pair.task is Task.PET_LOW_COUNT:
        degraded = _scanned_with(safety_case, reference)
    else:
        degraded = apply_records(reference, safety_case.pair.records)
    return replace(safety_case.case, reference=reference, degraded=degraded)


def _scanned_with(safety_case: SafetyCase, reference: MedicalImage) -> MedicalImage:
    (record,), spacing = safety_case.pair.records, reference.spacing_mm[1:]
    values, truth = (torch.from_numpy(one.voxels[0].copy()) for one in (reference, safety_case.pair.reference))
    coarse, pixel_mm = pet.on_grid(truth, spacing)
    generator = slice_generator(record, 0)
    scan = pet.acquire(coarse, pixel_mm, params=record.params, generator=generator)
    more = pet.with_added(scan, pet.on_grid(values - truth, spacing)[0].clamp(min=0), generator)
    return reference.with_voxels(pet.reconstructed(values, more)[None].numpy())


def drawn_safety_cases(config: PairsConfig, group: str, name: str) -> list[SafetyCase]:
    """Return the safety cases of a configuration; where real slices are wanted, phantoms that stand in are left out.

    Args:
        config: Which pairs.
        group: ``phantoms`` or ``real``.
        name: Begins every label.
    """
    pairs = (draw_pair(config, index) for index in range(config.count))
    return [
        SafetyCase(f"{name} {number} {pair.task.value} {pair.severity.value}", group, pair)
        for number, pair in enumerate(pairs)
        if group != REAL or pair.source == "real"
    ]


def safety_cases_of(settings: SafetySettings) -> list[SafetyCase]:
    """Return the cases of most checks: phantoms of every task and grade, then real slices where there are sources."""
    grades = tuple(Severity)
    phantoms = PairsConfig(
        count=len(Task) * len(grades) * settings.per_grade,
        seed=settings.seed,
        phantom_sizes=(settings.size_px,),
        grades=grades,
    )
    found = drawn_safety_cases(phantoms, PHANTOMS, "phantom")
    if settings.sources:
        real = PairsConfig(
            count=settings.real_count,
            seed=settings.seed,
            data=settings.sources,
            split="test",
            real_fraction=1.0,
            grades=grades,
        )
        found += drawn_safety_cases(real, REAL, "real slice")
    return found


class OutputCache:
    """Outputs of one system: each case is restored once, and what fails is noted with its reason.

    Args:
        system: Under test.
    """

    def __init__(self, system: System) -> None:
        self.system = system
        self.failed: dict[str, str] = {}
        """Reason by label, of the check that runs; empty it before the next."""
        self._kept: dict[str, Output | str] = {}

    def output(self, safety_case: SafetyCase) -> Output | None:
        """Return what the system makes of a case, None where it failed."""
        if safety_case.label not in self._kept:
            self._kept[safety_case.label] = self._outcome(
                lambda: self.system.restore(safety_case.case), safety_case.case.degraded
            )
        return self._noted(safety_case.label, self._kept[safety_case.label])

    def attempt(self, label: str, restore: Callable[[], Output], like: MedicalImage) -> Output | None:
        """Return another output, which is not kept, None where it failed.

        Args:
            label: Names it in the list of failures.
            restore: Makes it.
            like: The degraded image, whose shape it must have.
        """
        return self._noted(label, self._outcome(restore, like))

    def _outcome(self, restore: Callable[[], Output], like: MedicalImage) -> Output | str:
        try:
            output = restore()
        except Exception as error:  # noqa: BLE001 - whatever a system raises is a finding about it
            return f"{type(error).__name__}: {error}"[:LONGEST_REASON]
        if output.image.shape != like.shape:
            return f"the output has shape {output.image.shape}, the input {like.shape}"
        maps = [output.image] if output.uncertainty is None else [output.image, output.uncertainty]
        if not all(np.isfinite(one.voxels).all() for one in maps):
            return "the output has values that are not finite"
        return output

    def _noted(self, label: str, outcome: Output | str) -> Output | None:
        if isinstance(outcome, str):
            self.failed[label] = outcome
            return None
        return outcome


def degraded_only(safety_cases: Sequence[SafetyCase], group: str | None = None) -> list[SafetyCase]:
    """Return the cases that need restoration, of one group or all."""
    return [
        safety_case for safety_case in safety_cases if not safety_case.is_good and group in (None, safety_case.group)
    ]
