import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medq_uni import physics
from medq_uni.data.phantoms import phantom
from medq_uni.image import MedicalImage
from medq_uni.physics import DegradationRecord, RecordError, ct, mri, pet
from medq_uni.physics.operators import Radon, from_k_space, gaussian_blur, to_k_space
from medq_uni.taxonomy import Modality, Severity, Task

GRADES = list(Severity)[1:]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def image_for(task: Task, size: int = 96) -> MedicalImage:
    return phantom(task.modality, generator(3), size=size)


@settings(max_examples=15, deadline=None)
@given(st.integers(5, 24), st.integers(5, 24), st.integers(3, 9), st.integers(0, 3))
def test_radon_and_its_adjoint_satisfy_the_dot_product_identity(h: int, w: int, views: int, seed: int):
    radon = Radon(h, w, views)
    some = slice(seed % 2, None, 1 + seed % 2)
    x = torch.randn(2, h, w, generator=generator(seed), dtype=torch.float64)
    y = torch.randn(2, len(range(views)[some]), radon.num_detectors, generator=generator(9), dtype=torch.float64)
    left, right = (radon.forward(x, some) * y).sum(), (x * radon.adjoint(y, some)).sum()
    assert float(left) == pytest.approx(float(right), rel=1e-6, abs=1e-6)


def test_a_uniform_disc_comes_back_through_filtered_backprojection():
    y, x = torch.meshgrid(torch.arange(129) - 64.0, torch.arange(129) - 64.0, indexing="ij")
    radius = torch.hypot(x, y)
    radon = Radon(129, 129, 200)
    back = radon.filtered_backprojection(radon.forward((radius < 40).float()[None]))[0]
    assert float(back[radius < 30].mean()) == pytest.approx(1.0, abs=0.01)
    assert float(back[radius > 50].abs().mean()) < 0.02


@settings(max_examples=15, deadline=None)
@given(st.integers(3, 20), st.integers(3, 20))
def test_the_fourier_pair_is_unitary_on_odd_sizes_too(h: int, w: int):
    x = torch.randn(h, w, generator=generator(1), dtype=torch.float64) + 0j
    assert torch.allclose(from_k_space(to_k_space(x)), x)
    assert float(to_k_space(x).abs().square().sum()) == pytest.approx(float(x.abs().square().sum()))


def test_gaussian_blur_is_self_adjoint():
    x, y = torch.randn(2, 1, 20, 23, generator=generator(), dtype=torch.float64)
    left, right = (gaussian_blur(x, 1.7) * y).sum(), (x * gaussian_blur(y, 1.7)).sum()
    assert float(left) == pytest.approx(float(right))


@pytest.mark.parametrize("task", list(Task))
def test_severity_none_returns_the_image_unchanged(task: Task):
    image = image_for(task)
    record = physics.draw(task, Severity.NONE, generator())
    assert np.array_equal(physics.apply(image, record).voxels, image.voxels)


@pytest.mark.parametrize("task", list(Task))
def test_a_record_replays_bit_for_bit_from_json_and_other_seeds_differ(task: Task):
    image = image_for(task)
    record = physics.draw(task, Severity.MODERATE, generator(1))
    first = physics.apply(image, record).voxels
    again = physics.apply(image, DegradationRecord.from_json(record.to_json())).voxels
    other = physics.apply(image, physics.draw(task, Severity.MODERATE, generator(2))).voxels
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.dtype == np.float32
    assert np.isfinite(first).all()


@pytest.mark.parametrize("task", list(Task))
def test_a_worse_grade_makes_a_larger_error(task: Task):
    image = image_for(task)
    errors = []
    for severity in GRADES:
        runs = [physics.apply(image, physics.draw(task, severity, generator(seed))) for seed in range(5)]
        errors.append(np.mean([np.square(run.voxels - image.voxels).mean() for run in runs]))
    assert errors[0] < errors[1] < errors[2]


@pytest.mark.parametrize("task", list(Task))
@pytest.mark.parametrize("shape", [(41, 57), (64, 33)])
def test_odd_and_oblong_slices_with_their_own_noise_keep_shape(task: Task, shape: tuple[int, int]):
    flat = image_for(task).voxels[0, : shape[0], : shape[1]]
    volume = MedicalImage(np.stack([flat, flat]), (3.0, 1.5, 2.0), modality=task.modality)
    record = physics.draw(task, Severity.MODERATE, generator(4))
    degraded = physics.apply(volume, record)
    assert degraded.shape == volume.shape
    assert not np.array_equal(degraded.voxels[0], degraded.voxels[1])
    alone = physics.apply(volume.slice_at(0), record)
    assert np.array_equal(alone.voxels[0], degraded.voxels[0])


