"""``medq``: a thin shell over the Python calls.

Results go to standard output, progress and messages to standard error. On a terminal there are progress bars;
elsewhere standard error carries one JSON object per line with the keys ``event``, ``done`` and ``total``.
Exit codes: 0 done, 1 the only or all input bad, 2 usage, 3 some items failed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from medq_uni import __version__
from medq_uni.cli import annotate, assessing, calibrating, dataset, evaluation, images, judge, training, weights
from medq_uni.cli.shared import BAD_INPUT, SOME_FAILED, ModelOption, clear_errors, state
from medq_uni.notice import NOTICE
from medq_uni.threads import set_thread_defaults

__all__ = ["BAD_INPUT", "SOME_FAILED", "app", "main"]

app = typer.Typer(
    add_completion=True,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Assess what is wrong with a medical image, then restore it. " + NOTICE,
)


app.command()(assessing.assess)
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


app.command()(training.train)
app.command()(training.ablate)
app.command()(evaluation.evaluate)
app.command()(judge.judge)
app.command()(calibrating.calibrate)


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
    set_thread_defaults()
    app()
