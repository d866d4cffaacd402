"""Sources of random numbers: every one has a seed that is a hash of what it is for."""

from __future__ import annotations

import hashlib

import torch


def seed_of(text: str | bytes, *, num_bytes: int = 7) -> int:
    """Return the first ``num_bytes`` bytes of the sha256 of a text as an integer: near texts give far seeds."""
    data = text.encode() if isinstance(text, str) else text
    return int.from_bytes(hashlib.sha256(data).digest()[:num_bytes], "big")


def generator_of(*numbers: int) -> torch.Generator:
    """Return a generator whose seed is a hash of the numbers, so that near numbers give far streams."""
    return torch.Generator().manual_seed(seed_of(",".join(str(number) for number in numbers)))


def randint(high: int, generator: torch.Generator) -> int:
    """Return an integer drawn uniformly from 0 to ``high - 1``."""
    return int(torch.randint(high, (1,), generator=generator))
