"""Evaluation sets: pairs drawn again from a recipe, or read from a dataset that was built with it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from medq_uni.data.dataset import Dataset
from medq_uni.data.pairs import PairsConfig, draw_pair
from medq_uni.data.shards import records_of
from medq_uni.image import MedicalImage
from medq_uni.physics.record import DegradationRecord
from medq_uni.taxonomy import Anatomy, Severity, Task

PATCH_SIDE = 64
"""Real slices with a smaller side are patches, reported apart."""


@dataclass(frozen=True, eq=False)
class Case:
    """One degraded slice with its truth."""

    task: Task
    severity: Severity
    subject: str
    group: str
    """``phantoms``, ``real``, ``real patches``, or the kind of an unseen reference; each also with ``, mixed``."""
    degraded: MedicalImage
    reference: MedicalImage
    anatomy: Anatomy | None = None
    """None where nothing says so."""
    records: tuple[DegradationRecord, ...] = ()
    """What was done, with the grades that were measured; empty where only task and grade are known."""
    data_range: float | None = None
    """Of the volume that the reference is a slice of (:func:`medq_uni.scoring.score_image`); None where it is whole."""


def drawn_cases(config: PairsConfig) -> Iterator[Case]:
    """Yield the pairs of a configuration; where it wants real slices only, phantoms that stand in are left out.

    A good real slice cannot always be found: a noisy reference never stands for one.
    """
    for index in range(config.count):
        pair = draw_pair(config, index)
        if not (config.data and config.wants_only_real and pair.source == "phantom"):
            group = group_of(pair.source, pair.volume, min(pair.reference.shape[1:]), len(pair.records))
            images = pair.degraded, pair.reference
            yield Case(
                pair.task, pair.severity, pair.subject, group, *images, pair.anatomy, pair.records, pair.volume_peak
            )


def dataset_cases(folder: Path, split: str) -> Iterator[Case]:
    """Yield the pairs of one split of a built dataset."""
    for pair in Dataset(folder).pairs(split):
        meta, records = pair.meta, records_of(pair.meta)
        group = group_of(meta["source"], meta["volume"], min(pair.reference.shape), len(records))
        images = pair.image(pair.degraded), pair.image(pair.reference)
        anatomy, peak = Anatomy(meta["anatomy"]), meta.get("volume_peak")
        yield Case(pair.task, pair.severity, meta["subject"], group, *images, anatomy, records, peak)


def group_of(source: str, volume: str, side: int, degradations: int) -> str:
    """Return the set that a pair is reported with, as :class:`Case` names them.

    Args:
        source: Of its reference: ``phantom``, ``real`` or ``unseen``.
        volume: Name of the reference's volume, or kind of an unseen one.
        side: Smaller side of the reference in pixels.
        degradations: How many it has.
    """
    names = {"phantom": "phantoms", "unseen": volume, "real": "real patches" if side < PATCH_SIDE else "real"}
    name = names[source]
    return name if degradations == 1 else f"{name}, mixed"


def set_hash(cases: Sequence[Case]) -> str:
    """Return the sha256 over tasks, grades, references and degraded voxels of a set."""
    digest = hashlib.sha256()
    for case in cases:
        scale = "" if case.data_range is None else f"/{case.data_range:.6g}"
        digest.update(f"{case.task}/{case.severity}/{case.subject}{scale}".encode())
        digest.update(case.reference.voxels.tobytes())
        digest.update(case.degraded.voxels.tobytes())
    return digest.hexdigest()
