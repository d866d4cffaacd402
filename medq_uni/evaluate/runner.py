"""Score every system on every slice: in parallel, resumable, and without losing what failed."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from medq_uni.distribute import map_items
from medq_uni.errors import capture_warnings
from medq_uni.files import write_bytes, write_text
from medq_uni.image import MedicalImage
from medq_uni.json_text import parse_json
from medq_uni.report import picture
from medq_uni.scoring import DEFINITIONS, score_image
from medq_uni.systems.benchmark import Benchmark
from medq_uni.systems.build import SystemSpec, build
from medq_uni.systems.cases import Case
from medq_uni.systems.naming import slug
from medq_uni.taxonomy import Severity

OLD_NAMES = {"doubt": "warning"}
"""Fields in the scores that version 0.1 kept, and their names since."""
CHUNK = 6
"""Slices of one job."""
ProgressCallback = Callable[[int, int], None]
"""Is called with the number of things done and their total."""


@dataclass(frozen=True)
class SliceRecord:
    """What one system made of one slice."""

    case: int
    """Place in the benchmark."""
    task: str
    severity: str
    subject: str
    group: str
    seconds: float
    """Wall-clock time, beside whatever else ran."""
    scores: dict[str, float] | None = None
    """Fields of :class:`medq_uni.scoring.ImageScores`; None where it failed."""
    is_unchanged: bool = False
    """Whether the input came back bit-identical."""
    error: str = ""
    """Why there is no score."""
    warning: str = ""
    """What the system warned of, for example that it has seen nothing like the image."""
    said: str = ""
    """Worst grade that it says of the input, where it says one."""
    verdict: str = ""
    """Its verdict on the input, where it has one."""


@dataclass(frozen=True, eq=False)
class Job:
    """Some slices for one system."""

    spec: SystemSpec
    cases: tuple[tuple[int, Case], ...] = field(repr=False)
    pictures: dict[int, Path] = field(repr=False)
    """Where pictures of some of the slices go."""


def pictured(benchmark: Benchmark) -> list[int]:
    """Return the slices that are shown, chosen before anything is restored.

    Of every group and task it is the first that is moderately degraded, else the first degraded one.
    """
    chosen: dict[tuple[str, str], int] = {}
    degraded = [(i, case) for i, case in enumerate(benchmark.test) if case.severity is not Severity.NONE]
    for index, case in sorted(degraded, key=lambda pair: pair[1].severity is not Severity.MODERATE):
        chosen.setdefault((case.group, case.task.value), index)
    return sorted(chosen.values())


def run_system(
    spec: SystemSpec, benchmark: Benchmark, folder: Path, *, workers: int = 1, progress: ProgressCallback | None = None
) -> list[SliceRecord]:
    """Score a system on a benchmark, going on where an earlier call stopped.

    A slice on which the system fails has a record that says why.

    Args:
        spec: The system; a filter must be tuned.
        benchmark: Whose test slices are scored.
        folder: Of the evaluation. Scores of the same slices and the same system that lie there are not made again; what
            failed is tried again.
        workers: Processes.
        progress: Called with the number of slices done and their total.

    Raises:
        NotRun: If the system cannot run here.
    """
    path = folder / "scores" / slug(benchmark.name) / f"{slug(spec.name)}.jsonl"
    head = {"set": benchmark.sha256, "scores": DEFINITIONS, "system": build(spec).identity, "variant": spec.variant}
    done = {record.case: record for record in _kept(path, head) if not record.error}
    wanted = {index: picture_path(folder, benchmark.name, index, spec.name) for index in pictured(benchmark)}
    left = [i for i in range(len(benchmark.test)) if i not in done or (i in wanted and not wanted[i].is_file())]
    done = {index: record for index, record in done.items() if index not in left}
    _write(path, head, done.values())
    jobs = [
        Job(spec, tuple((i, benchmark.test[i]) for i in part), {i: wanted[i] for i in part if i in wanted})
        for part in (left[start : start + CHUNK] for start in range(0, len(left), CHUNK))
    ]
    for found in map_items(run_job, jobs, workers=workers):
        with path.open("a", encoding="utf-8") as file:
            file.writelines(_line(record) for record in found)
            file.flush()
            os.fsync(file.fileno())
        done |= {record.case: record for record in found}
        if progress is not None:
            progress(len(done), len(benchmark.test))
    return [done[index] for index in sorted(done)]


def run_job(job: Job) -> list[SliceRecord]:
    """Score the slices of a job, in this process."""
    system = build(job.spec)
    records = []
    for index, case in job.cases:
        record = SliceRecord(index, case.task.value, case.severity.value, case.subject, case.group, seconds=0.0)
        began = time.perf_counter()
        try:
            with capture_warnings() as warned:
                made = system.restore(case)
            output = made.image
            record = replace(record, seconds=time.perf_counter() - began, warning=" ".join(warned))
            if made.description is not None:
                record = replace(record, said=made.description.worst.value, verdict=made.description.verdict.value)
            found, same = asdict(score_image(output, case.reference, case.data_range)), _is_same(output, case.degraded)
            if index in job.pictures:
                write_bytes(job.pictures[index], picture(output, case.reference))
            record = replace(record, scores=found, is_unchanged=same)
        except Exception as error:  # noqa: BLE001 - whatever a system does, the slice is counted
            record = replace(record, error=f"{type(error).__name__}: {error}".splitlines()[0][:300])
        records.append(record)
    return records


def _is_same(image: MedicalImage, other: MedicalImage) -> bool:
    return np.array_equal(image.voxels, other.voxels)


def reference_pictures(benchmark: Benchmark, folder: Path) -> None:
    """Draw the references of the slices that are shown."""
    for index in pictured(benchmark):
        reference = benchmark.test[index].reference
        write_bytes(picture_path(folder, benchmark.name, index, "reference"), picture(reference, reference))


def picture_path(folder: Path, benchmark: str, index: int, name: str) -> Path:
    """Return where the picture of a slice lies, of a system or of the reference."""
    return folder / "pictures" / slug(benchmark) / f"{index:05d}-{slug(name)}.png"


def _kept(path: Path, head: dict[str, Any]) -> Iterator[SliceRecord]:
    """Yield the records of an earlier call that still hold; a last line that was cut off is dropped."""
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        try:
            values = parse_json(line)
        except ValueError:
            return
        if number == 0 and values != head:
            return
        if number:
            values = {OLD_NAMES.get(name, name): value for name, value in values.items()}
            scores = values["scores"]
            known = None if scores is None else {name: float(score) for name, score in scores.items()}
            yield SliceRecord(**(values | {"scores": known}))


def _write(path: Path, head: dict[str, Any], records: Iterable[SliceRecord]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(head) + "\n" + "".join(_line(record) for record in records))


def _line(record: SliceRecord) -> str:
    values = asdict(record)
    if record.scores is not None:  # JSON has no word for the score of an image that equals its reference
        values["scores"] = {name: x if math.isfinite(x) else str(x) for name, x in record.scores.items()}
    return json.dumps(values, allow_nan=False) + "\n"
