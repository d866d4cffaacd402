"""Degradation of images by the physics of their acquisition: draw a record, apply it.

``draw_record`` chooses the parameters of one degradation; ``apply_records`` is a pure function of image and records.
``degrade`` does both and measures what came out, which is what the grade of a pair means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medq_uni.errors import MedQError
from medq_uni.image import MedicalImage
from medq_uni.physics import ct
from medq_uni.physics.after_scanner import AFTER_LIMITS, after_scanner, draw_after
from medq_uni.physics.effect import effect, grade_of, total_effect
from medq_uni.physics.record import (
    AFTER_VERSION,
    DEFAULT_METHOD,
    RECORD_VERSION,
    SCANNER_METHOD,
    DegradationRecord,
    Params,
)
from medq_uni.physics.tasks import SPECS
from medq_uni.seeding import randint, seed_of
from medq_uni.taxonomy import Modality, Severity, Task

ATTEMPTS = 6
"""How often parameters are drawn until the measured grade is the wanted one."""


@dataclass(frozen=True, eq=False)
class Degraded:
    """A degraded image and what it has become.

    Attributes:
        image: The degraded image.
        records: What was done, in physical order, with the grade that was measured.
        effects: What each of them did alone to the reference, with the reference's own noise where it counts.
    """

    image: MedicalImage
    records: tuple[DegradationRecord, ...]
    effects: tuple[float, ...]


class UnusableValues(MedQError):  # noqa: N818
    """Voxels that cannot be what the modality of the image says."""


def draw_record(
    task: Task, severity: Severity, generator: torch.Generator, *, method: str = DEFAULT_METHOD
) -> DegradationRecord:
    """Return a record whose parameters are drawn to fill the grade.

    Args:
        task: Kind of degradation.
        severity: Grade; ``none`` gives a record that changes nothing.
        generator: Source of the parameters and of the record's seed.
        method: ``default``, ``scanner``, or the name of an alternative simulation of the task.

    Raises:
        MedQError: If the task has no such method.
    """
    spec = SPECS[task]
    spec.method(method)  # refuses a name that the task does not know
    seed = randint(2**31 - 1, generator)
    params = {} if severity is Severity.NONE else spec.drawn(severity, generator, method)
    after: Params = {}
    if params and method == SCANNER_METHOD and spec.scanner is not None and spec.scanner.has_after:
        # by a generator of its own, so that all else is drawn as ever
        after = draw_after(task.modality, torch.Generator().manual_seed(seed_of(f"{seed}/after")))
    version = AFTER_VERSION if after else RECORD_VERSION
    return DegradationRecord(task, severity, params | after, seed, method, version)


def degrade(
    image: MedicalImage,
    wanted: Sequence[tuple[Task, Severity]],
    generator: torch.Generator,
    *,
    method: str = DEFAULT_METHOD,
    own: float = 0.0,
) -> Degraded:
    """Return an image degraded by freshly drawn records, graded by their measured effect.

    Parameters are drawn again, up to :data:`ATTEMPTS` times, until the effect on this image has the wanted grade. If
    it never has, the nearest attempt stands, with the grade that was measured.

    Args:
        image: Reference.
        wanted: Tasks of one modality with their grades; several make a mixed degradation.
        generator: Source of the parameters.
        method: Of every task in ``wanted``.
        own: Noise that the reference has itself, as :func:`medq_uni.physics.effect.own_noise` estimates it.
    """
    found = [
        _best_attempt(image, task, severity, generator, method, own)
        for task, severity in sorted(wanted, key=lambda pair: SPECS[pair[0]].stage)
    ]
    records = tuple(one.records[0] for one in found)
    degraded = found[0].image if len(found) == 1 else apply_records(image, records)
    return Degraded(degraded, records, tuple(one.effects[0] for one in found))


def _best_attempt(
    image: MedicalImage, task: Task, wanted: Severity, generator: torch.Generator, method: str, own: float
) -> Degraded:
    best: Degraded | None = None
    for _ in range(1 if wanted is Severity.NONE else ATTEMPTS):
        record = draw_record(task, wanted, generator, method=method)
        degraded = apply_records(image, record)
        measured = total_effect(effect(degraded, image, task, method=method), own, task)
        grade = grade_of(task, measured)
        if best is None or abs(grade.level - wanted.level) < abs(best.records[0].severity.level - wanted.level):
            best = Degraded(degraded, (replace(record, severity=grade),), (measured,))
        if grade is wanted:
            break
    assert best is not None  # there is at least one attempt
    return best


def apply_records(image: MedicalImage, records: DegradationRecord | Sequence[DegradationRecord]) -> MedicalImage:
    """Return the image degraded as the records say, slice by slice; the same input gives the same bits.

    Every slice has noise of its own, drawn from the record's seed and the slice's number. Padding keeps its values.
    Several records are applied in physical order, MR ones to the complex image, whose magnitude is taken at the end.

    Args:
        image: Reference.
        records: One record, or several of one modality.

    Raises:
        MedQError: If the image has no modality, another one than the records' task, or values that cannot be its.
        RecordError: If a record cannot be replayed: a measured pair, an unknown method, a parameter out of range.
    """
    chain = (records,) if isinstance(records, DegradationRecord) else tuple(records)
    for record in chain:
        _check_modality(image, record)
        SPECS[record.task].check(record)
    chain = tuple(sorted((record for record in chain if record.params), key=lambda record: SPECS[record.task].stage))
    if not chain:
        return image
    _check_values(image)
    voxels = np.stack([_degrade_slice(image, z, chain) for z in range(image.shape[0])])
    if image.padding is not None:
        voxels = np.where(image.padding, image.voxels, voxels)
    return image.with_voxels(voxels)


def _degrade_slice(image: MedicalImage, z: int, chain: tuple[DegradationRecord, ...]) -> np.ndarray:
    values = torch.from_numpy(np.array(image.voxels[z]))
    spacing = image.spacing_mm[1:]
    if image.modality is Modality.MR:
        reference = values
        for record in chain:
            values = _one(values, record, z, spacing)
        values = values.abs()
        for record in chain:
            values = _after(values, reference, record)
        return values.numpy()
    (record,) = chain
    if record.method == SCANNER_METHOD:
        return _after(_one(values, record, z, spacing), values, record).numpy()
    if abs(spacing[0] / spacing[1] - 1) < 0.01:
        return _one(values, record, z, spacing).numpy()
    # projections need square pixels: the change is made on a square grid and brought back; a scanner sees to it itself
    side = min(spacing)
    size = tuple(max(8, round(n * s / side)) for n, s in zip(values.shape, spacing, strict=True))
    square = F.interpolate(values[None, None], size=size, mode="bilinear")[0, 0]
    change = _one(square, record, z, (side, side)) - square
    change = F.interpolate(change[None, None], size=tuple(values.shape), mode="bilinear")[0, 0]
    if image.modality is Modality.CT:
        return ct.add_in_range(values, change).numpy()
    return torch.where(values < 0, values, (values + change).clamp(min=0)).numpy()


def _one(values: Tensor, record: DegradationRecord, number: int, spacing_mm: tuple[float, float]) -> Tensor:
    method = SPECS[record.task].method(record.method)
    return method(values, params=record.params, spacing_mm=spacing_mm, generator=slice_generator(record, number))


def _after(values: Tensor, reference: Tensor, record: DegradationRecord) -> Tensor:
    """Return a slice that a scanner has made after all that happened to it since."""
    if record.method != SCANNER_METHOD or AFTER_LIMITS.keys().isdisjoint(record.params):
        return values
    if record.task.modality is not Modality.CT:
        return after_scanner(values, reference, record.params, record.task.modality)
    inside = reference.clamp(*ct.HU_RANGE)  # what stands for padding must not spill into the image
    made = after_scanner(values.clamp(*ct.HU_RANGE), inside, record.params, Modality.CT)
    return ct.add_in_range(reference, made - inside)


def slice_generator(record: DegradationRecord, number: int) -> torch.Generator:
    """Return the source of every random number that a record's degradation of slice ``number`` draws."""
    return torch.Generator().manual_seed(seed_of(f"{record.seed}/{number}"))


