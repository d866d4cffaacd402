"""``medq``: a thin shell over the Python calls.

Results go to standard output, progress and messages to standard error. On a terminal there are progress bars;
elsewhere standard error carries one JSON object per line with the keys ``event``, ``done`` and ``total``.
Exit codes: 0 done, 1 the only or all input bad, 2 usage, 3 some items failed.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medq_uni import __version__
from medq_uni.taxonomy import Modality, Severity, Task

if TYPE_CHECKING:
    from collections.abc import Callable

    from medq_uni.pipeline import Restoration

NOTICE = "Research use only. Not for diagnostic use. Always view the original."
BAD_INPUT, SOME_FAILED = 1, 3

app = typer.Typer(
    add_completion=True,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Assess what is wrong with a medical image, then restore it. " + NOTICE,
)


class Start(StrEnum):
    """Where sampling starts."""

    DEGRADED = "degraded"
    NOISE = "noise"


class Grade(StrEnum):
    """Grades that can be simulated."""

    MILD = "mild"
    MODERATE = "moderate"
    SEVERE = "severe"


ModalityOption = Annotated[Modality | None, typer.Option(help="Overrides what the header says.")]
ModelOption = Annotated[str, typer.Option(help="Name of an embedded model, or a folder of weights.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace results that exist.")]


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    _state["debug"] = debug
    if version:
        typer.echo(f"medq-uni {__version__}")
        raise typer.Exit


_state = {"debug": False}


@contextmanager
def _clear_errors() -> Iterator[None]:
    """Turn errors that a user can cause into one line and exit code 1; print warnings as lines."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *rest: typer.echo(f"warning: {message}", err=True)
        try:
            yield
        except (ValueError, OSError) as error:
            if _state["debug"]:
                raise
            text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            typer.echo(f"error: {text}", err=True)
            raise typer.Exit(BAD_INPUT) from error


@contextmanager
def _progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function (done, total) that draws a bar on a terminal and writes JSON lines elsewhere."""
    if not sys.stderr.isatty():
        yield lambda done, total: typer.echo(json.dumps({"event": label, "done": done, "total": total}), err=True)
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bars:
        bar = bars.add_task(label, total=None)
        yield lambda done, total: bars.update(bar, completed=done, total=total)


@app.command()
def assess(
    path: Annotated[Path, typer.Argument(help="Image file, or folder with one DICOM series.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of words.")] = False,
    modality: ModalityOption = None,
    instruction: Annotated[str | None, typer.Option(help="Question to ask instead of the usual one.")] = None,
    model: ModelOption = "nano",
) -> None:
    """Describe what is wrong with an image: five aspects, ending Good, Usable or Reject."""
    with _clear_errors():
        from medq_uni.io import read_image
        from medq_uni.pipeline import Restorer

        image = read_image(path, modality=modality)
        description = Restorer.from_pretrained(model).assess(image, instruction=instruction)
    typer.echo(description.to_json().rstrip() if as_json else description.to_text())
    typer.echo(NOTICE, err=True)


@app.command()
def restore(
    path: Annotated[Path, typer.Argument(help="Image file, DICOM series folder, or folder tree.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="File, or folder for a folder.")],
    instruction: Annotated[str | None, typer.Option(help="What to do, in your words.")] = None,
    description: Annotated[Path | None, typer.Option(help="Text or JSON file with a description that steers.")] = None,
    start: Annotated[Start, typer.Option(help="Start from the degraded image or from noise.")] = Start.DEGRADED,
    steps: Annotated[int, typer.Option(min=1, help="Evaluations of the network.")] = 1,
    samples: Annotated[int, typer.Option(min=1, help="Samples to average (noise start).")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    report: Annotated[Path | None, typer.Option(help="Write a self-contained HTML report here.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Restore even what is judged Good.")] = False,
    modality: ModalityOption = None,
    overwrite: OverwriteOption = False,
    maps: Annotated[bool, typer.Option(help="Write residual and uncertainty beside the result.")] = True,
    model: ModelOption = "nano",
) -> None:
    """Assess an image, then restore it under the guidance of the assessment."""
    with _clear_errors():
        from medq_uni.config import SamplerConfig
        from medq_uni.pipeline import Restorer, RestoreSettings

        sampler = SamplerConfig(start=start.value, num_steps=steps, num_samples=samples)
        options: dict[str, Any] = {
            "settings": RestoreSettings(sampler=sampler, seed=seed, force=force),
            "instruction": instruction,
            "description": _read_description(description),
        }
        restorer = Restorer.from_pretrained(model)
        if path.is_dir() and not _is_one_series(path):
            results, code = _restore_tree(restorer, path, output, modality, overwrite, maps, options)
        else:
            with _progress("tiles") as progress:
                result = restorer.run(
                    path,
                    output,
                    modality=modality,
                    overwrite=overwrite,
                    maps=maps,
                    progress=progress,
                    **options,
                )
            typer.echo(result.description.to_text())
            note = "judged Good, returned unchanged" if result.is_unchanged else f"{result.seconds:.1f} s"
            typer.echo(f"{output}: {note}", err=True)
            results, code = [(path.name, result)], 0
        if report is not None and results:
            _write_report(results, report)
    typer.echo(NOTICE, err=True)
    if code:
        raise typer.Exit(code)


@app.command()
def degrade(
    path: Annotated[Path, typer.Argument(help="Image file, or folder with one DICOM series.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write.")],
    task: Annotated[Task, typer.Option(help="Kind of degradation.")],
    severity: Annotated[Grade, typer.Option(help="Grade.")] = Grade.MODERATE,
    seed: Annotated[int, typer.Option(help="Seed of parameters and noise.")] = 0,
    modality: ModalityOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Degrade an image by the physics of its acquisition; the record goes beside it."""
    with _clear_errors():
        import torch

        from medq_uni import physics
        from medq_uni.io import Derivation, read_image, sidecar_path, write_image, write_sidecar

        image = read_image(path, modality=modality or task.modality)
        record = physics.draw(task, Severity(severity.value), torch.Generator().manual_seed(seed))
        degraded = physics.apply(image, record)
        fields = json.loads(record.to_json())
        derivation = Derivation(
            method=f"MedQ-UNI simulated degradation {task.value}",
            software_version=__version__,
            settings=fields,
            seed=record.seed,
            tasks=(task.value,),
        )
        write_image(degraded, output, derivation=derivation, overwrite=overwrite)
        write_sidecar(sidecar_path(output), {"degradation": fields, "notice": NOTICE}, overwrite=overwrite)
    typer.echo(record.to_json())


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="Recipe file; see recipes/.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the run.")] = Path("runs/run"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    max_minutes: Annotated[float | None, typer.Option(help="Stop with a checkpoint after this time.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of real volumes with MANIFEST.csv.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that draw the training pairs.")] = 2,
) -> None:
    """Train a model by a recipe; the finished one is written to OUTPUT/model."""
    with _clear_errors():
        from dataclasses import replace

        from medq_uni.train.loop import train as run
        from medq_uni.train.publish import publish
        from medq_uni.train.recipe import read_recipe

        config = read_recipe(recipe)
        if data is not None:
            pairs, val_pairs = (replace(p, data=(str(data),)) for p in (config.pairs, config.val_pairs))
            config = replace(config, pairs=pairs, val_pairs=val_pairs)
        with _progress("train") as progress:
            trained = run(
                config,
                output,
                resume=resume,
                max_minutes=max_minutes,
                workers=workers,
                report=lambda line: _report_training(line, progress),
            )
        if trained.is_finished:
            digest = publish(trained, config, output, output / "model")
            typer.echo(f"{output / 'model'} (sha256 {digest[:12]})")
        else:
            typer.echo(f"stopped; go on with: medq train {recipe} -o {output} --resume")


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    model: ModelOption = "nano",
) -> None:
    """Show what is installed, which weights and device are used, and what one slice costs here."""
    with _clear_errors():
        from medq_uni.doctor import examine

        findings = examine(model)
    if as_json:
        typer.echo(json.dumps(findings, indent=2))
        return
    for name, value in findings.items():
        typer.echo(f"{name:<28}{value}")


