"""Which tables were measured with other weights than those that the package holds."""

from __future__ import annotations

import json
from pathlib import Path

from medq_uni.pretrained.load import folder_of, verify

TABLES = {
    "sweep": "the sweep",
    "worklist": "the worklist",
    "evaluation": "the tables by task and modality, of unseen images and of safety",
}
"""By the name of the kept results."""


def older_weights(folder: Path) -> list[str]:
    """Return a paragraph that names the tables of earlier weights of nano; nothing where there is none.

    Args:
        folder: Of the kept results.
    """
    now = verify(folder_of("nano"))[1][:12]
    measured = {what: _measured(folder / f"{name}.json") for name, what in TABLES.items()}
    found = [f"{what} (nano {then})" for what, then in measured.items() if then not in (None, now)]
    if not found:
        return []
    return [f"**Older weights.** The package holds nano {now}. Measured with earlier weights: {', '.join(found)}.\n"]


def _measured(path: Path) -> str | None:
    """Return the identity of the nano that a file of results is about."""
    results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if "weights" in results:
        return str(results["weights"]["nano"])
    return next((one["identity"][:12] for one in results.get("systems", ()) if one["name"] == "nano"), None)
