"""What a file may cost, and the errors for files that cannot be read or written.

Sizes are checked on the header, before anything is decoded, because a file of some hundred bytes
can claim gigabytes of pixels. Messages name the file and tags, never values of tags.
"""

from __future__ import annotations

import errno
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from medq_uni.errors import ImageWarning, UnreadableImage, UnwritableImage

MAX_IMAGE_BYTES = 2 * 2**30
"""Largest decoded image (slices x rows x columns x bytes per voxel) that is read: 2 GiB."""
MAX_INFLATED_BYTES = 256 * 2**20
"""Largest data set in the Deflated transfer syntax once inflated: 256 MiB."""
MAX_RASTER_PIXELS = 2**26
"""Largest PNG, in pixels: 8192 x 8192."""
MAX_SEQUENCE_DEPTH = 32
"""Deepest nesting of DICOM sequences that is read."""


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
        raise error(f"{name}: not enough memory for this {kind}. Split it, or use a larger machine.") from None
    except Exception as foreign:  # noqa: BLE001 - any parser error is the file's fault, whatever its class
        if isinstance(foreign, RecursionError) or isinstance(foreign.__context__, RecursionError):
            raise error(f"{name}: {kind} is nested too deeply to be an image. Export it again.") from None
        if error is UnreadableImage:
            what, hint = "read", "The file may be damaged or incomplete; copy or export it again."
        else:
            what, hint = "written", _write_hint(foreign)
        raise error(f"{name}: cannot be {what} as {kind} ({type(foreign).__name__}). {hint}") from None


def _write_hint(foreign: Exception) -> str:
    """Return what to do about a failed write; the disk is called full where the system says so, and only then."""
    if not isinstance(foreign, OSError):
        return "The header or the values do not fit the format; write .nii.gz or .tif."
    if foreign.errno in (errno.ENOSPC, errno.EDQUOT):
        return "The disk is full. Make room, or choose another folder."
    if foreign.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "The folder may not be written to. Choose another one."
    return "Check that the folder can be written to and the disk is not full."


def warn(note: str) -> None:
    """Issue an :class:`ImageWarning` at the first caller outside this folder."""
    level = 2
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("medq_uni.io"):
        frame = frame.f_back
        level += 1
    warnings.warn(note, ImageWarning, stacklevel=level)


def check_bytes(name: str, shape: tuple[int, ...], item_bytes: int) -> None:
    """Refuse an image whose header claims no voxels, or more than :data:`MAX_IMAGE_BYTES`.

    Raises:
        UnreadableImage: In both cases.
    """
    if not shape or min(shape) < 1:
        raise UnreadableImage(
            f"{name}: the header gives a size of {' x '.join(map(str, shape))}, that is no voxels. "
            "Export the image again."
        )
    total = item_bytes
    for side in shape:
        total *= int(side)
    if total > MAX_IMAGE_BYTES:
        raise UnreadableImage(
            f"{name}: the header claims {total / 2**30:.1f} GiB of voxels, more than the limit of "
            f"{MAX_IMAGE_BYTES / 2**30:.0f} GiB (medq_uni.io.limits.MAX_IMAGE_BYTES). Split the image."
        )


def check_finite(name: str, voxels: np.ndarray) -> None:
    """Refuse voxels that are NaN or infinite.

    Raises:
        UnreadableImage: With the counts of both.
    """
    finite = np.isfinite(voxels)
    if not finite.all():
        num_nan = int(np.isnan(voxels).sum())
        num_inf = int(voxels.size - finite.sum()) - num_nan
        raise UnreadableImage(
            f"{name}: {num_nan} voxels are NaN and {num_inf} are infinite (or beyond float32). "
            "Replace them (for example by the background value) and try again."
        )
