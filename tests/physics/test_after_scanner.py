import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from medq_uni.data.phantoms import draw_phantom
from medq_uni.image import MedicalImage
from medq_uni.physics.after_scanner import (
    AFTER_LIMITS,
    CHANCE,
    QUALITY,
    Denoiser,
    after_scanner,
    draw_after,
    jpeg,
    noise_of,
)
from medq_uni.physics.degrade import apply_records, draw_record
from medq_uni.physics.record import AFTER_VERSION, RECORD_VERSION, SCANNER_METHOD, DegradationRecord, RecordError
from medq_uni.physics.tasks import SPECS
from medq_uni.seeding import generator_of
from medq_uni.taxonomy import Modality, Severity, Task

EVERYTHING = {
    "after_denoiser": 2,
    "after_denoiser_strength": 1.5,
    "after_denoiser_share": 0.6,
    "after_sharpening": 0.8,
    "after_sharpening_sigma_px": 1.0,
    "after_scale": 0.8,
    "after_rotation_deg": 7.0,
    "after_cubic": 1,
    "after_eight_bit": 1,
    "after_jpeg_quality": 75,
    "after_range": 1.1,
}


def image_of(modality: Modality) -> MedicalImage:
    return draw_phantom(modality, generator_of(3, list(Modality).index(modality)), size=96).image


@pytest.fixture(scope="module")
def clean() -> torch.Tensor:
    return torch.from_numpy(image_of(Modality.MR).voxels[0].copy())


@pytest.fixture(scope="module")
def noisy(clean: torch.Tensor) -> torch.Tensor:
    return (clean + 0.05 * clean.max() * torch.randn(clean.shape, generator=generator_of(4))).abs()


def test_nothing_happens_where_a_record_says_nothing(clean: torch.Tensor, noisy: torch.Tensor):
    assert after_scanner(noisy, clean, {"sigma_fraction": 0.1}, Modality.MR) is noisy


@pytest.mark.parametrize("modality", Modality)
def test_every_step_is_rare_and_within_its_limits(modality: Modality):
    drawn = [draw_after(modality, generator_of(5, number)) for number in range(2000)]
    for params in drawn:
        assert all(low <= params[name] <= high for name, (low, high) in AFTER_LIMITS.items() if name in params)
    shares = {name: np.mean([name in params for params in drawn]) for name in AFTER_LIMITS}
    assert shares["after_denoiser"] == pytest.approx(CHANCE["denoised"], abs=0.03)
    assert shares["after_jpeg_quality"] == pytest.approx(CHANCE["jpeg"], abs=0.03)
    qualities = [params["after_jpeg_quality"] for params in drawn if "after_jpeg_quality" in params]
    assert QUALITY[0] <= min(qualities) < 56
    assert 89 < max(qualities) <= QUALITY[1]
    assert np.mean([not params for params in drawn]) > 0.55


@pytest.mark.parametrize("step", ["after_sharpening", "after_scale"])
def test_linear_steps_leave_an_undegraded_image_as_it_is(step: str, clean: torch.Tensor, noisy: torch.Tensor):
    params = {step: 0.8, "after_rotation_deg": 9.0}
    assert torch.allclose(after_scanner(clean, clean, params, Modality.MR), clean, atol=1e-6)
    changed = after_scanner(noisy, clean, params, Modality.MR) - clean
    assert not torch.allclose(changed, noisy - clean, atol=1e-3 * float(clean.max()))


def test_a_pair_stays_aligned_through_a_rotated_grid(clean: torch.Tensor):
    brighter = clean * 1.2  # a change with the structure of the image
    made = after_scanner(brighter, clean, {"after_scale": 1.5, "after_rotation_deg": 12.0}, Modality.MR) - clean
    product = torch.fft.ifft2(torch.fft.fft2(made) * torch.fft.fft2(clean).conj()).real
    assert int(product.argmax()) == 0


def test_sharpening_raises_fine_noise_and_another_grid_lowers_it(clean: torch.Tensor, noisy: torch.Tensor):
    def fine(params: dict) -> float:
        return float(noise_of(after_scanner(noisy, clean, params, Modality.MR) - clean))

    before = float(noise_of(noisy - clean))
    assert fine({"after_sharpening": 1.0, "after_sharpening_sigma_px": 1.0}) > 1.3 * before
    assert fine({"after_scale": 0.8}) < 0.8 * before


@pytest.mark.parametrize("kind", Denoiser)
def test_vendors_denoise_before_us(kind: Denoiser, clean: torch.Tensor, noisy: torch.Tensor):
    params = {"after_denoiser": int(kind), "after_denoiser_strength": 1.5, "after_denoiser_share": 1.0}
    noisy = (clean + 2 * (noisy - clean)).abs()
    made = after_scanner(noisy, clean, params, Modality.MR)
    inside = clean > 0.1 * clean.max()
    before, after = (float((image - clean)[inside].std()) for image in (noisy, made))
    assert after < 0.9 * before
    half = after_scanner(noisy, clean, params | {"after_denoiser_share": 0.5}, Modality.MR)
    assert torch.allclose(half, (noisy + made) / 2, atol=1e-5 * float(noisy.max()))


def test_the_estimate_of_noise_is_right_for_white_noise():
    noise = 3 * torch.randn(128, 128, generator=generator_of(6))
    assert float(noise_of(noise)) == pytest.approx(3, rel=0.05)
    assert float(noise_of(torch.zeros(16, 16))) == 0


