"""Print how fast training pairs are made: seconds per pair of every task, throughput against workers, memory.

Run: python -m experiments.pairs [--size N] [--pairs N] [--memory N]      (2 CPU cores, about 6 minutes)
"""

from __future__ import annotations

import argparse
import functools
import gc
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from medq_uni.data.dataset import DatasetRecipe, build_dataset
from medq_uni.data.pairs import PairsConfig, draw_pair
from medq_uni.data.phantoms import draw_phantom
from medq_uni.physics.degrade import apply_records, degrade, draw_record
from medq_uni.physics.tasks import SPECS
from medq_uni.seeding import generator_of
from medq_uni.taxonomy import Severity, Task

REPEATS = 6
SCANNED = 12
MIB = 2**20


def main() -> None:
    """Print markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="side of the slices in pixels")
    parser.add_argument("--pairs", type=int, default=600, help="pairs of the dataset that is built")
    parser.add_argument("--memory", type=int, default=10_000, help="pairs drawn while memory is watched")
    options = parser.parse_args()
    _print_tasks(options.size)
    _print_scanners(options.size)
    _print_workers(options.size, options.pairs)
    _print_memory(options.memory)


def _print_tasks(size: int) -> None:
    print(f"Degrading one {size}x{size} slice, {torch.get_num_threads()} threads, median of {REPEATS}:\n")
    print("| task | method | one attempt (s) | to the wanted grade (s) |\n|---|---|---|---|")
    for number, task in enumerate(Task):
        image = draw_phantom(task.modality, generator_of(1, number), size=size).image
        for method in SPECS[task].methods:
            wanted = [(task, Severity.MODERATE)]
            once, whole = [], []
            for repeat in range(REPEATS):
                record = draw_record(task, Severity.MODERATE, generator_of(2, repeat), method=method)
                once.append(_seconds(functools.partial(apply_records, image, record)))
                make = functools.partial(degrade, image, wanted, generator_of(3, repeat), method=method)
                whole.append(_seconds(make))
            print(f"| {task.value} | {method} | {_median(once):.3f} | {_median(whole):.3f} |")


def _print_scanners(size: int) -> None:
    """Print the processor time of whole pairs by the scanner, of all grades, phantom and grading included."""
    print(f"\nA {size}x{size} phantom pair by the scanner, seconds of one core, {SCANNED} pairs of every task:\n")
    print("| task | mean | largest | pairs per second |\n|---|---|---|---|")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    tasks = list(Task)
    config = PairsConfig(
        count=SCANNED * len(tasks), seed=4, phantom_sizes=(size,), grades=tuple(Severity)[1:], scanner_fraction=1.0
    )
    for number, task in enumerate(tasks):
        seconds = []
        for index in range(number, config.count, len(tasks)):
            began = time.process_time()
            draw_pair(config, index)
            seconds.append(time.process_time() - began)
        mean = sum(seconds) / len(seconds)
        print(f"| {task.value} | {mean:.3f} | {max(seconds):.3f} | {1 / mean:.1f} |", flush=True)
    torch.set_num_threads(threads)


def _print_workers(size: int, count: int) -> None:
    print(f"\nBuilding {count} phantom pairs of {size}x{size} into shards of 50:\n")
    print("| workers | pairs per second | ratio |\n|---|---|---|")
    rates = []
    for workers in (1, 2):
        pairs = PairsConfig(count=count, seed=1, phantom_sizes=(size,))
        recipe = DatasetRecipe(name="speed", splits={"test": pairs}, pairs_per_shard=50)
        torch.set_num_threads(1)  # as in every worker
        with tempfile.TemporaryDirectory() as folder:
            seconds = _seconds(functools.partial(build_dataset, recipe, Path(folder) / "set", workers=workers))
        rates.append(count / seconds)
        print(f"| {workers} | {rates[-1]:.2f} | {rates[-1] / rates[0]:.2f} |")


def _print_memory(count: int) -> None:
    config = PairsConfig(count=count, seed=1, phantom_sizes=(48,), mixed_fraction=0.2)
    warm = max(count // 20, 1)
    for index in range(warm):
        draw_pair(config, index)
    before = _resident()
    for index in range(warm, count):
        draw_pair(config, index)
    gc.collect()
    grown = _resident() - before
    print(f"\nResident memory after {warm} pairs {before / MIB:.0f} MiB, after {count} pairs {grown / MIB:+.1f} MiB.")
    print(f"Peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MIB:.0f} MiB.")


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _seconds(make: Callable[[], object]) -> float:
    began = time.perf_counter()
    make()
    return time.perf_counter() - began


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


if __name__ == "__main__":
    main()