@app.command()
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the results.")] = Path("demo"),
    model: ModelOption = "nano",
) -> None:
    """Run the whole job on real DICOM files and phantoms that come with the package, offline."""
    with _clear_errors():
        from medq_uni.demo import run_demo

        report = run_demo(output, model=model, say=typer.echo)
    typer.echo(f"Report: {report}")
    typer.echo(NOTICE, err=True)


def main() -> None:
    """Entry point of the ``medq`` command."""
    app()


def _read_description(path: Path | None) -> Any:
    if path is None:
        return None
    from medq_uni.description import DescriptionError, QualityDescription

    text = path.read_text(encoding="utf-8")
    read = QualityDescription.from_json if text.lstrip().startswith("{") else _from_words
    try:
        return read(text)
    except DescriptionError as error:
        raise DescriptionError(f"{path.name}: {error}") from error


def _from_words(text: str) -> Any:
    from medq_uni.description import QualityDescription

    return QualityDescription.from_text(text.strip(), strict=False)


def _is_one_series(folder: Path) -> bool:
    """Return whether a folder holds nothing but one DICOM series, directly."""
    from medq_uni.io import find_images

    found = find_images(folder)
    return len(found) == 1 and found[0].format == "dicom" and found[0].path == folder


def _restore_tree(
    restorer: Any,
    source: Path,
    target: Path,
    modality: Modality | None,
    overwrite: bool,
    maps: bool,
    options: dict[str, Any],
) -> tuple[list[tuple[str, Restoration]], int]:
    """Return the restorations with their names, and the exit code."""
    from medq_uni.batch import restore_folder

    totals: list[int] = []
    counts = dict.fromkeys(("restored", "unchanged", "skipped", "failed"), 0)
    kept: list[tuple[str, Restoration]] = []
    with _progress("images") as progress:
        results = restore_folder(
            restorer,
            source,
            target,
            modality=modality,
            overwrite=overwrite,
            maps=maps,
            on_start=totals.append,
            **options,
        )
        for number, result in enumerate(results, start=1):
            counts[result.status] += 1
            typer.echo(f"{result.relative}\t{result.status}\t{result.message}")
            progress(number, totals[0])
            if result.restoration is not None:
                kept.append((str(result.relative), result.restoration))
    typer.echo(", ".join(f"{count} {status}" for status, count in counts.items()), err=True)
    total = sum(counts.values())
    if total == 0:
        raise ValueError(f"{source.name}: no image in this folder. Pass DICOM, NIfTI, PNG or TIFF files.")
    if not counts["failed"]:
        return kept, 0
    return kept, BAD_INPUT if counts["failed"] == total else SOME_FAILED


def _write_report(results: list[tuple[str, Restoration]], path: Path) -> None:
    from medq_uni.report import ReportItem, write_report

    write_report([ReportItem(title=name, restoration=result) for name, result in results], path)
    typer.echo(f"{path}: report", err=True)


def _report_training(line: dict[str, Any], progress: Callable[[int, int], None]) -> None:
    if line["event"] == "validation":
        typer.echo(json.dumps(line))
    elif line["step"] % 10 == 0:
        progress(line["step"], line["steps"])
