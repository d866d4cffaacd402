"""A trained peer as a system under test."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from medq_uni.evaluate.sets import Case
from medq_uni.evaluate.system import Output
from medq_uni.peers.network import Peer, count_parameters, restore_views
from medq_uni.preprocess import to_image, to_tensor
from medq_uni.pretrained import verify
from medq_uni.pretrained.peers import load_peer


@dataclass(frozen=True, eq=False)
class LearnedPeer:
    """Restores every slice whole, whatever its size, and describes nothing.

    Attributes:
        name: What it is called in tables.
        peer: In evaluation mode.
        identity: Hash of its files.
    """

    name: str
    peer: Peer
    identity: str

    @classmethod
    def from_folder(cls, folder: Path, *, name: str = "", device: torch.device | str | None = None) -> LearnedPeer:
        """Return the peer of a model folder.

        Args:
            folder: What a run of a peer wrote to ``model``.
            name: In tables; by default its kind.
            device: Where to compute; a GPU where there is one.

        Raises:
            WeightsMismatch: See :func:`medq_uni.pretrained.peers.load_peer`.
        """
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        peer, _ = load_peer(folder, device=device)
        return cls(name or peer.config.kind, peer, verify(folder)[1])

    @property
    def parameters(self) -> int:
        """Return how many numbers a restoration depends on."""
        return count_parameters(self.peer)

    def restore(self, case: Case) -> Output:
        """Return the restored slice, in the units of the input."""
        views, inverse = to_tensor(case.degraded, multiple=self.peer.config.multiple)
        return Output(to_image(restore_views(self.peer, views, inverse.scaling), inverse))
