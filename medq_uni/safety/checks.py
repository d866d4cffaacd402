"""Safety checks: every system through every check, resumable, and no failure dropped."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medq_uni.errors import MedQError
from medq_uni.files import write_text
from medq_uni.json_text import load_json
from medq_uni.safety.bias import check_bias
from medq_uni.safety.calibration import check_calibration
from medq_uni.safety.consistency import check_consistency
from medq_uni.safety.good_image_preservation import check_good_image_preservation
from medq_uni.safety.hallucination import check_hallucination
from medq_uni.safety.lesion_survival import check_lesions
from medq_uni.safety.output_cache import Measurement, OutputCache, SafetyCase, SafetySettings, safety_cases_of
from medq_uni.safety.shift import check_shift
from medq_uni.safety.texture import check_texture
from medq_uni.systems.naming import slug
from medq_uni.systems.system import System

DEFINITIONS = 3
"""Raised when a check measures something else; older results are then measured again."""
FOLDER = "safety"
Check = Callable[[OutputCache, Sequence[SafetyCase], SafetySettings], list[Measurement]]
CHECKS: dict[str, Check] = {
    "lesions": check_lesions,
    "hallucination": check_hallucination,
    "bias": check_bias,
    "texture": check_texture,
    "consistency": check_consistency,
    "good_image_preservation": check_good_image_preservation,
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
        MedQError: If two systems have one name.
    """
    names = [system.name for system in systems]
    if len(set(names)) != len(names):
        raise MedQError(f"systems need names of their own, got {', '.join(names)}.")
    told = json.loads(json.dumps(asdict(settings)))
    told["sources"] = [Path(source.rpartition(":")[2]).name for source in settings.sources]  # no paths of a machine
    about: dict[str, Any] = {"settings": told, "definitions": DEFINITIONS}
    safety_cases: list[SafetyCase] | None = None
    measured: dict[str, Any] = {name: {} for name in names}
    for number, system in enumerate(systems):
        outputs, head = OutputCache(system), about | {"identity": system.identity}
        for place, (check, function) in enumerate(CHECKS.items(), start=1):
            path = Path(folder) / FOLDER / f"{slug(system.name)}-{check}.json"
            found = _read(path, head)
            if found is None:
                safety_cases = safety_cases_of(settings) if safety_cases is None else safety_cases
                outputs.failed = {}
                rows = function(outputs, safety_cases, settings)
                found = {"rows": rows, "failed": dict(outputs.failed)}
                write_text(path, json.dumps(head | found, allow_nan=False) + "\n")
            measured[system.name][check] = found
            if progress is not None:
                progress(number * len(CHECKS) + place, len(systems) * len(CHECKS))
    return about | {"systems": measured}


def _read(path: Path, head: dict[str, Any]) -> dict[str, Any] | None:
    """Return the rows of a finished check, None where there are none of this head or some of it failed."""
    if not path.is_file():
        return None
    values = load_json(path)
    if values.get("failed") or any(values.get(key) != value for key, value in head.items()):
        return None
    return {key: values[key] for key in ("rows", "failed")}
