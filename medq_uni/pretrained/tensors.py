"""Files of weights that others may read, as any file that a program writes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file with the rights that the umask gives; the library itself gives them to its owner alone.

    Args:
        tensors: Contiguous, none sharing memory with another.
        path: File to write; one that is there is replaced and keeps its rights.
    """
    path.touch()
    mode = path.stat().st_mode
    save_file(dict(tensors), path)
    path.chmod(mode)
