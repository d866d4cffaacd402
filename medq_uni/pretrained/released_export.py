"""Writing a network in the layout of the released checkpoints, so that the original code reads it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from medq_uni.config import FluxCodecConfig, ModelConfig
from medq_uni.errors import MedQError, UnwritableImage
from medq_uni.files import atomic_folder, file_digest
from medq_uni.model.medq import MedQ
from medq_uni.pretrained.hub import SUMS, digest_of
from medq_uni.pretrained.keys import WeightsMismatch, released_key
from medq_uni.pretrained.released import CARD_FILE, CODEC_FILE, EXTRA_FILE, LLM_FILE, VIT_FILE
from medq_uni.pretrained.tensors import save_tensors
from medq_uni.tokenizer import Tokenizer

State = dict[str, Tensor]


def to_released(model: MedQ) -> tuple[State, State]:
    """Return the tensors of ``ema.safetensors`` and ``ae.safetensors``, under their released names.

    The position tables are written too, as other programs expect them.

    Raises:
        WeightsMismatch: If the model has parts that the released layout does not know.
    """
    network: State = {
        "latent_pos_embed.pos_embed": model.latent_table.detach().clone(),
        "vit_pos_embed.pos_embed": model.vision_table.detach().clone(),
    }
    codec: State = {}
    unknown = []
    for key, x in model.state_dict().items():
        try:
            name = released_key(key)
        except KeyError:
            unknown.append(key)
            continue
        target = codec if name.startswith("vae_model.") else network
        target[name.removeprefix("vae_model.")] = x
    if unknown or not isinstance(model.config.codec, FluxCodecConfig):
        raise WeightsMismatch(
            f"{model.config.name} has parts that the released layout does not know: {', '.join(unknown[:3])}, ... "
            "Only models of the released architecture can be exported."
        )
    return network, codec


def export_released(model: MedQ, tokenizer: Tokenizer, folder: Path, *, card: dict[str, Any] | None = None) -> str:
    """Write a network and its tokenizer as a released checkpoint, whole or not at all; return the hash of its files.

    Args:
        model: Of the released architecture, its weights not quantized.
        tokenizer: With the released special tokens.
        folder: Is created; a checkpoint that is there is replaced, as is an empty folder.
        card: What only our loader reads: how to sample, training, calibration.

    Raises:
        UnwritableImage: If the folder holds anything else; nothing is touched then.
        WeightsMismatch: If the model has parts that the released layout does not know, such as those of nano.
        MedQError: If weights are quantized.
    """
    before = Path(folder) / SUMS
    listed = before.read_text(encoding="utf-8", errors="replace").splitlines() if before.is_file() else []
    check_replaceable(Path(folder), {SUMS, *(line.partition("  ")[2] for line in listed)}, "an exported checkpoint")
    network, codec = to_released(model)
    if any(type(x) is not Tensor for x in (*network.values(), *codec.values())):
        raise MedQError("quantized weights cannot be exported. Load the model in bfloat16 or float32 first.")
    with atomic_folder(Path(folder)) as temporary:
        save_tensors({key: x.detach().contiguous() for key, x in network.items()}, temporary / "ema.safetensors")
        save_tensors({key: x.detach().contiguous() for key, x in codec.items()}, temporary / CODEC_FILE)
        names = ["ema.safetensors", CODEC_FILE, *tokenizer.save_qwen_files(temporary)]
        files = _settings(model.config) | ({CARD_FILE: card} if card else {})
        for name, values in files.items():
            (temporary / name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
            names.append(name)
        digests = {name: file_digest(temporary / name) for name in sorted(names)}
        sums = "".join(f"{digest}  {name}\n" for name, digest in digests.items())
        (temporary / SUMS).write_text(sums, encoding="utf-8")
    return digest_of(digests)


def check_replaceable(folder: Path, own: set[str], what: str) -> None:
    """Check that a folder which will be replaced is not there, is empty, or holds nothing but what it says.

    Args:
        folder: The folder.
        own: Names of the files that belong to it.
        what: What it should be, for the message.

    Raises:
        UnwritableImage: If it holds anything else, or is a file.
    """
    if not folder.exists():
        return
    found = {one.name for one in folder.iterdir()} if folder.is_dir() else {folder.name}
    other = sorted(found - own)
    if other:
        raise UnwritableImage(
            f"{folder.name}: holds something else than {what} ({other[0]}), so it is not replaced. "
            "Choose another folder."
        )


def _settings(config: ModelConfig) -> dict[str, dict[str, Any]]:
    """Return the configuration files; what the original code sets itself goes into ``config.json``."""
    return {LLM_FILE: _llm(config), VIT_FILE: _vit(config), EXTRA_FILE: _extra(config)}


def _llm(config: ModelConfig) -> dict[str, Any]:
    language = config.transformer
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": language.vocab_size,
        "hidden_size": language.hidden_size,
        "intermediate_size": language.intermediate_size,
        "num_hidden_layers": language.num_layers,
        "num_attention_heads": language.num_heads,
        "num_key_value_heads": language.num_kv_heads,
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "rope_theta": language.rope_theta,
        "rope_scaling": None,
        "rms_norm_eps": language.rms_norm_eps,
        "initializer_range": 0.02,
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "bos_token_id": config.tokens.bos,
        "eos_token_id": config.tokens.eos,
    }


def _vit(config: ModelConfig) -> dict[str, Any]:
    vision = config.vision
    return {
        "model_type": "siglip_vision_model",
        "hidden_size": vision.hidden_size,
        "intermediate_size": vision.intermediate_size,
        "num_hidden_layers": vision.num_layers + 1,  # the original counts a last block, which it does not build
        "num_attention_heads": vision.num_heads,
        "num_channels": vision.in_channels,
        "image_size": vision.max_patches_per_side * vision.patch_size,
        "patch_size": vision.patch_size,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": vision.layer_norm_eps,
        "attention_dropout": 0.0,
    }


def _extra(config: ModelConfig) -> dict[str, Any]:
    vision, codec, tokens = config.vision, config.codec, config.tokens
    assert isinstance(codec, FluxCodecConfig), "checked by to_released"
    values = {
        "latent_patch_size": config.latent_patch_size,
        "max_latent_size": config.max_latent_size,
        "vit_max_num_patch_per_side": vision.max_patches_per_side,
        "vit_view_sides": vision.view_sides,
        "experts_share": asdict(config.transformer.sharing),
        "special_tokens": {
            "bos_token_id": tokens.bos,
            "eos_token_id": tokens.eos,
            "start_of_image": tokens.start_of_image,
            "end_of_image": tokens.end_of_image,
        },
        "vae_config": {
            "in_channels": codec.in_channels,
            "downsample": codec.downsample,
            "ch": codec.channels,
            "out_ch": codec.in_channels,
            "ch_mult": codec.channel_multipliers,
            "num_res_blocks": codec.num_res_blocks,
            "z_channels": codec.latent_channels,
            "scale_factor": codec.scale_factor,
            "shift_factor": codec.shift_factor,
        },
        "vae_group_norm_groups": codec.norm_groups,
    }
    return {key: value for key, value in values.items() if value is not None}
