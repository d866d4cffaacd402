"""Fixed evaluation sets: phantoms that anyone can draw again, and slices of real volumes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from medq_uni.data import sources
from medq_uni.data.pairs import degrade, generator_of
from medq_uni.data.phantoms import draw_phantom
from medq_uni.image import MedicalImage
from medq_uni.taxonomy import Severity, Task

PHANTOM_SEED = 20260
TUNING_SEED = 20261
"""Seed of the phantoms on which peers are tuned; none of them is scored."""
PATCH_SIDE = 64
"""Slices with a smaller side are patches, reported apart."""


@dataclass(frozen=True, eq=False)
class Case:
    """One degraded slice with its truth."""

    task: Task
    severity: Severity
    subject: str
    group: str
    """``phantoms``, ``real`` or ``real patches``."""
    degraded: MedicalImage
    reference: MedicalImage


def phantom_cases(per_grade: int, *, seed: int = PHANTOM_SEED, size: int = 192) -> Iterator[Case]:
    """Yield ``per_grade`` phantoms of every task and grade, none included; every phantom is its own subject.

    Args:
        per_grade: Phantoms for each task and grade.
        seed: Of everything that is drawn.
        size: Side in pixels.
    """
    for task_number, task in enumerate(Task):
        for severity in Severity:
            for number in range(per_grade):
                generator = generator_of(seed, task_number, severity.level, number)
                reference = draw_phantom(task.modality, generator, size=size).image
                degraded, _ = degrade(reference, task, severity, generator)
                subject = f"phantom-{task.value}-{severity.value}-{number}"
                yield Case(task, severity, subject, "phantoms", degraded, reference)


def real_cases(folder: Path, *, split: str = "test", slices: int = 4) -> Iterator[Case]:
    """Yield slices spread over every real volume of a split, under every task of its modality.

    The grades mild, moderate and severe take turns. Every slice also appears once undegraded.

    Args:
        folder: Data folder with a manifest.
        split: ``test`` to report, ``val`` to choose.
        slices: Most slices of one volume.
    """
    for volume_number, volume in enumerate(sources.read_manifest(folder, split=split)):
        usable = sources.usable_slices(volume)
        chosen = sorted({usable[i * (len(usable) - 1) // max(slices - 1, 1)] for i in range(slices)} if usable else ())
        for number, z in enumerate(chosen):
            reference = sources.load(volume).slice_at(z)
            group = "real patches" if min(reference.shape[1:]) < PATCH_SIDE else "real"
            for task_number, task in enumerate(t for t in Task if t.modality is volume.modality):
                grades = [Severity.from_level(1 + (number + task_number) % 3)]
                if task_number == 0:
                    grades.append(Severity.NONE)
                for severity in grades:
                    generator = generator_of(PHANTOM_SEED, volume_number, z, task_number, severity.level)
                    degraded, _ = degrade(reference, task, severity, generator)
                    yield Case(task, severity, volume.subject, group, degraded, reference)


def set_hash(cases: list[Case]) -> str:
    """Return the sha256 over tasks, grades, references and degraded voxels of a set."""
    digest = hashlib.sha256()
    for case in cases:
        digest.update(f"{case.task}/{case.severity}/{case.subject}".encode())
        digest.update(case.reference.voxels.tobytes())
        digest.update(case.degraded.voxels.tobytes())
    return digest.hexdigest()
