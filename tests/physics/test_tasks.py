from dataclasses import replace

import numpy as np
import pytest
import torch

from medq_uni.data.phantoms import phantom
from medq_uni.image import MedicalImage
from medq_uni.physics.degrade import apply_records, degrade, draw_record, slice_generator
from medq_uni.physics.operators import gaussian_blur
from medq_uni.physics.record import DegradationRecord, Params
from medq_uni.physics.spec import Scanner, TaskSpec
from medq_uni.physics.tasks import SPECS
from medq_uni.taxonomy import Modality, Severity, Task, tasks_of

OTHERS = [(task, method) for task in Task for method in SPECS[task].methods[1:]]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def image_for(task: Task) -> MedicalImage:
    return phantom(task.modality, generator(3), size=96)


def test_every_task_has_a_specification_of_its_own_and_an_alternative_simulation():
    assert set(SPECS) == set(Task)
    for task, spec in SPECS.items():
        assert spec.task is task
        assert spec.methods[0] == "default"
        assert len(set(spec.methods)) >= 2


def test_within_a_modality_the_object_moves_before_lines_are_skipped_before_the_coil_adds_noise():
    chain = sorted(tasks_of(Modality.MR), key=lambda task: SPECS[task].stage)
    assert chain == [Task.MR_MOTION, Task.MR_UNDERSAMPLING, Task.MR_NOISE]
    assert {task for task in Task if SPECS[task].is_noise} == {Task.CT_LOW_DOSE, Task.MR_NOISE, Task.PET_LOW_COUNT}


@pytest.mark.parametrize("task", list(Task))
def test_a_grade_begins_at_its_bound(task: Task):
    scale = SPECS[task].effect
    assert list(scale.bounds) == sorted(set(scale.bounds))
    for bound, severity in zip(scale.bounds, list(Severity)[1:], strict=True):
        assert scale.grade(bound) is severity
        assert scale.grade(np.nextafter(bound, 0)) is Severity.from_level(severity.level - 1)


@pytest.mark.parametrize("task", list(Task))
def test_limits_let_through_what_is_drawn_and_what_lies_beyond(task: Task):
    spec = SPECS[task]
    for severity in list(Severity)[1:]:
        drawn = draw_record(task, severity, generator(2))
        assert spec.limits.keys() <= drawn.params.keys()
        assert spec.beyond.keys() <= drawn.params.keys()
        spec.check(drawn)
        spec.check(replace(drawn, params=drawn.params | spec.beyond))


@pytest.mark.parametrize("task", [task for task in Task if SPECS[task].params_of_dose])
def test_a_dose_reduction_is_stated_by_a_parameter_that_is_drawn(task: Task):
    (name,) = SPECS[task].params_of_dose(4.0)
    assert name in draw_record(task, Severity.MILD, generator()).params


@pytest.mark.parametrize("task", [task for task in Task if SPECS[task].consistency])
def test_the_truth_fits_what_was_measured_of_it(task: Task):
    image, record = image_for(task), draw_record(task, Severity.MODERATE, generator(1))
    truth = torch.from_numpy(image.voxels[0].copy())
    measured = SPECS[task].consistency(
        truth, params=record.params, spacing_mm=image.spacing_mm[1:], generator=slice_generator(record, 0)
    )
    assert measured.misfit(truth) == pytest.approx(0, abs=1e-5)
    blurred = gaussian_blur(truth[None], 3.0)[0]
    assert measured.misfit(blurred) > 0.01
    if measured.unseen_share is not None:
        assert measured.unseen_share(torch.zeros_like(truth)) is None
        assert 0 < measured.unseen_share(torch.randn(truth.shape, generator=generator())) < 1


@pytest.mark.parametrize(("task", "method"), OTHERS)
def test_it_replays_without_global_randomness_and_differs_from_the_default(task: Task, method: str):
    image = image_for(task)
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


@pytest.mark.parametrize(("task", "method"), OTHERS)
def test_a_worse_grade_makes_a_larger_effect(task: Task, method: str):
    image = image_for(task)
    effects = []
    for severity in (Severity.MILD, Severity.SEVERE):
        runs = [degrade(image, [(task, severity)], generator(seed), method=method) for seed in range(3)]
        effects.append(np.median([run.effects[0] for run in runs]))
    assert 0 < effects[0] < effects[1]


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="has no method"):
        draw_record(Task.MR_NOISE, Severity.MILD, generator(), method="counts")


def scanned(spec: TaskSpec) -> TaskSpec:
    def doubled(image: torch.Tensor, *, params: Params, spacing_mm: tuple[float, float], generator: torch.Generator):
        return image * params["factor"]

    return replace(
        spec, scanner=Scanner(lambda severity, generator: {"factor": 1.0 + severity.level}, doubled, {"factor": (0, 9)})
    )


def test_a_scanner_is_drawn_and_applied_by_functions_of_its_own(monkeypatch: pytest.MonkeyPatch):
    task = Task.PET_LOW_COUNT
    spec = scanned(SPECS[task])
    monkeypatch.setitem(SPECS, task, spec)
    assert spec.methods == ("default", "scanner", *spec.alternatives)
    record = draw_record(task, Severity.MODERATE, generator(1), method="scanner")
    assert record.params == {"factor": 3.0}
    assert record.method == "scanner"
    image = image_for(task)
    assert np.array_equal(apply_records(image, record).voxels, 3 * image.voxels)
    with pytest.raises(ValueError, match="factor must lie between 0 and 9, got 10"):
        apply_records(image, replace(record, params={"factor": 10.0}))
    default = draw_record(task, Severity.MODERATE, generator(1))
    assert default == replace(record, method="default", params=spec.draw(Severity.MODERATE, after_the_seed(1)))


def after_the_seed(seed: int) -> torch.Generator:
    source = generator(seed)
    torch.randint(2**31 - 1, (1,), generator=source)
    return source


def test_a_task_without_a_scanner_has_no_such_method():
    spec = replace(SPECS[Task.PET_LOW_COUNT], scanner=None)
    assert "scanner" not in spec.methods
    with pytest.raises(ValueError, match="has no method 'scanner'"):
        spec.drawn(Severity.MILD, generator(), "scanner")
