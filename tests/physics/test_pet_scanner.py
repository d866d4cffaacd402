import functools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from medq_uni.data.phantoms import phantom
from medq_uni.image import MedicalImage
from medq_uni.physics import pet_scanner
from medq_uni.physics.degrade import apply_records, degrade, draw_record
from medq_uni.physics.effect import effect
from medq_uni.physics.operators import gaussian_blur
from medq_uni.physics.pet import sigma_px
from medq_uni.physics.record import DegradationRecord, Params
from medq_uni.taxonomy import Modality, Severity, Task
from tests.physics.spectrum import BIN, binned, disc, peak_of, power_of, radial

GRADES = list(Severity)[1:]
PLAIN = {
    "dose_reduction": 10.0, "counts_per_mm2": 20.0, "scatter_fraction": 0.3, "randoms_fraction": 0.3, "tof_gain": 1.0,
    "resolution_mm": 4.5, "resolution_model": 0, "fbp": 0, "iterations": 3, "subsets": 8, "voxel_mm": 4.0,
    "post_filter_mm": 4.0, "axial_filter_mm": 0.0, "slice_mm": 3.0, "grid_scale": 1.0, "grid_rotation_deg": 0.0,
    "grid_cubic": 0, "mismatch_rows_mm": 0.0, "mismatch_columns_mm": 0.0, "mismatch_mu": 0.0,
}  # fmt: skip
LINEAR = PLAIN | {"fbp": 1, "counts_per_mm2": 20_000.0}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def body(seed: int = 41, size: int = 96) -> MedicalImage:
    return phantom(Modality.PET, generator(seed), size=size)


def slice_of(image: MedicalImage) -> Tensor:
    return torch.from_numpy(image.voxels[0].copy())


def changes(image: MedicalImage, params: Params, count: int = 4) -> Tensor:
    truth = slice_of(image)
    options = {"params": params, "spacing_mm": image.spacing_mm[1:]}
    return torch.stack([pet_scanner.scan(truth, **options, generator=generator(i)) - truth for i in range(count)])


def spread(image: MedicalImage, params: Params, count: int = 4) -> float:
    """Return the standard deviation of the change well inside the body."""
    inside = gaussian_blur((slice_of(image) > 0.3).float()[None], 2.0)[0] > 0.98
    return float(changes(image, params, count)[:, inside].std())


def test_a_draw_holds_every_parameter_of_the_chain():
    drawn = [pet_scanner.draw_scan(GRADES[seed % 3], generator(seed)) for seed in range(200)]
    assert all(one.keys() == PLAIN.keys() for one in drawn)
    for step in ("fbp", "resolution_model", "axial_filter_mm", "grid_rotation_deg", "mismatch_mu"):
        assert 0.02 < np.mean([one[step] != 0 for one in drawn]) < 0.8
    assert {one["subsets"] for one in drawn} == {1, 2, 4, 8, 16, 32}
    assert {one["iterations"] for one in drawn} >= set(range(1, 11))
    assert np.mean([one["mismatch_mu"] != 0 for one in drawn]) < 0.2


@pytest.mark.parametrize("image", [disc(80, 5.0, 0.0, Modality.PET, 4.0), body()], ids=["disc", "body"])
def test_the_standard_deviation_follows_counts_time_of_flight_and_the_axial_filter(image: MedicalImage):
    plain = spread(image, LINEAR)
    fewer = spread(image, LINEAR | {"dose_reduction": 37.0})
    assert fewer == pytest.approx(plain * math.sqrt(36 / 9), rel=0.1)
    assert spread(image, LINEAR | {"tof_gain": 4.0}) == pytest.approx(plain / 2, rel=0.1)
    filtered = LINEAR | {"axial_filter_mm": 6.0}
    sigma = sigma_px(6.0, 3.0)
    assert spread(image, filtered) == pytest.approx(plain / math.sqrt(2 * math.sqrt(math.pi) * sigma), rel=0.05)


def test_randoms_and_scatter_add_the_variance_of_their_counts():
    image = disc(80, 5.0, 0.0, Modality.PET, 4.0)
    canvas = pet_scanner.Canvas.of(slice_of(image), (4.0, 4.0), 4.0)
    activity = canvas.put(slice_of(image))
    right = pet_scanner.system(activity, canvas.voxel_mm, PLAIN)
    trues = right.forward(activity)
    counts, background = pet_scanner.acquire(right, activity, canvas.voxel_mm, PLAIN, generator())
    scattered = 0.3 / 0.7
    prompts = (1 + scattered) / 0.7
    assert float((trues + background).mean() / trues.mean()) == pytest.approx(prompts, rel=0.05)
    gain = 20.0 * float((activity > 0.1).sum()) * canvas.voxel_mm**2 / float(trues.sum())
    expected = trues + background
    for one, share in zip(counts, (1.0, 0.1), strict=True):
        error = one - expected[0]
        assert float((error.square() / expected[0]).mean()) == pytest.approx(1 / (gain * share), rel=0.1)
    difference = counts[1] - counts[0]
    assert float((difference.square() / expected[0]).mean()) == pytest.approx(9 / gain, rel=0.1)