def test_eight_bits_round_within_their_range_and_keep_what_lies_beyond(clean: torch.Tensor, noisy: torch.Tensor):
    made = after_scanner(noisy, clean, {"after_eight_bit": 1, "after_range": 1.0}, Modality.MR)
    peak = float(torch.quantile(noisy, 0.999))
    inside = noisy <= peak
    assert float((made - noisy)[inside].abs().max()) <= peak / 255 / 2 * 1.01
    assert torch.equal(made[~inside], noisy[~inside])
    assert len(made[inside].unique()) <= 256
    values = torch.linspace(-1000, 1000, 400).reshape(20, 20)
    window = after_scanner(values, values, {"after_eight_bit": 1, "after_range": 400.0}, Modality.CT)
    assert torch.equal(window != values, (values > -150) & (values < 250) & (window != values))
    assert float((window - values).abs().max()) <= 400 / 255 / 2 * 1.01


@pytest.mark.parametrize("quality", [50, 75, 95])
def test_jpeg_is_that_of_the_library(quality: int, clean: torch.Tensor):
    levels = (clean / clean.max() * 255).round()
    buffer = io.BytesIO()
    Image.fromarray(levels.numpy().astype(np.uint8)).save(buffer, "JPEG", quality=quality)
    theirs = np.asarray(Image.open(buffer)).astype(np.float64)
    ours = jpeg(levels.double(), quality).numpy()
    assert np.abs(ours - theirs).mean() < 0.25  # the library computes with integers, so that a few ties fall otherwise
    assert np.mean(np.abs(ours - theirs) <= 2) > 0.97
    assert np.abs(ours - theirs).mean() < 0.3 * np.abs(theirs - levels.numpy()).mean()


def test_odd_sizes_and_small_images_pass():
    for side in (3, 17):
        small = torch.rand(side, side + 2, generator=generator_of(7))
        for kind in Denoiser:
            params = EVERYTHING | {"after_denoiser": int(kind)}
            assert after_scanner(small, small, params, Modality.PET).shape == small.shape


@pytest.mark.parametrize("task", Task)
def test_records_with_these_steps_replay_bit_for_bit(task: Task):
    image = image_of(task.modality)
    record = draw_record(task, Severity.MODERATE, generator_of(8), method=SCANNER_METHOD)
    width = 600.0 if task.modality is Modality.CT else 1.1
    fields = {"params": record.params | EVERYTHING | {"after_range": width}, "version": AFTER_VERSION}
    record = DegradationRecord(task, record.severity, seed=record.seed, method=SCANNER_METHOD, **fields)
    made = apply_records(image, record)
    again = apply_records(image, DegradationRecord.from_json(record.to_json()))
    assert np.array_equal(made.voxels, again.voxels)
    assert np.isfinite(made.voxels).all()
    plain = {name: value for name, value in record.params.items() if name not in AFTER_LIMITS}
    before = apply_records(image, DegradationRecord(task, record.severity, plain, record.seed, SCANNER_METHOD))
    assert not np.array_equal(made.voxels, before.voxels)
    if task.modality is not Modality.CT:
        assert made.voxels.min() >= 0


def test_padding_of_ct_does_not_spill_into_the_image():
    image = image_of(Modality.CT)
    voxels = image.voxels.copy()
    voxels[:, :, :20] = -3024.0
    record = draw_record(Task.CT_LOW_DOSE, Severity.MILD, generator_of(9), method=SCANNER_METHOD)
    params = record.params | {"after_denoiser": 1, "after_denoiser_share": 1.0}
    made = apply_records(
        image.with_voxels(voxels), DegradationRecord(record.task, record.severity, params, 1, SCANNER_METHOD)
    )
    assert np.array_equal(made.voxels[:, :, :20], voxels[:, :, :20])
    assert made.voxels[:, :, 20:].min() >= -1024


@pytest.mark.parametrize("task", Task)
def test_what_is_drawn_for_the_scanner_is_as_ever(task: Task):
    drawn = [draw_record(task, Severity.MILD, generator_of(10, i), method=SCANNER_METHOD) for i in range(40)]
    versions = {record.version for record in drawn}
    assert versions == {RECORD_VERSION, AFTER_VERSION}
    for number, record in enumerate(drawn):
        generator = generator_of(10, number)
        torch.randint(2**31 - 1, (1,), generator=generator)
        plain = SPECS[task].scanner.draw(Severity.MILD, generator)
        assert {name: value for name, value in record.params.items() if name not in AFTER_LIMITS} == plain
        assert (record.version == AFTER_VERSION) == (len(record.params) > len(plain))
        assert math.isfinite(sum(record.params.values()))
    assert draw_record(task, Severity.MILD, generator_of(10)).version == RECORD_VERSION


def test_a_parameter_out_of_range_is_refused():
    record = draw_record(Task.MR_NOISE, Severity.MILD, generator_of(11), method=SCANNER_METHOD)
    wrong = DegradationRecord(
        record.task, record.severity, record.params | {"after_jpeg_quality": 0}, 1, SCANNER_METHOD, AFTER_VERSION
    )
    with pytest.raises(RecordError, match="after_jpeg_quality must lie between 1 and 100"):
        apply_records(image_of(Modality.MR), wrong)
