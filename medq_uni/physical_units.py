"""From what a network reads of a degradation to the figures of a description, in physical units, and back."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from medq_uni.image import MedicalImage, Units
from medq_uni.measurement import UNITS, Measurement, Quantity
from medq_uni.pretrained.calibration import Calibration
from medq_uni.quantities import Reading, decoded, known_with
from medq_uni.scaling import Scaling
from medq_uni.taxonomy import Modality, Task

PERCENT = "% of the range"
"""Unit of noise where the values of an image have none."""


def measurements_of(
    reading: Reading, image: MedicalImage, scaling: Scaling, tasks: Collection[Task], calibration: Calibration
) -> tuple[Measurement, ...]:
    """Return the figures that were read of an image, each with the interval that covers nine of ten true ones.

    Those whose error was not measured, or was too large to be of use, are left out, and all of a good image.

    Args:
        reading: Of the whole image; its first row counts.
        image: Says in which unit noise is stated.
        scaling: Range that the network sees.
        tasks: Degradations that the image is said to have; they choose the figures.
        calibration: Of the model that read them.
    """
    found: list[Measurement] = []
    for place, quantity in enumerate(Quantity):
        known = calibration.figures.get(quantity)
        if not tasks or quantity not in known_with(tasks) or known is None or not known.is_useful(quantity):
            continue
        value, half = float(reading.value[0, place]), known.factor * float(reading.deviation[0, place])
        unit, size = _unit(quantity, image, scaling)
        ends = [size * decoded(quantity, number) for number in (value, value - half, value + half)]
        found.append(Measurement(quantity, ends[0], unit, min(ends[1], ends[0]), max(ends[2], ends[0])))
    return tuple(found)


def network_values(
    measurements: Collection[Measurement], image: MedicalImage, scaling: Scaling
) -> Mapping[Quantity, float]:
    """Return figures in the units of a network, as a person stated them."""
    values = {}
    for one in measurements:
        size = 0.01 if one.unit == PERCENT else 1 / _unit(one.quantity, image, scaling)[1]
        values[one.quantity] = one.value * size
    return values


def _unit(quantity: Quantity, image: MedicalImage, scaling: Scaling) -> tuple[str, float]:
    """Return the unit in which a quantity of an image is stated, and how many of it one of the network's is."""
    if quantity is not Quantity.NOISE_SD:
        return UNITS[quantity][0], 1.0
    if image.modality is Modality.CT:
        return "HU", scaling.wide_span
    if image.units in (Units.SUV, Units.BQML):
        return ("SUV" if image.units is Units.SUV else "Bq/ml"), scaling.wide_span
    return PERCENT, 100.0
