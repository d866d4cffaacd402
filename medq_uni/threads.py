"""How many threads the numerical libraries may use, told to them before they are loaded."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_GROUP = Path("/proc/self/cgroup")


def set_thread_defaults() -> None:
    """Set what OpenMP reads when it is loaded, as far as nobody has set it.

    Threads wait passively: those that spin are a little faster on an idle machine, and many times slower beside other
    processes. A container that may use fewer cores than it sees gets no more threads than that.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    cores = usable_cores()
    if cores < _bound():  # OpenMP itself knows the cores, not the quota
        os.environ.setdefault("OMP_NUM_THREADS", str(cores))


def usable_cores() -> int:
    """Return how many cores this process may use at a time: those it is bound to, or its share of them, at least 1."""
    return max(1, min([_bound(), *(math.ceil(quota) for quota in _quotas())]))


def _bound() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quotas() -> list[float]:
    """Return the cores that each control group above this process grants, of version 2; nothing where there is none."""
    try:
        lines = OWN_GROUP.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    folders = [CGROUPS / own, *(CGROUPS / own).parents]
    granted = [_granted(folder / "cpu.max") for folder in folders if folder == CGROUPS or CGROUPS in folder.parents]
    return [cores for cores in granted if cores is not None]


def _granted(path: Path) -> float | None:
    try:
        quota, period = path.read_text(encoding="utf-8").split()
        return int(quota) / int(period)
    except (OSError, ValueError):  # no such file, or "max"
        return None
