import math

import numpy as np
import pytest
import torch

from medq_uni.data.shepp_logan import HEAD, line_integral, relatives, shepp_logan
from medq_uni.physics.operators import FanBeam, Radon


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_head_lies_between_0_and_1_and_has_its_known_values():
    image = shepp_logan(128)
    assert image.shape == (1, 128, 128)
    assert 0 <= image.voxels.min() < image.voxels.max() <= 1
    assert float(image.voxels[0, 64, 64]) == pytest.approx(0.2, abs=0.01)  # brain
    assert float(image.voxels[0, 64, 78]) == pytest.approx(0.0, abs=0.01)  # a ventricle
    assert float(image.voxels[0, 6, 64]) == pytest.approx(1.0, abs=0.01)  # skull


def test_relatives_differ_by_seed_and_no_spread_gives_the_head():
    one, again, other = (shepp_logan(64, relatives(generator(seed))).voxels for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert relatives(generator(), spread=0.0) == HEAD


@pytest.mark.parametrize("seed", [None, 4])
def test_projections_agree_with_the_exact_line_integrals(seed: int | None):
    ellipses = HEAD if seed is None else relatives(generator(seed))
    size = 160
    image = torch.from_numpy(shepp_logan(size, ellipses).voxels)
    radon = Radon(size, size, 24)
    # rows run down and y up: the view at theta of the grid is the one at -theta of the ellipses
    angle = -torch.arange(24)[:, None] * (math.pi / 24)
    offset = (torch.arange(radon.num_detectors) - (radon.num_detectors - 1) / 2)[None] * (2 / size)
    exact = line_integral(angle, offset, ellipses) * (size / 2)
    error = radon.forward(image)[0] - exact
    assert float(error.square().mean().sqrt()) < 0.02 * float(exact.max())

    fan = FanBeam(size, size, 12, 200.0)
    gamma, beta = fan.gamma(image)[None], 2 * math.pi * torch.arange(12)[:, None] / 12
    # the ray from source S along u = (cos a, sin a) has normal (-sin a, cos a)
    direction = beta + math.pi + gamma
    offset = (-direction.sin() * beta.cos() + direction.cos() * beta.sin()) * 200.0 * (2 / size)
    exact = line_integral(-(direction + math.pi / 2), offset, ellipses) * (size / 2)
    error = fan.forward(image)[0] - exact
    assert float(error.square().mean().sqrt()) < 0.02 * float(exact.max())
