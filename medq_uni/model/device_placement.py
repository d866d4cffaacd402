"""Where the weights of a network are, in which numbers, and how they get to the device that computes.

Only the linear layers of the transformer's blocks, 89 % of the released models, are stored in 8 or 4 bits; their
products are still taken in the type of the other weights. The codec always stays in float32: it is the ceiling of
every result.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from medq_uni.config import Execution
from medq_uni.errors import MedQError
from medq_uni.model.medq import MedQ

BLOCK = "transformer.blocks."
"""Prefix of the layers that are quantized and offloaded."""
NF4_BLOCK, NF4_SCALER_BLOCK = 64, 256
"""Weights that share a scale, and scales that share one (Dettmers et al. 2023, QLoRA)."""


def stored_dtype(name: str, execution: Execution) -> torch.dtype:
    """Return the type in which a weight is kept before any quantization."""
    if execution.precision in (None, "float32") or name.startswith("codec."):
        return torch.float32
    return torch.bfloat16


def is_quantized(name: str, shape: tuple[int, ...], execution: Execution) -> bool:
    """Return whether a weight is kept in 8 or 4 bits."""
    if execution.precision not in ("int8", "nf4") or not name.startswith(BLOCK) or len(shape) != 2:
        return False
    return execution.precision == "int8" or shape[0] * shape[1] % (NF4_BLOCK * NF4_SCALER_BLOCK) == 0


def weight_bytes(name: str, shape: tuple[int, ...], execution: Execution) -> int:
    """Return how many bytes a weight takes once it is in place."""
    count = 1
    for side in shape:
        count *= side
    if not is_quantized(name, shape, execution):
        return count * stored_dtype(name, execution).itemsize
    if execution.precision == "int8":
        return count + shape[0] * 2
    return count // 2 + count // NF4_BLOCK + 4 * count // (NF4_BLOCK * NF4_SCALER_BLOCK)


def placed(name: str, weight: Tensor, device: torch.device, execution: Execution) -> Tensor:
    """Return a weight where it waits, and in the form in which it is kept."""
    home = torch.device("cpu") if execution.offload and name.startswith(BLOCK) else device
    return _quantized(name, weight.to(home, stored_dtype(name, execution)), execution)


def put(model: nn.Module, name: str, weight: Tensor, execution: Execution) -> None:
    """Make a placed weight the one of ``model`` that has this name."""
    place, _, leaf = name.rpartition(".")
    module = model.get_submodule(place)
    if leaf in module._buffers:
        module._buffers[leaf] = weight
    else:
        trains = not is_quantized(name, tuple(weight.shape), execution)
        setattr(module, leaf, nn.Parameter(weight, requires_grad=trains))


def _quantized(name: str, weight: Tensor, execution: Execution) -> Tensor:
    if not is_quantized(name, tuple(weight.shape), execution):
        return weight
    library = _torchao()
    if execution.precision == "nf4":
        output: Tensor = library.NF4Tensor.from_tensor(weight, NF4_BLOCK, NF4_SCALER_BLOCK)
        return output
    layer = nn.Linear(1, 1, bias=False, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    library.quantize_(layer, library.Int8WeightOnlyConfig())
    return layer.weight.data


def place(model: MedQ, device: torch.device, execution: Execution) -> MedQ:
    """Return a network that is in host memory in float32, ready to run on ``device``.

    Args:
        model: Network; changed in place.
        device: Where computation happens.
        execution: Numbers and placement.

    Raises:
        MedQError: If a library that is needed for them is not installed.
    """
    for name, weight in list(model.named_parameters()):
        put(model, name, placed(name, weight.detach(), device, execution), execution)
    for name, buffer in list(model.named_buffers()):
        put(model, name, buffer.to(device), execution)
    model.reset_tables(device)
    arrange(model, device, execution)
    return model


def arrange(model: MedQ, device: torch.device, execution: Execution) -> None:
    """Make a loaded network ready to run on ``device``: offload its blocks and compile them as wanted.

    Args:
        model: Weights of the blocks are in host memory where they are offloaded, all others on ``device``.
        device: Where computation happens.
        execution: What is wanted.
    """
    if execution.offload:
        for block in model.transformer.blocks:
            _Visitor(block, device)
    if execution.compile:
        for block in model.transformer.blocks:
            block.compile(dynamic=True)


class _Visitor:
    """Brings the weights of a block to the device for the time of its forward pass."""

    def __init__(self, block: nn.Module, device: torch.device) -> None:
        self.device = device
        self.home = [
            (module, name, nn.Parameter(_pinned(parameter.data, device), requires_grad=False))
            for module in block.modules()
            for name, parameter in module.named_parameters(recurse=False)
        ]
        self._go()
        block.register_forward_pre_hook(self._come)
        block.register_forward_hook(self._go)

    def _come(self, *_: Any) -> None:
        for module, name, parameter in self.home:
            moved = parameter.data.to(self.device, non_blocking=True)
            setattr(module, name, nn.Parameter(moved, requires_grad=False))

    def _go(self, *_: Any) -> None:
        for module, name, parameter in self.home:
            setattr(module, name, parameter)


def _pinned(weight: Tensor, device: torch.device) -> Tensor:
    return weight.pin_memory() if device.type == "cuda" else weight


@contextmanager
def without_complaints() -> Iterator[None]:
    """Silence warnings that libraries log while they are imported, about kernels that nobody here needs."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _torchao() -> Any:
    try:
        with without_complaints():
            import torchao.quantization
    except ImportError as error:
        raise MedQError('int8 and nf4 weights need torchao. Install it: pip install "medq-uni[quantize]"') from error
    return torchao.quantization
