"""What every command shares: clear errors, progress, options."""

from __future__ import annotations

import json
import math
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medq_uni.errors import MedQError, printable
from medq_uni.taxonomy import Modality

if TYPE_CHECKING:
    from collections.abc import Callable

    from medq_uni.annotate.store import Store
    from medq_uni.io.discover import FoundImages
    from medq_uni.restorer import Restorer

BAD_INPUT, SOME_FAILED = 1, 3
SECONDS_PER_LINE = 1.0
"""Time between lines of progress where there is no terminal."""

ModalityOption = Annotated[Modality | None, typer.Option(help="Overrides what the header says.")]
ModelOption = Annotated[str, typer.Option(help="nano, a folder of weights, or OWNER/NAME[@REVISION] on the hub.")]


def _present(device: str | None) -> str | None:
    """Return a device that this machine and this build of torch have; refuse any other."""
    if device is None:
        return None
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        typer.echo(
            f"error: --device {device}: torch cannot compute there. Give cpu, or cuda where `medq doctor` shows a GPU.",
            err=True,
        )
        raise typer.Exit(BAD_INPUT) from None
    return device


DeviceOption = Annotated[
    str | None, typer.Option(help="cpu, cuda or cuda:N; by default a GPU where there is one.", callback=_present)
]
OffloadOption = Annotated[bool, typer.Option("--offload", help="Keep the layers in host memory, bring one at a time.")]
CompileOption = Annotated[bool, typer.Option("--compile", help="Compile the layers at their first run.")]
AllowOodOption = Annotated[
    bool, typer.Option("--allow-ood", help="Go on where the image is unlike all that the model was trained on.")
]
GuessOption = Annotated[
    bool, typer.Option("--guess", help="Guess a modality that the file does not say from its intensities.")
]
FrameOption = Annotated[
    int | None,
    typer.Option(
        min=0, help="One volume of one 4-D file, or one time point of one series, from 0; not of a folder of several."
    ),
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace results that exist.")]
SourcesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--source",
        "--data",
        help="Real volumes: FOLDER, or KIND:FOLDER with manifest, folder, aapm-mayo, ixi, udpet, ct, mr or pet; "
        "repeatable.",
    ),
]


DatasetArgument = Annotated[Path, typer.Argument(help="Folder of a dataset, or of DICOM, NIfTI, PNG or TIFF files.")]
StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        envvar="MEDQ_STORE",
        show_envvar=True,
        help="SQLite file or postgresql://USER@HOST/NAME; default: DATASET.annotations.sqlite beside the dataset.",
    ),
]


class Precision(StrEnum):
    """Numbers of the weights."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"
    NF4 = "nf4"


PrecisionOption = Annotated[
    Precision | None, typer.Option(help="Numbers of the weights; by default float32, bfloat16 for released ones.")
]
state = {"debug": False}


FAULT = "This is a fault of medq, not of your file. Please report it with the output of the same command with --debug:"


@contextmanager
def clear_errors() -> Iterator[None]:
    """Say errors in one line, and faults of the package in two, with exit code 1; print warnings as lines.

    A fault is told by type and place alone: its message might hold values of a patient's image.
    """
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *rest: typer.echo(f"warning: {printable(str(message))}", err=True)
        try:
            yield
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except Exception as error:
            if state["debug"]:
                raise
            typer.echo(printable(_said(error)), err=True)
            raise typer.Exit(BAD_INPUT) from error


def _said(error: Exception) -> str:
    """Return what a user is told about an error."""
    from medq_uni.errors import is_fault, where_raised, words_of

    fault = (
        where_raised(error) if is_fault(error) else getattr(error, "fault", "") or getattr(error.__cause__, "fault", "")
    )
    if fault:
        return f"{FAULT}\n{fault}"
    return f"error: {words_of(error) if isinstance(error, OSError) else error}"


def load_restorer(
    model: str, device: str | None, precision: Precision | None, offload: bool, compiled: bool = False
) -> Restorer:
    """Return the restorer that the options of a command describe."""
    from medq_uni.config import Execution
    from medq_uni.restorer import Restorer

    name, _, revision = model.partition("@")
    execution = Execution(precision=None if precision is None else precision.value, offload=offload, compile=compiled)
    return Restorer.from_pretrained(name, device=device, execution=execution, revision=revision or None)


def tab_line(*cells: str) -> str:
    """Return cells as one line for a terminal or a script, with tabs between them."""
    return "\t".join(printable(cell, breaks="") for cell in cells)


def is_one_series(folder: Path, found: FoundImages) -> bool:
    """Return whether a folder in which images were found holds nothing but one DICOM series, directly."""
    return len(found) == 1 and found[0].format == "dicom" and found[0].path == folder


def tell_passed_over(folder: Path, found: FoundImages) -> int:
    """Name every file of a folder that is left out of what was found in it, and return the exit code."""
    for path, reason in found.skipped:
        typer.echo(tab_line(str(path.relative_to(folder)), "passed over", reason), err=True)
    if found.skipped:
        files = "1 file" if len(found.skipped) == 1 else f"{len(found.skipped)} files"
        typer.echo(f"{files} passed over, {len(found.broken)} of them broken images", err=True)
    return SOME_FAILED if found.broken else 0


def need_extra(extra: str, *modules: str) -> None:
    """Refuse to go on without the libraries of an extra.

    Raises:
        MedQError: With what to install.
    """
    from importlib.util import find_spec

    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise MedQError(f'this needs {", ".join(missing)}. Install it: pip install "medq-uni[{extra}]"')


def store_url(dataset: Path, store: str | None) -> str:
    """Return where the annotations of a dataset are kept: as told, else in a file beside it."""
    folder = dataset.resolve()
    return store or str(folder.with_name(folder.name + ".annotations.sqlite"))


@contextmanager
def open_store(dataset: Path, store: str | None, *, create: bool = False) -> Iterator[Store]:
    """Yield the annotation store of a dataset.

    Raises:
        MedQError: If it cannot be opened, or SQLAlchemy and alembic are not installed.
    """
    need_extra("annotate", "sqlalchemy", "alembic")
    from medq_uni.annotate.store import Store

    with Store.open(store_url(dataset, store), create=create) as opened:
        yield opened


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function (done, total) that draws a bar on a terminal; elsewhere it writes JSON lines, one a second."""
    if not sys.stderr.isatty():
        last = -math.inf

        def write(done: int, total: int) -> None:
            nonlocal last
            if done >= total or time.monotonic() - last >= SECONDS_PER_LINE:
                last = time.monotonic()
                typer.echo(json.dumps({"event": label, "done": done, "total": total}), err=True)

        yield write
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bars:
        bar = bars.add_task(label, total=None)
        yield lambda done, total: bars.update(bar, completed=done, total=total)


@contextmanager
def progress_bars() -> Iterator[Callable[[str], Callable[[int, int], None]]]:
    """Yield a function that opens a bar with a label, and closes the one before."""
    with ExitStack() as stack:

        def opened(label: str) -> Callable[[int, int], None]:
            stack.close()
            return stack.enter_context(progress_bar(label))

        yield opened