@pytest.mark.parametrize("filter_mm", [4.0, 6.0, 8.0])
@pytest.mark.parametrize("shape", ["disc", "body"])
def test_filtered_backprojection_has_the_noise_power_of_ramp_and_filter(filter_mm: float, shape: str):
    image = disc(128, 5.0, 0.0, Modality.PET, 2.0) if shape == "disc" else body(43, 128)
    pixel = image.spacing_mm[1]
    params = LINEAR | {"voxel_mm": pixel, "post_filter_mm": filter_mm, "counts_per_mm2": 2e6}
    made = changes(image, params, 8)
    inside = gaussian_blur((slice_of(image) > 0.3).float()[None], 2.0)[0] > 0.98
    power = power_of(made, inside)
    frequency, found = radial(power, *made.shape[1:])
    asked = binned(functools.partial(ramp_and_filter, sigma=sigma_px(filter_mm, pixel)), *made.shape[1:])
    wanted = peak_of(frequency, asked)
    assert peak_of(frequency, found) == pytest.approx(wanted, abs=max(0.1 * wanted, BIN))


@pytest.mark.parametrize("filter_mm", [4.0, 8.0])
def test_filtered_backprojection_has_its_peak_along_both_axes(filter_mm: float):
    image = disc(128, 5.0, 0.0, Modality.PET, 2.0)
    params = LINEAR | {"voxel_mm": 2.0, "post_filter_mm": filter_mm, "counts_per_mm2": 2e6}
    made = changes(image, params, 8)
    power = power_of(made, gaussian_blur((slice_of(image) > 0.3).float()[None], 2.0)[0] > 0.98)
    asked = binned(functools.partial(ramp_and_filter, sigma=sigma_px(filter_mm, 2.0)), *made.shape[1:])
    wanted = peak_of(torch.arange(len(asked)) * BIN, asked)
    down, right = torch.fft.fftfreq(made.shape[1]).abs()[:, None], torch.fft.rfftfreq(made.shape[2])[None]
    for near, far in ((down, right), (right, down)):
        sector = (near > 2 * far).expand(power.shape)
        number = (torch.hypot(down, right)[sector] / BIN).round().long()
        mean = torch.bincount(number, weights=power[sector]) / torch.bincount(number).clamp(min=1)
        assert peak_of(torch.arange(len(mean)) * BIN, mean) == pytest.approx(wanted, abs=max(0.1 * wanted, BIN))


def ramp_and_filter(frequency: Tensor, sigma: float) -> Tensor:
    interpolation = torch.sinc(frequency) ** 4
    return frequency * interpolation * torch.exp(-4 * (math.pi * sigma * frequency) ** 2)


def test_more_updates_are_noisier_a_model_of_the_resolution_and_a_filter_smoother():
    image = body()
    few, many = (spread(image, PLAIN | {"iterations": count}) for count in (1, 8))
    assert many > 1.3 * few
    fine = [
        float((one - gaussian_blur(one, 1.0)).std() / one.std())
        for one in (changes(image, PLAIN | extra) for extra in ({}, {"resolution_model": 1}, {"post_filter_mm": 8.0}))
    ]
    assert fine[1] < fine[0]
    assert fine[2] < 0.8 * fine[0]


def test_subsets_speed_up_what_mlem_comes_to():
    image = body()
    ordered, plain = (
        changes(image, PLAIN | {"iterations": count, "subsets": subsets}, 1)[0] for count, subsets in ((2, 8), (16, 1))
    )
    assert float((ordered - plain).norm()) < 0.25 * float(plain.norm())


def test_a_moved_attenuation_is_a_bias_that_more_counts_do_not_take_away():
    image = disc(64, 5.0, 0.0, Modality.PET, 4.0)
    many = PLAIN | {"counts_per_mm2": 1e5}
    right, moved = (changes(image, many | {"mismatch_columns_mm": step}, 2).mean(0) for step in (0.0, 5.0))
    assert float(moved.abs().mean()) > 3 * float(right.abs().mean())
    inside = slice_of(image) > 0
    assert float(moved[inside].square().mean().sqrt()) < 0.1 * 5


def test_nothing_is_lost_at_full_dose():
    truth = slice_of(body())
    made = pet_scanner.scan(truth, params=PLAIN | {"dose_reduction": 1.0}, spacing_mm=(4.0, 4.0), generator=generator())
    assert torch.equal(made, truth)


@given(
    height=st.integers(24, 61),
    width=st.integers(24, 61),
    spacing_mm=st.tuples(st.floats(1.0, 6.0), st.floats(1.0, 6.0)),
    severity=st.sampled_from(GRADES),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=15, deadline=None, derandomize=True)
def test_any_shape_and_spacing_keeps_shape_and_range(
    height: int, width: int, spacing_mm: tuple[float, float], severity: Severity, seed: int
):
    values = body(47, 64).voxels[0, :height, :width]
    image = MedicalImage(values, (3.0, *spacing_mm), modality=Modality.PET)
    record = draw_record(Task.PET_LOW_COUNT, severity, generator(seed), method="scanner")
    made = apply_records(image, record)
    assert made.shape == image.shape
    assert np.isfinite(made.voxels).all()
    assert made.voxels.min() >= 0
    again = apply_records(image, DegradationRecord.from_json(record.to_json()))
    assert np.array_equal(again.voxels, made.voxels)


def test_the_counts_that_are_drawn_give_about_the_effect_that_is_aimed_at():
    image = body(size=128)
    found = []
    for seed in range(12):
        record = draw_record(Task.PET_LOW_COUNT, Severity.MODERATE, generator(seed), method="scanner")
        found.append(effect(apply_records(image, record), image, record.task, method="scanner"))
    low, high = pet_scanner.TARGET[Severity.MODERATE]
    assert low < np.median(found) < high
    made = [degrade(image, [(record.task, Severity.MODERATE)], generator(s), method="scanner") for s in range(5)]
    assert [one.records[0].severity for one in made] == 5 * [Severity.MODERATE]
