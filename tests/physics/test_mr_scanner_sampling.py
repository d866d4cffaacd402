from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medq_uni.physics import mr_scanner_sampling
from medq_uni.physics.after_scanner import AFTER_LIMITS
from medq_uni.physics.degrade import draw_record
from medq_uni.physics.mr_fields import Coils
from medq_uni.physics.mr_sampling import Mask
from medq_uni.physics.mr_scanner import Chain, Combination
from medq_uni.physics.mr_scanner_sampling import (
    SAMPLING_LIMITS,
    Reconstruction,
    draw_scanner_sampling,
    sampling_mask,
    scanner_sampling,
)
from medq_uni.physics.operators import to_k_space
from medq_uni.physics.record import Params
from medq_uni.physics.tasks import SPECS
from medq_uni.taxonomy import Severity, Task


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scanned(image: torch.Tensor, params: Params, seed: int = 0) -> torch.Tensor:
    return scanner_sampling(image, params=params, spacing_mm=(1.0, 1.0), generator=generator(seed))


def boxes(height: int, width: int) -> torch.Tensor:
    image = torch.zeros(height, width)
    image[height // 6 : -height // 6, width // 6 : -width // 6] = 50
    image[height // 3 : height // 2, width // 4 : width // 2] = 100
    image[height // 2 : height // 2 + 4, width // 2 : -width // 5] = 80
    return image


def nrmse(made: torch.Tensor, image: torch.Tensor) -> float:
    return float((made.abs() - image).norm() / image.norm())


@pytest.mark.parametrize("coils", [1, 8])
@pytest.mark.parametrize("combination", list(Combination))
@pytest.mark.parametrize("reconstruction", list(Reconstruction))
def test_all_lines_give_the_image_back(coils: int, combination: Combination, reconstruction: Reconstruction):
    image = torch.rand(51, 64, generator=generator())
    params = {"acceleration": 1, "coils": coils, "combination": int(combination), "phase_strength": 1.0}
    params |= {"reconstruction": int(reconstruction), "iterations": 6, "bias_strength": 0.2}
    assert nrmse(scanned(image, params), image) < 2e-3


@pytest.mark.parametrize("mask", list(Mask))
def test_enough_coils_undo_the_aliasing(mask: Mask):
    image = boxes(96, 90)
    params = {"acceleration": 2, "coils": 8, "mask": int(mask), "iterations": 30, "phase_strength": 0.5}
    zero_filled = nrmse(scanned(image, params), image)
    sense = nrmse(scanned(image, params | {"reconstruction": 1}), image)
    assert zero_filled > 0.05
    assert sense < 0.5 * zero_filled
    wrong = nrmse(scanned(image, params | {"reconstruction": 1, "sensitivity_error": 0.4}), image)
    assert wrong > 1.3 * sense


def test_parallel_imaging_amplifies_noise():
    image = boxes(96, 96)
    errors = []
    for acceleration in (1, 4):
        params = {"acceleration": acceleration, "coils": 8, "mask": 1, "iterations": 12, "reconstruction": 1}
        clean, noisy = (scanned(image, params | {"noise_fraction": share}) for share in (0.0, 0.02))
        errors.append(float((noisy - clean).abs().square().mean().sqrt()))
    assert errors[0] == pytest.approx(0.02 * 100 * 2**0.5, rel=0.1)  # of both parts of the complex noise
    assert errors[1] > 1.5 * errors[0]


@pytest.mark.parametrize("mask", list(Mask))
@pytest.mark.parametrize("axis", [0, 1])
def test_only_the_samples_of_the_mask_are_in_a_zero_filled_image(mask: Mask, axis: int):
    image = torch.rand(50, 64, generator=generator())
    params = {"acceleration": 3, "mask": int(mask), "phase_axis": axis, "partial_fourier": 0.75}
    k_space = to_k_space(scanned(image, params)).abs()
    share = float((k_space > 1e-4).float().mean())
    assert 0.15 < share < 0.5
    if mask is not Mask.POISSON_DISC:
        acquired = (k_space > 1e-4).any(1 - axis)
        assert not (k_space[~acquired] if axis == 0 else k_space[:, ~acquired]).gt(1e-4).any()
        assert not acquired[: len(acquired) // 4].any()  # the side that partial Fourier skips


@pytest.mark.parametrize("mask", list(Mask))
def test_the_masked_transform_and_its_adjoint_fit(mask: Mask):
    params = {"acceleration": 3, "mask": int(mask)}
    drawn = sampling_mask((31, 40), Chain(), params, generator())
    fourier = mr_scanner_sampling._Fourier(drawn, 1)
    x, y = torch.randn(2, 31, 40, generator=generator(1), dtype=torch.complex128)
    left, right = (fourier.forward(x) * y.conj()).sum(), (x * fourier.adjoint(y).conj()).sum()
    assert abs(complex(left - right)) < 1e-6 * abs(complex(left))


def test_conjugate_gradients_solve():
    maps = Coils(4, 0.0, generator()).sensitivities(12, 14, torch.zeros(1))
    truth = torch.randn(12, 14, generator=generator(1), dtype=torch.complex64)

    def normal(image: torch.Tensor) -> torch.Tensor:
        return image * (1 + maps[0].abs())

    assert torch.allclose(mr_scanner_sampling.conjugate_gradients(normal, normal(truth), 25), truth, atol=1e-4)


def test_more_acceleration_makes_a_larger_error():
    image = boxes(96, 90)
    for mask in Mask:
        for reconstruction in Reconstruction:
            params = {"mask": int(mask), "coils": 6, "reconstruction": int(reconstruction), "iterations": 6}
            errors = [
                np.median([nrmse(scanned(image, params | {"acceleration": r}, seed), image) for seed in range(5)])
                for r in (2, 4, 8)
            ]
            assert errors[0] < errors[1] < errors[2], (mask, reconstruction)


def test_every_drawn_parameter_is_in_the_record_and_within_the_limits():
    accelerations = set()
    for severity in list(Severity)[1:]:
        for seed in range(40):
            record = draw_record(Task.MR_UNDERSAMPLING, severity, generator(seed), method="scanner")
            after = {name: AFTER_LIMITS[name] for name in AFTER_LIMITS.keys() & record.params.keys()}
            assert record.params.keys() == SAMPLING_LIMITS.keys() | after.keys()
            for name, (low, high) in (SAMPLING_LIMITS | after).items():
                assert low <= record.params[name] <= high
            accelerations.add(record.params["acceleration"])
    assert accelerations == set(range(2, 9))
    with pytest.raises(ValueError, match="mask must lie between"):
        SPECS[Task.MR_UNDERSAMPLING].check(replace(record, params=record.params | {"mask": 9}))


@pytest.mark.parametrize("combination", list(Combination))
def test_spikes_and_zippers_are_added(combination: Combination):
    image, params = boxes(48, 50), {"acceleration": 2, "coils": 4, "combination": int(combination)}
    clean = scanned(image, params).abs()
    for extra in ({"spikes": 2, "spike_amplitude": 0.2}, {"zipper_amplitude": 0.3}):
        made = scanned(image, params | extra)
        assert made.is_complex() is (combination is Combination.ADAPTIVE)
        assert float((made.abs() - clean).abs().max()) > 2


@settings(max_examples=20, deadline=None)
@given(height=st.integers(16, 60), width=st.integers(16, 60), seed=st.integers(0, 10**6))
def test_any_shape_and_complex_images_are_taken(height: int, width: int, seed: int):
    image = torch.rand(height, width, generator=generator(seed)) * torch.polar(torch.ones(1), torch.tensor(1.0))
    params = draw_scanner_sampling(Severity.SEVERE, generator(seed))
    first, again = (scanned(image, params, seed) for _ in range(2))
    assert first.shape == image.shape
    assert torch.isfinite(first.abs()).all()
    assert torch.equal(first, again)
    assert first.is_complex() is (params["combination"] == Combination.ADAPTIVE)
