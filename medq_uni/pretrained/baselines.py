"""Folders of trained baselines: ``baseline.json``, weights in float32, ``manifest.json`` with the sha256 of both."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from medq_uni.baselines.network import Baseline, BaselineConfig, build_baseline
from medq_uni.config import ConfigError
from medq_uni.config_json import from_json, to_json
from medq_uni.files import atomic_folder, file_digest
from medq_uni.pretrained.keys import WeightsMismatch, match
from medq_uni.pretrained.load import MANIFEST, verify
from medq_uni.pretrained.tensors import save_tensors

BASELINE_FILE, WEIGHTS = "baseline.json", "model.safetensors"
OLD_FILE = "peer.json"
"""What ``baseline.json`` was called in version 0.1; folders keep it, for another name would change their hash."""


@dataclass(frozen=True, kw_only=True)
class BaselineFile:
    """What ``baseline.json`` says."""

    kind: Literal["baseline", "peer"] = "baseline"
    """Tells the folder from those of MedQ-UNI; ``peer`` in folders of version 0.1."""
    config: BaselineConfig
    """Size of the network."""
    card: dict[str, Any] = field(default_factory=dict)
    """What people should know: training, stages, gains on the validation pairs."""


def is_baseline(folder: Path) -> bool:
    """Return whether a folder says that it holds a baseline."""
    return _name_of_file(folder) is not None


def _name_of_file(folder: Path) -> str | None:
    return next((name for name in (BASELINE_FILE, OLD_FILE) if (folder / name).is_file()), None)


def save_baseline(folder: Path, baseline: Baseline, *, card: dict[str, Any]) -> str:
    """Write a folder that :func:`load_baseline` reads, whole or not at all; return the hash of all its files.

    Args:
        folder: Is created; one that is there is replaced.
        baseline: Weights to keep, parts that only training uses among them.
        card: What people should know: training, stages, gains.
    """
    folder = Path(folder)
    with atomic_folder(folder) as temporary:
        state = {name: value.detach().cpu().contiguous().clone() for name, value in baseline.state_dict().items()}
        save_tensors(state, temporary / WEIGHTS)
        (temporary / BASELINE_FILE).write_text(
            to_json(BaselineFile(config=baseline.config, card=card)), encoding="utf-8"
        )
        manifest = {"files": {name: file_digest(temporary / name) for name in (WEIGHTS, BASELINE_FILE)}}
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return verify(folder)[1]


def load_baseline(folder: Path, *, device: torch.device | str = "cpu") -> tuple[Baseline, dict[str, Any]]:
    """Return a trained baseline in evaluation mode and its card, after checking every file against its hash.

    Args:
        folder: What :func:`save_baseline` wrote.
        device: Where to compute.

    Raises:
        WeightsMismatch: If it is no folder of a baseline, or a file is missing, altered, unreadable, or does not fit
            the configuration.
    """
    folder = Path(folder)
    name = _name_of_file(folder)
    if name is None:
        raise WeightsMismatch(
            f"{folder} is no baseline: it has no {BASELINE_FILE}. Give the model folder of a baseline's run."
        )
    manifest, _ = verify(folder)
    unlisted = [file for file in (name, WEIGHTS) if file not in manifest["files"]]
    if unlisted:
        raise WeightsMismatch(f"{folder.name}/{MANIFEST} has no hash of {unlisted[0]}. Write the folder again.")
    try:
        about = from_json(BaselineFile, (folder / name).read_text(encoding="utf-8"))
        state = load_file(folder / WEIGHTS)
    except (ConfigError, UnicodeDecodeError) as error:
        raise WeightsMismatch(f"{folder.name}/{name}: {error}") from error
    except SafetensorError as error:
        raise WeightsMismatch(f"{folder.name}/{WEIGHTS} is not a safetensors file: {error}.") from error
    with torch.random.fork_rng(devices=[]):
        baseline = build_baseline(about.config)
    wanted, given = ({name: tuple(x.shape) for name, x in one.items()} for one in (baseline.state_dict(), state))
    match(wanted, given)
    baseline.load_state_dict(state)
    return baseline.to(device).eval(), about.card
