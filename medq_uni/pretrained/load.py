"""Names -> a ready model with its tokenizer: the embedded nano weights, a folder, or a repository on the hub.

A folder has one of two layouts. Ours holds ``config.json`` (ModelConfig), ``tokenizer.json``, one or more
``model-*.safetensors`` shards in half precision, where it is known ``ood_detector.safetensors``, and ``manifest.json``
with the sha256 of every other file. The other is that of the released base model; see
:mod:`medq_uni.pretrained.released`. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from medq_uni.config import ConfigError, Execution, ModelConfig, SamplerConfig
from medq_uni.config_json import from_json, to_json
from medq_uni.files import file_digest
from medq_uni.json_text import load_json
from medq_uni.model.device_placement import place
from medq_uni.model.medq import MedQ, codec_module
from medq_uni.preprocess import TILE_SIZE, Preprocessor
from medq_uni.pretrained.calibration import CALIBRATION_FILE, Calibration, load_calibration, save_calibration
from medq_uni.pretrained.hub import HUB_ID, digest_of, fetch, verified_digests
from medq_uni.pretrained.keys import WeightsMismatch, match
from medq_uni.pretrained.memory import NotEnoughMemory, check_memory
from medq_uni.pretrained.ood_detector import OOD_FILE, OodDetector, load_ood_detector
from medq_uni.pretrained.released import (
    CARD_FILE,
    EXTRA_FILE,
    LLM_FILE,
    QWEN_FILES,
    VIT_FILE,
    ReleasedFolder,
    is_released,
    load_released,
    match_stored,
)
from medq_uni.pretrained.tensors import save_tensors
from medq_uni.tokenizer import Tokenizer, TokenizerError

T = TypeVar("T")
EMBEDDED = ("nano",)
"""Names of the models that come inside the package."""
SHARD_BYTES = 15 * 1024 * 1024
"""Largest shard; files in the package stay below 16 MiB."""
MANIFEST, CONFIG, TOKENIZER = "manifest.json", "config.json", "tokenizer.json"
OLD_KEYS = {"refining": "refinement", "guide_width": "film_width"}
"""Keys of :data:`CONFIG` in folders of version 0.1, which keep them: other text would change their hash."""
RELEASED_SAMPLER = SamplerConfig(start="noise", num_steps=49, time_shift=3.0)
"""How the base model was made to be sampled: from noise, 50 time points."""

__all__ = [
    "EMBEDDED",
    "NotEnoughMemory",
    "Pretrained",
    "WeightsMismatch",
    "folder_of",
    "load_pretrained",
    "save_pretrained",
]


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
    execution: Execution = field(default_factory=lambda: Execution(precision="float32"))
    """How it runs."""
    ood_detector: OodDetector | None = None
    """What its training images look like to it; None where nothing was kept about them."""
    calibration: Calibration | None = None
    """What was measured of it on good images; None where nothing was."""

    @property
    def preprocessor(self) -> Preprocessor:
        """What the network is shown of slices, and the way back."""
        return Preprocessor(self.config, int(self.card.get("tile_size", TILE_SIZE)))

    @property
    def sampler(self) -> SamplerConfig:
        """How it is sampled where nobody says otherwise."""
        return SamplerConfig.from_dict(self.card.get("sampler", {}))

    @property
    def uncertainty_scale(self) -> dict[str, float]:
        """Factor per modality that calibrates the predicted standard deviation on validation pairs."""
        return dict(self.card.get("uncertainty_scale", {}))


def folder_of(name: str | Path, *, revision: str | None = None, offline: bool | None = None) -> Path:
    """Return the folder of an embedded name, the folder itself, or that of a repository on the hub.

    Args:
        name: An embedded name, a folder, or ``owner/name`` on the hub.
        revision: Branch, tag or commit on the hub.
        offline: See :func:`medq_uni.pretrained.hub.fetch`.

    Raises:
        WeightsMismatch: If there is no such model.
    """
    if str(name) in EMBEDDED:
        return Path(__file__).parent / str(name)
    folder = Path(name)
    if (folder / MANIFEST).is_file() or is_released(folder):
        return folder
    is_local = folder.is_dir() or (folder.parent != Path() and folder.parent.is_dir())
    if not is_local and HUB_ID.fullmatch(str(name)):
        return fetch(str(name), revision=revision, offline=offline)
    within = f" Did you mean {folder / 'model'}?" if (folder / "model" / MANIFEST).is_file() else ""
    raise WeightsMismatch(
        f"No model {str(name)!r}: it is neither one of {', '.join(EMBEDDED)}, nor a folder with {MANIFEST} or "
        f"{LLM_FILE}, nor OWNER/NAME on the hub.{within}"
    )


def load_pretrained(
    name: str | Path = "nano",
    *,
    device: torch.device | str = "cpu",
    execution: Execution | None = None,
    revision: str | None = None,
    offline: bool | None = None,
) -> Pretrained:
    """Load model and tokenizer, after checking every file against its hash.

    Args:
        name: An embedded name, a folder that :func:`save_pretrained` wrote, a folder of a released checkpoint, or
            ``owner/name`` of one on the hub.
        device: Where to compute.
        execution: Numbers and placement; by default float32 for ours and bfloat16 for released checkpoints.
        revision: Branch, tag or commit on the hub.
        offline: Open no socket; see :func:`medq_uni.pretrained.hub.fetch`.

    Raises:
        WeightsMismatch: If a file is missing, altered, unreadable, or does not fit the configuration.
        NotEnoughMemory: If it would not fit; says which modes would.
        ConfigError: If the configuration of a released checkpoint is missing or wrong.
        TokenizerError: If the tokenizer is missing or lacks the special tokens.
    """
    folder = folder_of(name, revision=revision, offline=offline)
    device = torch.device(device)
    if is_released(folder):
        return _load_released(folder, str(name), device, _resolved(execution, "bfloat16"))
    return _load_ours(folder, device, _resolved(execution, "float32"))


def _resolved(execution: Execution | None, precision: Literal["float32", "bfloat16"]) -> Execution:
    execution = execution or Execution()
    return replace(execution, precision=execution.precision or precision)


def _load_released(folder: Path, name: str, device: torch.device, execution: Execution) -> Pretrained:
    released = ReleasedFolder(folder)
    if released.tokenizer is None:
        raise TokenizerError(
            f"{folder.name} has no tokenizer. Put tokenizer.json, or vocab.json, merges.txt and tokenizer_config.json "
            "of the checkpoint beside the weights."
        )
    config = released.config(name=name if HUB_ID.fullmatch(name) else None)
    if released.tokenizer.vocab_size > config.transformer.vocab_size:
        raise TokenizerError(
            f"{folder.name}: the tokenizer has {released.tokenizer.vocab_size} tokens, the model "
            f"{config.transformer.vocab_size}. It belongs to another model."
        )
    _, sources = match_stored(config, released.stored)
    check_memory(config, {name: one.shape for name, one in sources.items()}, execution, device)
    settings = (LLM_FILE, VIT_FILE, EXTRA_FILE, CARD_FILE, TOKENIZER, *QWEN_FILES)
    files = [*released.weight_files, *(folder / file for file in settings if (folder / file).is_file())]
    with ThreadPoolExecutor(1) as thread:  # hashing a large file takes as long as reading it
        hashing = thread.submit(verified_digests, folder, files)
        model = load_released(released, config, execution=execution, device=device)
        digests = hashing.result()
    card = {"tile_size": config.max_latent_size * config.token_pixels, "sampler": asdict(RELEASED_SAMPLER)}
    if (folder / CARD_FILE).is_file():
        card |= load_json(folder / CARD_FILE)
    return Pretrained(model, released.tokenizer, config, card, digest_of(digests), execution)


def _load_ours(folder: Path, device: torch.device, execution: Execution) -> Pretrained:
    manifest, digest = verify(folder)
    if CONFIG not in manifest["files"]:
        raise WeightsMismatch(
            f"{folder} is no model of this kind: it has no {CONFIG}. A baseline can only be evaluated."
        )
    try:
        config = from_json(ModelConfig, _renamed((folder / CONFIG).read_text(encoding="utf-8")))
    except ConfigError as error:
        raise WeightsMismatch(f"{folder.name}/{CONFIG}: {error}") from error
    tensors: dict[str, Tensor] = {}
    for shard in sorted(file for file in manifest["files"] if file.endswith(".safetensors") and file != OOD_FILE):
        tensors |= _readable(load_file, folder / shard)
    has_familiarity = OOD_FILE in manifest["files"]
    ood_detector = _readable(load_ood_detector, folder / OOD_FILE) if has_familiarity else None
    calibration = _calibration(folder) if CALIBRATION_FILE in manifest["files"] else None
    with torch.random.fork_rng(devices=[]):
        model = MedQ(config)
    wanted, given = ({name: tuple(x.shape) for name, x in one.items()} for one in (model.state_dict(), tensors))
    match(wanted, given)
    check_memory(config, wanted, execution, device)
    model.load_state_dict({name: x.float() if x.is_floating_point() else x for name, x in tensors.items()})
    codec_module(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # convolves faster
    tokenizer = Tokenizer.from_file(folder / TOKENIZER)
    if execution != Execution(precision="float32") or device.type != "cpu":
        place(model, device, execution)
    card = manifest.get("card", {})
    return Pretrained(model.eval(), tokenizer, config, card, digest, execution, ood_detector, calibration)


def _calibration(folder: Path) -> Calibration:
    try:
        return load_calibration(folder / CALIBRATION_FILE)
    except ConfigError as error:
        raise WeightsMismatch(f"{folder.name}/{CALIBRATION_FILE}: {error}") from error


def _renamed(text: str) -> str:
    """Return the JSON of a configuration with the keys of version 0.1 by their names since."""
    for old, new in OLD_KEYS.items():
        text = re.sub(rf'"{old}"(?=\s*:)', f'"{new}"', text)
    return text


def _readable(read: Callable[[Path], T], path: Path) -> T:
    try:
        return read(path)
    except (SafetensorError, KeyError) as error:
        where = f"{path.parent.name}/{path.name}"
        raise WeightsMismatch(f"{where} is not a safetensors file, or lacks a part: {error}.") from error


def verify(folder: Path) -> tuple[dict[str, Any], str]:
    """Check every file of a model folder against its manifest; return the manifest and the hash of all.

    Raises:
        WeightsMismatch: If a file is missing or altered, or the manifest cannot be read.
    """
    try:
        manifest = load_json(folder / MANIFEST)
        files: dict[str, str] = dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsMismatch(f"{folder.name}/{MANIFEST} is missing or broken. Install or train it again.") from error
    digests = {}
    for file, expected in sorted(files.items()):
        path = folder / file
        if "/" in file or not path.is_file():
            raise WeightsMismatch(f"{folder.name}/{file} is missing. Install or train it again, or restore the file.")
        digests[file] = found = file_digest(path)
        if found != expected:
            raise WeightsMismatch(
                f"{folder.name}/{file} has sha256 {found[:12]}..., the manifest says {expected[:12]}...: "
                "the file was altered or damaged. Install or train it again."
            )
    return manifest, digest_of(digests)


def save_pretrained(
    folder: Path,
    model: MedQ,
    tokenizer: Tokenizer,
    *,
    card: dict[str, Any],
    ood_detector: OodDetector | None = None,
    calibration: Calibration | None = None,
    dtype: torch.dtype = torch.float16,
) -> str:
    """Write a model folder that :func:`load_pretrained` reads; return the hash of all its files.

    Args:
        folder: Is created; shards of an earlier model in it are removed.
        model: Weights to keep.
        tokenizer: Its file is copied in.
        card: What people should know: data, training, calibration.
        ood_detector: What its training images look like to it.
        calibration: What was measured of it.
        dtype: Floating point type of the weights on disk.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.safetensors"):
        old.unlink()
    names = []
    for number, shard in enumerate(_shards(model.state_dict(), dtype), start=1):
        names.append(f"model-{number:02d}.safetensors")
        save_tensors(shard, folder / names[-1])
    (folder / CONFIG).write_text(to_json(model.config), encoding="utf-8")
    tokenizer.save(folder / TOKENIZER)
    names += [CONFIG, TOKENIZER]
    if ood_detector is not None:
        names.append(ood_detector.save(folder))
    (folder / CALIBRATION_FILE).unlink(missing_ok=True)
    if calibration is not None:
        names.append(save_calibration(calibration, folder))
    hashes = {name: file_digest(folder / name) for name in sorted(names)}
    manifest = {"files": hashes, "card": card}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return verify(folder)[1]


def with_calibration(source: Path, folder: Path, calibration: Calibration) -> str:
    """Copy a model of ours, with another calibration, and return the hash of all files of the copy.

    Args:
        source: Folder of the model.
        folder: Of the copy; is created.
        calibration: Takes the place of the one that the model has, if any.

    Raises:
        WeightsMismatch: If the model is broken, or in the released layout, which has no place for a calibration.
    """
    if is_released(source):
        raise WeightsMismatch(f"{source.name} has the released layout, which has no place for a calibration.")
    manifest, _ = verify(source)
    names = [name for name in manifest["files"] if name != CALIBRATION_FILE]
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copyfile(source / name, folder / name)
    names.append(save_calibration(calibration, folder))
    hashes = {name: file_digest(folder / name) for name in sorted(names)}
    text = json.dumps({"files": hashes, "card": manifest.get("card", {})}, indent=2) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")
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
