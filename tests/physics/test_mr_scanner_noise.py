import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import gamma, hyp1f1

from medq_uni.physics.after_scanner import AFTER_LIMITS
from medq_uni.physics.degrade import draw_record
from medq_uni.physics.mr_scanner import Chain, Combination, Window, acquired, filled, window_weights
from medq_uni.physics.mr_scanner_noise import NOISE_LIMITS, draw_scanner_noise, scanner_noise
from medq_uni.physics.operators import to_k_space
from medq_uni.physics.record import Params
from medq_uni.physics.tasks import SPECS
from medq_uni.taxonomy import Severity, Task

SIGMA = 0.02


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scanned(image: torch.Tensor, params: Params, seed: int = 0) -> torch.Tensor:
    return scanner_noise(image, params=params, spacing_mm=(1.0, 1.0), generator=generator(seed))


def discs(height: int, width: int) -> torch.Tensor:
    """Return overlapping discs of several brightnesses on nothing: none of the phantoms that data are made of."""
    y, x = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)[None]
    image = 40.0 * (y**2 + x**2 < 0.8)
    for row, column, radius, value in ((0.1, -0.3, 0.35, 60.0), (-0.4, 0.3, 0.3, 90.0), (0.4, 0.3, 0.25, 100.0)):
        image = torch.where((y - row) ** 2 + (x - column) ** 2 < radius**2, value, image)
    return image


def spread(image: torch.Tensor, params: Params, seed: int) -> float:
    """Return the SD of the noise in bright tissue over the 99.5th percentile; each brightness about its own mean."""
    error = scanned(image, params, seed).abs() - scanned(image, params | {"sigma_fraction": 0.0}, seed).abs()
    values = [error[image == value] for value in image.unique() if value >= 0.35 * image.max()]
    residual = torch.cat([one - one.mean() for one in values])
    return float(residual.square().mean().sqrt() / torch.quantile(image, 0.995))


@pytest.mark.parametrize("seed", range(24))
def test_the_noise_has_the_standard_deviation_that_was_asked_for_whatever_the_chain(seed: int):
    params = draw_scanner_noise(Severity.MILD, generator(seed)) | {"sigma_fraction": SIGMA, "real": 0}
    extras = {"spikes": 0, "zipper_amplitude": 0.0}
    assert spread(discs(181, 160), params | extras, seed) == pytest.approx(SIGMA, rel=0.1)


@pytest.mark.parametrize("fraction", [0.01, 0.05, 0.1])
@pytest.mark.parametrize("factor", [1.0, 1.25, 2.0])
def test_the_standard_deviation_does_not_depend_on_the_interpolation(fraction: float, factor: float):
    params = {"sigma_fraction": fraction, "interpolation_y": factor, "interpolation_x": factor}
    assert spread(discs(160, 171), params, 3) == pytest.approx(fraction, rel=0.05)


@pytest.mark.parametrize("coils", [4, 16, 32])
@pytest.mark.parametrize("fraction", [0.02, 0.05, 0.1])
def test_the_standard_deviation_of_sums_of_squares_is_that_of_the_image(coils: int, fraction: float):
    params = {"sigma_fraction": fraction, "coils": coils, "combination": 0, "interpolation_x": 1.5, "limits_image": 0}
    assert spread(discs(160, 171), params, 3) == pytest.approx(fraction, rel=0.1)


def noise_spectrum(params: Params, shape: tuple[int, int], count: int = 12) -> torch.Tensor:
    """Return the power (H, W) of the noise of a uniform image, over its variance; 1 everywhere if it is white."""
    flat = torch.full(shape, 100.0)
    clean = scanned(flat, params | {"sigma_fraction": 0.0})
    powers = [to_k_space((scanned(flat, params, seed) - clean).real).abs().square() for seed in range(count)]
    return torch.stack(powers).mean(0) / float(100.0 * params["sigma_fraction"]) ** 2


