import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medq_uni.physics.operators import Cartesian, FanBeam, Radon, from_k_space, gaussian_blur, to_k_space
from medq_uni.physics.pet import Scanner

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def disc(side: int, radius: float, center: tuple[float, float] = (0.0, 0.0)) -> torch.Tensor:
    place = torch.arange(side) - (side - 1) / 2
    y, x = torch.meshgrid(place, place, indexing="ij")
    return (torch.hypot(x - center[0], y - center[1]) < radius).float()


@settings(max_examples=15, deadline=None)
@given(st.integers(5, 24), st.integers(5, 24), st.integers(3, 9), st.integers(0, 3))
def test_radon_and_its_adjoint_satisfy_the_dot_product_identity(h: int, w: int, views: int, seed: int):
    radon = Radon(h, w, views)
    some = slice(seed % 2, None, 1 + seed % 2)
    x = torch.randn(2, h, w, generator=generator(seed), dtype=torch.float64)
    y = torch.randn(2, len(range(views)[some]), radon.num_detectors, generator=generator(9), dtype=torch.float64)
    left, right = (radon.forward(x, some) * y).sum(), (x * radon.adjoint(y, some)).sum()
    assert float(left) == pytest.approx(float(right), rel=1e-6, abs=1e-6)


@settings(max_examples=15, deadline=None)
@given(st.integers(5, 24), st.integers(5, 24), st.integers(3, 9), st.integers(0, 3))
def test_fan_beam_and_its_adjoint_satisfy_the_dot_product_identity(h: int, w: int, views: int, seed: int):
    fan = FanBeam(h, w, views, 1.2 * math.hypot(h, w))
    x = torch.randn(2, h, w, generator=generator(seed), dtype=torch.float64)
    y = torch.randn(2, views, fan.num_detectors, generator=generator(9), dtype=torch.float64)
    left, right = (fan.forward(x) * y).sum(), (x * fan.adjoint(y)).sum()
    assert float(left) == pytest.approx(float(right), rel=1e-6, abs=1e-6)


@settings(max_examples=15, deadline=None)
@given(st.integers(3, 20), st.integers(3, 20), st.booleans(), st.integers(0, 3))
def test_the_cartesian_acquisition_and_its_adjoint_satisfy_the_dot_product_identity(h, w, has_phase, seed):
    phase = torch.randn(h, w, generator=generator(7), dtype=torch.float64) if has_phase else None
    mask = (torch.rand(w, generator=generator(seed), dtype=torch.float64) < 0.5).double()
    acquisition = Cartesian(mask, phase)
    x, y = torch.randn(2, 2, h, w, generator=generator(seed), dtype=torch.complex128)
    left = (acquisition.forward(x) * y.conj()).sum()
    right = (x * acquisition.adjoint(y).conj()).sum()
    assert torch.allclose(left, right)


@settings(max_examples=10, deadline=None)
@given(st.integers(9, 24), st.integers(9, 24), st.integers(0, 3))
def test_the_pet_scanner_and_its_adjoint_satisfy_the_dot_product_identity(h: int, w: int, seed: int):
    x = torch.rand(2, h, w, generator=generator(seed), dtype=torch.float64)
    scanner = Scanner(x[:1], 4.0)
    for views in (slice(None), slice(1, None, 8)):
        y = torch.randn_like(scanner.forward(x, views))
        left, right = (scanner.forward(x, views) * y).sum(), (x * scanner.adjoint(y, views)).sum()
        assert float(left) == pytest.approx(float(right), rel=1e-5)


@pytest.mark.parametrize("operator", [Radon(129, 129, 200), FanBeam(129, 129, 360, 210.0)], ids=["parallel", "fan"])
def test_a_uniform_disc_comes_back_within_one_percent(operator: Radon | FanBeam):
    back = operator.filtered_backprojection(operator.forward(disc(129, 40)[None]))[0]
    assert float(back[disc(129, 30) > 0].mean()) == pytest.approx(1.0, abs=0.01)
    assert float(back[disc(129, 50) == 0].abs().mean()) < 0.02


@pytest.mark.parametrize("operator", [Radon(96, 120, 150), FanBeam(96, 120, 300, 150.0)], ids=["parallel", "fan"])
def test_a_disc_comes_back_where_it_was(operator: Radon | FanBeam):
    place = (torch.arange(96) - 47.5)[:, None], (torch.arange(120) - 59.5)[None]
    small = (torch.hypot(place[1] - 25, place[0] + 18) < 8).float()
    back = operator.filtered_backprojection(operator.forward(small[None]))[0]
    weight = back.clamp(min=0.3) - 0.3
    assert float((weight * place[0]).sum() / weight.sum()) == pytest.approx(-18, abs=0.1)
    assert float((weight * place[1]).sum() / weight.sum()) == pytest.approx(25, abs=0.1)


def test_the_central_ray_through_a_disc_is_its_diameter():
    fan = FanBeam(101, 101, 8, 200.0)
    sinogram = fan.forward(disc(101, 30)[None])[0]
    assert sinogram[:, fan.num_detectors // 2].tolist() == pytest.approx([60.0] * 8, abs=1.5)


def test_a_source_inside_the_image_is_refused():
    with pytest.raises(ValueError, match="inside or too close"):
        FanBeam(100, 100, 10, 60.0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("operator", [Radon(15, 18, 6), FanBeam(15, 18, 6, 40.0)], ids=["parallel", "fan"])
def test_device_and_dtype_of_the_input_are_kept_and_gradients_flow(operator, dtype, device):
    x = torch.rand(3, 15, 18, dtype=dtype, device=device, requires_grad=True)
    sinogram = operator.forward(x)
    for values in (sinogram, operator.adjoint(sinogram), operator.filtered_backprojection(sinogram)):
        assert values.dtype is dtype
        assert values.device.type == device
    y = torch.rand_like(sinogram)
    (sinogram * y).sum().backward()
    assert torch.allclose(x.grad, operator.adjoint(y), rtol=1e-4, atol=1e-4)


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
