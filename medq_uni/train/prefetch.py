"""Drawing batches ahead of the computation."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from medq_uni.seeding import randint
from medq_uni.train.sampling import AnyBuilder, TrainBatch

AHEAD = 2
"""Batches that a process has drawn ahead."""


def next_seed(generator: torch.Generator) -> int:
    """Return what the next batch is drawn from; the generator moves on by one step."""
    return randint(2**62, generator)


class Prefetcher:
    """Draws batches ahead of the computation: one on a thread, or some in processes of their own.

    Every batch is drawn from a seed, and the seeds follow one another from :attr:`state`: a checkpoint with it goes on
    with the next batch, as if nothing had been drawn ahead, whatever the number of processes.

    Args:
        builder: Draws the batches.
        state: State of the random numbers before the first.
        workers: Processes that draw, :data:`AHEAD` batches ahead each; 1 draws on a thread.
        pinned: Whether a GPU is to copy the batches while it computes; for processes alone.
    """

    def __init__(self, builder: AnyBuilder, state: Tensor, *, workers: int = 1, pinned: bool = False) -> None:
        self.state = state
        self.seconds = 0.0
        """Time for which the computation waited."""
        self.samples = 0
        """Samples that were taken."""
        self._taken = torch.Generator()
        self._taken.set_state(state)
        drawn = _on_thread(builder, state) if workers == 1 else _in_processes(builder, state, workers, pinned)
        self._batches: Generator[TrainBatch] = drawn

    def take(self) -> TrainBatch:
        """Return the next batch."""
        began = time.monotonic()
        batch = next(self._batches)
        self.seconds += time.monotonic() - began
        next_seed(self._taken)
        self.state = self._taken.get_state()
        self.samples += len(batch.crops.index)
        return batch

    def close(self) -> None:
        """Stop drawing; the thread or the processes end."""
        self._batches.close()


class _Seeds(Sampler[int]):
    """The seeds of all batches from a state on."""

    def __init__(self, state: Tensor) -> None:
        self.state = state

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator()
        generator.set_state(self.state)
        while True:
            yield next_seed(generator)


class _Batches(Dataset[TrainBatch]):
    """All batches of a stage, by seed."""

    def __init__(self, builder: AnyBuilder) -> None:
        self.builder = builder

    def __getitem__(self, seed: int) -> TrainBatch:
        return self.builder.build(seed)


def _on_thread(builder: AnyBuilder, state: Tensor) -> Generator[TrainBatch]:
    seeds = iter(_Seeds(state))
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as thread:
        ahead = thread.submit(builder.build, next(seeds))
        while True:
            batch = ahead.result()
            ahead = thread.submit(builder.build, next(seeds))
            yield batch


def _in_processes(builder: AnyBuilder, state: Tensor, workers: int, pinned: bool) -> Generator[TrainBatch]:
    batches, seeds = _Batches(builder), _Seeds(state)
    yield from DataLoader(
        batches, sampler=seeds, batch_size=None, num_workers=workers, prefetch_factor=AHEAD, pin_memory=pinned
    )
