"""Folders of released checkpoints of the base architecture (BAGEL, UniMedVL): what is in them, and loading it.

A folder holds ``ema.safetensors`` (the network), ``ae.safetensors`` (the autoencoder), ``llm_config.json``,
``vit_config.json``, the tokenizer, and sometimes ``config.json`` with what is otherwise set in code. Nothing is ever
unpickled, and nothing is loaded before names and shapes of every weight have been compared with the configuration.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from medq_uni.config import (
    ConfigError,
    Execution,
    FluxCodecConfig,
    ModelConfig,
    SharingConfig,
    SpecialTokens,
    TransformerConfig,
    VisionConfig,
)
from medq_uni.json_text import load_json
from medq_uni.model.device_placement import arrange, placed, put
from medq_uni.model.medq import MedQ
from medq_uni.pretrained.keys import Shape, WeightsMismatch, match, under_our_names
from medq_uni.tokenizer import QWEN_NAMES, Tokenizer

NETWORK_FILES = ("ema_bf16.safetensors", "ema.safetensors", "model_bf16.safetensors", "model.safetensors")
"""Names of the file with the network; the first that is there is read."""
SHARDS = "*-of-*.safetensors"
"""The same in several files, as other programs save it."""
CODEC_FILE = "ae.safetensors"
LLM_FILE, VIT_FILE, EXTRA_FILE = "llm_config.json", "vit_config.json", "config.json"
QWEN_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json")
"""The tokenizer, where ``tokenizer.json`` does not hold all of it."""
CARD_FILE = "medq_card.json"
"""How a checkpoint that was trained here was made and is sampled; other programs ignore it."""
VIEW_SIDES = (378, 980)
"""Sides to which the base model resizes what its vision encoder sees (UniMedVL, questions about images)."""
PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl")
_FLOATS = {"F64", "F32", "F16", "BF16"}


@dataclass(frozen=True)
class Stored:
    """A weight as its file's header describes it."""

    file: Path
    key: str
    shape: Shape
    dtype: str
    """As safetensors names it, for example BF16."""


