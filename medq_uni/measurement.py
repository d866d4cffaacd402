"""A figure of a degradation that a physicist can measure: its name, unit, value and interval, in words and as JSON."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from medq_uni.errors import MedQError


class Quantity(StrEnum):
    """What can be told about a degradation, in this order."""

    NOISE_SD = "noise_sd"
    """Standard deviation of the noise inside the body, as a fraction of the network range of the image."""
    NOISE_FREQUENCY = "noise_frequency"
    """Mean frequency of the noise power spectrum (f_av of AAPM TG-233, 2019), in cycles per pixel."""
    ACCELERATION = "acceleration"
    """Lines of a full acquisition per line acquired."""
    MOTION = "motion"
    """Largest translation in pixels plus largest rotation in degrees: about the largest shift in pixels at a distance
    of 57 pixels from the center."""
    DOSE_REDUCTION = "dose_reduction"
    """Counts of a full acquisition per count acquired."""


NAMES: Mapping[Quantity, str] = {
    Quantity.NOISE_SD: "noise SD",
    Quantity.NOISE_FREQUENCY: "mean noise frequency",
    Quantity.ACCELERATION: "acceleration",
    Quantity.MOTION: "motion extent",
    Quantity.DOSE_REDUCTION: "dose reduction",
}
"""What a description calls every quantity."""
UNITS: Mapping[Quantity, tuple[str, ...]] = {
    Quantity.NOISE_SD: ("HU", "% of the range", "SUV", "Bq/ml"),
    Quantity.NOISE_FREQUENCY: ("per pixel",),
    Quantity.ACCELERATION: ("",),
    Quantity.MOTION: ("pixels and degrees",),
    Quantity.DOSE_REDUCTION: ("",),
}
"""Units in which each can be stated."""
LARGEST = 1e7
"""A stated number is not larger than this."""
SMALLEST = 1e-6
"""A smaller number is stated as 0."""
_NUMBER = r"(\d+(?:\.\d+)?)"
_UNIT = "|".join(sorted({unit for each in UNITS.values() for unit in each if unit}))
_STATED = re.compile(
    rf"({'|'.join(NAMES.values())}) {_NUMBER}(?: ({_UNIT}))?(?: \({_NUMBER} to {_NUMBER}\))?", re.IGNORECASE
)


class MeasurementError(MedQError):
    """A figure of a description that cannot be read or built."""


@dataclass(frozen=True)
class Measurement:
    """One figure of a description, with the interval in which the true one lies nine times of ten."""

    quantity: Quantity
    value: float
    """In :attr:`unit`; three digits are kept."""
    unit: str = ""
    """One of :data:`UNITS`."""
    low: float | None = None
    high: float | None = None
    """Both ends of the interval, or neither."""

    def __post_init__(self) -> None:
        """Check unit and numbers, and round them to three digits."""
        if self.unit not in UNITS[self.quantity]:
            units = " or ".join(unit or "none" for unit in UNITS[self.quantity])
            raise MeasurementError(f"{NAMES[self.quantity]}: the unit is {units}, got {self.unit[:20]!r}.")
        if (self.low is None) != (self.high is None):
            raise MeasurementError(f"{NAMES[self.quantity]}: an interval has two ends.")
        for name in ("value", "low", "high"):
            number = getattr(self, name)
            if number is None:
                continue
            if isinstance(number, bool) or not 0 <= float(number) <= LARGEST:
                raise MeasurementError(f"{NAMES[self.quantity]}: {name} must lie between 0 and {LARGEST:g}.")
            object.__setattr__(self, name, _rounded(float(number)))
        if self.low is not None and self.high is not None and not self.low <= self.value <= self.high:
            raise MeasurementError(f"{NAMES[self.quantity]}: the value lies outside its interval.")

    @property
    def words(self) -> str:
        """The figure in words, for example ``noise SD 35 HU (30 to 41)``."""
        interval = "" if self.low is None or self.high is None else f" ({_spelled(self.low)} to {_spelled(self.high)})"
        return f"{NAMES[self.quantity]} {_spelled(self.value)}{self.unit and f' {self.unit}'}{interval}"

    @classmethod
    def from_words(cls, text: str) -> Measurement:
        """Return the figure that a text spells.

        Raises:
            MeasurementError: If it spells none.
        """
        found = _STATED.fullmatch(text)
        if found is None:
            raise MeasurementError(
                f"Measured: needs a figure such as 'noise SD 35 HU (30 to 41)', got {text[:60]!r}. Figures are "
                f"{', '.join(NAMES.values())}."
            )
        name, value, unit, low, high = found.groups()
        quantity = next(one for one, called in NAMES.items() if called.lower() == name.lower())
        units = {one.lower(): one for one in UNITS[quantity]}
        ends = (None, None) if low is None else (float(low), float(high))
        return cls(quantity, float(value), units.get((unit or "").lower(), unit or ""), *ends)

    def to_dict(self) -> dict[str, Any]:
        """Return the figure as JSON values."""
        ends = {} if self.low is None else {"low": self.low, "high": self.high}
        found: dict[str, Any] = {"quantity": self.quantity.value, "value": self.value, "unit": self.unit}
        return found | ends

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Measurement:
        """Return the figure of :meth:`to_dict`.

        Raises:
            MeasurementError: If a key is missing or a value is not what it should be.
        """
        try:
            numbers = {name: values.get(name) for name in ("low", "high")}
            if not all(one is None or isinstance(one, int | float) for one in (*numbers.values(), values["value"])):
                raise TypeError("a number is needed")
            return cls(Quantity(values["quantity"]), values["value"], str(values.get("unit", "")), **numbers)
        except (KeyError, TypeError, ValueError) as error:
            raise MeasurementError(f"a measurement needs quantity, value and unit; found {error}.") from error


def measurement_schema() -> dict[str, Any]:
    """Return the JSON schema of :meth:`Measurement.to_dict`."""
    number = {"type": "number", "minimum": 0}
    units = sorted({unit for each in UNITS.values() for unit in each})
    return {
        "type": "object",
        "properties": {
            "quantity": {"enum": [quantity.value for quantity in Quantity]},
            "value": number,
            "unit": {"enum": units},
            "low": number,
            "high": number,
        },
        "required": ["quantity", "value", "unit"],
        "additionalProperties": False,
    }


def _rounded(number: float) -> float:
    return 0.0 if number < SMALLEST else float(f"{number:.3g}")


def _spelled(number: float) -> str:
    return f"{number:.10f}".rstrip("0").rstrip(".")
