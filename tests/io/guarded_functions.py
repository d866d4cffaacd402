"""What workers are told to do in tests: reading that ends badly."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from pathlib import Path

import numpy as np

from medq_uni.errors import UnreadableImage
from medq_uni.io import limits
from medq_uni.io.limits import warn
from medq_uni.io.spool import Spool

MIB = 2**20


def endless(path: Path) -> None:
    while True:
        pass


def sleeping(path: Path) -> None:
    time.sleep(60)


def greedy(path: Path) -> int:
    return len(bytearray(3000 * MIB))


def granted(path: Path) -> int:
    limits.grant(2000 * MIB)
    return len(bytearray(1500 * MIB))


def crashing(path: Path) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def killed(path: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def faulty(path: Path) -> None:
    raise KeyError("ZZCANARY")


def refusing(path: Path) -> None:
    warn("noted")
    raise UnreadableImage(f"{path.name}: no.")


def doubled(path: Path, values: np.ndarray) -> Spool:
    spool = Spool(values.shape, np.float32)
    for number, one in enumerate(values):
        spool.put(number, one * 2)
    return spool


def second_is_endless(paths: list[Path]) -> None:
    limits.begin(1)
    endless(paths[1])


def loaded(path: Path) -> list[str]:
    return sorted(name for name in ("torch", "pydicom", "nibabel", "scipy") if name in sys.modules)


def own_limits(path: Path) -> tuple[int, int]:
    return resource.getrlimit(resource.RLIMIT_AS)[0], resource.getrlimit(resource.RLIMIT_CPU)[0]


def process(path: Path) -> int:
    return os.getpid()


class Evil:
    def __reduce__(self):
        return os.system, ("touch harm",)


def evil(path: Path) -> Evil:
    return Evil()


def folder(path: Path) -> str:
    return str(path.resolve().parent)
