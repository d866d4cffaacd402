"""What a stage of training needs in memory, told before it begins, and what needs less."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from medq_uni.pretrained.memory import GIB
from medq_uni.train.parallel import own_part
from medq_uni.train.sampling import AnyBuilder, TrainBatch
from medq_uni.train.stage import StageConfig

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


def with_pairs(builder: AnyBuilder, count: int) -> AnyBuilder:
    """Return a builder of batches of so many pairs, with the largest objective of a stage and its largest crops."""
    crops = replace(builder.stage.crops, batch_size=count, token_budget=0, sides=(builder.shapes[-1].side,))
    flow = replace(builder.stage.flow, noise_share=0.0)
    return replace(builder, stage=replace(builder.stage, crops=crops, flow=flow, assess_share=0.0))


def stage_memory(
    model: nn.Module, builder: AnyBuilder, world: int, seed: int, forward: Callable[[TrainBatch], object]
) -> dict[str, float]:
    """Return what a stage holds, and the activations of a step as one sample of it keeps them, in GiB.

    Args:
        model: Network.
        builder: Of the batches of the stage.
        world: Processes that train together; each computes one sample.
        seed: Of the batch that is tried.
        forward: Computes the losses of a batch.
    """
    with SavedBytes(model) as saved:
        forward(with_pairs(builder, world).build(seed))
    activations = saved.total * builder.shapes[-1].count // world
    values = {"held_gib": held_bytes(model) / GIB, "activations_gib": activations / GIB}
    return {name: round(value, 3) for name, value in values.items()}


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error says that memory is full, that of a GPU or of the machine."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)


def what_needs_less(stage: StageConfig, others: Sequence[str], world: int) -> str:
    """Return a message for a stage that does not fit.

    Args:
        stage: Does not fit.
        others: What in the recipe, beside batch and crop, makes a step need less memory.
        world: Processes that train together.
    """
    crops = stage.crops
    size = f"token_budget below {crops.token_budget}" if crops.token_budget else f"batch_size below {crops.batch_size}"
    ways = [size, f"sides of crops below {max(crops.sides)}", *others, f"more processes than {world}"]
    listed = ", ".join(ways)
    return f"stage {stage.name!r}: out of memory. Any of these needs less: {listed}. Change the recipe and --resume."
