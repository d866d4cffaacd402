"""What a folder of weights is and needs, told from headers and configurations alone."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

from medq_uni.config import ModelConfig, SharingConfig, SpecialTokens
from medq_uni.errors import MedQError
from medq_uni.pretrained.hub import verified_digests
from medq_uni.pretrained.keys import KeysMismatch, WeightsMismatch
from medq_uni.pretrained.memory import describe, needs_of
from medq_uni.pretrained.released import ReleasedFolder, Stored, is_released, match_stored, read_config

NO_TOKENS = SpecialTokens(bos=0, eos=0, start_of_image=0, end_of_image=0)
"""Stand for those of a tokenizer that cannot be read; sizes do not depend on them."""


def inspect_folder(folder: Path, *, verify: bool = False) -> dict[str, Any]:
    """Return findings by name; ``problems`` lists all that keeps the checkpoint from being loaded.

    Args:
        folder: Released layout.
        verify: Whether every file is hashed and compared with ``SHA256SUMS`` or the hub's hashes.

    Raises:
        WeightsMismatch: If the folder is not of the released layout at all.
    """
    if not is_released(folder):
        raise WeightsMismatch(
            f"{folder.name} has no llm_config.json, so it is no released checkpoint. "
            "For models of this project use: medq doctor --model FOLDER"
        )
    released = ReleasedFolder(folder)
    problems: list[str] = []
    findings: dict[str, Any] = {"folder": str(folder)}
    tokenizer = _attempt(lambda: released.tokenizer, problems)
    if tokenizer is None and not problems:
        problems.append("no tokenizer: tokenizer.json, or vocab.json, merges.txt and tokenizer_config.json.")
    stored: dict[str, Stored] | None = _attempt(lambda: released.stored, problems)
    tokens = tokenizer.special if tokenizer else NO_TOKENS
    config = _attempt(lambda: read_config(folder, tokens=tokens), problems)
    if stored is not None:
        findings |= _weights(released, stored)
    if config is not None:
        findings |= _sizes(config)
    rows: list[dict[str, Any]] = []
    if config is not None and stored is not None:
        _attempt(lambda: match_stored(config, stored), problems)
        rows = describe(needs_of(config, {name: one.shape for name, one in stored.items()}))
    if tokenizer is not None:
        findings["tokenizer"] = f"{tokenizer.vocab_size} tokens"
    if verify and not problems:
        files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != "SHA256SUMS")
        digests = _attempt(lambda: verified_digests(folder, files), problems)
        findings |= {f"sha256 {name}": digest for name, digest in (digests or {}).items()}
    return {**findings, "memory": rows, "problems": problems}


def _attempt(read: Any, problems: list[str]) -> Any:
    """Return what ``read`` returns; note a problem and return None where it fails."""
    try:
        return read()
    except KeysMismatch as error:
        problems += [f"{what}: {name}" for what, names in _listed(error) for name in names]
    except MedQError as error:
        problems.append(str(error))
    return None


def _listed(error: KeysMismatch) -> list[tuple[str, tuple[str, ...]]]:
    return [("missing", error.missing), ("unexpected", error.unexpected), ("shape", error.misshapen)]


def _weights(released: ReleasedFolder, stored: dict[str, Stored]) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    for one in stored.values():
        counts[one.dtype] += math.prod(one.shape)
    total = sum(counts.values())
    sizes = [f"{path.name} ({path.stat().st_size / 2**30:.2f} GiB)" for path in released.weight_files]
    return {
        "files": ", ".join(sizes),
        "parameters": f"{total:,} in {len(stored)} tensors",
        "stored as": ", ".join(f"{dtype} {100 * count / total:.0f} %" for dtype, count in counts.most_common()),
    }


def _sizes(config: ModelConfig) -> dict[str, Any]:
    language, vision = config.transformer, config.vision
    is_shared = language.sharing != SharingConfig()
    return {
        "experts": "share attention" if is_shared else "two whole sets of weights (released form)",
        "transformer": f"{language.num_layers} blocks of width {language.hidden_size}, {language.num_heads} heads, "
        f"{language.num_kv_heads} key heads, {language.vocab_size} tokens",
        "vision": f"{vision.num_layers} blocks of width {vision.hidden_size}, patches of {vision.patch_size} pixels",
        "largest image": f"{config.max_latent_size * config.token_pixels} pixels a side without tiles",
    }
