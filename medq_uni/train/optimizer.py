"""Which weights learn in a stage, how fast, and the step that moves them."""

from __future__ import annotations

import math

import torch
from torch import nn

from medq_uni.train.lora import MARK
from medq_uni.train.parallel import is_divided
from medq_uni.train.recipe import TrainConfig
from medq_uni.train.stage import Group, StageConfig

WEIGHT_DECAY, BETAS = 0.01, (0.9, 0.98)
"""Of AdamW."""
RATE = "rate"
"""Key of a group of weights: its learning rate as a multiple of the stage's."""
IR_PREFIXES = ("vae2llm.", "llm2vae.", "shrinkage.", "time_embedder.")


def group_of(name: str) -> Group | None:
    """Return which trainable group a parameter of MedQ-UNI belongs to; an encoder of the codec never learns."""
    if name.startswith("codec.encoder."):
        return None
    if name.startswith("codec."):
        return "spread" if name.startswith("codec.spread.") else "decoder"
    return "ir" if ".ir." in name or name.startswith(IR_PREFIXES) else "iqa"


def learning_rate(stage: StageConfig, step: int) -> float:
    """Return the rate of step ``step``: linear warm-up, then a cosine to zero."""
    peak, warmup = stage.optimizer.learning_rate, stage.optimizer.lr_warmup_steps
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(stage.steps - warmup, 1)
    return peak * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def choose_trainable(model: nn.Module, config: TrainConfig, stage: StageConfig) -> None:
    """Let the weights that a stage names learn, and no others.

    With LoRA these are the updates of the blocks, the small layers around the latent, and the decoder where it is
    named: neither vocabulary nor vision encoder, which are larger than all updates.
    """
    small = (*IR_PREFIXES, "codec.")
    for name, parameter in model.named_parameters():
        group = group_of(name) if config.baseline is None else "baseline"
        is_base = config.lora is not None and MARK not in name and not name.startswith(small)
        parameter.requires_grad_(group in stage.trainable and not is_base)


def build_optimizer(model: nn.Module, config: TrainConfig, stage: StageConfig) -> torch.optim.AdamW:
    """Return AdamW over the weights that learn; vectors are not decayed."""
    groups: dict[tuple[bool, bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_decoder = config.baseline is None and group_of(name) == "decoder"
            # decayed first; divided weights and whole ones cannot be stepped in one go
            groups.setdefault((parameter.ndim <= 1, is_decoder, is_divided(parameter)), []).append(parameter)
    listed = [
        {
            "params": parameters,
            "weight_decay": 0.0 if is_plain else WEIGHT_DECAY,
            RATE: stage.optimizer.decoder_lr_factor if is_decoder else 1.0,
        }
        for (is_plain, is_decoder, _), parameters in sorted(groups.items(), key=lambda pair: pair[0])
    ]
    return torch.optim.AdamW(listed, lr=stage.optimizer.learning_rate, betas=BETAS)


def set_rate(optimizer: torch.optim.AdamW, stage: StageConfig, step: int) -> None:
    """Give every group of weights its rate of step ``step``."""
    for group in optimizer.param_groups:
        group["lr"] = group[RATE] * learning_rate(stage, step)
