"""What was drawn for one degradation: enough to apply it again, bit for bit."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from medq_uni.taxonomy import Severity, Task

RECORD_VERSION = 1
"""Raised when ``apply`` changes what an old record would give."""

Parameter = float | int


class RecordError(ValueError):
    """A degradation record that cannot be replayed."""


@dataclass(frozen=True)
class DegradationRecord:
    """One drawn degradation.

    Attributes:
        task: Kind of degradation.
        severity: Grade that it was drawn for.
        params: Physical parameters, by the field's names and units.
        seed: Seed of every random number that applying it needs.
        version: Version of the physics that it was drawn for.
    """

    task: Task
    severity: Severity
    params: dict[str, Parameter] = field(default_factory=dict)
    seed: int = 0
    version: int = RECORD_VERSION

    def to_json(self) -> str:
        """Return the record as one line of JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> DegradationRecord:
        """Return the record of a JSON text.

        Raises:
            RecordError: If it is no record, or of a version that this software cannot replay.
        """
        try:
            values: dict[str, Any] = json.loads(text)
            record = cls(
                task=Task(values["task"]),
                severity=Severity(values["severity"]),
                params=dict(values["params"]),
                seed=int(values["seed"]),
                version=int(values["version"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RecordError(
                f"not a degradation record ({type(error).__name__}: {error}). It needs task, severity, "
                "params, seed and version, as written by `medq degrade`."
            ) from error
        if record.version != RECORD_VERSION:
            raise RecordError(
                f"the record has version {record.version}, this software replays version {RECORD_VERSION}. "
                "Use the release that wrote it."
            )
        return record
