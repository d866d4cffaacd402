"""Safety checks: every system through every check, resumable, and no failure dropped."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medq_uni.evaluate.bias import check_bias
from medq_uni.evaluate.calibration import check_calibration
from medq_uni.evaluate.consistency import check_consistency
from medq_uni.evaluate.harm import check_harm
from medq_uni.evaluate.invention import check_invention
from medq_uni.evaluate.lesions import check_lesions
from medq_uni.evaluate.runner import slug
from medq_uni.evaluate.shift import check_shift
from medq_uni.evaluate.system import System
from medq_uni.evaluate.texture import check_texture
from medq_uni.evaluate.trials import Row, SafetySettings, Scene, Trials, scenes_of
from medq_uni.io.atomic import write_text

DEFINITIONS = 2
"""Raised when a check measures something else; older results are then measured again."""
FOLDER = "safety"
Check = Callable[[Trials, Sequence[Scene], SafetySettings], list[Row]]
CHECKS: dict[str, Check] = {
    "lesions": check_lesions,
    "invention": check_invention,
    "bias": check_bias,
    "texture": check_texture,
    "consistency": check_consistency,
    "harm": check_harm,
    "calibration": check_calibration,
    "shift": check_shift,
}


def run_safety(
    systems: Sequence[System],
    settings: SafetySettings,
    folder: Path,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Return the measurements of every system in every check; go on where an earlier call stopped.

    Each finished check is a file in ``folder/safety``. It is measured again where the system failed on a case, or its
    identity, the settings or the definitions have changed.

    Args:
        systems: Under test, with names of their own.
        settings: How much is checked.
        folder: Where the files go.
        progress: Called with the number of checks done and their total.

    Returns:
        JSON values: ``settings``, ``definitions``, and ``systems``: name -> check -> ``rows`` and ``failed``, the
        reason by label of every case on which the system failed.

    Raises:
        ValueError: If two systems have one name.
    """
    names = [system.name for system in systems]
    if len(set(names)) != len(names):
        raise ValueError(f"systems need names of their own, got {', '.join(names)}.")
    told = json.loads(json.dumps(asdict(settings)))
    told["sources"] = [Path(source.rpartition(":")[2]).name for source in settings.sources]  # no paths of a machine
    about: dict[str, Any] = {"settings": told, "definitions": DEFINITIONS}
    scenes: list[Scene] | None = None
    measured: dict[str, Any] = {name: {} for name in names}
    for number, system in enumerate(systems):
        trials, head = Trials(system), about | {"identity": system.identity}
        for place, (check, function) in enumerate(CHECKS.items(), start=1):
            path = Path(folder) / FOLDER / f"{slug(system.name)}-{check}.json"
            found = _read(path, head)
            if found is None:
                scenes = scenes_of(settings) if scenes is None else scenes
                trials.failed = {}
                rows = function(trials, scenes, settings)
                found = {"rows": rows, "failed": dict(trials.failed)}
                write_text(path, json.dumps(head | found, allow_nan=False) + "\n")
            measured[system.name][check] = found
            if progress is not None:
                progress(number * len(CHECKS) + place, len(systems) * len(CHECKS))
    return about | {"systems": measured}


def _read(path: Path, head: dict[str, Any]) -> dict[str, Any] | None:
    """Return the rows of a finished check, None where there are none of this head or some of it failed."""
    if not path.is_file():
        return None
    values = json.loads(path.read_text(encoding="utf-8"))
    if values.get("failed") or any(values.get(key) != value for key, value in head.items()):
        return None
    return {key: values[key] for key in ("rows", "failed")}