@dataclass(frozen=True)
class ReleasedFolder:
    """A released checkpoint on disk; only headers and configurations are read here.

    Attributes:
        path: The folder.
    """

    path: Path

    @cached_property
    def network_files(self) -> tuple[Path, ...]:
        """Files with the network.

        Raises:
            WeightsMismatch: If there are none.
        """
        if file := next((self.path / name for name in NETWORK_FILES if (self.path / name).is_file()), None):
            return (file,)
        if shards := tuple(sorted(self.path.glob(SHARDS))):
            return shards
        pickles = sorted(file.name for file in self.path.glob("*") if file.suffix in PICKLES)
        hint = f" {pickles[0]} is a pickle, which can run code and is never loaded." if pickles else ""
        raise WeightsMismatch(f"{self.path.name}: none of {', '.join(NETWORK_FILES)} is there.{hint}")

    @cached_property
    def codec_file(self) -> Path | None:
        """File with the autoencoder; None if it is not there, for it may lie inside the network."""
        file = self.path / CODEC_FILE
        return file if file.is_file() else None

    @property
    def weight_files(self) -> tuple[Path, ...]:
        """All files with weights."""
        return (*self.network_files, *([self.codec_file] if self.codec_file else []))

    @cached_property
    def stored(self) -> dict[str, Stored]:
        """Every weight that is used, under our names.

        Raises:
            WeightsMismatch: If a file is damaged, or holds a key that is not in the table.
        """
        headers = {key: one for file in self.network_files for key, one in read_header(file).items()}
        if self.codec_file is not None:
            headers |= {f"vae_model.{key}": one for key, one in read_header(self.codec_file).items()}
        return {ours: headers[key] for ours, key in under_our_names(headers).items()}

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer; None if the folder has no file of one.

        Raises:
            TokenizerError: If it is damaged, or lacks the special tokens.
        """
        if (self.path / "tokenizer.json").is_file():
            return Tokenizer.from_file(self.path / "tokenizer.json", QWEN_NAMES)
        if (self.path / "vocab.json").is_file() and (self.path / "merges.txt").is_file():
            return Tokenizer.from_qwen_files(self.path)
        return None

    def config(self, *, name: str | None = None) -> ModelConfig:
        """Return the configuration; special token ids come from the tokenizer where there is one.

        Raises:
            ConfigError: If a file is missing or wrong, or nobody says what the special tokens are.
            TokenizerError: See :attr:`tokenizer`.
        """
        return read_config(self.path, tokens=self.tokenizer.special if self.tokenizer else None, name=name)


def is_released(folder: Path) -> bool:
    """Return whether a folder has the layout of a released checkpoint."""
    return (folder / LLM_FILE).is_file()


def read_header(file: Path) -> dict[str, Stored]:
    """Return what a safetensors file holds, without reading weights.

    Raises:
        WeightsMismatch: If the file is damaged, cut short, or something else.
    """
    try:
        with safe_open(str(file), "pt") as tensors:
            found = {}
            for key in tensors.keys():  # noqa: SIM118 (no mapping)
                view = tensors.get_slice(key)
                found[key] = Stored(file, key, tuple(view.get_shape()), view.get_dtype())
    except (SafetensorError, OSError) as error:
        raise WeightsMismatch(
            f"{file.name} is no whole safetensors file ({error}). Download it again; other formats are not loaded."
        ) from error
    odd = next((one for one in found.values() if one.dtype not in _FLOATS), None)
    if odd is not None:
        raise WeightsMismatch(f"{file.name}: {odd.key} is stored as {odd.dtype}; needs one of {', '.join(_FLOATS)}.")
    return found


def match_stored(
    config: ModelConfig, stored: Mapping[str, Stored], *, adapt_experts: bool = False
) -> tuple[MedQ, dict[str, Stored]]:
    """Return the network without weights, and where each of its weights is stored.

    Args:
        config: What to build.
        stored: What a folder holds, under our names.
        adapt_experts: See :func:`medq_uni.pretrained.keys.match`.

    Raises:
        KeysMismatch: If a weight is missing, unexpected or of another shape.
    """
    with torch.device("meta"):
        model = MedQ(config)
    wanted = {name: tuple(x.shape) for name, x in model.state_dict().items()}
    found = match(wanted, {name: one.shape for name, one in stored.items()}, adapt_experts=adapt_experts)
    return model, {name: stored[source] for name, source in found.items()}


def load_released(
    folder: ReleasedFolder,
    config: ModelConfig,
    *,
    execution: Execution | None = None,
    device: torch.device | str = "cpu",
    adapt_experts: bool = False,
) -> MedQ:
    """Return the network of a released folder, ready to run.

    Weights are read one by one through a memory map, brought into the wanted numbers and moved, so host memory holds
    at most one weight beside the model. A weight that is stored as it is wanted stays in the map.

    Args:
        folder: Where the weights are.
        config: From :meth:`ReleasedFolder.config`, maybe with another sharing.
        execution: Numbers and placement.
        device: Where to compute.
        adapt_experts: See :func:`medq_uni.pretrained.keys.match`.

    Raises:
        WeightsMismatch: If the weights are damaged or do not fit.
    """
    execution, device = execution or Execution(), torch.device(device)
    model, sources = match_stored(config, folder.stored, adapt_experts=adapt_experts)
    for name, weight in read_weights(sources, execution, device):
        put(model, name, weight, execution)
    model.reset_tables(device)
    arrange(model, device, execution)
    return model.eval()


def read_weights(
    sources: Mapping[str, Stored], execution: Execution, device: torch.device
) -> Iterator[tuple[str, Tensor]]:
    """Yield every weight by name, as it is to be kept and where."""
    for name, one in sources.items():
        try:
            # opened for each weight: pages of the map that were read do not add up
            with safe_open(str(one.file), "pt") as tensors:
                weight = tensors.get_tensor(one.key)
        except (SafetensorError, OSError) as error:
            raise WeightsMismatch(f"{one.file.name}: {one.key} cannot be read ({error}).") from error
        yield name, placed(name, weight, device, execution)


def read_config(folder: Path, *, tokens: SpecialTokens | None = None, name: str | None = None) -> ModelConfig:
    """Return the configuration of a released folder.

    What ``config.json`` does not say has the values of the released 7B models, which set them in code.

    Args:
        folder: Holds ``llm_config.json``, ``vit_config.json`` and maybe ``config.json``.
        tokens: Special token ids, from the tokenizer; needed if ``config.json`` does not hold them.
        name: Name of the configuration; None takes that of the folder.

    Raises:
        ConfigError: If a file is missing or wrong, or nobody says what the special tokens are.
    """
    llm, vit = (_Values(folder, file) for file in (LLM_FILE, VIT_FILE))
    extra = _Values(folder, EXTRA_FILE, is_optional=True)
    if tokens is None:
        if "special_tokens" not in extra.values:
            raise ConfigError(
                f"{folder.name}: no tokenizer.json (or vocab.json and merges.txt) is there, and config.json names no "
                "special_tokens. Put the tokenizer files of the checkpoint beside the weights."
            )
        ids = extra.values["special_tokens"]
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


class _Values:
    """The values of one JSON file, each with an error that names file and key."""

    def __init__(self, folder: Path, file: str, *, is_optional: bool = False) -> None:
        self.file = f"{folder.name}/{file}"
        self.values: dict[str, Any] = {}
        if is_optional and not (folder / file).is_file():
            return
        try:
            self.values = load_json(folder / file)
        except FileNotFoundError as error:
            raise ConfigError(f"{self.file} is missing. Download the checkpoint again.") from error
        except ValueError as error:
            raise ConfigError(f"{self.file} is not JSON ({error}). Download the checkpoint again.") from error

    def __getitem__(self, key: str) -> Any:
        if key not in self.values:
            raise ConfigError(f"{self.file} has no {key}. Is this the configuration of a released checkpoint?")
        return self.values[key]

    def get(self, key: str, default: Any) -> Any:
        return self.values.get(key, default)


def _transformer_config(llm: _Values, extra: _Values) -> TransformerConfig:
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


def _vision_config(vit: _Values, extra: _Values) -> VisionConfig:
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
        view_sides=tuple(extra.get("vit_view_sides", VIEW_SIDES)),
    )


def _codec_config(extra: _Values) -> FluxCodecConfig:
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
        raise ConfigError(
            f"config.json says downsample {declared}, but ch_mult has {len(config.channel_multipliers)} "
            f"levels, which is a factor of {config.downsample}."
        )
    return config
