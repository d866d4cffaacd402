import json

import numpy as np
import pytest
import torch

from medq_uni.image import MedicalImage
from medq_uni.physics.degrade import apply_records, draw_record
from medq_uni.physics.record import MEASURED, DegradationRecord, RecordError, read_records
from medq_uni.taxonomy import Modality, Severity, Task


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"task": "x"}'])
def test_what_is_no_record_is_refused(text: str):
    with pytest.raises(RecordError, match="not a degradation record"):
        DegradationRecord.from_json(text)


def test_a_record_of_another_version_is_refused():
    values = json.loads(draw_record(Task.MR_NOISE, Severity.MILD, generator()).to_json())
    with pytest.raises(RecordError, match="version 99"):
        DegradationRecord.from_json(json.dumps(values | {"version": 99}))


VERSION_1 = {
    "task": "mr-undersampling",
    "severity": "moderate",
    "params": {"acceleration": 4, "center_fraction": 0.08, "phase_axis": 0, "phase_strength": 0.9},
    "seed": 11,
    "version": 1,
}

GOLDEN = [0.0, 0.0, 0.90559, 1.045856, 1.105671]
"""A row of what the software that wrote version 1 gave."""


def test_a_record_of_version_1_still_replays_what_it_gave():
    place = torch.linspace(-1, 1, 24)
    image = MedicalImage((torch.hypot(place[:, None], place[None] * 1.3) < 0.7).float().numpy(), modality=Modality.MR)
    degraded = apply_records(image, DegradationRecord.from_json(json.dumps(VERSION_1))).voxels[0]
    assert degraded[12, 4:9].tolist() == pytest.approx(GOLDEN, abs=1e-5)


def test_lists_and_sidecars_are_read():
    one = draw_record(Task.MR_NOISE, Severity.MILD, generator())
    fields = json.loads(one.to_json())
    for text in (json.dumps(fields), json.dumps([fields]), json.dumps({"degradation": [fields], "notice": ""})):
        assert read_records(text) == (one,)
    with pytest.raises(RecordError, match="empty"):
        read_records("[]")


@pytest.mark.parametrize("value", ["0.5", True, None, [1]])
def test_parameters_are_numbers(value: object):
    with pytest.raises(RecordError, match="must be a number"):
        DegradationRecord.from_fields(VERSION_1 | {"params": {"acceleration": value}})


@pytest.mark.parametrize(
    ("task", "name", "value"),
    [
        (Task.CT_LOW_DOSE, "dose_fraction", 0.0),
        (Task.CT_LOW_DOSE, "dose_fraction", 1.5),
        (Task.PET_LOW_COUNT, "dose_reduction", 0.5),
        (Task.MR_UNDERSAMPLING, "acceleration", 0),
        (Task.MR_NOISE, "sigma_fraction", -1.0),
    ],
)
def test_a_dose_of_zero_and_other_impossible_parameters_are_refused(task: Task, name: str, value: float):
    record = draw_record(task, Severity.MILD, generator())
    wrong = DegradationRecord(task, Severity.MILD, record.params | {name: value}, record.seed)
    image = MedicalImage(np.linspace(0, 500, 1024).reshape(32, 32), modality=task.modality)
    with pytest.raises(RecordError, match=name):
        apply_records(image, wrong)


def test_a_measured_pair_and_an_unknown_method_cannot_be_replayed():
    image = MedicalImage(np.linspace(0, 500, 1024).reshape(32, 32), modality=Modality.CT)
    measured = DegradationRecord(Task.CT_LOW_DOSE, Severity.MILD, {"dose_fraction": 0.25}, method=MEASURED)
    with pytest.raises(RecordError, match="nothing to replay"):
        apply_records(image, measured)
    with pytest.raises(RecordError, match="no method 'magic'"):
        apply_records(
            image, DegradationRecord(Task.CT_LOW_DOSE, Severity.MILD, {"dose_fraction": 0.25}, method="magic")
        )
