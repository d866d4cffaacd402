import numpy as np
import pytest
import torch

from medq_uni.data.phantoms import phantom
from medq_uni.physics.alternatives import ALTERNATIVES
from medq_uni.physics.degrade import apply_records, degrade, draw_record, methods_of
from medq_uni.physics.effect import effect
from medq_uni.physics.record import DegradationRecord
from medq_uni.taxonomy import Severity, Task

WAYS = [(task, method) for task in Task for method in ALTERNATIVES[task]]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_every_task_has_a_second_way():
    assert all(len(methods_of(task)) >= 2 for task in Task)


@pytest.mark.parametrize(("task", "method"), WAYS)
def test_it_replays_without_global_randomness_and_differs_from_the_default(task: Task, method: str):
    image = phantom(task.modality, generator(3), size=96)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    record = draw_record(task, Severity.MODERATE, generator(1), method=method)
    first = apply_records(image, record)
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002
    again = apply_records(image, DegradationRecord.from_json(record.to_json()))
    default = draw_record(task, Severity.MODERATE, generator(1))
    assert np.array_equal(first.voxels, again.voxels)
    assert not np.array_equal(first.voxels, apply_records(image, default).voxels)
    assert first.voxels.dtype == np.float32


@pytest.mark.parametrize(("task", "method"), WAYS)
def test_a_worse_grade_makes_a_larger_effect(task: Task, method: str):
    image = phantom(task.modality, generator(3), size=96)
    effects = []
    for severity in (Severity.MILD, Severity.SEVERE):
        runs = [degrade(image, [(task, severity)], generator(seed), method=method) for seed in range(3)]
        effects.append(np.median([run.effects[0] for run in runs]))
    assert 0 < effects[0] < effects[1]


def test_counted_photons_give_the_recorded_noise_where_there_are_many():
    image = phantom(Task.CT_LOW_DOSE.modality, generator(3), size=96)
    record = draw_record(Task.CT_LOW_DOSE, Severity.MILD, generator(1), method="counts")
    made = apply_records(image, record)
    assert effect(made, image, Task.CT_LOW_DOSE) == pytest.approx(record.params["noise_sd_hu"], rel=0.2)


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="has no method"):
        draw_record(Task.MR_NOISE, Severity.MILD, generator(), method="counts")
