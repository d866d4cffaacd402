"""The command that looks at images: one in words, many in a table."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medq_uni.cli.shared import (
    BAD_INPUT,
    SOME_FAILED,
    AllowOodOption,
    DeviceOption,
    FrameOption,
    GuessOption,
    ModalityOption,
    ModelOption,
    OffloadOption,
    PrecisionOption,
    clear_errors,
    is_one_series,
    load_restorer,
    tell_passed_over,
)
from medq_uni.errors import MedQError, printable, words_of
from medq_uni.notice import NOTICE

if TYPE_CHECKING:
    from medq_uni.assessor import Assessment
    from medq_uni.image import MedicalImage
    from medq_uni.io.discover import FoundImages, ImageItem

COLUMNS = (
    "image",
    "modality",
    "anatomy",
    "verdict",
    "degradation",
    "cause",
    "impact",
    "probability",
    "uncertain",
    "worst_slices",
    "error",
)
SHOWN = ("image", "modality", "anatomy", "verdict", "degradation")
"""Columns of the table on a terminal; an error takes the place of the last."""
WIDTHS = (8, 10, 8)
Opened = Callable[[], "MedicalImage"]


def assess(
    path: Annotated[Path, typer.Argument(help="Image file, DICOM series folder, or folder tree.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON instead of words; of a folder one object per line.")
    ] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, one line per image.")] = False,
    modality: ModalityOption = None,
    frame: FrameOption = None,
    instruction: Annotated[str | None, typer.Option(help="Question to ask instead of the usual one.")] = None,
    allow_ood: AllowOodOption = False,
    guess: GuessOption = False,
    model: ModelOption = "nano",
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    offload: OffloadOption = False,
) -> None:
    """Describe what is wrong with an image: five aspects, ending Good, Usable or Reject.

    Of a folder with several images, or a 4-D file, one line each: a table.
    """
    if as_json and as_csv:
        raise typer.BadParameter("pass either --json or --csv.", param_hint="--csv")
    code = 0
    with clear_errors():
        from medq_uni.io.discover import find_images
        from medq_uni.io.read_write import num_frames, read_image

        found = find_images(path) if path.is_dir() and frame is None else None
        is_tree = found is not None and not is_one_series(path, found)
        many = is_tree or (frame is None and num_frames(path) > 1)
        image = None if many else read_image(path, modality=modality, frame=frame)
        restorer = load_restorer(model, device, precision, offload)

        def look(one: MedicalImage) -> Assessment:
            return restorer.assessor.assess(one, instruction=instruction, allow_ood=allow_ood, guess=guess)

        if image is None:
            passed_over = 0 if found is None else tell_passed_over(path, found)
            table = _Table("json" if as_json else "csv" if as_csv else "text")
            code = _assess_all(table, _opened(path, found, modality), look) or passed_over
        elif as_csv:
            _Table("csv").add(path.name, look(image), "")
        else:
            found_in = look(image)
            typer.echo(json.dumps(found_in.to_dict(), indent=2) if as_json else found_in.to_text())
    typer.echo(NOTICE, err=True)
    if code:
        raise typer.Exit(code)


def _assess_all(table: _Table, images: list[tuple[str, Opened]], look: Callable[[MedicalImage], Assessment]) -> int:
    """Print a line for every image and return the exit code."""
    table.begin([name for name, _ in images])
    num_failed = 0
    for name, opened in images:
        try:
            table.add(name, look(opened()), "")
        except (MedQError, OSError) as error:
            num_failed += 1
            table.add(name, None, words_of(error) if isinstance(error, OSError) else str(error))
    typer.echo(f"{len(images) - num_failed} assessed, {num_failed} failed", err=True)
    if num_failed == len(images):
        return BAD_INPUT  # no image at all too: those that there are were passed over
    return SOME_FAILED if num_failed else 0


def _opened(path: Path, found: FoundImages | None, modality: Any) -> list[tuple[str, Opened]]:
    """Return the name of every image of a folder or volume of a 4-D file, and a function that reads it.

    Raises:
        MedQError: If there is none.
    """
    if found is None:
        return list(_frames(path.name, path, modality))
    if not found and not found.broken:
        raise MedQError(f"{path.name}: no image in this folder. Pass DICOM, NIfTI, PNG or TIFF files.")
    return [one for item in found for one in _frames(str(item.relative), item, modality)]


def _frames(name: str, source: Path | ImageItem, modality: Any) -> Iterator[tuple[str, Opened]]:
    from medq_uni.io.read_write import num_frames, read_image

    try:
        count = num_frames(source)
    except MedQError:
        count = 1  # reading it says why
    for number in range(count):
        frame = number if count > 1 else None
        shown = f"{name} [frame {number}]" if count > 1 else name
        yield shown, lambda frame=frame: read_image(source, modality=modality, frame=frame)  # type: ignore[misc]


class _Table:
    """Prints one line per image as soon as it is known.

    Args:
        form: ``text`` for people, in columns on a terminal and with tabs elsewhere; ``csv``; ``json``, one object a
            line.
    """

    def __init__(self, form: str) -> None:
        self._form = form
        self._width = 0
        self._has_head = False

    def begin(self, names: list[str]) -> None:
        """Say what names will come, so that columns can be set."""
        self._width = max((len(printable(name, breaks="")) for name in names), default=0) if sys.stdout.isatty() else 0

    def add(self, name: str, assessment: Assessment | None, error: str) -> None:
        """Print the line of an image: what is wrong with it, or why nobody knows."""
        row = dict.fromkeys(COLUMNS, "") | {"image": printable(name, breaks=""), "error": error}
        if assessment is not None:
            from medq_uni.description import degradation_words

            description = assessment.description
            row |= {"modality": description.modality.value, "anatomy": description.anatomy.value}
            row |= {"verdict": description.verdict.value, "degradation": degradation_words(description.degradations)}
            row |= {"cause": description.cause, "impact": description.impact}
            if assessment.probability is not None:
                row |= {
                    "probability": f"{assessment.probability:.3f}",
                    "uncertain": str(assessment.is_uncertain).lower(),
                }
            row["worst_slices"] = " ".join(str(one.z) for one in assessment.worst)
        if self._form == "json":
            found: dict[str, Any] = {"error": error} if assessment is None else assessment.to_dict()
            typer.echo(json.dumps({"image": row["image"]} | found))
        elif self._form == "csv":
            self._csv(row)
        else:
            self._text(row)

    def _csv(self, row: dict[str, str]) -> None:
        from medq_uni.csv_text import csv_of

        head, line = csv_of([row]).rstrip("\n").split("\n", 1)
        if not self._has_head:
            typer.echo(head)
            self._has_head = True
        typer.echo(line)

    def _text(self, row: dict[str, str]) -> None:
        cells = [row[name] for name in SHOWN]
        if row["error"]:
            cells[3:] = ["failed", printable(row["error"], breaks="")]
        if not self._width:
            typer.echo("\t".join(cells))
            return
        widths = (self._width, *WIDTHS, 0)
        if not self._has_head:
            typer.echo("  ".join(name.upper().ljust(width) for name, width in zip(SHOWN, widths, strict=True)).rstrip())
            self._has_head = True
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())
