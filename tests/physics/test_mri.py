import math

import pytest
import torch

from medq_uni.data.phantoms import phantom
from medq_uni.physics import mri
from medq_uni.physics.mr_movement import rotated
from medq_uni.taxonomy import Modality, Severity


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_line_mask_keeps_the_center_and_one_line_in_r():
    mask = mri.line_mask(200, 4, 0.08, generator())
    assert mask[92:108].all()
    assert int(mask.sum()) == 50


def test_all_lines_give_the_image_back():
    image = torch.rand(31, 40, generator=generator())
    params = {"acceleration": 1, "center_fraction": 1.0, "phase_axis": 1, "phase_strength": 1.0}
    assert torch.allclose(mri.undersampling(image, params=params, generator=generator()).abs(), image, atol=1e-5)


def test_no_movement_gives_the_image_back():
    image = torch.rand(31, 40, generator=generator())
    params = {"num_poses": 5, "rotation_deg": 0.0, "translation_px": 0.0, "phase_axis": 0}
    assert torch.allclose(mri.motion(image, params=params, generator=generator()).abs(), image, atol=1e-5)


def test_a_mildly_moved_image_stays_registered_to_its_reference():
    image = torch.from_numpy(phantom(Modality.MR, generator(3), size=96).voxels[0])
    for seed in range(4):
        params = mri.draw_motion(Severity.MILD, generator(seed))
        moved = mri.motion(image, params=params, generator=generator(seed)).abs()
        correlation = torch.fft.ifft2(torch.fft.fft2(moved) * torch.fft.fft2(image).conj()).real
        row, column = divmod(int(correlation.argmax()), image.shape[1])
        assert min(row, 96 - row) <= 1
        assert min(column, 96 - column) <= 1


def test_the_rician_background_has_the_mean_of_theory():
    image = torch.zeros(256, 256)
    image[:16] = 100.0
    noisy = mri.noise(image, params={"sigma_fraction": 0.1}, generator=generator()).abs()
    assert float(noisy[20:].mean()) == pytest.approx(10 * math.sqrt(math.pi / 2), rel=0.02)


def test_drift_alone_degrades_and_leaves_the_center_of_k_space():
    image = torch.from_numpy(phantom(Modality.MR, generator(3), size=96).voxels[0])
    params = {"num_poses": 1, "rotation_deg": 0.0, "translation_px": 0.0, "drift_px": 4.0, "phase_axis": 1}
    moved = mri.motion(image, params=params, generator=generator())
    assert not torch.allclose(moved.abs(), image, rtol=0.01)
    centers = [mri.to_k_space(x)[:, 48] for x in (moved, image)]
    assert torch.allclose(centers[0], centers[1], atol=1e-2)


def test_rotation_is_rigid_in_millimeters():
    place = torch.arange(64) - 31.5
    bar = ((place[:, None].abs() < 2) & (place[None].abs() < 16)).float()  # 4 mm pixels in rows, 1 mm in columns
    turned = rotated(bar, 90.0, 4.0)
    rows = turned.sum(1).nonzero()[:, 0]
    assert int(rows.max() - rows.min()) + 1 == pytest.approx(8, abs=2)  # 32 mm are 8 rows of 4 mm


def test_the_acquisition_of_a_record_is_the_one_that_made_the_image():
    image = torch.rand(32, 48, generator=generator())
    params = mri.draw_undersampling(Severity.MODERATE, generator(1)) | {"phase_axis": 1}
    made = mri.undersampling(image, params=params, generator=generator(2))
    acquisition = mri.acquisition(image.shape, params=params, generator=generator(2))
    assert torch.equal(mri.to_k_space(made).abs() > 1e-4, acquisition.forward(image).abs() > 1e-4)
    assert torch.allclose(mri.from_k_space(acquisition.forward(image)), made)
