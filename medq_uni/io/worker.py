"""The process that reads files for another one, under limits that the system enforces.

It is started by :mod:`medq_uni.io.guard`, loads what the files need and no more, and ends when its starter does.
"""

from __future__ import annotations

import gc
import math
import os
import pickle
import signal
import socket
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from medq_uni.errors import ImageWarning, MedQError, where_raised
from medq_uni.io import limits, wire
from medq_uni.io.limits import Allowance

WORN_BYTES = 256 * 2**20
"""Growth of a worker, in memory that it holds between two files, after which it is replaced."""

MANY_OBJECTS = 50_000
"""New objects after which those that hold each other are looked for; it takes longer than reading a small file."""


class Request(NamedTuple):
    """What is asked of a worker: a function of this package, its arguments, and what each file may cost."""

    function: Any
    args: tuple[Any, ...]
    options: dict[str, Any]
    allowance: Allowance
    file_bytes: tuple[int, ...]
    folder: str
    """Working directory, from which paths may be relative."""


class Refusal(NamedTuple):
    """Why there is no answer, in words for people."""

    kind: type[MedQError]
    message: str
    notes: tuple[str, ...]


class Answer(NamedTuple):
    """What the function returned, what it warned of, and whether the worker should be replaced."""

    value: Any
    notes: tuple[str, ...]
    is_worn: bool


class Limited:
    """The limits of this process, which follow the file that is read."""

    def __init__(self, connection: socket.socket) -> None:
        self.allowance = Allowance()
        self._connection = connection
        self._file_bytes: tuple[int, ...] = ()
        self._granted = self._index = 0
        self.usage = Usage()

    def start(self, request: Request) -> None:
        """Take up the limits of a request, and those of its first file."""
        self.allowance, self._file_bytes = request.allowance, request.file_bytes
        self._granted = self._index = 0
        self._limit_memory()
        self._limit_time()

    def begin(self, index: int) -> None:
        """Say which file is read from now on, and start its time."""
        if index == self._index:
            return
        self._index = index
        self._limit_time()
        wire.send(self._connection, wire.FILE, index.to_bytes(8, "little"))

    def grant(self, num_bytes: int) -> None:
        """Raise the limit of memory for an image that is known to be as large as it says."""
        if num_bytes > self._granted:
            self._granted = num_bytes
            self._limit_memory()

    def lift(self) -> None:
        """Give up the limits between two requests."""
        _set_limit("RLIMIT_AS", None)
        _set_limit("RLIMIT_CPU", None)

    def _limit_memory(self) -> None:
        _set_limit("RLIMIT_AS", self.usage.address_space + self.allowance.memory_bytes + self._granted)

    def _limit_time(self) -> None:
        own = self._file_bytes[self._index] if self._index < len(self._file_bytes) else 0
        _set_limit("RLIMIT_CPU", math.ceil(time.process_time() + self.allowance.seconds_for(own)))


def _set_limit(name: str, value: int | None) -> None:
    import resource

    which = getattr(resource, name)
    hard = resource.getrlimit(which)[1]
    if value is None or (hard != resource.RLIM_INFINITY and value > hard):
        value = hard
    resource.setrlimit(which, (value, hard))


class Usage:
    """Memory of this process, from a file that stays open."""

    def __init__(self) -> None:
        try:
            self._file: int | None = os.open("/proc/self/statm", os.O_RDONLY)
        except OSError:  # not Linux
            self._file = None
        self._page = os.sysconf("SC_PAGE_SIZE")
        self.measure()
        self.first = self.resident

    def measure(self) -> None:
        """Take address space and memory in bytes; 0 where the system does not say."""
        words = [b"0", b"0"] if self._file is None else os.pread(self._file, 100, 0).split()
        self.address_space, self.resident = int(words[0]) * self._page, int(words[1]) * self._page


def main(descriptor: int) -> None:
    """Answer requests until the other side is gone."""
    import resource

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the starter decides what becomes of a request
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        with suppress(OSError):  # where memory runs out all the same, this process is ended, not the one with the work
            Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    gc.set_threshold(MANY_OBJECTS)  # a header makes thousands of objects that live as long as the request
    with socket.socket(fileno=descriptor) as connection:
        limited = Limited(connection)
        limits.serve_in(limited)
        wire.send(connection, wire.READY, b"")
        while True:
            try:
                message = wire.receive(connection)
            except EOFError:
                return
            kind, body, spools = _answered(pickle.loads(message.body), limited)
            try:
                wire.send(connection, kind, body, tuple(one.file for one in spools if one.file is not None))
            except OSError:
                return
            for spool in spools:
                spool.close()
            del message, body, spools


def _answered(request: Request, limited: Limited) -> tuple[bytes, bytes, list[Any]]:
    notes: tuple[str, ...] = ()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", ImageWarning)
            limited.start(request)
            os.chdir(request.folder)
            try:
                value = request.function(*request.args, **request.options)
            finally:
                notes = tuple(str(one.message) for one in caught)
            limited.usage.measure()
            is_worn = limited.usage.resident - limited.usage.first > WORN_BYTES
            body, spools = wire.packed(Answer(value, notes, is_worn))
        if len(body) > wire.MAX_ANSWER_BYTES:
            raise MemoryError
        return wire.ANSWER, body, spools
    except MedQError as error:
        return wire.REFUSAL, pickle.dumps(Refusal(type(error), str(error), notes)), []
    except MemoryError:
        return wire.FAULT, b"MemoryError", []
    except Exception as error:  # noqa: BLE001 - a fault of ours, told without values of tags
        return wire.FAULT, where_raised(error).encode(), []
    finally:
        limited.lift()
