"""Checkpoints with the shapes of the released 14.6 B model, random weights and as many layers as wanted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from medq_uni.config import ModelConfig, SpecialTokens, TransformerConfig, VisionConfig
from medq_uni.model.medq import MedQ
from medq_uni.pretrained.released import VIEW_SIDES
from medq_uni.pretrained.released_export import export_released
from medq_uni.tokenizer import QWEN_NAMES, Tokenizer, train_tokenizer

WORDS = "Image: CT of the chest. Degradation: severe low-dose noise. Cause: few photons. Verdict: Reject."


def released_config(layers: int = 28, vision_layers: int = 26, vocabulary: int = 152064) -> ModelConfig:
    """Return the configuration of the released model, with fewer layers where wanted."""
    return ModelConfig(
        name=f"released-{layers}",
        transformer=TransformerConfig(
            vocab_size=vocabulary,
            hidden_size=3584,
            intermediate_size=18944,
            num_layers=layers,
            num_heads=28,
            num_kv_heads=4,
        ),
        vision=VisionConfig(num_layers=vision_layers, view_sides=VIEW_SIDES),
        tokens=SpecialTokens(bos=0, eos=1, start_of_image=2, end_of_image=3),
    )


def random_model(config: ModelConfig, device: torch.device | str, dtype: torch.dtype) -> MedQ:
    """Return a network with random weights, made where and in the type in which it is used; the codec in float32."""
    with torch.device("meta"):
        model = MedQ(config)
    model.to_empty(device=device)
    for name, module in model.named_children():
        module.to(torch.float32 if name == "codec" else dtype)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.normal_(0, min(0.02, weight[0].numel() ** -0.5), generator=generator)
            else:
                weight.fill_(1.0 if name.endswith("weight") else 0.0)
    model.reset_tables(device)
    return model.eval()


def write_checkpoint(folder: Path, layers: int, dtype: torch.dtype, vocabulary: int = 152064) -> None:
    """Write a checkpoint in the released layout, with two layers of the vision encoder."""
    tokenizer: Tokenizer = train_tokenizer([WORDS], 300, QWEN_NAMES)
    config = replace(released_config(layers, 2, vocabulary), tokens=tokenizer.special)
    export_released(random_model(config, "cpu", dtype), tokenizer, folder)
