"""Low-rank updates of the experts' linear layers (Hu et al. 2022), by the peft library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from medq_uni.errors import MedQError
from medq_uni.model.device_placement import without_complaints
from medq_uni.model.medq import MedQ
from medq_uni.train.recipe import LoraConfig

LAYERS = r"transformer\.blocks\.\d+\.(attention\.[qkvo]\.(iqa|ir)|ffn\.(iqa|ir)\.(gate|up|down))"
"""Layers that are updated."""
MARK = ".lora_"
"""What is in the name of every weight of an update."""
_BASE, _DOWN, _UP = ".base_layer.weight", ".lora_A.default.weight", ".lora_B.default.weight"


def add_lora(model: MedQ, config: LoraConfig, seed: int) -> None:
    """Put updates beside the linear layers of the blocks, in place; they change nothing before they have learned.

    Args:
        model: Network.
        config: Rank and scale.
        seed: Of the updates' first factors.

    Raises:
        MedQError: If peft is not installed.
    """
    peft = _peft()
    settings = peft.LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=LAYERS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft.LoraModel(model, {"default": settings}, "default")


def _peft() -> Any:
    try:
        with without_complaints():
            import peft
    except ImportError as error:
        raise MedQError('LoRA needs peft. Install it: pip install "medq-uni[lora]"') from error
    return peft


def merged(state: Mapping[str, Tensor], config: LoraConfig) -> dict[str, Tensor]:
    """Return the weights of a network with updates as those of one without: W + alpha / rank * B A."""
    plain = {}
    for name, weight in state.items():
        if name.endswith(_BASE):
            stem = name.removesuffix(_BASE)
            update = state[stem + _UP].float() @ state[stem + _DOWN].float()
            plain[stem + ".weight"] = weight + (config.alpha / config.rank * update).to(weight.dtype)
        elif MARK not in name:
            plain[name.replace(".base_layer.", ".")] = weight
    return plain
