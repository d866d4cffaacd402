import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medq_uni.measurement import LARGEST, UNITS, Measurement, MeasurementError, Quantity
from medq_uni.quantities import OF_TASK, TOLD_NUMBERS, Quantities, Reading, decoded, encoded, known_with, misread
from medq_uni.taxonomy import Modality, Task

RANGES = {
    Quantity.NOISE_SD: (1e-3, 0.5),
    Quantity.NOISE_FREQUENCY: (0.0, 0.5),
    Quantity.ACCELERATION: (1.0, 16.0),
    Quantity.MOTION: (0.0, 60.0),
    Quantity.DOSE_REDUCTION: (1.0, 200.0),
}


@pytest.mark.parametrize("quantity", Quantity)
@given(share=st.floats(0, 1))
def test_a_value_comes_back_from_the_scale_of_the_network(quantity: Quantity, share: float):
    low, high = RANGES[quantity]
    value = low + share * (high - low)
    assert decoded(quantity, encoded(quantity, value)) == pytest.approx(value, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("quantity", Quantity)
def test_usual_values_lie_around_zero(quantity: Quantity):
    low, high = RANGES[quantity]
    numbers = [encoded(quantity, low), encoded(quantity, high)]
    assert -3.5 < numbers[0] < 0 < numbers[1] < 4


def test_what_is_not_known_is_told_as_not_known():
    told = Quantities(Modality.MR, {Quantity.ACCELERATION: 4.0}).told()
    assert told.shape == (TOLD_NUMBERS,)
    modality, numbers = told[:3].tolist(), told[3:].unflatten(0, (-1, 2))
    assert modality == [float(one is Modality.MR) for one in Modality]
    assert numbers[:, 1].tolist() == [float(one is Quantity.ACCELERATION) for one in Quantity]
    assert numbers[:, 0].tolist() == [0.0] * len(Quantity)  # 4 lies in the middle of the scale


def test_noise_is_told_where_noise_is_all_there_is():
    assert known_with([]) == {Quantity.NOISE_SD}
    assert known_with([Task.CT_LOW_DOSE]) == OF_TASK[Task.CT_LOW_DOSE]
    assert known_with([Task.MR_NOISE, Task.MR_MOTION]) == {Quantity.MOTION}
    assert all(OF_TASK[task] for task in Task)


def test_readings_err_as_readings_do():
    generator = torch.Generator().manual_seed(0)
    told = Quantities(Modality.CT, {Quantity.NOISE_SD: 0.02, Quantity.NOISE_FREQUENCY: 0.3}).told()
    read = torch.stack([misread(told, generator) for _ in range(2000)])
    assert torch.equal(read[:, :3], told[:3].expand(2000, -1))
    sd, known = read[:, 3], read[:, 4].bool()
    assert 0.75 < known.float().mean() < 0.9
    assert (sd[~known] == 0).all()
    exact = (sd == told[3]) & known
    assert 0.1 < exact.float().mean() < 0.3
    assert sd[known].median() == pytest.approx(float(told[3]), abs=0.02)
    assert sd[known].std() > 0.15
    assert (read[:, 7:] == 0).all()  # what was not known is not made up


def test_of_several_windows_the_middle_reading_counts():
    value = torch.tensor([[-1.0, 0, 0, 0, 0], [0.5, 0, 0, 0, 0], [9.0, 0, 0, 0, 0]])
    found = Reading(value, torch.ones(3, 5)).median().quantities(Modality.CT, {Quantity.NOISE_SD})
    assert found.modality is Modality.CT
    assert found.values == {Quantity.NOISE_SD: pytest.approx(decoded(Quantity.NOISE_SD, 0.5))}


@st.composite
def measurements(draw: st.DrawFn) -> Measurement:
    quantity = draw(st.sampled_from(Quantity))
    low, value, high = sorted(draw(st.lists(st.floats(0, LARGEST), min_size=3, max_size=3)))
    ends = (low, high) if draw(st.booleans()) else (None, None)
    return Measurement(quantity, value, draw(st.sampled_from(UNITS[quantity])), *ends)


@given(measurements())
def test_a_figure_comes_back_from_words_and_json(one: Measurement):
    assert Measurement.from_words(one.words) == one
    assert Measurement.from_words(one.words.upper()) == one
    assert Measurement.from_dict(one.to_dict()) == one


def test_a_figure_is_stated_as_physicists_do():
    assert Measurement(Quantity.NOISE_SD, 35.04, "HU", 30.2, 41).words == "noise SD 35 HU (30.2 to 41)"
    assert Measurement(Quantity.ACCELERATION, 4).words == "acceleration 4"
    assert Measurement(Quantity.NOISE_SD, 12345.6, "Bq/ml").words == "noise SD 12300 Bq/ml"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "noise SD",
        "noise SD -3 HU",
        "noise SD 1e3 HU",
        "noise SD nan HU",
        "noise SD 3 mm",
        "acceleration 4 HU",
        "noise SD 35 HU (41 to 30)",
        "noise SD 35 HU (30 to)",
        "noise SD 99999999999999999999 HU",
        "dose 3",
        "noise SD 35 HU; acceleration 3",
    ],
)
def test_a_wrong_figure_is_refused(text: str):
    with pytest.raises(MeasurementError):
        Measurement.from_words(text)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"quantity": "noise_sd", "unit": "HU"},
        {"quantity": "noise_sd", "value": "35", "unit": "HU"},
        {"quantity": "noise_sd", "value": True, "unit": "HU"},
        {"quantity": "noise_sd", "value": math.nan, "unit": "HU"},
        {"quantity": "noise_sd", "value": 3.0, "unit": "HU", "low": 2.0},
        {"quantity": "sharpness", "value": 3.0, "unit": ""},
    ],
)
def test_a_wrong_dictionary_of_a_figure_is_refused(values: dict[str, object]):
    with pytest.raises(MeasurementError):
        Measurement.from_dict(values)
