"""A trained baseline as a system under test."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from medq_uni.baselines.network import Baseline, count_parameters, restore_image
from medq_uni.pretrained.baselines import load_baseline
from medq_uni.pretrained.load import verify
from medq_uni.systems.cases import Case
from medq_uni.systems.system import Output


@dataclass(frozen=True, eq=False)
class LearnedBaseline:
    """Restores every slice whole, whatever its size, and describes nothing.

    Attributes:
        name: What it is called in tables.
        baseline: In evaluation mode.
        identity: Hash of its files.
    """

    name: str
    baseline: Baseline
    identity: str

    @classmethod
    def from_folder(cls, folder: Path, *, name: str = "", device: torch.device | str | None = None) -> LearnedBaseline:
        """Return the baseline of a model folder.

        Args:
            folder: What a run of a baseline wrote to ``model``.
            name: In tables; by default its kind.
            device: Where to compute; a GPU where there is one.

        Raises:
            WeightsMismatch: See :func:`medq_uni.pretrained.baselines.load_baseline`.
        """
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        baseline, _ = load_baseline(folder, device=device)
        return cls(name or baseline.config.kind, baseline, verify(folder)[1])

    @property
    def parameters(self) -> int:
        """Return how many numbers a restoration depends on."""
        return count_parameters(self.baseline)

    def restore(self, case: Case) -> Output:
        """Return the restored slice, in the units of the input."""
        return Output(restore_image(self.baseline, case.degraded))
