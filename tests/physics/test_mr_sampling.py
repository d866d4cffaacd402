import pytest
import torch

from medq_uni.physics import mr_sampling


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("acceleration", [2, 3, 5, 8])
def test_an_equispaced_mask_keeps_every_r_th_line_and_the_center(acceleration: int):
    mask = mr_sampling.equispaced_mask(101, acceleration, 0.1, generator())
    assert mask[46:55].all()
    outer = mask[60:].nonzero()[:, 0]
    assert (outer.diff() == acceleration).all()


@pytest.mark.parametrize("acceleration", [2.0, 4.0, 8.0])
@pytest.mark.parametrize("shape", [(96, 96), (71, 120)])
def test_a_poisson_disc_keeps_its_distances_its_number_and_the_center(shape: tuple[int, int], acceleration: float):
    mask = mr_sampling.poisson_disc_mask(*shape, acceleration, 0.06, generator())
    assert int(mask.sum()) == pytest.approx(shape[0] * shape[1] / acceleration, rel=0.01)
    rows, columns = shape[0] // 2, shape[1] // 2
    assert mask[rows - 2 : rows + 3, columns - 2 : columns + 3].all()
    squared = mr_sampling.disc_radius(*shape, acceleration, 0.06)
    outside = mask.bool()
    outside[rows - 5 : rows + 6, columns - 5 : columns + 6] = False
    points = outside.nonzero()
    radius = squared[points[:, 0], points[:, 1]]
    distance = (points[:, None] - points[None]).square().sum(-1)
    allowed = torch.minimum(radius[:, None], radius[None])
    distance.fill_diagonal_(10**6)
    assert (distance > allowed).all()
    assert int(radius.max()) >= 1


def test_a_poisson_disc_is_denser_in_the_middle():
    mask = mr_sampling.poisson_disc_mask(128, 128, 5, 0.05, generator())
    assert float(mask[44:84, 44:84].mean()) > 1.5 * float(mask[:20, :20].mean())


def test_masks_are_drawn():
    for function in (mr_sampling.line_mask, mr_sampling.equispaced_mask):
        masks = [function(96, 4, 0.08, generator(seed)) for seed in range(6)]
        assert len({tuple(mask.tolist()) for mask in masks}) > 1
    points = [mr_sampling.poisson_disc_mask(48, 48, 4, 0.08, generator(seed)) for seed in range(2)]
    assert not torch.equal(*points)
