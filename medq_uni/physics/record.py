"""What was drawn for one degradation: enough to apply it again, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from medq_uni.errors import MedQError
from medq_uni.json_text import parse_json
from medq_uni.taxonomy import Severity, Task

RECORD_VERSION = 2
"""Raised when records get a field, or when ``apply`` changes what a record gives."""
AFTER_VERSION = 3
"""Of records that also say what happened to the image after the scanner; all others are as they were in version 2."""
REPLAYED_VERSIONS = (1, 2, 3)
"""Version 1 has no ``method``: it is the default one, unchanged since."""
DEFAULT_METHOD = "default"
SCANNER_METHOD = "scanner"
"""The whole chain of acquisition, its parameters drawn far beyond what one scanner does."""
MEASURED = "measured"
"""Method of a pair that a scanner measured at two doses: there is nothing to replay."""

Parameter = float | int
Params = dict[str, Parameter]
"""Physical parameters by name, with their unit in it where there is one."""


class RecordError(MedQError):
    """A degradation record that cannot be replayed."""


@dataclass(frozen=True)
class DegradationRecord:
    """One drawn degradation.

    Attributes:
        task: Kind of degradation.
        severity: Grade that its parameters were drawn for, or that its effect on an image was measured to have.
        params: Physical parameters, by the field's names and units; without any, nothing is changed.
        seed: Seed of every random number that applying it needs.
        method: ``default``, ``scanner``, the name of an alternative simulation, or ``measured``.
        version: Version of the physics that it was drawn for.
    """

    task: Task
    severity: Severity
    params: Params = field(default_factory=dict)
    seed: int = 0
    method: str = DEFAULT_METHOD
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
        return cls.from_fields(_parsed(text))

    @classmethod
    def from_fields(cls, values: Any) -> DegradationRecord:
        """Return the record of parsed JSON; see :meth:`from_json`."""
        try:
            record = cls(
                task=Task(values["task"]),
                severity=Severity(values["severity"]),
                params=_numbers(values["params"]),
                seed=int(values["seed"]),
                method=str(values.get("method", DEFAULT_METHOD)),
                version=int(values["version"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RecordError(
                f"not a degradation record ({type(error).__name__}: {error}). It needs task, severity, "
                "params, seed and version, as written by `medq degrade`."
            ) from error
        if record.version not in REPLAYED_VERSIONS:
            replayed = f"{', '.join(str(one) for one in REPLAYED_VERSIONS[:-1])} and {REPLAYED_VERSIONS[-1]}"
            raise RecordError(
                f"the record has version {record.version}, this software replays versions {replayed}. "
                "Use the release that wrote it."
            )
        return record


def read_records(text: str) -> tuple[DegradationRecord, ...]:
    """Return the records of a JSON text: one record, a list of them, or a sidecar file of ``medq degrade``.

    Raises:
        RecordError: As :meth:`DegradationRecord.from_json`.
    """
    values = _parsed(text)
    if isinstance(values, dict) and "degradation" in values:
        values = values["degradation"]
    listed: Sequence[Any] = values if isinstance(values, list) else [values]
    if not listed:
        raise RecordError("the list of degradation records is empty. Give at least one, as written by `medq degrade`.")
    return tuple(DegradationRecord.from_fields(one) for one in listed)


def _parsed(text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        raise RecordError(f"not a degradation record (not JSON: {error}).") from error


def _numbers(values: Any) -> Params:
    for name, value in dict(values).items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise MedQError(f"parameter {name} must be a number, got {value!r}")
    return dict(values)
