import pytest
import torch

from medq_uni.data.drawing import Canvas


def canvas(seed: int = 0, warp: float = 0.0) -> Canvas:
    return Canvas(64, -1.0, torch.Generator().manual_seed(seed), warp=warp)


def test_the_same_generator_state_draws_the_same():
    drawn = []
    for seed in (1, 1, 2):
        one = canvas(seed, warp=0.04)
        one.paint(one.shape((0.0, 0.0), (0.5, 0.3)), 3.0, texture=0.5)
        drawn.append(one.values)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_a_round_shape_has_its_area_and_a_soft_edge():
    mask = canvas().shape((0.1, -0.2), (0.5, 0.5), wobble=0.0)
    assert float(mask.min()) == 0
    assert float(mask.max()) == 1
    assert float(mask.sum()) == pytest.approx(torch.pi * 16**2, rel=0.02)  # half the side is 32 pixels
    assert ((mask > 0) & (mask < 1)).any()


def test_paint_covers_what_the_mask_covers():
    one = canvas()
    mask = one.shape((0.0, 0.0), (0.4, 0.4))
    assert one.paint(mask, 5.0) is mask
    assert (one.values[mask == 1] == 5).all()
    assert (one.values[mask == 0] == -1).all()


def test_a_field_has_unit_variance_and_a_steeper_one_is_smoother():
    rough, smooth = canvas().field(0.0), canvas().field(3.0)
    for field in (rough, smooth):
        assert float(field.std()) == pytest.approx(1, abs=1e-4)
    assert float(smooth.diff().std()) < 0.3 * float(rough.diff().std())


def test_structures_are_scattered_inside_their_mask_alone():
    one = canvas()
    inside = one.shape((0.0, 0.0), (0.5, 0.5))
    drawn = one.scatter(inside, 6, (0.05, 0.1), (4.0, 6.0))
    assert len(drawn) == 6
    assert all(0.05 <= radius <= 0.1 for _, _, radius in drawn)
    assert (one.values[inside == 0] == -1).all()
    assert float(one.values.max()) > 3
    assert one.scatter(inside, 0, (0.05, 0.1), (4.0, 6.0)) == []
    assert one.scatter(torch.zeros_like(inside), 3, (0.05, 0.1), (4.0, 6.0)) == []


def test_integers_include_both_ends_and_chances_are_probabilities():
    one = canvas()
    assert {one.integer(2, 4) for _ in range(60)} == {2, 3, 4}
    assert not any(one.chance(0.0) for _ in range(20))
    assert all(one.chance(1.0) for _ in range(20))
