"""Names -> a ready model with its tokenizer: the embedded nano weights, or a folder in the same layout.

A folder holds ``config.json`` (ModelConfig), ``tokenizer.json``, one or more ``*.safetensors`` shards in half
precision, and ``manifest.json`` with the sha256 of every other file. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from medq_uni.config import ConfigError, ModelConfig, from_json, to_json
from medq_uni.model.medq import MedQ
from medq_uni.pretrained.convert import WeightsMismatch
from medq_uni.tokenizer import Tokenizer

EMBEDDED = ("nano",)
"""Names of the models that come inside the package."""
SHARD_BYTES = 15 * 1024 * 1024
"""Largest shard; files in the package stay below 16 MiB."""
MANIFEST, CONFIG, TOKENIZER = "manifest.json", "config.json", "tokenizer.json"

__all__ = ["EMBEDDED", "Pretrained", "WeightsMismatch", "folder_of", "load_pretrained", "save_pretrained"]


@dataclass(frozen=True, eq=False)
class Pretrained:
    """A model, and what belongs to it."""

    model: MedQ
    tokenizer: Tokenizer
    config: ModelConfig
    card: dict[str, Any]
    """What the manifest says beside the hashes: training, calibration, sizes."""
    sha256: str
    """Hash of the hashes of all files: names the weights in provenance records."""

    @property
    def tile_size(self) -> int:
        """Largest side, in pixels, that is restored in one piece."""
        return int(self.card.get("tile_size", 256))

    @property
    def uncertainty_scale(self) -> dict[str, float]:
        """Factor per modality that calibrates the predicted standard deviation on validation pairs."""
        return dict(self.card.get("uncertainty_scale", {}))


def folder_of(name: str | Path) -> Path:
    """Return the folder of an embedded name, or the folder itself.

    Raises:
        WeightsMismatch: If there is no such model.
    """
    if str(name) in EMBEDDED:
        return Path(__file__).parent / str(name)
    folder = Path(name)
    if not (folder / MANIFEST).is_file():
        raise WeightsMismatch(
            f"No model {str(name)!r}: it is neither one of {', '.join(EMBEDDED)} nor a folder with {MANIFEST}."
        )
    return folder


def load_pretrained(name: str | Path = "nano") -> Pretrained:
    """Load model and tokenizer, after checking every file against its hash.

    Args:
        name: An embedded name, or a folder that :func:`save_pretrained` wrote.

    Raises:
        WeightsMismatch: If a file is missing, altered, unreadable, or does not fit the configuration.
    """
    folder = folder_of(name)
    manifest, digest = verify(folder)
    try:
        config = from_json(ModelConfig, (folder / CONFIG).read_text(encoding="utf-8"))
    except ConfigError as error:
        raise WeightsMismatch(f"{folder.name}/{CONFIG}: {error}") from error
    tensors: dict[str, Tensor] = {}
    for shard in sorted(file for file in manifest["files"] if file.endswith(".safetensors")):
        try:
            tensors |= load_file(folder / shard)
        except SafetensorError as error:
            raise WeightsMismatch(f"{folder.name}/{shard} is not a safetensors file: {error}.") from error
    with torch.random.fork_rng(devices=[]):
        model = MedQ(config)
    _load_strictly(model, tensors, folder.name)
    tokenizer = Tokenizer.from_file(folder / TOKENIZER)
    return Pretrained(model.eval(), tokenizer, config, manifest.get("card", {}), digest)


def verify(folder: Path) -> tuple[dict[str, Any], str]:
    """Check every file of a model folder against its manifest; return the manifest and the hash of all.

    Raises:
        WeightsMismatch: If a file is missing or altered, or the manifest cannot be read.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files: dict[str, str] = manifest["files"]
    except (OSError, ValueError, KeyError) as error:
        raise WeightsMismatch(f"{folder.name}/{MANIFEST} is missing or broken. Install again.") from error
    total = hashlib.sha256()
    for file, expected in sorted(files.items()):
        path = folder / file
        if "/" in file or not path.is_file():
            raise WeightsMismatch(f"{folder.name}/{file} is missing. Install again, or restore the file.")
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != expected:
            raise WeightsMismatch(
                f"{folder.name}/{file} has sha256 {found[:12]}..., the manifest says {expected[:12]}...: "
                "the file was altered or damaged. Install again."
            )
        total.update(f"{file}:{found}\n".encode())
    return manifest, total.hexdigest()


def save_pretrained(
    folder: Path,
    model: MedQ,
    tokenizer: Tokenizer,
    *,
    card: dict[str, Any],
    dtype: torch.dtype = torch.float16,
) -> str:
    """Write a model folder that :func:`load_pretrained` reads; return the hash of all its files.

    Args:
        folder: Is created; shards of an earlier model in it are removed.
        model: Weights to keep.
        tokenizer: Its file is copied in.
        card: What people should know: data, training, calibration.
        dtype: Floating point type of the weights on disk.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.safetensors"):
        old.unlink()
    names = []
    for number, shard in enumerate(_shards(model.state_dict(), dtype), start=1):
        names.append(f"model-{number:02d}.safetensors")
        save_file(shard, folder / names[-1])
    (folder / CONFIG).write_text(to_json(model.config), encoding="utf-8")
    tokenizer.save(folder / TOKENIZER)
    names += [CONFIG, TOKENIZER]
    hashes = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in sorted(names)}
    manifest = {"files": hashes, "card": card}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return verify(folder)[1]


def _shards(state: dict[str, Tensor], dtype: torch.dtype) -> list[dict[str, Tensor]]:
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, value in state.items():
        kept = value.detach().cpu().to(dtype) if value.is_floating_point() else value.detach().cpu()
        size += kept.numel() * kept.element_size()
        if size > SHARD_BYTES and shards[-1]:
            shards.append({})
            size = kept.numel() * kept.element_size()
        shards[-1][name] = kept.contiguous().clone()
    return shards


def _load_strictly(model: MedQ, tensors: dict[str, Tensor], name: str) -> None:
    expected = model.state_dict()
    missing, unexpected = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    wrong = [
        f"{key} is {tuple(tensors[key].shape)}, needs {tuple(value.shape)}"
        for key, value in expected.items()
        if key in tensors and tensors[key].shape != value.shape
    ]
    if missing or unexpected or wrong:
        parts = [
            f"{len(missing)} missing ({', '.join(missing[:3])})" if missing else "",
            f"{len(unexpected)} unexpected ({', '.join(unexpected[:3])})" if unexpected else "",
            f"{len(wrong)} of the wrong shape ({'; '.join(wrong[:3])})" if wrong else "",
        ]
        raise WeightsMismatch(f"{name}: the weights do not fit {CONFIG}: {', '.join(part for part in parts if part)}.")
    model.load_state_dict(
        {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}
    )