def _check_modality(image: MedicalImage, record: DegradationRecord) -> None:
    if image.modality is None:
        raise MedQError(
            f"The image has no modality, {record.task.value} needs {record.task.modality.value}. "
            "Pass modality= (--modality) when reading it."
        )
    if image.modality is not record.task.modality:
        raise MedQError(
            f"{record.task.value} degrades {record.task.modality.value} images, this one is "
            f"{image.modality.value}. Choose a task of that modality."
        )


def _check_values(image: MedicalImage) -> None:
    """Refuse voxels that cannot be what their modality says."""
    valid = image.voxels if image.padding is None else image.voxels[~image.padding]
    if valid.size == 0 or not np.isfinite(valid).all():
        raise UnusableValues("The image has no finite voxels to degrade. Check how it was read.")
    low, high = float(valid.min()), float(valid.max())
    if image.modality is Modality.CT:
        share = float(((valid >= ct.HU_RANGE[0] - 100) & (valid <= ct.HU_RANGE[1] + 1000)).mean())
        if share < 0.5 or high - low < 50:
            raise UnusableValues(
                f"The values of this CT range from {low:g} to {high:g}; low-dose CT needs Hounsfield units. "
                "Apply the rescale slope and intercept, or choose another modality."
            )
    elif low < -0.01 * max(high, 0.0):
        raise UnusableValues(
            f"The smallest value is {low:g}; {image.modality} simulation needs magnitudes or activities that are "
            "not negative. Undo the normalization first."
        )
