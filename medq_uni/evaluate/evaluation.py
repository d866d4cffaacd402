"""The whole evaluation: systems on benchmarks, then results.json, CSV and the page."""

from __future__ import annotations

import contextlib
import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from medq_uni import __version__
from medq_uni.config import ConfigError
from medq_uni.csv_text import csv_of
from medq_uni.evaluate.page import Section, write_page
from medq_uni.evaluate.runner import ProgressCallback, SliceRecord, pictured, reference_pictures, run_system
from medq_uni.evaluate.tables import GoodImageRow, ScoreRow, good_image_rows, rows_by
from medq_uni.evaluate.worklist import WorklistRow, worklist_rows
from medq_uni.files import write_text
from medq_uni.notice import NOTICE
from medq_uni.systems.benchmark import Benchmark
from medq_uni.systems.build import INPUT, NotRun, SystemSpec, build, tuned
from medq_uni.systems.cost import Cost, cost_of, probe
from medq_uni.systems.naming import slug
from medq_uni.systems.system import System

RESULTS = "results.json"
Tables = dict[str, Sequence[ScoreRow] | Sequence[GoodImageRow] | Sequence[WorklistRow]]
"""By the names that they have in ``results.json`` and ``csv/``."""


@dataclass(frozen=True)
class EvaluatedSystem:
    """A system of the evaluation, with its cost or why it did not run."""

    spec: SystemSpec
    identity: str = ""
    cost: Cost | None = None
    not_run: str = ""
    """Why it could not run; it has a row that says so."""


@dataclass(frozen=True)
class Evaluation:
    """Systems that were scored on benchmarks."""

    benchmarks: tuple[Benchmark, ...]
    records: dict[str, dict[str, list[SliceRecord]]]
    """Single slices, by benchmark and by system that ran, in the order of the tables."""
    tables: dict[str, Tables]
    """By benchmark."""
    specs: tuple[SystemSpec, ...]
    """Systems that ran; filters are tuned."""
    results: dict[str, Any]
    """What ``results.json`` holds of it, as JSON values."""

    @property
    def systems(self) -> list[System]:
        """The systems that ran, loaded in this process."""
        return [build(spec) for spec in self.specs]


def evaluate(
    benchmarks: Sequence[Benchmark],
    specs: Sequence[SystemSpec],
    folder: Path,
    *,
    against: str | None = None,
    workers: int = 1,
    progress: Callable[[str], ProgressCallback] | None = None,
) -> Evaluation:
    """Score systems on benchmarks; :func:`write_evaluation` writes what was found.

    Call it again with the same folder to go on where it stopped, or to add systems. The degraded input is always
    scored. Filters are tuned on the validation slices of all benchmarks together.

    Args:
        benchmarks: What is restored.
        specs: Systems, in the order of the tables.
        folder: Where scores and pictures of single slices are kept.
        against: System that the others are compared with; by default the first model.
        workers: Processes.
        progress: Gets a title, returns what is called with the number of slices done and their total.

    Raises:
        ConfigError: If two benchmarks have one name, or ``against`` is no system of the evaluation.
    """
    specs = _with_input(specs)
    _check_names(benchmarks, specs, against)
    systems = [_prepared(spec, benchmarks) for spec in specs]
    able = [one.spec for one in systems if not one.not_run]
    records: dict[str, dict[str, list[SliceRecord]]] = {benchmark.name: {} for benchmark in benchmarks}
    for spec in able:
        for benchmark in benchmarks:
            tell = progress(f"{benchmark.name}: {spec.name}") if progress else None
            records[benchmark.name][spec.name] = run_system(spec, benchmark, folder, workers=workers, progress=tell)
    against = against or next((spec.name for spec in able if spec.kind == "model"), None)
    tables = {benchmark.name: _tables(records[benchmark.name], against) for benchmark in benchmarks}
    results = {
        "software": f"medq-uni {__version__}",
        "notice": NOTICE,
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "against": against,
        "systems": [_system(one) for one in _with_costs(systems, progress("costs") if progress else None)],
        "benchmarks": [_benchmark(one, records[one.name], tables[one.name]) for one in benchmarks],
    }
    return Evaluation(tuple(benchmarks), records, tables, tuple(able), results)


