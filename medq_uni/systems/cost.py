"""What a system costs: parameters, floating-point operations, seconds of one slice."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from medq_uni.data.pairs import PairsConfig
from medq_uni.systems.cases import Case, drawn_cases
from medq_uni.systems.system import System
from medq_uni.taxonomy import Severity, Task

SIDE = 256
REPEATS = 3


@dataclass(frozen=True)
class Cost:
    """Cost of one degraded MR slice of 256 x 256 pixels, in one process with the threads that torch has there."""

    parameters: int
    gflops: float
    """Multiplications and additions of matrix products, convolutions and attention, in 1e9; those of a filter are not
    counted."""
    seconds: float
    """Median of three, after one to warm up."""


def probe() -> Case:
    """Return the slice on which costs are measured: a phantom with moderate MR noise."""
    config = PairsConfig(count=5, seed=0, phantom_sizes=(SIDE,), grades=(Severity.MODERATE,))
    return next(case for case in drawn_cases(config) if case.task is Task.MR_NOISE)


def cost_of(system: System, case: Case) -> Cost:
    """Return what a system costs on a slice.

    Args:
        system: Which is timed in this process.
        case: See :func:`probe`.
    """
    work = gflops(lambda: system.restore(case))
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        system.restore(case)
        seconds.append(time.perf_counter() - began)
    return Cost(system.parameters, work, float(np.median(seconds)))


def gflops(compute: Callable[[], object]) -> float:
    """Return the floating-point operations of a computation in units of 1e9.

    Matrix products, convolutions and attention are counted, a multiplication and an addition as two operations;
    what works element by element (norms, activations, scans) is not.

    Args:
        compute: Is called once.
    """
    # fused attention is not counted on every device; the same written out is
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        compute()
    return float(counter.get_total_flops()) / 1e9
