"""The command that evaluates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medq_uni.cli.shared import SOME_FAILED, DeviceOption, SourcesOption, clear_errors, progress_bars

if TYPE_CHECKING:
    from collections.abc import Iterable

    from medq_uni.evaluate.evaluation import Evaluation
    from medq_uni.evaluate.page import Section
    from medq_uni.evaluate.sweep import Sweep
    from medq_uni.systems.benchmark import Benchmark


SystemsOption = Annotated[
    str,
    typer.Option(
        help="What is compared, separated by commas: classical, gaussian, bilateral, tv, nlm, wavelet, bm3d, nano, "
        "unimedvl, a folder of weights; behind a model :forced, :expert-bypassed, :no-skip, :codec-only; before it "
        "TITLE=.",
    ),
]
SweepOption = Annotated[
    Path | None,
    typer.Option(help="Instead of a benchmark: a recipe that varies the scanner, such as benchmark/sweep/chains.json."),
]


def evaluate(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the evaluation.")],
    benchmark: Annotated[
        list[Path] | None,
        typer.Option(
            help="Built dataset, dataset recipe, folder of recipes, or folder with benchmark.csv. Repeatable.",
        ),
    ] = None,
    systems: SystemsOption = "classical,nano",
    sweep: SweepOption = None,
    source: SourcesOption = None,
    against: Annotated[str | None, typer.Option(help="System that all are compared with; the first model.")] = None,
    safety: Annotated[
        bool,
        typer.Option("--safety", help="Also check findings, texture, bias, good images, uncertainty, shift."),
    ] = False,
    safety_phantoms: Annotated[int, typer.Option(min=1, help="Phantoms of every task and grade for --safety.")] = 2,
    safety_slices: Annotated[int, typer.Option(min=1, help="Slices of the sources for --safety.")] = 40,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    device: DeviceOption = None,
) -> None:
    """Score systems on a benchmark (PSNR, SSIM, paired tests, good images, cost): results.json, CSV, report.html.

    Run it again with the same folder to go on where it stopped.
    """
    with clear_errors(), progress_bars() as progress:
        from medq_uni.evaluate.evaluation import evaluate as run
        from medq_uni.evaluate.evaluation import write_evaluation
        from medq_uni.evaluate.page import summary
        from medq_uni.safety.checks import run_safety
        from medq_uni.safety.output_cache import SafetySettings
        from medq_uni.systems.build import read_specs

        specs = read_specs([text.strip() for text in systems.split(",") if text.strip()], device)
        found, swept = _what(benchmark or [], sweep, source or ())
        _warn(f"{one.name}: {line}; it is left out" for one in found for line in one.unreadable)
        settings = SafetySettings(
            sources=tuple(source or ()),
            per_grade=safety_phantoms,
            shift_count=safety_phantoms,
            real_count=safety_slices,
        )
        done = run(found, specs, output, against=against, workers=workers, progress=progress)
        more: dict[str, Any] = {"safety": None}
        sections, text = [], ""
        if swept is not None:
            more["sweep"], section, text = _swept(swept, done, output)
            sections.append(section)
        if safety:
            more["safety"] = run_safety(done.systems, settings, output, progress("safety"))
            sections.append(_safety_section(more["safety"]))
        results = write_evaluation(done, output, more=more, sections=sections)
    _warn(_missing(results))
    typer.echo(text or summary(results), nl=False)
    typer.echo(f"\n{output / 'report.html'}")
    if _missing(results):
        raise typer.Exit(SOME_FAILED)


def _what(paths: Sequence[Path], recipe: Path | None, sources: Sequence[str]) -> tuple[list[Benchmark], Sweep | None]:
    """Return what is scored: benchmarks, or the one of a sweep."""
    from medq_uni.config import ConfigError
    from medq_uni.evaluate.sweep import read_sweep
    from medq_uni.systems.benchmark import read_benchmarks

    if bool(paths) == (recipe is not None):
        raise ConfigError(
            "Give --benchmark, or --sweep with a recipe such as benchmark/sweep/chains.json; a sweep is scored alone."
        )
    if recipe is None:
        return [one for path in paths for one in read_benchmarks(path, sources)], None
    swept = read_sweep(recipe, sources)
    return [swept.benchmark], swept


def _swept(swept: Sweep, done: Evaluation, folder: Path) -> tuple[dict[str, Any], Section, str]:
    """Return what ``results.json``, page and terminal say of a sweep; its CSV and plots are written."""
    from medq_uni.evaluate.page import Section
    from medq_uni.evaluate.sweep_plots import write_sweep
    from medq_uni.evaluate.sweep_tables import NOTE, at_a_glance, markdown, sweep_results, sweep_tables

    found = sweep_results(swept, done.records[swept.benchmark.name], done.specs)
    plots = write_sweep(found, folder)
    section = Section("Sweep", NOTE, sweep_tables(found), plots, is_first=True)
    return asdict(found), section, markdown(at_a_glance(found))


def _warn(lines: Iterable[str]) -> None:
    for line in lines:
        typer.echo(f"warning: {line}", err=True)


def _safety_section(checked: dict[str, Any]) -> Section:
    """Return the section of the page that shows what the safety checks measured."""
    from medq_uni.evaluate.page import Section
    from medq_uni.safety.plots import safety_plots
    from medq_uni.safety.tables import SHARES, safety_tables

    note = f"On phantoms, and on real slices where there are some. Definitions: docs/safety.md. {SHARES}"
    return Section("Safety", note, safety_tables(checked), safety_plots(checked))


def _missing(results: dict[str, Any]) -> list[str]:
    """Return a line for every system that did not run, pair that could not be read, and system that failed."""
    lines = [f"{one['name']} was not run: {one['not_run']}" for one in results["systems"] if one["not_run"]]
    for benchmark in results["benchmarks"]:
        lines += [f"{benchmark['name']}: {line}" for line in benchmark["unreadable"]]
        for name in dict.fromkeys(one["system"] for one in benchmark["failed"]):
            errors = [one["error"] for one in benchmark["failed"] if one["system"] == name]
            lines.append(f"{benchmark['name']}: {name} failed on {len(errors)} images, first with {errors[0]}")
    return lines
