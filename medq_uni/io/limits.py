"""What a file may cost, and the errors for files that cannot be read or written.

Sizes are checked on the header, before anything is decoded, because a file of some hundred bytes
can claim gigabytes of pixels. Messages name the file and tags, never values of tags.
"""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from medq_uni.errors import ImageWarning, MedQError, UnreadableImage, UnwritableImage

MAX_INFLATED_BYTES = 256 * 2**20
"""Largest data set in the Deflated transfer syntax once inflated: 256 MiB."""
MAX_SLICE_PIXELS = 2**26
"""Largest slice: 8192 x 8192 pixels."""
MAX_SLICES = 2**17
"""Most slices, frames or pages of one image."""
MAX_SEQUENCE_DEPTH = 32
"""Deepest nesting of DICOM sequences that is read."""
UNQUESTIONED_BYTES = 2**28
"""Decoded size, in float32, up to which a file may be compressed however far: a blank image is a few bytes."""
MAX_RATIO = 250
"""Most bytes of the decoded image, in float32, per byte of a file that decodes to more than that."""
BYTES_PER_SECOND = 2 * 2**20
"""A file may take a second for each 2 MiB of its own, beside :attr:`Allowance.seconds`."""
MAX_NAMED = 8
"""Most files that a message names, where it counts the others."""
MEMORY_INFO = Path("/proc/meminfo")


@dataclass(frozen=True)
class Allowance:
    """What one file may cost; each value has an environment variable of its own.

    Attributes:
        image_bytes: Largest image, in float32. ``MEDQ_MAX_IMAGE_GB``, 12 GiB.
        memory_bytes: Memory for reading, beside the image itself. ``MEDQ_READ_MEMORY_MB``, 1000 MiB.
        seconds: Time for a small file. ``MEDQ_READ_SECONDS``, 15.
    """

    image_bytes: int = 12 * 2**30
    memory_bytes: int = 1000 * 2**20
    seconds: float = 15.0

    @staticmethod
    def from_environment() -> Allowance:
        """Return the allowance that the environment states.

        Raises:
            MedQError: If a variable is no positive number.
        """
        plain = Allowance()
        return Allowance(
            image_bytes=int(_stated("MEDQ_MAX_IMAGE_GB", plain.image_bytes / 2**30) * 2**30),
            memory_bytes=int(_stated("MEDQ_READ_MEMORY_MB", plain.memory_bytes / 2**20) * 2**20),
            seconds=_stated("MEDQ_READ_SECONDS", plain.seconds),
        )

    def seconds_for(self, num_bytes: int) -> float:
        """Return the time that a file of this size may take."""
        return self.seconds + num_bytes / BYTES_PER_SECOND


class Worker(Protocol):
    """What a process that reads for another one does at points of the reading."""

    allowance: Allowance

    def begin(self, index: int) -> None:
        """Go on to a file of those that were asked for."""

    def grant(self, num_bytes: int) -> None:
        """Allow memory for an image whose header was found credible."""


_worker: Worker | None = None


def serve_in(worker: Worker) -> None:
    """Say that this process reads for another one, under limits of its own."""
    global _worker
    _worker = worker


def is_worker() -> bool:
    """Return whether this process reads for another one."""
    return _worker is not None


def allowance() -> Allowance:
    """Return what a file may cost here."""
    return Allowance.from_environment() if _worker is None else _worker.allowance


def begin(index: int) -> None:
    """Note that reading goes on to the file of this number, which has an allowance of its own."""
    if _worker is not None:
        _worker.begin(index)


def _stated(variable: str, default: float) -> float:
    text = os.environ.get(variable, "")
    try:
        value = float(text) if text else default
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise MedQError(f"{variable} must be a positive number, got {text[:20]!r}. Correct or unset it.")
    return value


