import pytest
import torch
from torch import Tensor

from medq_uni.data.phantoms import phantom
from medq_uni.physics import spectra
from medq_uni.physics.operators import Radon, gaussian_blur
from medq_uni.physics.spectra import NoiseSpectrum
from medq_uni.taxonomy import Modality
from tests.physics.spectrum import radial


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def white(count: int, height: int, width: int) -> Tensor:
    return torch.randn(count, height, width, generator=generator())


@pytest.mark.parametrize(("peak", "ratio"), [(0.05, 1.3), (0.2, 1.8), (0.45, 2.6)])
@pytest.mark.parametrize("rise", [0.7, 1.0, 2.5])
def test_a_noise_spectrum_has_its_peak_and_cutoff(peak: float, ratio: float, rise: float):
    spectrum = NoiseSpectrum.of(peak, ratio * peak, rise)
    frequency = torch.linspace(0, 1.5, 15001)
    power = spectrum.power(frequency)
    assert float(frequency[power.argmax()]) == pytest.approx(peak, abs=2e-4)
    assert float(power.max()) == pytest.approx(1)
    assert float(spectrum.power(torch.tensor(ratio * peak))) == pytest.approx(0.1, rel=0.01)
    transfer = spectrum.transfer(frequency)
    assert float(transfer[0]) == 1
    assert (transfer.diff() <= 0).all()


def test_backprojected_ray_noise_has_the_power_that_is_stated():
    height, width = 60, 75
    radon = Radon(height, width, 240)
    rays = torch.randn(48, 240, radon.num_detectors, generator=generator())
    power = torch.fft.rfft2(radon.filtered_backprojection(rays)).abs().square().mean(0)
    frequency, found = radial(power, height, width)
    _, stated = radial(spectra.backprojected_power(height, width), height, width)
    keep = (frequency > 0.05) & (frequency <= 0.5)
    ratio = found[keep] / stated[keep]
    assert torch.allclose(ratio / ratio.mean(), torch.ones_like(ratio), atol=0.1)


@pytest.mark.parametrize("is_cubic", [False, True])
@pytest.mark.parametrize(("scale", "turn"), [(1.0, 1.2), (1.37, 0.0), (0.81, 0.7)])
def test_another_grid_leaves_the_power_that_is_stated(is_cubic: bool, scale: float, turn: float):
    height, width = 101, 110
    limit = 0.5 * min(scale, 1.0)
    noise = spectra.filtered(white(24, height, width), spectra.low_pass(spectra.frequencies(height, width), limit))
    made = spectra.through_grid(noise, scale, turn, is_cubic=is_cubic)
    inner = (slice(None), slice(8, -8), slice(8, -8))
    window = torch.hann_window(height - 16)[:, None] * torch.hann_window(width - 16)
    before, after = (
        radial(torch.fft.rfft2(one[inner] * window).abs().square().mean(0), height - 16, width - 16)
        for one in (noise, made)
    )
    keep = (before[0] > 0.02) & (before[0] < 0.75 * limit)
    stated = spectra.through_grid_power(before[0][keep], scale, is_cubic=is_cubic)
    assert torch.allclose(after[1][keep] / before[1][keep], stated, atol=0.12)


def test_the_same_grid_changes_nothing_and_a_rotated_one_keeps_the_field_in_place():
    image = gaussian_blur(white(1, 40, 51), 3.0)
    assert torch.allclose(spectra.through_grid(image, 1.0, 0.0, is_cubic=True), image, atol=1e-5)
    turned = spectra.through_grid(image, 1.5, 1.5, is_cubic=True)
    inner = (slice(None), slice(4, -4), slice(4, -4))
    assert torch.allclose(turned[inner], image[inner], atol=0.02 * float(image.abs().max()))


def test_a_smoother_image_has_a_lower_cutoff_of_its_own():
    image = torch.from_numpy(phantom(Modality.CT, generator(31), size=160).voxels)
    found = [spectra.own_cutoff(gaussian_blur(image, sigma)[0]) for sigma in (0.0, 1.0, 1.6, 2.4)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 0.4
    # the power of a Gaussian is a tenth at 0.2415 / sigma
    for sigma, cutoff in zip((1.0, 1.6, 2.4), found[1:], strict=True):
        assert cutoff == pytest.approx(0.2415 / sigma, abs=0.07)
