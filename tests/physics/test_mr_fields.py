import pytest
import torch

from medq_uni.physics import mr_fields
from medq_uni.physics.mr_fields import Coils


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("count", [1, 2, 4, 16, 32])
def test_the_squares_of_all_sensitivities_sum_to_one_and_are_smooth(count: int):
    maps = Coils(count, 0.0, generator()).sensitivities(65, 80, torch.zeros(1))
    assert maps.shape == (count, 65, 80)
    assert torch.allclose(maps.abs().square().sum(0), torch.ones(65, 80), atol=1e-5)
    assert float(maps.diff(dim=1).abs().max()) < 0.1
    assert float(maps.diff(dim=2).abs().max()) < 0.1


def test_coils_see_different_places():
    maps = Coils(8, 0.0, generator()).sensitivities(64, 64, torch.zeros(1)).abs()
    brightest = maps.flatten(1).argmax(1)
    assert len(brightest.unique()) >= 6
    assert (maps.flatten(1).amax(1) / maps.flatten(1).amin(1) > 3).all()


def test_sensitivities_are_of_the_place_and_not_of_the_matrix():
    coils = Coils(4, 0.0, generator())
    fine, coarse = (coils.sensitivities(n, n, torch.zeros(1)) for n in (64, 32))
    assert torch.allclose(fine[:, ::2, ::2], coarse, atol=1e-5)


@pytest.mark.parametrize("correlation", [0.0, 0.4, 0.9])
@pytest.mark.parametrize("count", [1, 2, 5, 32])
def test_noise_has_the_covariance_of_the_coils(count: int, correlation: float):
    coils = Coils(count, correlation, generator())
    noise = coils.noise(150, 140, generator(1), torch.zeros(1)).flatten(1)
    measured = (noise @ noise.conj().T).real / noise.shape[1] / 2
    assert torch.allclose(measured, coils.covariance, atol=0.03)
    assert torch.linalg.eigvalsh(coils.covariance).min() > 0


@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_combined_noise_is_that_of_the_adaptive_combination(correlation: float):
    coils = Coils(6, correlation, generator())
    maps = coils.sensitivities(16, 18, torch.zeros(1))
    drawn = torch.stack([(maps.conj() * coils.noise(16, 18, generator(s), maps)).sum(0) for s in range(1500)])
    spread = drawn.real.std(0)
    assert torch.allclose(spread, coils.combined_noise(16, 18, maps), rtol=0.1)


def test_the_g_factor_is_one_to_its_peak_and_folds():
    plain = mr_fields.g_factor(64, 65, peak=1.0, folds=3, phase_axis=1, like=torch.zeros(1))
    assert torch.equal(plain, torch.ones(64, 65))
    for axis in (0, 1):
        folded = mr_fields.g_factor(64, 64, peak=2.5, folds=3, phase_axis=axis, like=torch.zeros(1))
        assert float(folded.max()) == pytest.approx(2.5)
        assert float(folded.min()) >= 1
        line = folded[:, 32] if axis == 0 else folded[32]
        peaks = (line[1:-1] > line[:-2]) & (line[1:-1] >= line[2:])
        assert int(peaks.sum()) >= 3


def test_shading_stays_within_its_strength():
    for seed in range(5):
        field = mr_fields.bias_field(40, 50, torch.randn(5, generator=generator(seed)), 0.4)
        assert float(field.log().abs().max()) <= 0.4 + 1e-5
    assert torch.equal(mr_fields.bias_field(4, 5, torch.ones(5), 0.0), torch.ones(4, 5))
