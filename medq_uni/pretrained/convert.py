"""Released checkpoints of the base architecture (BAGEL, UniMedVL) to and from ours, key for key.

A released folder holds ``ema.safetensors`` (the network), ``ae.safetensors`` (the autoencoder),
``llm_config.json``, ``vit_config.json`` and sometimes ``config.json`` with what is otherwise set in code.
One table says which key is which, in both directions; every key of a file is used, or dropped for a
stated reason.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from medq_uni.config import (
    FluxCodecConfig,
    ModelConfig,
    SharingConfig,
    SpecialTokens,
    TransformerConfig,
    VisionConfig,
)
from medq_uni.model.medq import MedQ

State = dict[str, Tensor]

NETWORK_FILES = ("ema_bf16.safetensors", "ema.safetensors", "model_bf16.safetensors", "model.safetensors")
CODEC_FILE = "ae.safetensors"

# Released key, our key. {n} is a number, {p} weight or bias, {e} the expert, {rest} anything.
_LAYER, _BLOCK = "language_model.model.layers.{n}.", "transformer.blocks.{n}."
_VIT, _VIT_LAYER = "vit_model.vision_model.", "vit_model.vision_model.encoder.layers.{n}."
KEY_MAP: tuple[tuple[str, str], ...] = (
    ("language_model.model.embed_tokens.weight", "text_embedding.weight"),
    ("language_model.lm_head.weight", "lm_head.weight"),
    ("language_model.model.norm{e}.weight", "transformer.norm.{e}.weight"),
    *((f"{_LAYER}self_attn.{x}_proj{{e}}.{{p}}", f"{_BLOCK}attention.{x}.{{e}}.{{p}}") for x in "qkvo"),
    *((f"{_LAYER}self_attn.{x}_norm{{e}}.weight", f"{_BLOCK}attention.{x}_norm.{{e}}.weight") for x in "qk"),
    *((f"{_LAYER}mlp{{e}}.{x}_proj.weight", f"{_BLOCK}ffn.{{e}}.{x}.weight") for x in ("gate", "up", "down")),
    (f"{_LAYER}input_layernorm{{e}}.weight", f"{_BLOCK}attention_norm.{{e}}.weight"),
    (f"{_LAYER}post_attention_layernorm{{e}}.weight", f"{_BLOCK}ffn_norm.{{e}}.weight"),
    (f"{_VIT}embeddings.patch_embedding.{{p}}", "vision.embed.{p}"),
    (f"{_VIT}embeddings.position_embedding.weight", "vision.position.weight"),
    *((f"{_VIT_LAYER}self_attn.{x}_proj.{{p}}", f"vision.blocks.{{n}}.{x}.{{p}}") for x in "qkv"),
    (f"{_VIT_LAYER}self_attn.out_proj.{{p}}", "vision.blocks.{n}.o.{p}"),
    *((f"{_VIT_LAYER}layer_norm{x}.{{p}}", f"vision.blocks.{{n}}.norm{x}.{{p}}") for x in "12"),
    *((f"{_VIT_LAYER}mlp.fc{x}.{{p}}", f"vision.blocks.{{n}}.fc{x}.{{p}}") for x in "12"),
    (f"{_VIT}post_layernorm.{{p}}", "vision.norm.{p}"),
    *((f"connector.fc{x}.{{p}}", f"connector.fc{x}.{{p}}") for x in "12"),
    *((f"time_embedder.mlp.{x}.{{p}}", f"time_embedder.mlp.{x}.{{p}}") for x in "02"),
    ("vae2llm.{p}", "vae2llm.{p}"),
    ("llm2vae.{p}", "llm2vae.{p}"),
    ("vae_model.{rest}", "codec.{rest}"),
)

DROPPED: tuple[tuple[str, str], ...] = (
    (r".*rotary_emb\.inv_freq", "computed from rope_theta"),
    (r"(latent_pos_embed|vit_pos_embed)\.pos_embed", "a fixed sine and cosine table, computed"),
    (r"vae_batch_norm\..*", "belongs to a way of training that was not released"),
)

_WRAPPERS = re.compile(r"(?:(?<=\.)|^)(?:_fsdp_wrapped_module|_checkpoint_wrapped_module|module)\.")
_EXPERTS = {"": "iqa", "_moe_gen": "ir"}
_FIELDS = {"n": r"\d+", "p": "weight|bias", "rest": ".+"}


class WeightsMismatch(ValueError):  # noqa: N818 (a name users read)
    """Weights that cannot be used: missing, altered, or not those of the model."""


class KeysMismatch(WeightsMismatch):
    """Weights that are not those of the model; lists what is missing, unexpected or misshapen."""

    def __init__(self, missing: Iterable[str], unexpected: Iterable[str], misshapen: Iterable[str]) -> None:
        self.missing, self.unexpected = tuple(missing), tuple(unexpected)
        self.misshapen = tuple(misshapen)
        parts = [
            f"{len(keys)} {what}: {', '.join(keys[:5])}{', ...' if len(keys) > 5 else ''}"
            for what, keys in (
                ("missing", self.missing),
                ("unexpected", self.unexpected),
                ("of another shape", self.misshapen),
            )
            if keys
        ]
        super().__init__(f"the weights do not fit the model: {'; '.join(parts)}. Are these the weights of this config?")


def _pattern(template: str, expert: str) -> re.Pattern[str]:
    fields = {**_FIELDS, "e": expert}
    parts = re.split(r"\{(\w+)\}", template)
    text = "".join(f"(?P<{x}>{fields[x]})" if i % 2 else re.escape(x) for i, x in enumerate(parts))
    return re.compile(text)


_FROM_RELEASED = [(_pattern(theirs, "|_moe_gen"), ours) for theirs, ours in KEY_MAP]
_TO_RELEASED = [(_pattern(ours, "iqa|ir"), theirs) for theirs, ours in KEY_MAP]


def our_key(released: str) -> str | None:
    """Return our name of a released key, or None if it is dropped on purpose.

    Raises:
        KeyError: If the key is not in the table.
    """
    key = _WRAPPERS.sub("", released)
    if any(re.fullmatch(pattern, key) for pattern, _ in DROPPED):
        return None
    for pattern, template in _FROM_RELEASED:
        if match := pattern.fullmatch(key):
            fields = match.groupdict()
            if "e" in fields:
                fields["e"] = _EXPERTS[fields["e"]]
            return template.format(**fields)
    raise KeyError(released)


def released_key(ours: str) -> str:
    """Return the released name of our key.

    Raises:
        KeyError: If the key is not in the table.
    """
    for pattern, template in _TO_RELEASED:
        if match := pattern.fullmatch(ours):
            fields = match.groupdict()
            if "e" in fields:
                fields["e"] = {expert: suffix for suffix, expert in _EXPERTS.items()}[fields["e"]]
            return template.format(**fields)
    raise KeyError(ours)


def from_released(network: Mapping[str, Tensor], codec: Mapping[str, Tensor] | None = None) -> State:
    """Return the released weights under our names.

    Args:
        network: Tensors of ``ema.safetensors``; it may hold the autoencoder as ``vae_model.*``.
        codec: Tensors of ``ae.safetensors``.

    Raises:
        WeightsMismatch: If a key is not in the table.
    """
    state: State = {}
    unknown: list[str] = []
    prefixed = {f"vae_model.{_WRAPPERS.sub('', key)}": x for key, x in (codec or {}).items()}
    for key, x in {**network, **prefixed}.items():
        try:
            ours = our_key(key)
        except KeyError:
            unknown.append(key)
            continue
        if ours is not None:
            state[ours] = x
    if unknown:
        raise KeysMismatch((), unknown, ())
    return state


def to_released(model: MedQ) -> tuple[State, State]:
    """Return the tensors of ``ema.safetensors`` and ``ae.safetensors``, the inverse of :func:`from_released`.

    The position tables are written too, as other programs expect them.
    """
    network: State = {
        "latent_pos_embed.pos_embed": model.latent_table.detach().clone(),
        "vit_pos_embed.pos_embed": model.vision_table.detach().clone(),
    }
    codec: State = {}
    for key, x in model.state_dict().items():
        name = released_key(key)
        if name.startswith("vae_model."):
            codec[name.removeprefix("vae_model.")] = x
        else:
            network[name] = x
    return network, codec


def load_state(model: MedQ, state: Mapping[str, Tensor], *, adapt_experts: bool = False) -> None:
    """Put weights under our names into ``model``, which may be on the meta device; nothing may be left over.

    Args:
        model: The network; its types are kept, unless it is on the meta device.
        state: Every weight of the model.
        adapt_experts: Whether weights of another sharing fit too: where the model has two experts and the
            file one, both get it; where the model has one and the file two, the iqa weight is taken.

    Raises:
        WeightsMismatch: If a weight is missing, unexpected or of another shape.
    """
    wanted = model.state_dict()
    given = dict(state)
    if adapt_experts:
        twins = {key: re.sub(r"\.ir(?=\.|$)", ".iqa", key) for key in {*wanted, *given}}
        given |= {k: given[twins[k]] for k in wanted if k not in given and twins[k] in given}
        given = {k: x for k, x in given.items() if k in wanted or twins[k] == k}
    missing, unexpected = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
    misshapen = [
        f"{k} ({tuple(given[k].shape)} instead of {tuple(wanted[k].shape)})"
        for k in sorted(wanted.keys() & given.keys())
        if given[k].shape != wanted[k].shape
    ]
    if missing or unexpected or misshapen:
        raise KeysMismatch(missing, unexpected, misshapen)
    is_meta = model.device.type == "meta"
    model.load_state_dict(given, assign=is_meta)
    if is_meta:
        model.reset_tables(model.device)


def read_config(folder: Path, *, tokens: SpecialTokens | None = None, name: str | None = None) -> ModelConfig:
    """Return the configuration of a released folder.

    What ``config.json`` does not say has the values of the released 7B models, which set them in code.

    Args:
        folder: Holds ``llm_config.json``, ``vit_config.json`` and maybe ``config.json``.
        tokens: Special token ids, from the tokenizer; needed if ``config.json`` does not hold them.
        name: Name of the configuration; None takes that of the folder.

    Raises:
        ValueError: If nobody says what the special tokens are.
    """
    llm, vit = (json.loads((folder / f).read_text()) for f in ("llm_config.json", "vit_config.json"))
    extra_file = folder / "config.json"
    extra: dict[str, Any] = json.loads(extra_file.read_text()) if extra_file.exists() else {}
    if tokens is None:
        if "special_tokens" not in extra:
            raise ValueError(f"{folder}: config.json names no special_tokens. Pass tokens= from the tokenizer.")
        ids = extra["special_tokens"]
        tokens = SpecialTokens(
            bos=ids["bos_token_id"],
            eos=ids["eos_token_id"],
            start_of_image=ids["start_of_image"],
            end_of_image=ids["end_of_image"],
        )
    return ModelConfig(
        name=name or folder.name,
        transformer=_transformer_config(llm, extra),
        vision=_vision_config(vit, extra),
        codec=_codec_config(extra),
        tokens=tokens,
        latent_patch_size=extra.get("latent_patch_size", 2),
        max_latent_size=extra.get("max_latent_size", 64),
    )


def _transformer_config(llm: dict[str, Any], extra: dict[str, Any]) -> TransformerConfig:
    return TransformerConfig(
        vocab_size=llm["vocab_size"],
        hidden_size=llm["hidden_size"],
        intermediate_size=llm["intermediate_size"],
        num_layers=llm["num_hidden_layers"],
        num_heads=llm["num_attention_heads"],
        num_kv_heads=llm["num_key_value_heads"],
        rope_theta=llm["rope_theta"],
        rms_norm_eps=llm["rms_norm_eps"],
        sharing=SharingConfig(**extra.get("experts_share", {})),
    )


def _vision_config(vit: dict[str, Any], extra: dict[str, Any]) -> VisionConfig:
    return VisionConfig(
        in_channels=vit.get("num_channels", 3),
        patch_size=vit["patch_size"],
        hidden_size=vit["hidden_size"],
        intermediate_size=vit["intermediate_size"],
        # The file counts the last block, which the base model neither uses nor stores.
        num_layers=extra.get("vit_num_hidden_layers_used", vit["num_hidden_layers"] - 1),
        num_heads=vit["num_attention_heads"],
        max_patches_per_side=extra.get("vit_max_num_patch_per_side", vit["image_size"] // vit["patch_size"]),
        layer_norm_eps=vit.get("layer_norm_eps", 1e-6),
    )


def _codec_config(extra: dict[str, Any]) -> FluxCodecConfig:
    vae = extra.get("vae_config", {})
    released = FluxCodecConfig()
    config = FluxCodecConfig(
        in_channels=vae.get("in_channels", released.in_channels),
        channels=vae.get("ch", released.channels),
        channel_multipliers=tuple(vae.get("ch_mult", released.channel_multipliers)),
        num_res_blocks=vae.get("num_res_blocks", released.num_res_blocks),
        latent_channels=vae.get("z_channels", released.latent_channels),
        scale_factor=vae.get("scale_factor", released.scale_factor),
        shift_factor=vae.get("shift_factor", released.shift_factor),
        norm_groups=extra.get("vae_group_norm_groups", released.norm_groups),
    )
    if (declared := vae.get("downsample", config.downsample)) != config.downsample:
        raise ValueError(
            f"config.json says downsample {declared}, but ch_mult has {len(config.channel_multipliers)} "
            f"levels, which is a factor of {config.downsample}."
        )
    return config


def load_released(
    folder: Path, config: ModelConfig, *, dtype: torch.dtype = torch.float32, adapt_experts: bool = False
) -> MedQ:
    """Return the network of a released folder, in ``dtype``.

    Args:
        folder: Holds the files of :data:`NETWORK_FILES` (the first found is read) and :data:`CODEC_FILE`,
            unless the autoencoder is inside the first.
        config: From :func:`read_config`, maybe with another sharing.
        dtype: Type of the weights, cast while reading.
        adapt_experts: See :func:`load_state`.

    Raises:
        FileNotFoundError: If there are no weights.
        WeightsMismatch: If they do not fit.
    """
    file = next((folder / f for f in NETWORK_FILES if (folder / f).exists()), None)
    if file is None:
        raise FileNotFoundError(f"{folder}: none of {', '.join(NETWORK_FILES)} is there.")
    codec_file = folder / CODEC_FILE
    codec = _read(codec_file, dtype) if codec_file.exists() else None
    state = from_released(_read(file, dtype), codec)
    with torch.device("meta"):
        model = MedQ(config)
    load_state(model, state, adapt_experts=adapt_experts)
    return model.eval()


def _read(file: Path, dtype: torch.dtype) -> State:
    with safe_open(str(file), "pt") as tensors:
        return {key: tensors.get_tensor(key).to(dtype) for key in tensors.keys()}  # noqa: SIM118 (no mapping)
