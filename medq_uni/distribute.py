"""Map a function over items in worker processes: the one door for data and batch work."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class WorkerError(RuntimeError):
    """A worker failed; the message names the item, the cause is chained."""


def map_items(function: Callable[[Item], Result], items: Iterable[Item], *, workers: int = 1) -> Iterator[Result]:
    """Yield ``function(item)`` for every item, in order, from ``workers`` processes.

    With one worker everything runs in this process. The results do not depend on the number of workers
    as long as ``function`` depends on its item alone.

    Args:
        function: Picklable, that is defined at the top of a module.
        items: What to map over.
        workers: Number of processes, at least 1.

    Raises:
        WorkerError: If an item failed, with the item in the message and the original error chained.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}.")
    if workers == 1:
        for item in items:
            yield _call(function, item)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_one_thread) as pool:
        futures = [pool.submit(_call, function, item) for item in items]
        try:
            for future in futures:
                yield future.result()
        finally:
            for future in futures:
                future.cancel()


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _call(function: Callable[[Item], Result], item: Item) -> Result:
    try:
        return function(item)
    except Exception as error:
        raise WorkerError(f"item {item!r} failed: {type(error).__name__}: {error}") from error
