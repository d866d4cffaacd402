"""Figures of a description in physical units, from what a network reads and back."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from medq_uni.image import MedicalImage, Units
from medq_uni.measurement import Quantity
from medq_uni.physical_units import measurements_of, network_values
from medq_uni.pretrained.calibration import Calibration, FigureError
from medq_uni.quantities import Reading, encoded
from medq_uni.scaling import scaling_of
from medq_uni.taxonomy import Modality, Task

TRUE = {
    Quantity.NOISE_SD: 0.01,
    Quantity.NOISE_FREQUENCY: 0.2,
    Quantity.ACCELERATION: 4.0,
    Quantity.MOTION: 3.0,
    Quantity.DOSE_REDUCTION: 4.0,
}
READING = Reading(torch.tensor([[encoded(one, TRUE[one]) for one in Quantity]]), torch.full((1, len(Quantity)), 0.1))


def calibration(error: float = 0.1, factor: float = 1.5) -> Calibration:
    figures = dict.fromkeys(Quantity, FigureError(error=error, factor=factor))
    return Calibration(version=1, source_sha256="", subjects={}, images={}, figures=figures)


def image(modality: Modality, units: Units, high: float) -> MedicalImage:
    voxels = np.linspace(-1000 if modality is Modality.CT else 0, high, 64 * 64).reshape(1, 64, 64)
    return MedicalImage(voxels.astype(np.float32), modality=modality, units=units)


@pytest.mark.parametrize(
    ("modality", "units", "task", "unit"),
    [
        (Modality.CT, Units.HU, Task.CT_LOW_DOSE, "HU"),
        (Modality.MR, Units.ARBITRARY, Task.MR_NOISE, "% of the range"),
        (Modality.PET, Units.SUV, Task.PET_LOW_COUNT, "SUV"),
        (Modality.PET, Units.BQML, Task.PET_LOW_COUNT, "Bq/ml"),
        (Modality.PET, Units.ARBITRARY, Task.PET_LOW_COUNT, "% of the range"),
    ],
)
def test_noise_is_stated_in_the_unit_of_the_image_and_comes_back(
    modality: Modality, units: Units, task: Task, unit: str
):
    shown = image(modality, units, 900.0)
    scaling = scaling_of(shown)
    found = {one.quantity: one for one in measurements_of(READING, shown, scaling, [task], calibration())}
    sd = found[Quantity.NOISE_SD]
    assert sd.unit == unit
    assert sd.value == pytest.approx(0.01 * (100 if unit.startswith("%") else scaling.wide_span), rel=0.01)
    assert sd.low == pytest.approx(sd.value * math.exp(-0.15), rel=0.01)
    assert sd.high == pytest.approx(sd.value * math.exp(0.15), rel=0.01)
    back = network_values(list(found.values()), shown, scaling)
    for quantity, value in back.items():
        assert value == pytest.approx(TRUE[quantity], rel=0.01)


def test_the_degradations_choose_the_figures():
    shown = image(Modality.MR, Units.ARBITRARY, 900.0)
    found = measurements_of(READING, shown, scaling_of(shown), [Task.MR_UNDERSAMPLING], calibration())
    assert [one.words for one in found] == ["acceleration 4 (3.61 to 4.44)"]


def test_a_figure_that_is_read_badly_or_was_never_measured_is_left_out():
    shown = image(Modality.CT, Units.HU, 900.0)
    for known in (calibration(error=2.0), Calibration(version=1, source_sha256="", subjects={}, images={})):
        assert measurements_of(READING, shown, scaling_of(shown), [Task.CT_LOW_DOSE], known) == ()
