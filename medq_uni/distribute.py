"""Map a function over items in worker processes: the one door for data and batch work."""

from __future__ import annotations

import multiprocessing
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

from medq_uni.errors import MedQError, is_fault, where_raised

KNOCK_SECONDS = 5
Item = TypeVar("Item")
Result = TypeVar("Result")


class WorkerError(MedQError):
    """A worker failed; the message names the item, the cause is chained.

    Attributes:
        fault: Type and place of the cause where it is a fault of the package, so that the item is not to blame; else
            empty.
    """

    def __init__(self, message: str, fault: str = "") -> None:
        super().__init__(message)
        self.fault = fault


def map_items(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int = 1, address: str | None = None
) -> Iterator[Result]:
    """Yield ``function(item)`` for every item, in order, from ``workers`` processes or a Ray cluster.

    With one worker everything runs in this process. The results do not depend on the number of workers
    as long as ``function`` depends on its item alone.

    Args:
        function: Picklable, that is defined at the top of a module.
        items: What to map over.
        workers: Number of processes, at least 1; on Ray, of tasks at a time.
        address: Ray cluster, ``auto`` for the one on this machine or ``ray://host:port``; None uses processes.

    Raises:
        MedQError: If Ray is asked for and not installed.
        WorkerError: If an item failed, with the item in the message and the original error chained.
    """
    if workers < 1:
        raise MedQError(f"workers must be at least 1, got {workers}.")
    if address is not None:
        yield from _on_ray(function, items, workers, address)
        return
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


def _on_ray(function: Callable[[Item], Result], items: Iterable[Item], workers: int, address: str) -> Iterator[Result]:
    try:
        import ray
    except ImportError as error:
        raise MedQError('a Ray address needs Ray. Install it: pip install "medq-uni[ray]"') from error
    is_ours = not ray.is_initialized()
    try:
        if is_ours:
            _knock(address)  # Ray itself would wait for minutes
            ray.init(address=address, log_to_driver=False)
    except (OSError, ValueError, RuntimeError) as error:
        raise MedQError(f"no Ray cluster answers at {address!r}. Start one: ray start --head") from error
    task: Any = ray.remote(num_cpus=1, max_retries=2)(_call)
    kept = ray.put(function)
    waiting: deque[Any] = deque()
    try:
        for item in items:
            waiting.append(task.remote(kept, item))
            if len(waiting) >= workers:
                yield _ray_result(waiting.popleft())
        while waiting:
            yield _ray_result(waiting.popleft())
    finally:
        for reference in waiting:
            ray.cancel(reference)
        if is_ours:
            ray.shutdown()


def _knock(address: str) -> None:
    """Raise an OSError if nothing listens at ``host:port`` or ``ray://host:port``; other addresses are left to Ray."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon:
        socket.create_connection((host, int(port)), timeout=KNOCK_SECONDS).close()


def _ray_result(reference: Any) -> Any:
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        fault = cause.fault if isinstance(cause, WorkerError) else where_raised(error)
        raise WorkerError(str(cause if isinstance(cause, WorkerError) else error), fault) from error
    except ray.exceptions.RayError as error:
        raise WorkerError(f"a Ray worker was lost ({type(error).__name__}); see the cluster's logs.") from error


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _call(function: Callable[[Item], Result], item: Item) -> Result:
    try:
        return function(item)
    except Exception as error:
        fault = where_raised(error) if is_fault(error) else ""
        raise WorkerError(f"item {item!r} failed: {type(error).__name__}: {error}", fault) from error