def write_evaluation(
    done: Evaluation, folder: Path, *, more: Mapping[str, Any] | None = None, sections: Sequence[Section] = ()
) -> dict[str, Any]:
    """Write ``results.json``, ``report.html`` and, in ``csv/``, every table and image.

    Args:
        done: What was found.
        folder: The one that it was evaluated in.
        more: What else belongs into ``results.json``, by key, as JSON values.
        sections: What else belongs on the page.

    Returns:
        What ``results.json`` holds.
    """
    results = done.results | dict(more or {})
    for benchmark in done.benchmarks:
        reference_pictures(benchmark, folder)
        _write_csv(folder / "csv" / slug(benchmark.name), done.records[benchmark.name], done.tables[benchmark.name])
    write_text(folder / RESULTS, json.dumps(results, indent=2, allow_nan=False) + "\n")
    write_page(results, done.records, folder, sections)
    return results


def _check_names(benchmarks: Sequence[Benchmark], specs: Sequence[SystemSpec], against: str | None) -> None:
    names = [benchmark.name for benchmark in benchmarks]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"two benchmarks are called {twice[0]!r}. Rename one file or folder, or score them apart.")
    titles = [spec.name for spec in specs]
    if against is not None and against not in titles:
        raise ConfigError(f"against {against!r} is no system of this evaluation, which has {', '.join(titles)}.")


def _tables(records: dict[str, list[SliceRecord]], against: str | None) -> Tables:
    return {
        "by_modality": rows_by(lambda task: task.modality.value, records, against),
        "by_task": rows_by(lambda task: task.value, records, against),
        "good_images": good_image_rows(records),
        "worklist": worklist_rows(records),
    }


def _write_csv(folder: Path, records: dict[str, list[SliceRecord]], tables: Tables) -> None:
    for name, rows in tables.items():
        write_text(folder / f"{name}.csv", csv_of([asdict(row) for row in rows]))
    images = [{"system": name} | asdict(record) for name, own in records.items() for record in own]
    write_text(folder / "images.csv", csv_of(images))


def _with_input(specs: Sequence[SystemSpec]) -> list[SystemSpec]:
    return [SystemSpec(INPUT, "input", ""), *(spec for spec in specs if spec.kind != "input")]


def _prepared(spec: SystemSpec, benchmarks: Sequence[Benchmark]) -> EvaluatedSystem:
    try:
        spec = tuned(spec, [case for benchmark in benchmarks for case in benchmark.val])
        return EvaluatedSystem(spec, build(spec).identity)
    except NotRun as error:
        return EvaluatedSystem(spec, not_run=str(error))


def _with_costs(systems: Sequence[EvaluatedSystem], tell: ProgressCallback | None) -> list[EvaluatedSystem]:
    """Measure costs one after the other, when no worker computes beside; what cannot restore the probe has none."""
    case = probe()
    measured = []
    for system in systems:
        with contextlib.suppress(Exception):  # a filter without a strength, or a system that failed on slices too
            system = system if system.not_run else replace(system, cost=cost_of(build(system.spec), case))
        measured.append(system)
        if tell is not None:
            tell(len(measured), len(systems))
    return measured


def _system(system: EvaluatedSystem) -> dict[str, Any]:
    spec = system.spec
    return {
        "name": spec.name,
        "kind": spec.kind,
        "source": Path(spec.source).name if Path(spec.source).is_absolute() else spec.source,
        "variant": spec.variant,
        "identity": system.identity,
        "strengths": {task.value: strength for task, strength in spec.strengths},
        "cost": None if system.cost is None else asdict(system.cost),
        "not_run": system.not_run,
    }


def _noted(records: dict[str, list[SliceRecord]], note: str) -> list[dict[str, Any]]:
    """Return the slices that a system has a note about: why it failed, or what it warned of."""
    return [
        {"system": name, "case": record.case, "task": record.task, note: getattr(record, note)}
        for name, found in records.items()
        for record in found
        if getattr(record, note)
    ]


def _benchmark(benchmark: Benchmark, records: dict[str, list[SliceRecord]], tables: Tables) -> dict[str, Any]:
    return {
        "name": benchmark.name,
        "sha256": benchmark.sha256,
        "slices": len(benchmark.test),
        "subjects": len({case.subject for case in benchmark.test}),
        "unreadable": list(benchmark.unreadable),
        **{name: [asdict(row) for row in rows] for name, rows in tables.items()},
        "failed": _noted(records, "error"),
        "warned": _noted(records, "warning"),
        "pictured": pictured(benchmark),
    }
