"""Names of systems and benchmarks as names of files."""

from __future__ import annotations

import hashlib


def slug(name: str) -> str:
    """Return a name as a part of a path; names that differ stay different."""
    plain = "".join(letter if letter.isalnum() else "-" for letter in name.lower())
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"
