"""Print time and memory of the main job, with non-local means on the same slice as the yardstick.

Run: python -m experiments.speed      (about 1 minute)
"""

from __future__ import annotations

import functools
import multiprocessing
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch

TARGETS = {256: (2.0, 1.5), 512: (8.0, None)}
"""Seconds and GB for a square slice of this side on two cores."""
REPEATS = 5


def main() -> None:
    """Print the table."""
    print("| what | seconds (median) | ratio to NLM | peak GB | target |")
    print("|---|---|---|---|---|")
    context = multiprocessing.get_context("spawn")
    for side, (seconds, gigabytes) in TARGETS.items():
        with context.Pool(1) as pool:  # a fresh process, so that the peak is that of this job
            ours, baseline, peak = pool.apply(_measure, (side,))
        target = f"<= {seconds:g} s" + (f", <= {gigabytes:g} GB" if gigabytes else "")
        print(f"| assess + restore {side}x{side} | {ours:.2f} | {ours / baseline:.2f} | {peak:.2f} | {target} |")
    for name, command in (
        ("import medq_uni", [sys.executable, "-c", "import medq_uni"]),
        (
            "medq --help",
            [
                sys.executable,
                "-c",
                "import sys; sys.argv=['medq','--help']; from medq_uni.cli.main import main; main()",
            ],
        ),
        ("import Restorer", [sys.executable, "-c", "from medq_uni import Restorer"]),
    ):
        seconds = _median(functools.partial(subprocess.run, command, check=True, capture_output=True))
        print(f"| {name} | {seconds:.2f} | | | {'<= 0.3 s' if name == 'medq --help' else ''} |")


def _measure(side: int) -> tuple[float, float, float]:
    from medq_uni.data.phantoms import phantom
    from medq_uni.physics.degrade import degrade
    from medq_uni.restorer import Restorer, RestoreSettings
    from medq_uni.seeding import generator_of
    from medq_uni.systems.cases import Case
    from medq_uni.systems.classical import filtered
    from medq_uni.taxonomy import Modality, Severity, Task

    torch.set_num_threads(2)
    generator = generator_of(3)
    truth = phantom(Modality.MR, generator, size=side)
    degraded = degrade(truth, [(Task.MR_NOISE, Severity.MODERATE)], generator).image
    restorer = Restorer.from_pretrained("nano")
    settings = RestoreSettings(force=True)
    ours = _median(lambda: restorer.restore(degraded, settings=settings))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    case = Case(Task.MR_NOISE, Severity.MODERATE, "", "", degraded, truth)
    return ours, _median(lambda: filtered(case, "nlm", 0.9)), peak


def _median(run: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


if __name__ == "__main__":
    main()
