import numpy as np
import pytest
import torch

from medq_uni.data.pairs import PairsConfig, draw_pair
from medq_uni.measurement import Quantity
from medq_uni.physics.effect import foreground
from medq_uni.physics.measured_quantities import mean_frequency, noise_sd, quantities_of
from medq_uni.quantities import OF_TASK
from medq_uni.scaling import scaling_of
from medq_uni.taxonomy import Severity, Task

EVERYWHERE = torch.ones(256, 256, dtype=torch.bool)


def noise_of(power) -> torch.Tensor:
    """Return noise whose power spectrum is a function of frequency in cycles per pixel, of unit deviation."""
    axis = torch.fft.fftfreq(256)
    radius = torch.hypot(axis[:, None], axis)
    white = torch.randn(256, 256, generator=torch.Generator().manual_seed(2))
    noise = torch.fft.ifft2(torch.fft.fft2(white) * power(radius).sqrt()).real
    return noise / noise.std()


def test_white_noise_has_its_mean_frequency_in_the_middle():
    white = noise_of(torch.ones_like)
    assert noise_sd(3 * white, EVERYWHERE) == pytest.approx(3, rel=1e-4)
    assert mean_frequency(white, EVERYWHERE) == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("low", [0.08, 0.16, 0.24, 0.32])
def test_a_band_has_its_mean_frequency(low: float):
    band = noise_of(lambda radius: ((radius > low) & (radius < low + 0.08)).float())
    assert mean_frequency(band, EVERYWHERE) == pytest.approx(low + 0.04, abs=0.015)


def test_only_the_body_counts():
    inside = torch.zeros(256, 256, dtype=torch.bool)
    inside[64:192, 64:192] = True
    white = torch.randn(256, 256, generator=torch.Generator().manual_seed(1))
    smooth = noise_of(lambda radius: (radius < 0.1).float())
    mixed = torch.where(inside, white, 40 * smooth)
    assert noise_sd(mixed, inside) == pytest.approx(1, rel=0.02)
    assert mean_frequency(mixed, inside) == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("fraction", [0.0, 1.0])
@pytest.mark.parametrize("number", range(len(Task)))
def test_every_task_says_its_quantities_whatever_made_it(number: int, fraction: float):
    config = PairsConfig(count=10, seed=3, grades=(Severity.MODERATE,), phantom_sizes=(96,), scanner_fraction=fraction)
    pair = draw_pair(config, number)
    noise = (pair.degraded.voxels[0] - pair.reference.voxels[0]) / scaling_of(pair.degraded).wide_span
    inside = torch.from_numpy(foreground(pair.reference)[0])
    found = quantities_of(pair.task.modality, pair.records, torch.from_numpy(np.float32(noise)), inside)
    assert set(found.values) == OF_TASK[pair.task]
    for quantity, value in found.values.items():
        low, high = {Quantity.NOISE_SD: (0.002, 0.3), Quantity.NOISE_FREQUENCY: (0.01, 0.45)}.get(quantity, (1, 100))
        assert low <= value <= high, quantity
