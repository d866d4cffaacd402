"""Writing so that a reader never sees half a file, and never over the source."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from medq_uni.errors import MedQError, UnwritableImage

MAX_NAME_BYTES = 255
CLAIM_WAIT_S, CLAIM_EXPIRES_S = 300.0, 3600.0
"""How long a process waits for another one that writes the same result, and after what time it takes that for dead."""
BREAKING_EXPIRES_S = 60.0
"""After what time a process that removes the claim of a dead one is taken for dead itself."""
SWEPT_AFTER_S = 3600.0
"""Age from which the temporary files of dead processes are removed."""


def _process_space() -> str:
    """Return what tells apart machines, and containers of one machine, whose process numbers mean other processes."""
    try:
        return f"{platform.node()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return platform.node()


_HOST = hashlib.sha256(_process_space().encode()).hexdigest()[:8]
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
    check_name(path)
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


def check_name(path: Path) -> None:
    """Refuse a name that is longer than file systems hold.

    Raises:
        UnwritableImage: If it is.
    """
    if len(os.fsencode(path.name)) > MAX_NAME_BYTES:
        raise UnwritableImage(
            f"{path.name[:40]}...: this name, with what is added to it, has more than {MAX_NAME_BYTES} bytes, "
            "which file systems do not hold. Choose a shorter one."
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
    """Return a hidden name beside ``path`` with its owner; created by plain calls, so that the umask holds."""
    return path.parent / f".medq-{_HOST}-{os.getpid()}-{secrets.token_hex(8)}{suffix}"


@contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Hold the exclusive right to write ``path`` and what belongs to it; wait for another process that holds it.

    The claim is a hidden file beside ``path`` that only one process can create, also on a network file system. It names
    its owner; one whose process is dead, or that is older than :data:`CLAIM_EXPIRES_S`, is broken. What dead processes
    left half-written in the folder is removed.

    Raises:
        UnwritableImage: If another process keeps the claim for longer than :data:`CLAIM_WAIT_S`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(path.name.casefold().encode("utf-8", "replace")).hexdigest()[:16]
    lock = path.parent / f".medq-claim-{name}"
    owner = f"{_HOST} {os.getpid()} {secrets.token_hex(8)}"
    deadline = time.monotonic() + CLAIM_WAIT_S
    while not _create(lock, owner):
        _break_stale(lock)
        if time.monotonic() > deadline:
            raise UnwritableImage(
                f"{path.name}: another process is writing it. Wait for it, or delete {lock.name} if none is."
            )
        time.sleep(0.02 + 0.03 * secrets.randbelow(100) / 100)
    try:
        _sweep(path.parent)
        yield
    finally:
        if _text(lock) == owner:
            lock.unlink(missing_ok=True)


def _create(lock: Path, owner: str) -> bool:
    """Return whether the claim was made: whole from the first moment, by the link of a file to its name.

    No lock of the operating system takes part (``flock``), which network file systems do without.
    """
    mine = _temporary(lock)
    mine.write_text(owner, encoding="ascii")
    try:
        os.link(mine, lock)
    except FileExistsError:
        return _text(lock) == owner  # a server that did it, whose answer was lost, is asked again and refuses
    except OSError:  # a file system without hard links
        try:
            with lock.open("x", encoding="ascii") as file:
                file.write(owner)
        except FileExistsError:
            return False
    finally:
        mine.unlink(missing_ok=True)
    return True


def _break_stale(lock: Path) -> None:
    """Remove a claim whose owner is gone; one process at a time, so that none removes what another made meanwhile."""
    if not _is_stale(lock, CLAIM_EXPIRES_S):
        return
    guard = lock.with_name(f"{lock.name}-break")
    if not _create(guard, f"{_HOST} {os.getpid()} {secrets.token_hex(8)}"):
        if _is_stale(guard, BREAKING_EXPIRES_S):
            guard.unlink(missing_ok=True)
        return
    try:
        if _is_stale(lock, CLAIM_EXPIRES_S):
            lock.unlink(missing_ok=True)
    finally:
        guard.unlink(missing_ok=True)


def _is_stale(lock: Path, expires_s: float) -> bool:
    """Return whether a claim is older than it may be, or of a process of this machine that has ended."""
    try:
        age_s = time.time() - lock.stat().st_mtime
    except OSError:
        return False
    host, _, rest = _text(lock).partition(" ")
    return age_s > expires_s or (host == _HOST and not _is_alive(rest.partition(" ")[0]))


def _sweep(folder: Path) -> None:
    """Remove what dead processes of this machine left under temporary names; moved-aside results are kept."""
    for path in folder.glob(f".medq-{_HOST}-*"):
        owner = path.name.removeprefix(f".medq-{_HOST}-").partition("-")[0]
        try:
            is_old = time.time() - path.stat().st_mtime > SWEPT_AFTER_S
            if is_old and not _is_alive(owner):
                _remove(path)
        except OSError:  # another process was first
            continue


def _is_alive(number: str) -> bool:
    try:
        os.kill(int(number), 0)
    except ValueError:
        return True
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


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
    aside = {path: path.parent / f".medq-aside-{secrets.token_hex(8)}" for path in paths if os.path.lexists(path)}
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