@pytest.mark.parametrize(("y", "x"), [(1.0, 1.0), (1.25, 1.25), (2.0, 1.3), (1.0, 1.8)])
def test_the_noise_spectrum_is_flat_in_the_acquired_band_and_zero_beyond_it(y: float, x: float):
    shape = (120, 126)
    params = {"sigma_fraction": 0.05, "interpolation_y": y, "interpolation_x": x, "limits_image": 0}
    rows, columns = Chain.of(params).matrix(*shape)
    power = noise_spectrum(params, shape)
    place_y, place_x = ((torch.arange(n) - n // 2).abs() for n in shape)
    inside = (place_y[:, None] < rows / 2 - 0.5) & (place_x[None] < columns / 2 - 0.5)
    beyond = (place_y[:, None] > rows / 2) | (place_x[None] > columns / 2)
    level = shape[0] * shape[1] / (rows * columns)
    if beyond.any():
        assert float(power[beyond].max()) < 1e-6 * level
    assert float(power[inside].mean()) == pytest.approx(level, rel=0.05)
    radius = ((place_y[:, None] / rows) ** 2 + (place_x[None] / columns) ** 2).sqrt() * 2
    for low in np.arange(0.2, 1.0, 0.2):  # rings
        ring = inside & (radius >= low) & (radius < low + 0.2)
        assert float(power[ring].mean()) == pytest.approx(level, rel=0.1)
    for axis, place, count in ((1, place_y, rows), (0, place_x, columns)):  # along both axes
        line = (power * inside).sum(axis) / inside.sum(axis).clamp(min=1)
        for low in np.arange(0, 0.9, 0.3):
            band = (place >= low * count / 2) & (place < min((low + 0.3) * count / 2, count / 2 - 0.5))
            assert float(line[band].mean()) == pytest.approx(level, rel=0.1)


@pytest.mark.parametrize("window", [Window.FERMI, Window.HAMMING, Window.TUKEY])
def test_a_window_shapes_the_noise_spectrum_by_its_square(window: Window):
    shape = (120, 128)
    params = {"sigma_fraction": 0.05, "interpolation_y": 1.25, "interpolation_x": 1.6, "limits_image": 0}
    params |= {"window": int(window), "window_edge": 0.7}
    chain = Chain.of(params)
    matrix = chain.matrix(*shape)
    square = window_weights(chain, matrix, torch.zeros(1)).square()
    top, left = shape[0] // 2 - matrix[0] // 2, shape[1] // 2 - matrix[1] // 2
    power = noise_spectrum(params, shape)[top : top + matrix[0], left : left + matrix[1]]
    expected = square / square.mean() * (shape[0] * shape[1] / (matrix[0] * matrix[1]))
    for low in (0.0, 0.25, 0.5):  # the edge lines of even matrices have no partner in the real part
        band = (square >= low + 0.02) & (square < low + 0.5)
        band[0], band[:, 0] = False, False
        assert float(power[band].mean()) == pytest.approx(float(expected[band].mean()), rel=0.1)


def test_noise_of_an_image_that_was_interpolated_before_leaves_its_details():
    image = discs(96, 90)
    params = {"sigma_fraction": 0.03, "interpolation_y": 1.5, "interpolation_x": 2.0}
    chain = Chain.of(params)
    small = acquired(image + 0j, chain.matrix(96, 90))
    clean = params | {"sigma_fraction": 0.0}
    assert torch.allclose(scanned(image, clean | {"limits_image": 0}).abs(), image, atol=1e-4)
    assert torch.allclose(scanned(image, clean), filled(small, chain, (96, 90)), atol=1e-3)
    assert not torch.allclose(scanned(image, clean).abs(), image, atol=1.0)


def moments(signal: float, coils: int) -> tuple[float, float]:
    """Return mean and variance of a non-central chi magnitude of noise with SD 1 (Aja-Fernandez and Vegas 2016)."""
    mean = math.sqrt(2) * gamma(coils + 0.5) / gamma(coils) * hyp1f1(-0.5, coils, -(signal**2) / 2)
    return float(mean), float(signal**2 + 2 * coils - mean**2)


@pytest.mark.parametrize("coils", [1, 4, 16])
@pytest.mark.parametrize("snr", [0.0, 1.0, 3.0, 10.0])
@pytest.mark.parametrize("combination", list(Combination))
def test_magnitudes_have_the_moments_of_theory(coils: int, snr: float, combination: Combination):
    image = torch.full((130, 121), snr)
    image[:5] = 100.0  # noise is stated in units of what is bright
    params = {"sigma_fraction": 1 / 100, "coils": coils, "combination": int(combination), "phase_strength": 0.7}
    values = scanned(image, params, seed=coils).abs()[5:]
    mean, variance = moments(snr, coils if combination is Combination.SUM_OF_SQUARES else 1)
    assert float(values.mean()) == pytest.approx(mean, rel=0.02)
    assert float(values.var()) == pytest.approx(variance, rel=0.06)


def test_real_images_have_no_rician_floor():
    image = discs(128, 128)
    params = {"sigma_fraction": 0.1, "phase_strength": 0.3}
    inside = image == 40.0
    bias = [float(scanned(image, params | {"real": real}, 1).abs()[inside].mean()) - 40 for real in (0, 1)]
    assert bias[0] > 0.5
    assert abs(bias[1]) < 0.6 * bias[0]
    assert (scanned(image, params | {"real": 1}, 1) >= 0).all()


def test_parallel_imaging_makes_the_middle_noisier():
    image = torch.full((129, 128), 50.0)
    params = {"sigma_fraction": 0.02, "g_peak": 3.0, "g_folds": 2}
    error = scanned(image, params).abs() - 50
    middle, corner = error[50:78, 50:78].std(), error[:28, :28].std()
    assert float(middle / corner) > 1.5
    assert float(error.square().mean().sqrt()) == pytest.approx(1.0, rel=0.05)


def test_corrected_shading_shades_the_noise_and_not_the_signal():
    image = torch.full((129, 128), 50.0)
    error = scanned(image, {"sigma_fraction": 0.02, "bias_strength": 0.6}).abs() - 50
    spreads = torch.stack([block.std() for rows in error.chunk(3) for block in rows.chunk(3, dim=1)])
    assert float(spreads.max() / spreads.min()) > 1.3
    assert abs(float(error.mean())) < 0.1


def test_every_drawn_parameter_is_in_the_record_and_within_the_limits():
    for severity in list(Severity)[1:]:
        for seed in range(40):
            record = draw_record(Task.MR_NOISE, severity, generator(seed), method="scanner")
            after = {name: AFTER_LIMITS[name] for name in AFTER_LIMITS.keys() & record.params.keys()}
            assert record.params.keys() == NOISE_LIMITS.keys() | after.keys()
            for name, (low, high) in (NOISE_LIMITS | after).items():
                assert low <= record.params[name] <= high
    coils = [draw_scanner_noise(Severity.MILD, generator(seed))["coils"] for seed in range(300)]
    assert min(coils) == 1
    assert max(coils) >= 30


@settings(max_examples=15, deadline=None)
@given(height=st.integers(9, 60), width=st.integers(9, 60), seed=st.integers(0, 10**6))
def test_any_shape_and_complex_images_are_taken(height: int, width: int, seed: int):
    image = torch.rand(height, width, generator=generator(seed)) * torch.polar(torch.ones(1), torch.tensor(1.0))
    params = draw_scanner_noise(Severity.SEVERE, generator(seed))
    first, again = (scanned(image, params, seed) for _ in range(2))
    assert first.shape == image.shape
    assert torch.isfinite(first.abs()).all()
    assert torch.equal(first, again)
    summed = params["combination"] == Combination.SUM_OF_SQUARES
    assert first.is_complex() is not (summed or params["real"] == 1)


def test_limits_refuse_what_would_break_the_chain():
    record = draw_record(Task.MR_NOISE, Severity.MILD, generator(), method="scanner")
    with pytest.raises(ValueError, match="coils must lie between"):
        SPECS[Task.MR_NOISE].check(replace(record, params=record.params | {"coils": 1000}))
