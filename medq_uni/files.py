"""Writing so that a reader never sees half a file, and never over the source."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from medq_uni.errors import MedQError, UnwritableImage

SLICE_NAME = re.compile(r"\d{4,}\.dcm")
"""Names of the files in a folder that a series was written to."""


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file.

    Raises:
        MedQError: If it is no such text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise MedQError(f"{path.name}: is no text in UTF-8. Save it as UTF-8, or give another file.") from error


def check_target(path: Path, *, sources: Iterable[Path] = (), overwrite: bool = False) -> None:
    """Refuse a target that is the source, its folder, exists already, or lies where nothing can be written.

    Raises:
        UnwritableImage: With what to do.
    """
    target = path.resolve()
    for source in sources:
        origin = source.resolve()
        is_same = path.exists() and source.exists() and path.samefile(source)
        if is_same or target == origin or (target == origin.parent):
            raise UnwritableImage(f"{path.name}: this is the source, which is never written to. Choose another name.")
    _check_parent(target)
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise UnwritableImage(
            f"{path.name}: exists already. Choose another name, or pass "
            "overwrite=True (--overwrite on the command line)."
        )
    if path.is_dir() and any(not SLICE_NAME.fullmatch(child.name) for child in path.iterdir()):
        raise UnwritableImage(
            f"{path.name}: the folder holds other files than a written series (0001.dcm, ...), "
            "so it is not replaced. Choose another folder."
        )


def _check_parent(target: Path) -> None:
    """Refuse a target whose folder neither is there and open to writing, nor can be made."""
    above = next((folder for folder in target.parents if os.path.lexists(folder)), None)
    if above is None:
        raise UnwritableImage(f"{target.name}: there is no {target.anchor}. Choose another folder.")
    name = above.name or str(above)
    if not above.is_dir():
        raise UnwritableImage(f"{target.name}: cannot lie below {name}, which is a file. Choose another folder.")
    if not os.access(above, os.W_OK | os.X_OK):
        raise UnwritableImage(
            f"{target.name}: nothing may be written to the folder {name}. "
            "Choose another folder, or change its permissions."
        )


def flush(path: Path) -> None:
    """Return when a file or folder is on the disk, as far as the file system can say."""
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)  # Windows syncs what may be written
    try:
        os.fsync(descriptor)
    except OSError:  # some file systems cannot sync a folder
        if not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def _temporary(path: Path, suffix: str = "") -> Path:
    """Return a hidden name beside ``path``; created by plain calls, so that the umask holds."""
    return path.parent / f".medq-{secrets.token_hex(8)}{suffix}"


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary file beside ``path`` that becomes it, whole, when the block ends.

    The temporary name keeps the suffixes, because writers choose the format by them. A block that
    fails leaves nothing behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path, "".join(path.suffixes[-2:]))
    try:
        temporary.touch(exist_ok=False)
        yield temporary
        flush(temporary)
        temporary.replace(path)
        if os.name == "posix":
            flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def set_aside(paths: Sequence[Path]) -> Iterator[None]:
    """Move files and folders out of the way while others are written in their places; put them back if that fails.

    A process that is killed meanwhile leaves them beside their places, under hidden names (``.medq-...``).

    Args:
        paths: What will be written; what is not there yet is removed again if that fails.

    Raises:
        OSError: If something cannot be moved; then all is as it was.
    """
    aside = {path: _temporary(path) for path in paths if os.path.lexists(path)}
    try:
        for path, hidden in aside.items():
            path.replace(hidden)
        yield
    except BaseException:
        for path in paths:
            if path not in aside or os.path.lexists(aside[path]):
                _remove(path)
        for path, hidden in aside.items():
            if os.path.lexists(hidden):
                hidden.replace(path)
        raise
    for hidden in aside.values():
        _remove(hidden)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def file_digest(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_digest(paths: Iterable[Path]) -> str:
    """Return the sha256 of several files together, in whatever order they are named.

    Raises:
        OSError: If one cannot be read.
    """
    return hashlib.sha256("".join(sorted(map(file_digest, paths))).encode()).hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, whole or not at all; one that is there is replaced."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all; one that is there is replaced."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path`` that becomes it, whole, when the block ends.

    A folder that is there already is moved aside first and removed last, so that at every moment
    either the old or the new one exists.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    temporary.mkdir()
    aside: Path | None = None
    try:
        yield temporary
        for child in temporary.iterdir():
            flush(child)
        if path.exists():
            aside = _temporary(path)
            path.replace(aside)
        temporary.replace(path)
        if os.name == "posix":
            flush(path.parent)
    except BaseException:
        if aside is not None and not path.exists():
            aside.replace(path)
            aside = None
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if aside is not None:
            with suppress(OSError):
                _remove(aside)
