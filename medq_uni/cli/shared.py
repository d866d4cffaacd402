"""What every command shares: clear errors, progress, options."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from medq_uni.taxonomy import Modality

if TYPE_CHECKING:
    from collections.abc import Callable

NOTICE = "Research use only. Not for diagnostic use. Always view the original."
BAD_INPUT, SOME_FAILED = 1, 3

ModalityOption = Annotated[Modality | None, typer.Option(help="Overrides what the header says.")]
ModelOption = Annotated[str, typer.Option(help="Name of an embedded model, or a folder of weights.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace results that exist.")]
SourcesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--source",
        "--data",
        help="Real volumes: FOLDER, or KIND:FOLDER with aapm-mayo, ixi, udpet, ct, mr, pet. Repeatable.",
    ),
]


state = {"debug": False}


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn errors that a user can cause into one line and exit code 1; print warnings as lines."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *rest: typer.echo(f"warning: {message}", err=True)
        try:
            yield
        except (ValueError, OSError) as error:
            if state["debug"]:
                raise
            text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            typer.echo(f"error: {text}", err=True)
            raise typer.Exit(BAD_INPUT) from error


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function (done, total) that draws a bar on a terminal and writes JSON lines elsewhere."""
    if not sys.stderr.isatty():
        yield lambda done, total: typer.echo(json.dumps({"event": label, "done": done, "total": total}), err=True)
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bars:
        bar = bars.add_task(label, total=None)
        yield lambda done, total: bars.update(bar, completed=done, total=total)
