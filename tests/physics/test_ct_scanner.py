import functools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from medq_uni.data.phantoms import phantom
from medq_uni.image import MedicalImage
from medq_uni.physics import ct, ct_scanner
from medq_uni.physics.after_scanner import AFTER_LIMITS
from medq_uni.physics.degrade import apply_records, draw_record
from medq_uni.physics.operators import gaussian_blur
from medq_uni.physics.record import DegradationRecord, Params
from medq_uni.physics.spectra import frequencies
from medq_uni.taxonomy import Modality, Severity, Task
from tests.physics.spectrum import BIN, binned, disc, peak_of, power_of, radial

GRADES = list(Severity)[1:]
PLAIN = {
    "dose_fraction": 0.25, "noise_sd_hu": 30.0, "electronic_counts": 8.0, "bowtie": 0.0, "tube_modulation": 0.0,
    "starvation": 0.0, "starvation_path": 5.0, "slices_averaged": 1, "kernel_peak": 0.2, "kernel_cutoff": 0.36,
    "kernel_rise": 1.0, "iterative": 0.0, "iterative_sigma_px": 0.8, "grid_scale": 1.0, "grid_rotation_deg": 0.0,
    "grid_cubic": 0, "softened": 0.0,
}  # fmt: skip


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def water(size: int = 144) -> MedicalImage:
    return disc(size, 30.0, -1000.0, Modality.CT)


def body(seed: int = 41, size: int = 160) -> MedicalImage:
    return phantom(Modality.CT, generator(seed), size=size)


def slice_of(image: MedicalImage) -> Tensor:
    return torch.from_numpy(image.voxels[0].copy())


def changes(image: MedicalImage, params: Params, count: int = 4) -> Tensor:
    truth = slice_of(image)
    options = {"params": params, "spacing_mm": image.spacing_mm[1:]}
    return torch.stack([ct_scanner.scan(truth, **options, generator=generator(i)) - truth for i in range(count)])


def test_a_draw_holds_every_parameter_of_the_chain():
    drawn = [ct_scanner.draw_scan(GRADES[seed % 3], generator(seed)) for seed in range(150)]
    assert all(one.keys() == PLAIN.keys() for one in drawn)
    peaks = [one["kernel_peak"] for one in drawn]
    assert min(peaks) < 0.06
    assert max(peaks) > 0.4
    for step in ("tube_modulation", "starvation", "iterative", "softened", "grid_rotation_deg"):
        share = np.mean([one[step] != 0 for one in drawn])
        assert 0.15 < share < 0.85
    assert {one["slices_averaged"] for one in drawn} == set(range(1, 9))


def drawn(severity: Severity, seed: int) -> DegradationRecord:
    """Return a record of a scanner after which nothing happens to the image."""
    record = draw_record(Task.CT_LOW_DOSE, severity, generator(seed), method="scanner")
    return replace(record, params={name: one for name, one in record.params.items() if name not in AFTER_LIMITS})


@pytest.mark.parametrize("image", [water(), body(), body(43)], ids=["disc", "body", "another body"])
@pytest.mark.parametrize("severity", GRADES)
def test_soft_tissue_has_the_standard_deviation_that_is_asked_for(image: MedicalImage, severity: Severity):
    tissue = ct_scanner.soft_tissue(slice_of(image)).numpy()
    for seed in range(4):
        record = drawn(severity, seed)
        added = apply_records(image, record).voxels[0] - image.voxels[0]
        assert added[tissue].std() == pytest.approx(record.params["noise_sd_hu"], rel=0.1)


@pytest.mark.parametrize("peak", [0.06, 0.1, 0.16, 0.25, 0.35, 0.44])
@pytest.mark.parametrize("image", [water(), body()], ids=["disc", "body"])
def test_the_noise_power_spectrum_has_the_peak_of_the_kernel(image: MedicalImage, peak: float):
    params = PLAIN | {"kernel_peak": peak, "kernel_cutoff": 1.7 * peak}
    made = changes(image, params)
    frequency, power = radial(power_of(made, ct_scanner.soft_tissue(slice_of(image))), *made.shape[1:])
    asked = binned(functools.partial(ct_scanner.noise_power, params), *made.shape[1:])
    assert peak_of(frequency, power) == pytest.approx(peak_of(frequency, asked), abs=max(0.1 * peak, BIN))
    assert peak_of(frequency, asked) == pytest.approx(peak, abs=max(0.1 * peak, BIN))


@pytest.mark.parametrize("seed", range(8))
def test_the_noise_power_spectrum_of_a_whole_chain_is_what_is_stated(seed: int):
    image, params = water(), ct_scanner.draw_scan(Severity.MODERATE, generator(seed)) | {"softened": 0.0}
    made = changes(image, params, 8)
    inside = gaussian_blur((slice_of(image) > -500).float()[None], 3.0)[0] > 0.999  # iterations keep noise at edges
    frequency, power = radial(power_of(made, inside), *made.shape[1:])
    asked = binned(functools.partial(ct_scanner.noise_power, params), *made.shape[1:])
    wanted = peak_of(frequency, asked)
    assert peak_of(frequency, power) == pytest.approx(wanted, abs=max(0.1 * wanted, BIN))
    keep = (asked > 0.3 * asked.max()) & (frequency < 0.5) & (frequency > 0.05)
    ratio = power[keep] / asked[keep]
    assert torch.allclose(ratio / ratio.mean(), torch.ones_like(ratio), atol=0.3)


