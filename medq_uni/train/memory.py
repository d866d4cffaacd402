"""What a stage of training needs in memory, told before it begins."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medq_uni.train.parallel import own_part

LEARNING_BYTES = 16
"""Beside a weight that learns, in float32: its gradient, two moments and its average."""


def held_bytes(model: nn.Module) -> int:
    """Return the bytes of weights and of what belongs to those that learn; of divided ones this process's part."""
    total = 0
    for parameter in model.parameters():
        part = own_part(parameter)
        total += part.numel() * (part.element_size() + (LEARNING_BYTES if parameter.requires_grad else 0))
    return total


class SavedBytes:
    """Counts what autograd keeps for the backward pass while it is entered; weights are not counted.

    Args:
        model: Its weights are kept anyway.
    """

    def __init__(self, model: nn.Module) -> None:
        self.total = 0
        self._seen = {p.untyped_storage().data_ptr() for p in (own_part(x) for x in model.parameters())}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda kept: kept)

    def __enter__(self) -> SavedBytes:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)

    def _pack(self, tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr() if type(tensor) is Tensor else 0
        if place and place not in self._seen:
            self._seen.add(place)
            self.total += tensor.untyped_storage().nbytes()
        return tensor
