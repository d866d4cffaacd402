"""Voxels on their way from the process that decodes them to the one that uses them.

They are written to memory that both share (on Linux; elsewhere to a temporary file), so that they are never copied
through a pipe, and never lie in memory twice.
"""

from __future__ import annotations

import mmap
import os
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from medq_uni.errors import UnreadableImage
from medq_uni.io.limits import is_worker

INLINE_BYTES = 2**18
"""Size up to which an array goes with the answer: shared memory costs more for so little."""


class Spool:
    """An array that is filled slice by slice.

    In a process that reads for another one, slices go straight to shared memory, and pickling sends a place there.
    Elsewhere, and where it is small, it is a plain array.
    """

    def __init__(self, shape: Sequence[int], dtype: np.dtype | type) -> None:
        """Make room, of memory that is not used until it is written to.

        Args:
            shape: (slices, ...).
            dtype: Type of the values.
        """
        self.shape, self.dtype = tuple(int(n) for n in shape), np.dtype(dtype)
        self._slice_bytes = self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))
        self.num_bytes = self.shape[0] * self._slice_bytes
        self.file: int | None = None
        self._array: np.ndarray | None = None
        if is_worker() and self.num_bytes > INLINE_BYTES:
            self.file = shared_file(self.num_bytes)
        else:
            self._array = np.empty(self.shape, self.dtype)

    def __len__(self) -> int:
        """Return the number of slices."""
        return self.shape[0]

    def put(self, index: int, values: np.ndarray) -> None:
        """Store one slice, or several that follow each other, from this number on."""
        values = np.ascontiguousarray(values, dtype=self.dtype)
        if self._array is not None:
            self._array[index : index + values.size * values.itemsize // max(self._slice_bytes, 1)] = values.reshape(
                -1, *self.shape[1:]
            )
            return
        assert self.file is not None
        left, at = memoryview(values.reshape(-1).view(np.uint8).data), index * self._slice_bytes
        while left:
            done = os.pwrite(self.file, left, at)
            left, at = left[done:], at + done

    def array(self) -> np.ndarray:
        """Return the values, an array of its own that may be changed."""
        assert self._array is not None, "the values lie in another process"
        return self._array

    def close(self) -> None:
        """Let go of the shared memory; the process that mapped it keeps it."""
        if self.file is not None:
            os.close(self.file)
            self.file = None

    @classmethod
    def received(cls, file: int, shape: Any, dtype: Any) -> Spool:
        """Return the spool whose shared memory another process sent; takes over the file.

        Raises:
            UnreadableImage: If the memory is not as large as it should be.
        """
        spool = cls.__new__(cls)
        spool.shape, spool.dtype, spool.file = tuple(int(n) for n in shape), np.dtype(str(dtype)), None
        count = int(np.prod(spool.shape, dtype=np.int64))
        spool.num_bytes = count * spool.dtype.itemsize
        try:
            _seal(file)
            if min(spool.shape) < 1 or os.fstat(file).st_size != spool.num_bytes:
                raise UnreadableImage("the decoded image does not have the size that was told.")
            # a copy is made of what is changed, so that the other process never sees, nor makes, a change
            mapped = mmap.mmap(file, spool.num_bytes, access=mmap.ACCESS_COPY)
        finally:
            os.close(file)
        spool._array = np.frombuffer(mapped, spool.dtype).reshape(spool.shape)
        return spool


def shared_file(num_bytes: int) -> int:
    """Return the descriptor of a nameless file of this size, in memory where the system can."""
    if sys.platform == "linux":
        file = os.memfd_create("medq", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    else:
        with tempfile.TemporaryFile() as temporary:
            file = os.dup(temporary.fileno())
    try:
        os.truncate(file, num_bytes)
    except OSError:
        os.close(file)
        raise
    return file


def _seal(file: int) -> None:
    """Fix the size of shared memory, since a mapping that is cut short kills its reader."""
    if sys.platform == "linux":
        import fcntl

        fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
