"""The whole evaluation: benchmarks x systems -> results.json, CSV, HTML."""

from __future__ import annotations

import contextlib
import datetime
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from medq_uni import __version__
from medq_uni.config import ConfigError
from medq_uni.evaluate.page import write_page
from medq_uni.evaluate.runner import Progress, Record, pictured, reference_pictures, run_system, slug
from medq_uni.evaluate.tables import Harm, Row, as_csv, harm, rows_by
from medq_uni.files import write_text
from medq_uni.result import RESEARCH_USE
from medq_uni.safety.checks import run_safety
from medq_uni.safety.output_cache import SafetySettings
from medq_uni.systems.benchmark import Benchmark
from medq_uni.systems.build import INPUT, NotRun, SystemSpec, build, tuned
from medq_uni.systems.cost import Cost, cost_of, probe

RESULTS = "results.json"
Tables = dict[str, Sequence[Row] | Sequence[Harm]]
"""By the names that they have in ``results.json`` and ``csv/``."""


@dataclass(frozen=True)
class Entry:
    """A system of the evaluation."""

    spec: SystemSpec
    identity: str = ""
    cost: Cost | None = None
    not_run: str = ""
    """Why it could not run; it has a row that says so."""


def evaluate(
    benchmarks: Sequence[Benchmark],
    specs: Sequence[SystemSpec],
    folder: Path,
    *,
    against: str | None = None,
    safety: SafetySettings | None = None,
    workers: int = 1,
    progress: Callable[[str], Progress] | None = None,
) -> dict[str, Any]:
    """Score systems on benchmarks and write ``results.json``, ``report.html`` and, in ``csv/``, every table and image.

    Call it again with the same folder to go on where it stopped, or to add systems. The degraded input is always
    scored. Filters are tuned on the validation slices of all benchmarks together.

    Args:
        benchmarks: What is restored.
        specs: Systems, in the order of the tables.
        folder: Where everything goes.
        against: System that the others are compared with; by default the first model.
        safety: Also run the safety checks, this much; one after the other in this process.
        workers: Processes.
        progress: Gets a title, returns what is called with the number of slices done and their total.

    Returns:
        What ``results.json`` holds.

    Raises:
        ConfigError: If two benchmarks have one name, or ``against`` is no system of the evaluation.
    """
    specs = _with_input(specs)
    _check_names(benchmarks, specs, against)
    entries = [_prepared(spec, benchmarks) for spec in specs]
    found: dict[str, dict[str, list[Record]]] = {benchmark.name: {} for benchmark in benchmarks}
    for entry in (one for one in entries if not one.not_run):
        for benchmark in benchmarks:
            tell = progress(f"{benchmark.name}: {entry.spec.name}") if progress else None
            records = run_system(entry.spec, benchmark, folder, workers=workers, progress=tell)
            found[benchmark.name][entry.spec.name] = records
    models = [entry.spec.name for entry in entries if entry.spec.kind == "model" and not entry.not_run]
    against = against or (models[0] if models else None)
    tables = {benchmark.name: _tables(found[benchmark.name], against) for benchmark in benchmarks}
    results = {
        "software": f"medq-uni {__version__}",
        "notice": RESEARCH_USE,
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "against": against,
        "systems": [_system(entry) for entry in _with_costs(entries, progress("costs") if progress else None)],
        "benchmarks": [_benchmark(one, found[one.name], tables[one.name]) for one in benchmarks],
        "safety": None if safety is None else _checked(entries, safety, folder, progress),
    }
    for benchmark in benchmarks:
        reference_pictures(benchmark, folder)
        _write_csv(folder / "csv" / slug(benchmark.name), found[benchmark.name], tables[benchmark.name])
    write_text(folder / RESULTS, json.dumps(results, indent=2, allow_nan=False) + "\n")
    write_page(results, found, folder)
    return results


def _check_names(benchmarks: Sequence[Benchmark], specs: Sequence[SystemSpec], against: str | None) -> None:
    names = [benchmark.name for benchmark in benchmarks]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"two benchmarks are called {twice[0]!r}. Rename one file or folder, or score them apart.")
    titles = [spec.name for spec in specs]
    if against is not None and against not in titles:
        raise ConfigError(f"against {against!r} is no system of this evaluation, which has {', '.join(titles)}.")


def _tables(records: dict[str, list[Record]], against: str | None) -> Tables:
    return {
        "by_modality": rows_by(lambda task: task.modality.value, records, against),
        "by_task": rows_by(lambda task: task.value, records, against),
        "good_images": harm(records),
    }


def _write_csv(folder: Path, records: dict[str, list[Record]], tables: Tables) -> None:
    for name, rows in tables.items():
        write_text(folder / f"{name}.csv", as_csv(rows))
    write_text(folder / "images.csv", as_csv([(name, record) for name, own in records.items() for record in own]))


def _checked(
    entries: Sequence[Entry], settings: SafetySettings, folder: Path, progress: Callable[[str], Progress] | None
) -> dict[str, Any]:
    systems = [build(entry.spec) for entry in entries if not entry.not_run]
    return run_safety(systems, settings, folder, progress("safety") if progress else None)


def _with_input(specs: Sequence[SystemSpec]) -> list[SystemSpec]:
    return [SystemSpec(INPUT, "input", ""), *(spec for spec in specs if spec.kind != "input")]


def _prepared(spec: SystemSpec, benchmarks: Sequence[Benchmark]) -> Entry:
    try:
        spec = tuned(spec, [case for benchmark in benchmarks for case in benchmark.val])
        return Entry(spec, build(spec).identity)
    except NotRun as error:
        return Entry(spec, not_run=str(error))


def _with_costs(entries: Sequence[Entry], tell: Progress | None) -> list[Entry]:
    """Measure costs one after the other, when no worker computes beside; what cannot restore the probe has none."""
    case = probe()
    measured = []
    for entry in entries:
        with contextlib.suppress(Exception):  # a filter without a strength, or a system that failed on slices too
            entry = entry if entry.not_run else replace(entry, cost=cost_of(build(entry.spec), case))
        measured.append(entry)
        if tell is not None:
            tell(len(measured), len(entries))
    return measured


def _system(entry: Entry) -> dict[str, Any]:
    spec = entry.spec
    return {
        "name": spec.name,
        "kind": spec.kind,
        "source": Path(spec.source).name if Path(spec.source).is_absolute() else spec.source,
        "variant": spec.variant,
        "identity": entry.identity,
        "strengths": {task.value: strength for task, strength in spec.strengths},
        "cost": None if entry.cost is None else asdict(entry.cost),
        "not_run": entry.not_run,
    }


def _noted(records: dict[str, list[Record]], note: str) -> list[dict[str, Any]]:
    """Return the slices that a system has a note about: why it failed, or what it warned of."""
    return [
        {"system": name, "case": record.case, "task": record.task, note: getattr(record, note)}
        for name, found in records.items()
        for record in found
        if getattr(record, note)
    ]


def _benchmark(benchmark: Benchmark, records: dict[str, list[Record]], tables: Tables) -> dict[str, Any]:
    return {
        "name": benchmark.name,
        "sha256": benchmark.sha256,
        "slices": len(benchmark.test),
        "subjects": len({case.subject for case in benchmark.test}),
        "unreadable": list(benchmark.unreadable),
        **{name: [asdict(row) for row in rows] for name, rows in tables.items()},
        "failed": _noted(records, "error"),
        "doubted": _noted(records, "warning"),
        "pictured": pictured(benchmark),
    }
