"""Reading untrusted bytes in another process, so that no file costs more memory or time than is allowed.

A few workers are started when they are needed, and kept: a folder of small files pays for the start once. What a file
may cost is in :class:`medq_uni.io.limits.Allowance`; what is promised, in SECURITY.md.
"""

from __future__ import annotations

import atexit
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import ParamSpec, TypeVar

from medq_uni.errors import UnreadableImage
from medq_uni.io import wire
from medq_uni.io.limits import allowance, is_worker, warn
from medq_uni.io.worker import Answer, Refusal, Request

P = ParamSpec("P")
T = TypeVar("T")
SWITCH = "MEDQ_GUARD"
"""Environment variable; ``off`` reads in the process itself, with limits on what headers say alone."""
MAX_IDLE = 4
"""Workers that are kept when nobody needs them."""
START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from medq_uni.io.worker import main; main(int(sys.argv[2]))"
)
ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "MALLOC_ARENA_MAX"), "1"),
    **{"MALLOC_MMAP_THRESHOLD_": str(32 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(128 * 2**20)},
}
"""One thread; and memory is kept from slice to slice, since the system takes longer to give it than to decode one."""
STARTING_S = 60.0
"""Longest time for a worker to load its libraries, on a slow disk."""


def guarded(files: Sequence[Path], function: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
    """Return what a function of this package makes of files, computed in a worker.

    Args:
        files: The files that it reads, in the order in which it says :func:`medq_uni.io.limits.begin`. Their names are
            for messages; each has an allowance by its size.
        function: A function on the top level of a module. Its result is made of plain values, types of this package,
            of pydicom and of nibabel; voxels in a :class:`medq_uni.io.spool.Spool`.
        args: For the function.
        options: For the function.

    Raises:
        MedQError: What the function raises; :class:`UnreadableImage` where it costs more than is allowed.

    Warns:
        ImageWarning: What the function warned of.
    """
    if is_worker() or not is_guarded():
        return function(*args, **options)
    sizes = tuple(_bytes_of(file) for file in files)
    request = Request(function, args, options, allowance(), sizes, str(Path.cwd()))
    worker = _pool.take()
    try:
        answer = worker.ask(request, [file.name for file in files])
    except BaseException:
        worker.stop()
        raise
    if worker.is_worn:
        worker.stop()
    else:
        _pool.give_back(worker)
    for note in answer.notes:
        warn(note)
    if isinstance(answer, Refusal):
        raise answer.kind(answer.message)
    value: T = answer.value
    return value


def is_guarded() -> bool:
    """Return whether files are read by workers: the system can, and :data:`SWITCH` does not say otherwise."""
    return os.name == "posix" and bool(sys.executable) and os.environ.get(SWITCH, "").lower() not in ("off", "0", "no")


class _Worker:
    """One process that answers requests, one at a time."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", START, json.dumps(_search_path()), str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # libraries quote values of tags
                env={**os.environ, **ENVIRONMENT},
            )
        self._connection = ours
        self._is_new, self.is_worn = True, False

    def ask(self, request: Request, names: Sequence[str]) -> Answer | Refusal:
        """Return the answer to a request, a refusal where the worker ends before it gives one."""
        at, allowed = 0, STARTING_S
        try:
            if self._is_new:
                self._is_new = False
                wire.receive(self._connection, deadline=time.monotonic() + allowed)
            wire.send(self._connection, wire.REQUEST, pickle.dumps(request, pickle.HIGHEST_PROTOCOL))
            while True:
                own = request.file_bytes[at] if at < len(request.file_bytes) else 0
                allowed = request.allowance.seconds_for(own)
                message = wire.receive(self._connection, deadline=time.monotonic() + allowed)
                if message.kind != wire.FILE:
                    return self._answer(message, _name(names, at), request)
                at = int.from_bytes(message.body[:8], "little")
        except TimeoutError:
            self.is_worn = True
            return _refused(_name(names, at), _too_long(allowed))
        except (EOFError, OSError):
            self.is_worn = True
            return _refused(_name(names, at), self._end(allowed))

    def _answer(self, message: wire.Message, name: str, request: Request) -> Answer | Refusal:
        if message.kind == wire.FAULT:
            self.is_worn = True
            if message.body == b"MemoryError":
                return _refused(name, _too_much(request))
            raise RuntimeError(f"reading failed: {message.body.decode('utf-8', 'replace')[:200]}")
        try:
            answer: Answer | Refusal = wire.unpacked(message.body, message.files)
        except UnreadableImage as error:
            self.is_worn = True
            return _refused(name, str(error))
        except MemoryError:
            return _refused(name, "not enough memory. Split the image, or use a larger machine.")
        self.is_worn = isinstance(answer, Answer) and answer.is_worn
        return answer

    def _end(self, allowed: float) -> str:
        """Return why the process ended."""
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            code = 0
        if code == -signal.SIGXCPU:
            return _too_long(allowed)
        if code == -signal.SIGKILL:
            return "reading it was ended by the system, which had no memory left. Use a larger machine."
        if code < 0:
            with suppress(ValueError):
                name = signal.Signals(-code).name
                return f"the decoder crashed on it ({name}). The file is damaged or made to harm; export it again."
        return "the process that reads it ended without an answer. Try again, or export the file again."

    def is_alive(self) -> bool:
        """Return whether the process still runs; the system may have ended it while it waited."""
        return self._process.poll() is None

    def stop(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.kill()
        self._process.wait()

    def forget(self) -> None:
        """Let go of a process that belongs to the one that this was forked from."""
        self._connection.close()
        self._process.returncode = 0


class _Pool:
    """Workers that wait for work. As many work at a time as there are threads that read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []

    def take(self) -> _Worker:
        while True:
            with self._lock:
                worker = self._idle.pop() if self._idle else None
            if worker is None:
                return _Worker()
            if worker.is_alive():
                return worker
            worker.stop()

    def give_back(self, worker: _Worker) -> None:
        with self._lock:
            if len(self._idle) < MAX_IDLE:
                self._idle.append(worker)
                return
        worker.stop()

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.stop()

    def after_fork(self) -> None:
        """Begin anew in a forked process: the workers are those of its parent."""
        self._lock = threading.Lock()
        idle, self._idle = self._idle, []
        for worker in idle:
            worker.forget()


_pool = _Pool()
atexit.register(_pool.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.after_fork)


def _search_path() -> list[str]:
    return [place or str(Path.cwd()) for place in sys.path]


def _bytes_of(file: Path) -> int:
    """Return the bytes that a file has on the disk: holes in it count for nothing."""
    try:
        found = file.stat()
    except (OSError, ValueError):
        return 0
    return min(found.st_size, found.st_blocks * 512) if found.st_blocks else 0


def _name(names: Sequence[str], at: int) -> str:
    return names[at] if at < len(names) else "image"


def _refused(name: str, why: str) -> Refusal:
    return Refusal(UnreadableImage, f"{name}: {why}", ())


def _too_long(seconds: float) -> str:
    return (
        f"reading it took longer than the {seconds:.0f} s that a file of its size may take, and was stopped. The file "
        "is damaged or made to harm; if you trust it, or the disk is slow, raise MEDQ_READ_SECONDS."
    )


def _too_much(request: Request) -> str:
    return (
        f"reading it takes more than the {request.allowance.memory_bytes / 2**20:.0f} MiB that are allowed beside the "
        "image. The file is damaged or made to harm; if you trust it, raise MEDQ_READ_MEMORY_MB."
    )
