"""Training on several processes: who is who, sharded blocks, and what must be summed over all.

Blocks are sharded with FSDP2 (Zhao et al. 2023); the few weights outside them are held whole by every process. Started
by ``torchrun``; a single process needs none of it and computes exactly the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from medq_uni.model.medq import MedQ


@dataclass(frozen=True)
class Ranks:
    """The processes that train together."""

    rank: int = 0
    """Which one this is."""
    world: int = 1
    """How many there are."""

    @property
    def is_first(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.world > 1:
            dist.barrier()

    def mean(self, value: float) -> float:
        """Return the mean of a number over all processes."""
        if self.world == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64)
        return float(_summed(total)) / self.world


@contextmanager
def ranks(device: torch.device) -> Iterator[Ranks]:
    """Yield the processes that ``torchrun`` has started, or the only one."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Ranks()
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(dist.get_rank(), world)
    finally:
        dist.destroy_process_group()


def shard(model: MedQ, together: Ranks) -> None:
    """Divide the blocks of a network among the processes; call it before the optimizer is made."""
    if together.world == 1:
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(model.device.type, (together.world,))
    for block in (*model.transformer.blocks, *model.vision.blocks):
        fully_shard(block, mesh=mesh)


def is_divided(tensor: Tensor) -> bool:
    """Return whether each process holds a part of a tensor."""
    return isinstance(tensor, DTensor)


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor that may be divided, whole; every process must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def divided_like(tensor: Tensor, like: Tensor) -> Tensor:
    """Return this process's part of a whole tensor, divided as another one."""
    tensor = tensor.to(like.device)
    return distribute_tensor(tensor, like.device_mesh, like.placements) if isinstance(like, DTensor) else tensor


def average_gradients(parameters: Iterable[nn.Parameter], together: Ranks) -> None:
    """Average the gradients of weights that every process holds whole; those of divided ones are averaged already."""
    if together.world == 1:
        return
    for parameter in parameters:
        if parameter.grad is not None and not isinstance(parameter, DTensor):
            parameter.grad = _summed(parameter.grad) / together.world


def clip_gradients(parameters: list[nn.Parameter], largest: float, together: Ranks) -> None:
    """Scale all gradients so that their common norm is at most ``largest``."""
    if together.world == 1:
        nn.utils.clip_grad_norm_(parameters, largest)
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    divided = [gradient.to_local() for gradient in gradients if isinstance(gradient, DTensor)]
    held = [gradient for gradient in gradients if not isinstance(gradient, DTensor)]
    norm = float((_summed(_square(divided)) + _square(held)).sqrt())
    for gradient in (*divided, *held):
        gradient.mul_(min(1.0, largest / (norm + 1e-6)))


def _square(parts: list[Tensor]) -> Tensor:
    return sum((part.double().square().sum().cpu() for part in parts), torch.zeros((), dtype=torch.float64))


def _summed(tensor: Tensor) -> Tensor:
    total = tensor.clone()
    dist.all_reduce(total)
    return total
