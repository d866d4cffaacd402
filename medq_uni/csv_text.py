"""Rows of results as CSV, in which a field that holds several numbers becomes several columns."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any


def csv_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as CSV, with a column for every field of any row; what is None or missing is left empty.

    Args:
        rows: By field. A mapping becomes columns ``field_key``, a sequence of two the columns ``field_low`` and
            ``field_high``.
    """
    flat = [_flat(row) for row in rows]
    columns = list(dict.fromkeys(name for row in flat for name in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return buffer.getvalue()


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat({f"{name}_{key}": one for key, one in value.items()})
        elif isinstance(value, tuple | list):
            found |= {f"{name}_{end}": one for end, one in zip(("low", "high"), value, strict=True)}
        else:
            found[name] = value
    return found