@contextmanager
def third_party(name: str, *, kind: str, error: type[ValueError] = UnreadableImage) -> Iterator[None]:
    """Run a library call so that only our own errors leave it.

    The text of a foreign exception or warning may quote tag values, that is patient data, so only
    its type is passed on, and it is not chained.

    Args:
        name: File name for the message.
        kind: What the file was taken for, for the message ("DICOM", "NIfTI").
        error: Class of the error that is raised instead.

    Raises:
        UnreadableImage: (or ``error``) in place of any other exception.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (UnreadableImage, UnwritableImage):
        raise
    except MemoryError:
        raise error(f"{name}: {_memory_hint(kind)}") from None
    except Exception as foreign:  # noqa: BLE001 - any parser error is the file's fault, whatever its class
        if isinstance(foreign, RecursionError) or isinstance(foreign.__context__, RecursionError):
            raise error(f"{name}: {kind} is nested too deeply to be an image. Export it again.") from None
        if error is UnreadableImage:
            what, hint = "read", "The file may be damaged or incomplete; copy or export it again."
        else:
            what, hint = "written", _write_hint(foreign)
        raise error(f"{name}: cannot be {what} as {kind} ({type(foreign).__name__}). {hint}") from None


def _memory_hint(kind: str) -> str:
    if _worker is None:
        return f"not enough memory for this {kind}. Split it, or use a larger machine."
    return (
        f"reading this {kind} takes more than the {_worker.allowance.memory_bytes / 2**20:.0f} MiB that are allowed "
        "beside the image. The file is damaged or made to harm; if you trust it, raise MEDQ_READ_MEMORY_MB."
    )


def _write_hint(foreign: Exception) -> str:
    """Return what to do about a failed write; the disk is called full where the system says so, and only then."""
    if not isinstance(foreign, OSError):
        return "The header or the values do not fit the format; write .nii.gz or .tif."
    if foreign.errno in (errno.ENOSPC, errno.EDQUOT):
        return "The disk is full. Make room, or choose another folder."
    if foreign.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "The folder may not be written to. Choose another one."
    return "Check that the folder can be written to and the disk is not full."


def not_done(files: Sequence[Path], culprits: Sequence[Path]) -> str:
    """Return a sentence on the other files of an image that some of them keep from being read; nothing without any."""
    others = [file.name for file in files if file not in culprits]
    if not others:
        return ""
    shown = ", ".join(others[:MAX_NAMED]) + (f" and {len(others) - MAX_NAMED} more" if len(others) > MAX_NAMED else "")
    count = "another file of its series is" if len(others) == 1 else f"{len(others)} other files of its series are"
    return f" Because of it, {count} not done: {shown}."


def warn(note: str) -> None:
    """Issue an :class:`ImageWarning` at the first caller outside this folder."""
    level = 2
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("medq_uni.io"):
        frame = frame.f_back
        level += 1
    warnings.warn(note, ImageWarning, stacklevel=level)


def check_bytes(name: str, shape: tuple[int, ...], item_bytes: int, *, file_bytes: int | None = None) -> None:
    """Refuse an image whose header claims no voxels, or more than there can be; else allow memory for decoding it.

    Args:
        name: File name for the message.
        shape: (..., rows, columns).
        item_bytes: Bytes per voxel as it is stored.
        file_bytes: Size of the file; None where it is known to hold what it claims.

    Raises:
        UnreadableImage: If the size is zero, beyond :class:`Allowance`, :data:`MAX_SLICE_PIXELS`, :data:`MAX_SLICES`,
            the free memory, or :data:`MAX_RATIO`.
    """
    if not shape or min(shape) < 1:
        raise UnreadableImage(
            f"{name}: the header gives a size of {' x '.join(map(str, shape))}, that is no voxels. "
            "Export the image again."
        )
    num_slices, num_pixels = _product(shape[:-2]), _product(shape[-2:])
    total = num_slices * num_pixels * max(4, item_bytes)
    limit = allowance().image_bytes
    if total > limit:
        raise UnreadableImage(
            f"{name}: the header claims {total / 2**30:.1f} GiB of voxels in float32, more than the limit of "
            f"{limit / 2**30:.0f} GiB (MEDQ_MAX_IMAGE_GB). Split the image, or raise the limit."
        )
    if num_pixels > MAX_SLICE_PIXELS:
        raise UnreadableImage(
            f"{name}: {' x '.join(map(str, shape[-2:]))} pixels are more than the limit of {MAX_SLICE_PIXELS} per "
            "slice. Crop the image."
        )
    if num_slices > MAX_SLICES:
        raise UnreadableImage(f"{name}: {num_slices} slices are more than the limit of {MAX_SLICES}. Split the image.")
    if total <= UNQUESTIONED_BYTES:
        return
    if file_bytes is not None and total > MAX_RATIO * file_bytes:
        raise UnreadableImage(
            f"{name}: {file_bytes} bytes claim to hold {total / 2**20:.0f} MiB of voxels in float32, more than "
            f"{MAX_RATIO} times as much. Copy or export the file again, uncompressed if it is as it should be."
        )
    free = free_memory()
    if free is not None and total > free:
        raise UnreadableImage(
            f"{name}: needs {total / 2**30:.1f} GiB of memory, {free / 2**30:.1f} GiB are free. "
            "Split the image, or use a larger machine."
        )


def grant(num_bytes: int) -> None:
    """Allow this much memory, beside that of :class:`Allowance`, for an image that passed :func:`check_bytes`."""
    if _worker is not None:
        _worker.grant(num_bytes)


def free_memory() -> int | None:
    """Return the bytes of memory that can still be used, None where the system does not say."""
    try:
        text = MEMORY_INFO.read_text(encoding="ascii")
        line = next(line for line in text.splitlines() if line.startswith("MemAvailable:"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration, ValueError, IndexError):
        return None


def _product(sides: tuple[int, ...]) -> int:
    total = 1
    for side in sides:
        total *= int(side)
    return total


def check_finite(name: str, voxels: np.ndarray) -> None:
    """Refuse voxels that are NaN or infinite.

    Raises:
        UnreadableImage: With the counts of both.
    """
    num_nan = num_inf = 0
    for part in voxels if voxels.ndim > 2 else (voxels,):  # a mask of all is a quarter as large
        nan, inf = count_odd(part)
        num_nan, num_inf = num_nan + nan, num_inf + inf
    refuse_odd(name, num_nan, num_inf)


def count_odd(values: np.ndarray) -> tuple[int, int]:
    """Return how many values are NaN, and how many are infinite."""
    finite = np.isfinite(values)
    if finite.all():
        return 0, 0
    num_nan = int(np.isnan(values).sum())
    return num_nan, int(values.size - finite.sum()) - num_nan


def refuse_odd(name: str, num_nan: int, num_inf: int) -> None:
    """Refuse an image that has such values.

    Raises:
        UnreadableImage: With the counts.
    """
    if num_nan or num_inf:
        raise UnreadableImage(
            f"{name}: {num_nan} voxels are NaN and {num_inf} are infinite (or beyond float32). "
            "Replace them (for example by the background value) and try again."
        )
