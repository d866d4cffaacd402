from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medq_uni.physics import mr_scanner_motion
from medq_uni.physics.after_scanner import AFTER_LIMITS
from medq_uni.physics.degrade import draw_record
from medq_uni.physics.mr_movement import Order, Trajectory
from medq_uni.physics.mr_scanner_motion import MOTION_LIMITS, draw_scanner_motion, scanner_motion
from medq_uni.physics.operators import to_k_space
from medq_uni.physics.record import Params
from medq_uni.physics.tasks import SPECS
from medq_uni.taxonomy import Severity, Task


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scanned(image: torch.Tensor, params: Params, seed: int = 0, spacing_mm: tuple[float, float] = (1.0, 1.0)):
    return scanner_motion(image, params=params, spacing_mm=spacing_mm, generator=generator(seed))


def rings(height: int, width: int) -> torch.Tensor:
    y, x = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)[None]
    radius = (y**2 + 1.3 * x**2).sqrt()
    return 50 * (radius < 0.8) + 30 * (radius < 0.5) * ((4 * y).sin() > 0) + 20.0 * (radius < 0.2)


@pytest.mark.parametrize("order", list(Order))
@pytest.mark.parametrize("kind", list(Trajectory))
def test_no_movement_gives_the_image_back(order: Order, kind: Trajectory):
    image = rings(51, 64)
    params = {"order": int(order), "trajectory": int(kind), "groups": 8, "num_poses": 5, "averages": 2}
    params |= {"phase_strength": 1.0, "bias_strength": 0.3}
    assert torch.allclose(scanned(image, params).abs(), image, atol=1e-3)


@pytest.mark.parametrize("order", list(Order))
def test_a_shift_of_the_object_changes_phases_in_k_space_and_nothing_else(order: Order):
    image = rings(64, 60)
    params = {"order": int(order), "trajectory": 1, "groups": 6, "num_poses": 2, "translation_mm": 3.0}
    made = to_k_space(scanned(image, params))
    assert torch.allclose(made.abs(), to_k_space(image).abs(), atol=1e-2)
    assert not torch.allclose(made, to_k_space(image), atol=1.0)
    assert torch.allclose(made[32, 30], to_k_space(image)[32, 30], atol=1e-2)


@pytest.mark.parametrize("averages", [1, 3])
def test_the_center_of_k_space_is_the_reference_pose(averages: int):
    image = rings(64, 64)
    params = {"trajectory": 0, "num_poses": 3, "translation_mm": 6.0, "averages": averages}
    poses = mr_scanner_motion._poses((64, 64), mr_scanner_motion.Chain(), params, generator(3))
    assert torch.allclose(poses.columns_mm[:, 0, 32].mean(), torch.tensor(0.0), atol=1e-5)
    assert float(poses.columns_mm.abs().max()) > 1
    assert scanned(image, params, 3).shape == image.shape


def test_shifts_are_in_millimeters():
    image = rings(48, 60)
    pose = mr_scanner_motion._Poses(*(torch.full((1, 1, 1), value) for value in (0.0, 4.0, 3.0, 1.0)))
    moved = mr_scanner_motion._moved(image + 0j, pose, (2.0, 1.5))
    assert torch.allclose(moved.abs(), image.roll((2, 2), (0, 1)), atol=1e-3)


def test_rotation_is_in_degrees_and_rigid_in_millimeters():
    image = torch.zeros(32, 128)  # 4 mm and 1 mm pixels: a square field of view
    image[15:17, 40:88] = 1.0
    pose = mr_scanner_motion._Poses(*(torch.full((1, 1, 1), value) for value in (90.0, 0.0, 0.0, 1.0)))
    turned = mr_scanner_motion._moved(image + 0j, pose, (4.0, 1.0)).abs() > 0.3
    assert int(turned.any(1).sum()) == pytest.approx(12, abs=1)
    assert int(turned.any(0).sum()) == pytest.approx(8, abs=3)


def test_movement_through_the_plane_costs_signal():
    image = rings(64, 60)
    params = {"trajectory": 0, "num_poses": 6}
    whole, lost = (to_k_space(scanned(image, params | {"through_plane_loss": loss})).abs() for loss in (0.0, 0.4))
    ratio = (lost / whole)[whole > 1]
    assert float(ratio.max()) <= 1.001
    assert float(ratio.min()) == pytest.approx(0.6, abs=0.01)


def test_averages_of_a_breathing_object_have_fainter_ghosts():
    image = rings(96, 96)
    outside = image == 0
    params = {"trajectory": 2, "num_poses": 20, "translation_mm": 3.0}
    ghosts = [
        np.median([float(scanned(image, params | {"averages": n}, s).abs()[outside].norm()) for s in range(8)])
        for n in (1, 4)
    ]
    assert ghosts[1] < 0.8 * ghosts[0]


def test_few_rotations_stand_for_all_of_them():
    degrees = torch.randn(2, 30, 1, generator=generator()) * 5
    few, which = mr_scanner_motion._few_rotations(degrees)
    assert len(few) <= mr_scanner_motion.ROTATIONS + 1
    step = float(degrees.max() - degrees.min()) / mr_scanner_motion.ROTATIONS
    assert float((torch.tensor(few)[which] - degrees).abs().max()) <= step
    assert mr_scanner_motion._few_rotations(torch.zeros(1, 3, 1))[0] == [0.0]


def test_larger_movements_make_larger_errors():
    image = rings(96, 90)
    for kind in Trajectory:
        params = {"trajectory": int(kind), "num_poses": 4, "order": int(Order.INTERLEAVED), "groups": 3}
        errors = []
        for size in (0.5, 2.0, 6.0):
            sizes = params | {"rotation_deg": size, "translation_mm": size}
            errors.append(np.median([float((scanned(image, sizes, s).abs() - image).norm()) for s in range(7)]))
        assert errors[0] < errors[1] < errors[2], kind


def test_every_drawn_parameter_is_in_the_record_and_within_the_limits():
    seen = set()
    for severity in list(Severity)[1:]:
        for seed in range(100):
            record = draw_record(Task.MR_MOTION, severity, generator(seed + 1000 * severity.level), method="scanner")
            after = {name: AFTER_LIMITS[name] for name in AFTER_LIMITS.keys() & record.params.keys()}
            assert record.params.keys() == MOTION_LIMITS.keys() | after.keys()
            for name, (low, high) in (MOTION_LIMITS | after).items():
                assert low <= record.params[name] <= high
            seen.add((record.params["order"], record.params["trajectory"]))
    assert len(seen) == len(Order) * len(Trajectory)
    with pytest.raises(ValueError, match="order must lie between"):
        SPECS[Task.MR_MOTION].check(replace(record, params=record.params | {"order": 17}))


@settings(max_examples=20, deadline=None)
@given(
    height=st.integers(16, 60),
    width=st.integers(16, 60),
    seed=st.integers(0, 10**6),
    spacing=st.tuples(st.floats(0.3, 4), st.floats(0.3, 4)),
)
def test_any_shape_spacing_and_complex_images_are_taken(
    height: int, width: int, seed: int, spacing: tuple[float, float]
):
    image = torch.rand(height, width, generator=generator(seed)) * torch.polar(torch.ones(1), torch.tensor(1.0))
    params = draw_scanner_motion(Severity.SEVERE, generator(seed))
    first, again = (scanned(image, params, seed, spacing) for _ in range(2))
    assert first.shape == image.shape
    assert first.is_complex()
    assert torch.isfinite(first.abs()).all()
    assert torch.equal(first, again)
