"""Reading JSON that others wrote, with limits on its size and depth."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medq_uni.errors import MedQError

MAX_BYTES = 64 * 2**20
"""Longest text: a manifest of a hundred thousand images has some 20 MB."""
MAX_DEPTH = 100
_TEXT_OR_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[\]{}]', re.DOTALL)


class JsonTooLarge(MedQError):  # noqa: N818
    """A JSON text that is longer, or nested deeper, than any of ours."""


def parse_json(
    text: str | bytes,
    *,
    max_bytes: int = MAX_BYTES,
    pairs: Callable[[list[tuple[str, Any]]], Any] | None = None,
) -> Any:
    """Return the value of a JSON text.

    Args:
        text: The text; bytes are UTF-8.
        max_bytes: Longest text that is read.
        pairs: Makes a value of the (name, value) pairs of an object, in place of a dictionary.

    Raises:
        JsonTooLarge: If it is longer than ``max_bytes``, or nested deeper than :data:`MAX_DEPTH`.
        ValueError: If it is no JSON (:class:`json.JSONDecodeError`), or no UTF-8.
    """
    if len(text) > max_bytes:
        raise JsonTooLarge(f"the JSON has more than {max_bytes / 2**20:.0f} MiB. It is none of ours; check the file.")
    plain = text if isinstance(text, str) else text.decode("utf-8")
    _check_depth(plain)
    return json.loads(plain, object_pairs_hook=pairs)


def load_json(path: Path, *, max_bytes: int = MAX_BYTES) -> Any:
    """Return the value in a JSON file; see :func:`parse_json`. A file that is too large is not read.

    Raises:
        JsonTooLarge: If it is too large, or nested too deeply.
        OSError: If it cannot be read.
        ValueError: If it is no JSON.
    """
    with path.open("rb") as file:
        return parse_json(file.read(max_bytes + 1), max_bytes=max_bytes)


def _check_depth(text: str) -> None:
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    depth = 0
    for found in _TEXT_OR_BRACKET.finditer(text):
        first = found[0][0]
        if first in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise JsonTooLarge(f"the JSON is nested deeper than {MAX_DEPTH}. It is none of ours; check the file.")
        elif first in "]}":
            depth -= 1
