"""Degradation of images by the physics of their acquisition: draw a record, apply it.

``draw`` chooses the parameters of one degradation; ``apply`` is a pure function of image and record.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

from medq_uni.image import MedicalImage
from medq_uni.physics import ct, mri, pet
from medq_uni.physics.record import RECORD_VERSION, DegradationRecord, RecordError
from medq_uni.taxonomy import Severity, Task

__all__ = ["RECORD_VERSION", "DegradationRecord", "RecordError", "apply", "draw"]

_DRAW = {
    Task.CT_LOW_DOSE: ct.draw_low_dose,
    Task.MR_UNDERSAMPLING: mri.draw_undersampling,
    Task.MR_MOTION: mri.draw_motion,
    Task.MR_NOISE: mri.draw_noise,
    Task.PET_LOW_COUNT: pet.draw_low_count,
}


def draw(task: Task, severity: Severity, generator: torch.Generator) -> DegradationRecord:
    """Return a record whose parameters are drawn to fill the grade.

    Args:
        task: Kind of degradation.
        severity: Grade; ``none`` gives a record that changes nothing.
        generator: Source of the parameters and of the record's seed.
    """
    seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
    params = {} if severity is Severity.NONE else _DRAW[task](severity, generator)
    return DegradationRecord(task=task, severity=severity, params=params, seed=seed)


def apply(image: MedicalImage, record: DegradationRecord) -> MedicalImage:
    """Return the image degraded as the record says, slice by slice; the same input gives the same bits.

    Every slice has noise of its own, drawn from the record's seed and the slice's number. Padding keeps its values.

    Raises:
        ValueError: If the image has no modality, or another one than the record's task.
    """
    if image.modality is None:
        raise ValueError(
            f"The image has no modality, {record.task.value} needs {record.task.modality.value}. "
            "Pass modality= (--modality) when reading it."
        )
    if image.modality is not record.task.modality:
        raise ValueError(
            f"{record.task.value} degrades {record.task.modality.value} images, this one is "
            f"{image.modality.value}. Choose a task of that modality."
        )
    if record.severity is Severity.NONE:
        return image
    voxels = np.stack(
        [
            degrade_slice(torch.from_numpy(image.voxels[z]), record, z, image.spacing_mm[1:]).numpy()
            for z in range(image.shape[0])
        ]
    )
    if image.padding is not None:
        voxels = np.where(image.padding, image.voxels, voxels)
    return image.with_voxels(voxels)


def degrade_slice(values: Tensor, record: DegradationRecord, number: int, spacing_mm: tuple[float, float]) -> Tensor:
    """Return one degraded slice, (H, W) float32 in physical units.

    Args:
        values: The slice.
        record: What to do; not ``none``.
        number: Of the slice in its volume; chooses its noise.
        spacing_mm: Pixel spacing (row, column).
    """
    digest = hashlib.sha256(f"{record.seed}/{number}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    params = record.params
    if record.task is Task.CT_LOW_DOSE:
        return ct.low_dose(values, params=params, spacing_mm=spacing_mm, generator=generator)
    if record.task is Task.PET_LOW_COUNT:
        return pet.low_count(values, params=params, spacing_mm=spacing_mm, generator=generator)
    function = {
        Task.MR_UNDERSAMPLING: mri.undersampling,
        Task.MR_MOTION: mri.motion,
        Task.MR_NOISE: mri.noise,
    }[record.task]
    return function(values, params=params, generator=generator)
