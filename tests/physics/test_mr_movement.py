import math

import pytest
import torch

from medq_uni.physics.mr_movement import STEPS, Order, Trajectory, acquisition_times, rotated, trajectory


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("order", list(Order))
def test_every_order_takes_the_whole_scan_and_every_sample_once(order: Order, axis: int):
    times = acquisition_times((30, 41), order, 5, axis).expand(30, 41)
    assert float(times.min()) == 0
    assert 0.75 < float(times.max()) < 1
    along = times[:, 0] if axis == 0 else times[0]
    if order in (Order.SEQUENTIAL, Order.INTERLEAVED, Order.CENTRIC):
        assert len(along.unique()) == len(along)
    if order in (Order.TWO_PHASE, Order.TWO_PHASE_LINEAR):
        assert len(times.unique()) == times.numel()


def test_orders_are_what_they_are_called():
    assert (acquisition_times((1, 40), Order.SEQUENTIAL, 1, 1)[0].diff() > 0).all()
    interleaved = acquisition_times((1, 40), Order.INTERLEAVED, 4, 1)[0]
    assert interleaved.argsort()[:12].tolist() == [0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 1, 5]
    centric = acquisition_times((1, 40), Order.CENTRIC, 1, 1)[0]
    assert sorted(centric.argsort()[:5].tolist()) == [18, 19, 20, 21, 22]
    assert int(centric.argmin()) == 20
    train = acquisition_times((1, 40), Order.ECHO_TRAIN, 8, 1)[0]
    assert len(train.unique()) == 8
    assert (train == train[3]).nonzero()[:, 0].tolist() == [3, 11, 19, 27, 35]  # one line in every part of k-space
    points = acquisition_times((21, 20), Order.TWO_PHASE, 1, 1)
    assert float(points[10, 10]) == 0
    assert float(points[0, 0]) > 0.9


@pytest.mark.parametrize("kind", list(Trajectory))
def test_trajectories_are_drawn_and_about_one_in_size(kind: Trajectory):
    paths = [trajectory(kind, 3, generator(seed)) for seed in range(40)]
    assert all(path.shape == (STEPS, 3) and torch.isfinite(path).all() for path in paths)
    assert not torch.equal(paths[0], paths[1])
    size = torch.stack([(path.amax(0) - path.amin(0)).max() for path in paths]).median()
    assert 0.8 < float(size) < 6


def test_jumps_hold_their_poses():
    path = trajectory(Trajectory.JUMPS, 4, generator())
    assert len(path.unique(dim=0)) == 4
    assert int((path.diff(dim=0).abs().sum(1) > 0).sum()) == 3
    assert torch.equal(trajectory(Trajectory.JUMPS, 1, generator()).diff(dim=0), torch.zeros(STEPS - 1, 3))


def test_a_drift_is_smooth():
    path = trajectory(Trajectory.DRIFT, 3, generator())
    assert float(path.diff(dim=0).abs().max()) < 0.1


def test_breathing_is_periodic_and_goes_one_way():
    path = trajectory(Trajectory.BREATHING, 12, generator(2))
    direction = path / path.norm(dim=1, keepdim=True).clamp(min=1e-6)
    far = path.norm(dim=1) > 0.1
    assert torch.allclose(direction[far], direction[far][:1].expand_as(direction[far]), atol=1e-3)
    spectrum = torch.fft.rfft(path.norm(dim=1) - path.norm(dim=1).mean()).abs()
    assert int(spectrum.argmax()) == pytest.approx(12, abs=1)


def test_after_a_swallow_the_object_is_back_and_after_a_stay_nearly():
    swallow = trajectory(Trajectory.SWALLOW, 1, generator(1))
    moved = swallow.norm(dim=1) > 1e-3
    assert 0.02 < float(moved.float().mean()) < 0.11
    assert swallow[-1].norm() < 1e-3 or swallow[0].norm() < 1e-3
    for seed in range(5):
        stay = trajectory(Trajectory.RETURN, 1, generator(seed))
        assert float(stay[-1].norm()) <= 0.2 * float(stay.norm(dim=1).max()) + 1e-6 or bool(moved.any())


def test_complex_images_turn_as_their_parts():
    image = torch.randn(31, 40, generator=generator(), dtype=torch.complex64)
    turned = rotated(image, 17.0, 31 / 40)
    assert torch.allclose(turned.real, rotated(image.real, 17.0, 31 / 40), atol=1e-6)
    assert torch.allclose(turned.imag, rotated(image.imag, 17.0, 31 / 40), atol=1e-6)
    assert rotated(image, 0.0, 1.0) is image
    y, x = torch.linspace(-1, 1, 64)[:, None], torch.linspace(-1, 1, 64)[None]
    spot = torch.exp(-60 * ((y - 0.5) ** 2 + x**2))
    peak = divmod(int(rotated(spot, 90.0, 1.0).argmax()), 64)
    assert math.hypot(peak[0] - 31.5, peak[1] - 31.5) == pytest.approx(16, abs=1)
    assert abs(peak[0] - 31.5) < 2
