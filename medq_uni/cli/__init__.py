"""``medq``: a thin shell over the Python calls.

Results go to standard output, progress and messages to standard error. On a terminal there are progress bars;
elsewhere standard error carries one JSON object per line with the keys ``event``, ``done`` and ``total``.
Exit codes: 0 done, 1 the only or all input bad, 2 usage, 3 some items failed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medq_uni import __version__
from medq_uni.cli import annotate, dataset, images, weights
from medq_uni.cli.shared import (
    BAD_INPUT,
    NOTICE,
    SOME_FAILED,
    ModelOption,
    SourcesOption,
    clear_errors,
    progress_bar,
    state,
)

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BAD_INPUT", "NOTICE", "SOME_FAILED", "app", "main"]

app = typer.Typer(
    add_completion=True,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Assess what is wrong with a medical image, then restore it. " + NOTICE,
)


app.command()(images.assess)
app.command()(images.restore)
app.command()(images.degrade)
app.add_typer(annotate.app, name="annotate")
app.add_typer(dataset.app, name="dataset")
app.add_typer(weights.app, name="weights")


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    state["debug"] = debug
    if version:
        typer.echo(f"medq-uni {__version__}")
        raise typer.Exit


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="Recipe file; see recipes/.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the run.")] = Path("runs/run"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    max_minutes: Annotated[float | None, typer.Option(help="Stop with a checkpoint after this time.")] = None,
    source: SourcesOption = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that draw the training pairs.")] = 2,
) -> None:
    """Train a model by a recipe; the finished one is written to OUTPUT/model."""
    with clear_errors():
        from medq_uni.train.loop import train as run
        from medq_uni.train.publish import publish
        from medq_uni.train.recipe import read_recipe

        config = read_recipe(recipe)
        if source:
            config = config.with_sources(tuple(source))
        with progress_bar("train") as progress:
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
    with clear_errors():
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
    with clear_errors():
        from medq_uni.demo import run_demo

        report = run_demo(output, model=model, say=typer.echo)
    typer.echo(f"Report: {report}")
    typer.echo(NOTICE, err=True)


def main() -> None:
    """Entry point of the ``medq`` command."""
    app()


def _report_training(line: dict[str, Any], progress: Callable[[int, int], None]) -> None:
    if line["event"] == "validation":
        typer.echo(json.dumps(line))
    elif line["step"] % 10 == 0:
        progress(line["step"], line["steps"])
