"""How long things take on this machine, and what it reaches: shared by the benchmarks."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch


def times_of(run: Callable[[], object], device: torch.device, repeats: int) -> list[float]:
    """Return the seconds of every run, after one to warm up; the device has finished when a time is taken."""
    times = []
    for _ in range(repeats + 1):
        _wait(device)
        began = time.perf_counter()
        run()
        _wait(device)
        times.append(time.perf_counter() - began)
    return times[1:]


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the FLOP/s of a large matrix product, the best of ten: other work on the machine can only slow it."""
    side = 8192 if device.type == "cuda" else 1536
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / min(times_of(lambda: a @ b, device, repeats=10))


def measured_alone(module: str, *arguments: str) -> dict[str, Any]:
    """Run a benchmark's ``--measure`` in a process of its own, and return the JSON object on its last line."""
    command = [sys.executable, "-m", module, "--measure", *arguments]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