@pytest.mark.parametrize("peak", [0.1, 0.3])
def test_the_spectrum_has_its_peak_along_both_axes(peak: float):
    image = water()
    made = changes(image, PLAIN | {"kernel_peak": peak, "kernel_cutoff": 1.7 * peak}, 8)
    power = power_of(made, ct_scanner.soft_tissue(slice_of(image)))
    height, width = made.shape[1:]
    down, right = torch.fft.fftfreq(height).abs()[:, None], torch.fft.rfftfreq(width)[None]
    for near, far in ((down, right), (right, down)):
        sector = (near > 2 * far).expand(height, -1)
        number = (frequencies(height, width)[sector] / BIN).round().long()
        mean = torch.bincount(number, weights=power[sector]) / torch.bincount(number).clamp(min=1)
        assert peak_of(torch.arange(len(mean)) * BIN, mean) == pytest.approx(peak, abs=max(0.1 * peak, BIN))


def test_nothing_is_changed_at_full_dose_or_without_noise():
    truth = slice_of(body())
    for none in ({"dose_fraction": 1.0}, {"noise_sd_hu": 0.0}):
        made = ct_scanner.scan(truth, params=PLAIN | none, spacing_mm=(1.0, 1.0), generator=generator())
        assert torch.equal(made, truth)


@given(
    height=st.integers(24, 61),
    width=st.integers(24, 61),
    spacing_mm=st.tuples(st.floats(0.6, 3.0), st.floats(0.6, 3.0)),
    severity=st.sampled_from(GRADES),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=15, deadline=None, derandomize=True)
def test_any_shape_and_spacing_keeps_shape_range_and_noise(
    height: int, width: int, spacing_mm: tuple[float, float], severity: Severity, seed: int
):
    values = body(47, 64).voxels[0, :height, :width].copy()
    values[0, 0] = -3024.0
    image = MedicalImage(values, (3.0, *spacing_mm), modality=Modality.CT)
    record = drawn(severity, seed)
    made = apply_records(image, record)
    assert made.shape == image.shape
    assert made.voxels[0, 0, 0] == -3024
    inside = made.voxels[0].flatten()[1:]
    assert np.isfinite(inside).all()
    assert inside.min() >= ct.HU_RANGE[0]
    assert inside.max() <= ct.HU_RANGE[1]
    tissue = ct_scanner.soft_tissue(torch.from_numpy(values)).numpy()
    added = made.voxels[0] - values
    if (values[tissue] > -700).all():  # air is held at -1024
        assert added[tissue].std() == pytest.approx(record.params["noise_sd_hu"], rel=0.1)
    again = apply_records(image, DegradationRecord.from_json(record.to_json()))
    assert np.array_equal(again.voxels, made.voxels)


def test_a_softer_kernel_softens_the_image_by_no_more_than_the_noise_hides():
    image = body(size=192)
    params = PLAIN | {"kernel_peak": 0.06, "kernel_cutoff": 0.12, "noise_sd_hu": 40.0}
    plain, softened = (changes(image, params | {"softened": share}, 3) for share in (0.0, 1.0))
    fine = frequencies(*plain.shape[1:]) > 0.3
    truth = torch.fft.rfft2(slice_of(image))
    before, after = (
        float(torch.fft.rfft2(slice_of(image) + one).abs().square().mean(0)[fine].sum()) for one in (plain, softened)
    )
    assert after < 0.9 * before
    assert float(truth.abs().square()[fine].sum()) == pytest.approx(before, rel=0.2)
    # a kernel as sharp as the image leaves it alone
    sharp = PLAIN | {"kernel_peak": 0.4, "kernel_cutoff": 0.8}
    assert torch.equal(changes(image, sharp | {"softened": 1.0}, 1), changes(image, sharp, 1))


def test_iterative_reconstruction_removes_fine_noise_in_flat_tissue_more_than_at_edges():
    image = water()
    plain, iterated = (changes(image, PLAIN | {"iterative": share}, 6) for share in (0.0, 0.9))
    inside = slice_of(image) > -500
    flat = gaussian_blur(inside.float()[None], 3.0)[0] > 0.999
    rim = inside & ~(gaussian_blur(inside.float()[None], 1.0)[0] > 0.999)
    ratios = [float(iterated[:, where].std() / plain[:, where].std()) for where in (flat, rim)]
    assert ratios[1] > 1.15 * ratios[0]


def test_only_long_rays_starve_and_the_tube_current_follows_the_thickest_ray():
    path = torch.linspace(0, 8, 33)[:, None] * torch.linspace(0.2, 1, 9)
    plain = ct_scanner.ray_variances(path, PLAIN)
    starved = ct_scanner.ray_variances(path, PLAIN | {"starvation": 2.0, "starvation_path": 5.0})
    for before, after in zip(plain, starved, strict=True):
        assert torch.equal(before[path <= 5], after[path <= 5])
        assert (after[path > 5] > before[path > 5]).all()
    modulated = ct_scanner.ray_variances(path, PLAIN | {"tube_modulation": 1.0})
    rise = [float(one[0][:, -1].max() / one[0][:, -1].min()) for one in (plain, modulated)]
    assert rise[1] == pytest.approx(1, rel=1e-3)
    assert math.log(rise[0]) == pytest.approx(8, rel=0.01)


def test_averaged_thin_slices_have_more_electronic_noise_for_the_same_sum():
    image = body()
    params = PLAIN | {"electronic_counts": 40.0, "noise_sd_hu": 20.0}
    one, many = (changes(image, params | {"slices_averaged": count}, 1)[0] for count in (1, 8))
    tissue = ct_scanner.soft_tissue(slice_of(image))
    assert float(one[tissue].std()) == pytest.approx(float(many[tissue].std()), rel=0.02)
    assert not torch.allclose(one, many, atol=1.0)
