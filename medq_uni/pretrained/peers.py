"""Folders of trained peers: ``peer.json``, ``model.safetensors`` in float32, ``manifest.json`` with their sha256."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from medq_uni.config import ConfigError
from medq_uni.config_json import from_json, to_json
from medq_uni.io.atomic import atomic_folder, file_digest
from medq_uni.peers.network import Peer, PeerConfig, build_peer
from medq_uni.pretrained import MANIFEST, verify
from medq_uni.pretrained.keys import WeightsMismatch, match
from medq_uni.pretrained.tensors import save_tensors

PEER_FILE, WEIGHTS = "peer.json", "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class PeerFile:
    """What ``peer.json`` says."""

    kind: Literal["peer"] = "peer"
    """Tells the folder from those of MedQ-UNI."""
    config: PeerConfig
    """Size of the network."""
    card: dict[str, Any] = field(default_factory=dict)
    """What people should know: training, stages, gains on the validation pairs."""


def is_peer(folder: Path) -> bool:
    """Return whether a folder says that it holds a peer."""
    return (folder / PEER_FILE).is_file()


def save_peer(folder: Path, peer: Peer, *, card: dict[str, Any]) -> str:
    """Write a folder that :func:`load_peer` reads, whole or not at all; return the hash of all its files.

    Args:
        folder: Is created; one that is there is replaced.
        peer: Weights to keep, parts that only training uses among them.
        card: What people should know: training, stages, gains.
    """
    folder = Path(folder)
    with atomic_folder(folder) as temporary:
        state = {name: value.detach().cpu().contiguous().clone() for name, value in peer.state_dict().items()}
        save_tensors(state, temporary / WEIGHTS)
        (temporary / PEER_FILE).write_text(to_json(PeerFile(config=peer.config, card=card)), encoding="utf-8")
        manifest = {"files": {name: file_digest(temporary / name) for name in (WEIGHTS, PEER_FILE)}}
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return verify(folder)[1]


def load_peer(folder: Path, *, device: torch.device | str = "cpu") -> tuple[Peer, dict[str, Any]]:
    """Return a trained peer in evaluation mode and its card, after checking every file against its hash.

    Args:
        folder: What :func:`save_peer` wrote.
        device: Where to compute.

    Raises:
        WeightsMismatch: If it is no folder of a peer, or a file is missing, altered, unreadable, or does not fit the
            configuration.
    """
    folder = Path(folder)
    if not is_peer(folder):
        raise WeightsMismatch(f"{folder} is no peer: it has no {PEER_FILE}. Give the model folder of a peer's run.")
    manifest, _ = verify(folder)
    unlisted = [name for name in (PEER_FILE, WEIGHTS) if name not in manifest["files"]]
    if unlisted:
        raise WeightsMismatch(f"{folder.name}/{MANIFEST} has no hash of {unlisted[0]}. Write the folder again.")
    try:
        about = from_json(PeerFile, (folder / PEER_FILE).read_text(encoding="utf-8"))
        state = load_file(folder / WEIGHTS)
    except (ConfigError, UnicodeDecodeError) as error:
        raise WeightsMismatch(f"{folder.name}/{PEER_FILE}: {error}") from error
    except SafetensorError as error:
        raise WeightsMismatch(f"{folder.name}/{WEIGHTS} is not a safetensors file: {error}.") from error
    with torch.random.fork_rng(devices=[]):
        peer = build_peer(about.config)
    wanted, given = ({name: tuple(x.shape) for name, x in one.items()} for one in (peer.state_dict(), state))
    match(wanted, given)
    peer.load_state_dict(state)
    return peer.to(device).eval(), about.card
