"""What passes between a process and the worker that reads files for it: framed messages, with shared memory.

The worker is not believed: its answers are bounded, and unpickled with the few types that an image is made of, so
that bytes which took over a decoder gain nothing outside the worker.
"""

from __future__ import annotations

import io
import os
import pickle
import socket
import struct
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

from medq_uni.io.spool import Spool

FRAME = struct.Struct("<cBQ")
"""Kind of message, number of descriptors, bytes that follow."""
MAX_SPOOLS = 2
MAX_ANSWER_BYTES = 2**30
"""Longest answer: the headers of thousands of slices, with private elements of some 100 kB each."""
READY, REQUEST, FILE, ANSWER, REFUSAL, FAULT = b"s", b"q", b"f", b"a", b"r", b"x"

PLAIN_BUILTINS = {
    *("bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "object", "range", "set"),
    *("slice", "str", "tuple"),
}
PLAIN = {
    "collections": {"OrderedDict", "defaultdict"},
    "copyreg": {"_reconstructor", "__newobj__"},
    "datetime": {"date", "time", "datetime", "timedelta", "timezone"},
    "decimal": {"Decimal"},
    "pathlib": {"Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"},
    "pathlib._local": {"Path", "PosixPath", "WindowsPath"},
    "numpy": {"dtype", "ndarray"},
    "numpy._core.multiarray": {"_reconstruct", "scalar"},
    "numpy.core.multiarray": {"_reconstruct", "scalar"},
    "numpy._core.numeric": {"_frombuffer"},
    "numpy.core.numeric": {"_frombuffer"},
    "_codecs": {"encode"},
    "pydicom.tag": {"Tag"},
    "pydicom.valuerep": {"DS"},
    "medq_uni.io.spool": {"Spool"},
    "medq_uni.io.worker": {"Answer", "Refusal"},
}
"""What may be made on the way back, beside the classes of :data:`CLASSES_OF`."""
CLASSES_OF = {
    *("medq_uni.errors", "medq_uni.image", "medq_uni.taxonomy", "medq_uni.io.geometry", "medq_uni.io.rescale"),
    *(
        "medq_uni.io.dicom",
        "medq_uni.io.dicom_headers",
        "medq_uni.io.nifti",
        "medq_uni.io.raster",
        "medq_uni.io.series",
    ),
    *("pydicom.dataset", "pydicom.dataelem", "pydicom.sequence", "pydicom.multival", "pydicom.tag", "pydicom.uid"),
    *("pydicom.valuerep", "nibabel.nifti1", "nibabel.nifti2"),
}
"""Modules whose classes may be made."""


class Message(NamedTuple):
    """One message; the descriptors belong to whoever received it."""

    kind: bytes
    body: bytes
    files: list[int]


def send(connection: socket.socket, kind: bytes, body: bytes, files: tuple[int, ...] = ()) -> None:
    """Send a message whole."""
    frame = FRAME.pack(kind, len(files), len(body))
    if files:
        socket.send_fds(connection, [frame], list(files))
        connection.sendall(body)
    else:
        connection.sendall(frame + body)


def receive(connection: socket.socket, *, deadline: float | None = None) -> Message:
    """Return the next message.

    Args:
        connection: A Unix socket.
        deadline: When to give up, by :func:`time.monotonic`; None for never.

    Raises:
        EOFError: If the other side is gone, or does not keep to the form.
        TimeoutError: If the deadline passed.
    """
    files: list[int] = []
    try:
        _wait(connection, deadline)
        frame, files, _, _ = socket.recv_fds(connection, FRAME.size, MAX_SPOOLS)
        for file in files:
            os.set_inheritable(file, False)
        frame += bytes(_exactly(connection, FRAME.size - len(frame), deadline)) if frame else b""
        if len(frame) != FRAME.size:
            raise EOFError
        kind, num_files, num_bytes = FRAME.unpack(frame)
        if num_files != len(files) or num_bytes > MAX_ANSWER_BYTES:
            raise EOFError
        return Message(kind, bytes(_exactly(connection, num_bytes, deadline)), files)
    except BaseException as error:
        for file in files:
            os.close(file)
        if isinstance(error, OSError) and not isinstance(error, TimeoutError):
            raise EOFError from None
        raise


def _wait(connection: socket.socket, deadline: float | None) -> None:
    left = None if deadline is None else deadline - time.monotonic()
    if left is not None and left <= 0:
        raise TimeoutError
    connection.settimeout(left)


def _exactly(connection: socket.socket, count: int, deadline: float | None) -> bytearray:
    """Return this many bytes."""
    buffer = bytearray(count)
    view = memoryview(buffer)
    while view:
        _wait(connection, deadline)
        done = connection.recv_into(view)
        if done == 0:
            raise EOFError
        view = view[done:]
    return buffer


class _Unpickler(pickle.Unpickler):
    def __init__(self, body: bytes, files: list[int]) -> None:
        super().__init__(io.BytesIO(body))
        self.left: list[int | None] = list(files)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == (received.__module__, received.__name__):
            return self.received
        return plain_class(module, name, super().find_class)

    def received(self, index: int, shape: Any, dtype: Any) -> Spool:
        file, self.left[index] = self.left[index], None
        if file is None:
            raise pickle.UnpicklingError("shared memory is named twice")
        return Spool.received(file, shape, dtype)


def received(index: int, shape: Any, dtype: Any) -> Spool:
    """Stand in pickles for the spool in the shared memory of this number."""
    raise AssertionError("replaced by the one who unpickles")


def packed(value: Any) -> tuple[bytes, list[Spool]]:
    """Return the pickle of a value, and the spools in it, whose contents go another way."""
    spools: list[Spool] = []

    def reduced(spool: Spool) -> Any:
        if spool.file is None:
            return spool.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
        spools.append(spool)
        return received, (len(spools) - 1, spool.shape, spool.dtype.str)

    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, pickle.HIGHEST_PROTOCOL)
    pickler.dispatch_table = {Spool: reduced}  # a persistent_id would be asked for every element of every header
    pickler.dump(value)
    return buffer.getvalue(), spools


def unpacked(body: bytes, files: list[int]) -> Any:
    """Return the value of an answer; takes over the descriptors.

    Raises:
        pickle.UnpicklingError: If it holds a type that no image is made of.
    """
    unpickler = _Unpickler(body, files)
    try:
        if b"pydicom" not in body:
            return unpickler.load()
        from pydicom import config

        with config.disable_value_validation(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they quote values of tags
            return unpickler.load()
    finally:
        for file in unpickler.left:
            if file is not None:
                os.close(file)


def plain_class(module: str, name: str, find: Callable[[str, str], Any]) -> Any:
    """Return a type that may be made from an answer.

    Raises:
        pickle.UnpicklingError: If it is another one.
    """
    if module == "builtins" and name in PLAIN_BUILTINS:
        return find(module, name)
    if name in PLAIN.get(module, ()):
        return find(module, name)
    if module in CLASSES_OF and "." not in name:
        found = find(module, name)
        if isinstance(found, type) and found.__module__ == module:
            return found
    raise pickle.UnpicklingError(f"{module}.{name} is no part of an image")
