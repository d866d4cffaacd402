import numpy as np
import pytest
import torch

from medq_uni.data.phantoms import phantom
from medq_uni.image import MedicalImage
from medq_uni.physics.degrade import apply_records, degrade, draw_record
from medq_uni.physics.effect import effect, grade_of
from medq_uni.physics.record import DegradationRecord
from medq_uni.taxonomy import Modality, Severity, Task

GRADES = list(Severity)[1:]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def image_for(task: Task, size: int = 96) -> MedicalImage:
    return phantom(task.modality, generator(3), size=size)


@pytest.mark.parametrize("task", list(Task))
def test_severity_none_returns_the_image_unchanged(task: Task):
    image = image_for(task)
    record = draw_record(task, Severity.NONE, generator())
    assert np.array_equal(apply_records(image, record).voxels, image.voxels)


@pytest.mark.parametrize("task", list(Task))
def test_a_record_replays_bit_for_bit_from_json_and_other_seeds_differ(task: Task):
    image = image_for(task)
    record = draw_record(task, Severity.MODERATE, generator(1))
    first = apply_records(image, record).voxels
    again = apply_records(image, DegradationRecord.from_json(record.to_json())).voxels
    other = apply_records(image, draw_record(task, Severity.MODERATE, generator(2))).voxels
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.dtype == np.float32
    assert np.isfinite(first).all()


@pytest.mark.parametrize("task", list(Task))
def test_a_worse_grade_makes_a_larger_error(task: Task):
    image = image_for(task)
    errors = []
    for severity in GRADES:
        runs = [apply_records(image, draw_record(task, severity, generator(seed))) for seed in range(5)]
        errors.append(np.mean([np.square(run.voxels - image.voxels).mean() for run in runs]))
    assert errors[0] < errors[1] < errors[2]


@pytest.mark.parametrize("task", list(Task))
@pytest.mark.parametrize("shape", [(41, 57), (64, 33)])
def test_odd_and_oblong_slices_with_their_own_noise_keep_shape(task: Task, shape: tuple[int, int]):
    flat = image_for(task).voxels[0, : shape[0], : shape[1]]
    volume = MedicalImage(np.stack([flat, flat]), (3.0, 1.5, 2.0), modality=task.modality)
    record = draw_record(task, Severity.MODERATE, generator(4))
    degraded = apply_records(volume, record)
    assert degraded.shape == volume.shape
    assert not np.array_equal(degraded.voxels[0], degraded.voxels[1])
    alone = apply_records(volume.slice_at(0), record)
    assert np.array_equal(alone.voxels[0], degraded.voxels[0])


def test_padding_keeps_its_values():
    image = image_for(Task.MR_NOISE)
    padding = np.zeros(image.shape, bool)
    padding[:, :10] = True
    image = MedicalImage(image.voxels, modality=Modality.MR, padding=padding)
    degraded = apply_records(image, draw_record(Task.MR_NOISE, Severity.SEVERE, generator()))
    assert np.array_equal(degraded.voxels[padding], image.voxels[padding])


def test_another_or_no_modality_is_refused():
    record = draw_record(Task.CT_LOW_DOSE, Severity.MILD, generator())
    with pytest.raises(ValueError, match="this one is mr"):
        apply_records(image_for(Task.MR_NOISE), record)
    with pytest.raises(ValueError, match="no modality"):
        apply_records(MedicalImage(np.ones((8, 8))), record)


@pytest.mark.parametrize("task", list(Task))
@pytest.mark.parametrize("severity", GRADES)
def test_the_grade_is_what_was_measured(task: Task, severity: Severity):
    image = image_for(task, 192 if task.modality is Modality.MR else 96)
    made = [degrade(image, [(task, severity)], generator(seed)) for seed in range(6)]
    for one in made:
        alone = effect(one.image, image, task)
        assert one.effects == (alone,)
        assert one.records[0].severity is grade_of(task, alone)
        assert np.array_equal(apply_records(image, one.records).voxels, one.image.voxels)
    assert sum(one.records[0].severity is severity for one in made) >= 5


def test_a_noisy_reference_is_not_good():
    image = image_for(Task.CT_LOW_DOSE)
    made = degrade(image, [(Task.CT_LOW_DOSE, Severity.NONE)], generator(), own=30.0)
    assert made.records[0].severity is Severity.MODERATE
    assert made.image is image
    assert apply_records(image, made.records) is image


def test_mixed_degradations_add_up_in_physical_order():
    image = image_for(Task.MR_NOISE)
    wanted = [(Task.MR_NOISE, Severity.MODERATE), (Task.MR_MOTION, Severity.MODERATE)]
    made = degrade(image, wanted, generator(2))
    assert [record.task for record in made.records] == [Task.MR_MOTION, Task.MR_NOISE]
    both = np.linalg.norm(made.image.voxels - image.voxels)
    for record in made.records:
        assert both > np.linalg.norm(apply_records(image, record).voxels - image.voxels)
    assert np.array_equal(apply_records(image, tuple(reversed(made.records))).voxels, made.image.voxels)


@pytest.mark.parametrize("task", list(Task))
def test_rectangular_pixels_keep_shape_and_grade(task: Task):
    values = image_for(task).voxels[0, ::2]
    image = MedicalImage(values, (3.0, 4.0, 2.0), modality=task.modality)
    made = degrade(image, [(task, Severity.MODERATE)], generator(5))
    assert made.image.shape == image.shape
    assert made.records[0].severity is not Severity.NONE
    assert np.isfinite(made.image.voxels).all()


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (3.0, 1.4, 0.7)], ids=["square", "rectangular"])
def test_values_outside_the_physical_range_pass_through(spacing_mm: tuple[float, float, float]):
    voxels = image_for(Task.CT_LOW_DOSE).voxels.copy()
    voxels[0, :5] = -3024
    voxels[0, 50, 50] = 20000
    image = MedicalImage(voxels, spacing_mm, modality=Modality.CT)
    made = apply_records(image, draw_record(Task.CT_LOW_DOSE, Severity.SEVERE, generator()))
    assert (made.voxels[0, :5] == -3024).all()
    assert made.voxels[0, 50, 50] == 20000


@pytest.mark.parametrize(
    ("modality", "values", "message"),
    [
        (Modality.CT, np.linspace(20000, 60000, 64), "Hounsfield"),
        (Modality.CT, np.full(64, 3.0), "Hounsfield"),
        (Modality.MR, np.linspace(-2, 2, 64), "not negative"),
        (Modality.PET, np.linspace(-1, 8, 64), "not negative"),
        (Modality.MR, np.full(64, np.nan), "no finite"),
    ],
)
def test_values_that_cannot_be_the_modality_s_are_refused(modality: Modality, values: np.ndarray, message: str):
    image = MedicalImage(np.tile(values, (64, 1)), modality=modality)
    task = next(task for task in Task if task.modality is modality)
    with pytest.raises(ValueError, match=message):
        apply_records(image, draw_record(task, Severity.MILD, generator()))