def test_padding_keeps_its_values():
    image = image_for(Task.MR_NOISE)
    padding = np.zeros(image.shape, bool)
    padding[:, :10] = True
    image = MedicalImage(image.voxels, modality=Modality.MR, padding=padding)
    degraded = physics.apply(image, physics.draw(Task.MR_NOISE, Severity.SEVERE, generator()))
    assert np.array_equal(degraded.voxels[padding], image.voxels[padding])


def test_another_or_no_modality_is_refused():
    record = physics.draw(Task.CT_LOW_DOSE, Severity.MILD, generator())
    with pytest.raises(ValueError, match="this one is mr"):
        physics.apply(image_for(Task.MR_NOISE), record)
    with pytest.raises(ValueError, match="no modality"):
        physics.apply(MedicalImage(np.ones((8, 8))), record)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"task": "x"}'])
def test_what_is_no_record_is_refused(text: str):
    with pytest.raises(RecordError, match="not a degradation record"):
        DegradationRecord.from_json(text)


def test_a_record_of_another_version_is_refused():
    values = json.loads(physics.draw(Task.MR_NOISE, Severity.MILD, generator()).to_json())
    with pytest.raises(RecordError, match="version 99"):
        DegradationRecord.from_json(json.dumps(values | {"version": 99}))


@pytest.mark.parametrize("severity", GRADES)
def test_added_ct_noise_has_the_recorded_standard_deviation(severity: Severity):
    image = image_for(Task.CT_LOW_DOSE, 128)
    record = physics.draw(Task.CT_LOW_DOSE, severity, generator(1))
    added = physics.apply(image, record).voxels - image.voxels
    body = image.voxels > -500
    assert added[body].std() == pytest.approx(record.params["noise_sd_hu"], rel=0.1)


def test_quantum_noise_variance_falls_with_the_dose_as_one_over_d_minus_one():
    path = torch.full((4, 4), 2.0)
    half, quarter = (ct._variances(path, {"dose_fraction": d, "electronic_counts": 5.0})[0].mean() for d in (0.5, 0.25))
    assert float(quarter / half) == pytest.approx((1 / 0.25 - 1) / (1 / 0.5 - 1))


def test_the_line_mask_keeps_the_center_and_one_line_in_r():
    mask = mri.line_mask(200, 4, 0.08, generator())
    assert mask[92:108].all()
    assert int(mask.sum()) == 50


def test_all_lines_give_the_image_back():
    image = torch.rand(31, 40, generator=generator())
    params = {"acceleration": 1, "center_fraction": 1.0, "phase_axis": 1, "phase_strength": 1.0}
    assert torch.allclose(mri.undersampling(image, params=params, generator=generator()), image, atol=1e-5)


def test_no_movement_gives_the_image_back():
    image = torch.rand(31, 40, generator=generator())
    params = {"num_poses": 5, "rotation_deg": 0.0, "translation_px": 0.0, "phase_axis": 0}
    assert torch.allclose(mri.motion(image, params=params, generator=generator()), image, atol=1e-5)


def test_a_mildly_moved_image_stays_registered_to_its_reference():
    image = torch.from_numpy(image_for(Task.MR_MOTION, 96).voxels[0])
    for seed in range(4):
        params = mri.draw_motion(Severity.MILD, generator(seed))
        moved = mri.motion(image, params=params, generator=generator(seed))
        correlation = torch.fft.ifft2(torch.fft.fft2(moved) * torch.fft.fft2(image).conj()).real
        row, column = divmod(int(correlation.argmax()), image.shape[1])
        assert min(row, 96 - row) <= 1
        assert min(column, 96 - column) <= 1


def test_the_rician_background_has_the_mean_of_theory():
    image = torch.zeros(256, 256)
    image[:16] = 100.0
    noisy = mri.noise(image, params={"sigma_fraction": 0.1}, generator=generator())
    assert float(noisy[20:].mean()) == pytest.approx(10 * math.sqrt(math.pi / 2), rel=0.02)


def test_low_count_pet_keeps_the_mean_activity_and_more_counts_are_less_noise():
    image = torch.from_numpy(image_for(Task.PET_LOW_COUNT, 96).voxels[0])
    errors = []
    for counts in (30.0, 3000.0):
        params = {"dose_reduction": 10.0, "counts_per_pixel": counts}
        low = pet.low_count(image, params=params, spacing_mm=(4.0, 4.0), generator=generator())
        body = image > 0.1
        assert float(low[body].mean()) == pytest.approx(float(image[body].mean()), rel=0.1)
        errors.append(float((low - image).square().mean()))
    assert errors[1] < 0.2 * errors[0]
