"""Training on several processes: who is who, sharded blocks, and what must be summed over all.

Blocks and the text matrices are sharded with FSDP2 (Zhao et al. 2023); the rest is held whole by every process. Started
by ``torchrun``; a single process needs none of it and computes exactly the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from medq_uni.model.medq import MedQ

T = TypeVar("T")
PATIENCE = timedelta(hours=6)
"""How long a process waits for the others: the first one may draw pairs for hours."""


@dataclass(frozen=True)
class DistContext:
    """The processes that train together."""

    rank: int = 0
    """Which one this is."""
    world: int = 1
    """How many there are."""

    @property
    def rows(self) -> slice:
        """The samples of a batch that this process computes."""
        return slice(self.rank, None, self.world)

    @property
    def is_first(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.world > 1:
            dist.barrier()

    def in_turn(self, act: Callable[[], T]) -> T:
        """Return what ``act`` returns; one process acts after the other, the first one first, never two at once."""
        for turn in range(self.world):
            if turn == self.rank:
                result = act()
            self.wait()
        return result

    def as_first_says(self, value: T) -> T:
        """Return the value that the first process has."""
        if self.world == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def as_first_flags(self, flag: bool) -> bool:
        """Return the flag of the first process; quick enough for every step."""
        if self.world == 1:
            return flag
        value = torch.tensor(flag, dtype=torch.uint8)
        dist.broadcast(value, src=0)
        return bool(value)

    def any(self, flag: bool) -> bool:
        """Return whether a flag is up in any process."""
        return flag if self.world == 1 else bool(_summed(torch.tensor(float(flag))))

    def gathered(self, value: T) -> list[T]:
        """Return the values of all processes, in their order."""
        if self.world == 1:
            return [value]
        values: list[T | None] = [None] * self.world
        dist.all_gather_object(values, value)
        return values  # type: ignore[return-value]

    def mean(self, value: float) -> float:
        """Return the mean of a number over all processes."""
        if self.world == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64)
        return float(_summed(total)) / self.world


@contextmanager
def dist_context(device: torch.device) -> Iterator[DistContext]:
    """Yield the processes that ``torchrun`` has started, or the only one."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield DistContext()
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield DistContext(dist.get_rank(), world)
    finally:
        dist.destroy_process_group()


def shard(model: MedQ, dist: DistContext, device: torch.device) -> None:
    """Divide a network among the processes, on their devices; call it before the optimizer is made.

    The small rest (codec, connector, latent head) is held whole by every process. A block comes to the device whole
    and leaves its part there, so no device ever holds the whole network.
    """
    if dist.world == 1:
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (dist.world,))
    stacks: tuple[nn.Module, ...] = (model.transformer, model.vision, model.text_embedding, model.lm_head)
    for part in (*model.transformer.blocks, *model.vision.blocks, *stacks):
        # also the outermost parts give their weights back after each pass: the average is swapped in between passes
        fully_shard(part, mesh=mesh, reshard_after_forward=True)


def is_divided(tensor: Tensor) -> bool:
    """Return whether each process holds a part of a tensor."""
    return isinstance(tensor, DTensor)


def own_part(tensor: Tensor) -> Tensor:
    """Return this process's part of a tensor that may be divided."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor that may be divided, whole; every process must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def average_gradients(parameters: Iterable[nn.Parameter], dist: DistContext) -> None:
    """Average the gradients of weights that every process holds whole; those of divided ones are averaged already."""
    if dist.world == 1:
        return
    for parameter in parameters:
        if parameter.grad is not None and not isinstance(parameter, DTensor):
            parameter.grad = _summed(parameter.grad) / dist.world


def clip_gradients(parameters: list[nn.Parameter], largest: float, dist: DistContext) -> float:
    """Scale all gradients so that their common norm is at most ``largest``; return what it was."""
    if dist.world == 1:
        return float(nn.utils.clip_grad_norm_(parameters, largest))
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    divided = [gradient.to_local() for gradient in gradients if isinstance(gradient, DTensor)]
    held = [gradient for gradient in gradients if not isinstance(gradient, DTensor)]
    norm = float((_summed(_square(divided)) + _square(held)).sqrt())
    for gradient in (*divided, *held):
        gradient.mul_(min(1.0, largest / (norm + 1e-6)))
    return norm


def _square(parts: list[Tensor]) -> Tensor:
    return sum((part.double().square().sum().cpu() for part in parts), torch.zeros((), dtype=torch.float64))


def _summed(tensor: Tensor) -> Tensor:
    total = tensor.clone()
    dist.all_reduce(total)
    return total
