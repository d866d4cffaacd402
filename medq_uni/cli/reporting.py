"""The report of a run: of what it did, and of what an earlier run had done already."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from medq_uni.errors import MedQError, is_fault, printable, where_raised, words_of

if TYPE_CHECKING:
    from medq_uni.io.discover import ImageItem
    from medq_uni.report import ReportItem
    from medq_uni.result import Restoration, RestoredFrames


class Sections:
    """Collects the sections of a report; nothing that fails here stops the work or undoes it.

    Args:
        path: Where the report goes; None where none is wanted.

    Raises:
        MedQError: If no report can be written there.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._items: list[ReportItem] = []
        self._num_lost = 0
        if path is not None:
            _check(path)

    def add(
        self, name: str, source: Path | ImageItem, target: Path, result: Restoration | RestoredFrames | None
    ) -> None:
        """Draw what became of an image.

        Args:
            name: What the report calls it.
            source: The image.
            target: Its result, with the record and the maps beside it.
            result: What was done in this run; None where an earlier one did it, and its files say what.
        """
        if self._path is None:
            return
        from medq_uni.report import ReportItem
        from medq_uni.result import RestoredFrames, load_result

        try:
            if result is None:
                number, count, shown = load_result(source, target)
            elif isinstance(result, RestoredFrames):
                count = len(result.frames)
                number = count // 2
                shown = result.frames[number]
            else:
                number, count, shown = 0, 1, result
            note = "" if count == 1 else f"frame {number} of {count}"
            self._items.append(ReportItem.of(name, shown, note=note))
        except Exception as error:  # noqa: BLE001 - the image is restored, whatever becomes of its picture
            self._num_lost += 1
            typer.echo(printable(f"{name}: not in the report: {_said(error)}"), err=True)

    def write(self) -> bool:
        """Write the report, and return whether it is whole; the images are restored whatever becomes of it."""
        from medq_uni.report import write_report

        if self._path is None:
            return True
        if not self._items:
            typer.echo(printable(f"{self._path}: no report, since nothing is restored"), err=True)
            return not self._num_lost
        try:
            write_report(self._items, self._path)
        except Exception as error:  # noqa: BLE001 - likewise
            typer.echo(printable(f"error: no report, but the images are restored: {_said(error)}"), err=True)
            return False
        typer.echo(printable(f"{self._path}: report"), err=True)
        return not self._num_lost


def _said(error: Exception) -> str:
    if is_fault(error):
        return where_raised(error)
    return words_of(error) if isinstance(error, OSError) else str(error)


def _check(path: Path) -> None:
    from medq_uni.files import check_target

    if path.suffix.lower() not in (".html", ".htm"):
        raise MedQError(f"--report {path.name}: a report replaces its file; give it a name that ends in .html.")
    check_target(path, overwrite=True)
