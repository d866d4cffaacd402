import pytest
import torch

from medq_uni.physics.operators import Radon
from medq_uni.physics.projector import BASE_VIEWS, NUM_VIEWS, SquareProjector


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("side", [8, 17, 30])
@pytest.mark.parametrize("views", [range(BASE_VIEWS), range(3, BASE_VIEWS, 8)])
def test_the_adjoint_is_exact(side: int, views: range):
    projector = SquareProjector(side)
    image = torch.randn(2, side, side, generator=generator(), dtype=torch.float64)
    sinogram = torch.randn(2, 4, len(views), projector.num_detectors, generator=generator(1), dtype=torch.float64)
    forward = (projector.forward(image, views) * sinogram).sum()
    assert float(forward) == pytest.approx(float((image * projector.adjoint(sinogram, views)).sum()), rel=1e-10)


def test_the_views_are_those_of_the_radon_transform():
    image = torch.rand(2, 33, 33, generator=generator())
    plain = Radon(33, 33, 2 * NUM_VIEWS).forward(image)[:, 1::2]
    made = SquareProjector(33).forward(image)
    base = torch.arange(BASE_VIEWS)
    half = NUM_VIEWS // 2
    for copy, number in enumerate((base, half - 1 - base, half + base, NUM_VIEWS - 1 - base)):
        assert torch.allclose(made[:, copy], plain[:, number], atol=1e-4)


def test_a_disc_comes_back_from_its_line_integrals():
    place = torch.arange(96) - 47.5
    disc = (torch.hypot(place[:, None], place[None]) < 30).float()[None]
    projector = SquareProjector(96)
    back = projector.filtered_backprojection(projector.forward(disc))
    inner = torch.hypot(place[:, None], place[None]) < 24
    assert float(back[0][inner].mean()) == pytest.approx(1, abs=0.01)
    assert torch.allclose(back[0][inner], torch.ones(int(inner.sum())), atol=0.06)
