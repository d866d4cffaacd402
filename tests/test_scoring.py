import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from medq_uni.image import MedicalImage
from medq_uni.physics.effect import foreground
from medq_uni.scoring import data_range_of, psnr_gain, score_image, scores
from medq_uni.taxonomy import Modality

OPTIONS = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}


def pair(modality: Modality, seed: int = 0) -> tuple[MedicalImage, MedicalImage]:
    rng = np.random.default_rng(seed)
    smooth = np.cumsum(np.cumsum(rng.normal(size=(1, 40, 52)), 1), 2)
    level = (smooth - smooth.min()) / np.ptp(smooth)
    values = 1800 * level - 1000 if modality is Modality.CT else 12 * level
    noise = rng.normal(0, 60 if modality is Modality.CT else 0.5, values.shape)
    return MedicalImage(values + noise, modality=modality), MedicalImage(values, modality=modality)


@pytest.mark.parametrize("modality", list(Modality))
def test_every_score_agrees_with_scikit_image(modality: Modality):
    image, reference = pair(modality)
    x, y = (one.voxels[0].astype(np.float64) for one in (image, reference))
    wide = x, y
    if modality is Modality.CT:
        wide = tuple(np.clip(v, -1024, 3071) for v in (x, y))
        x, y = (np.clip(v, -160, 240) for v in (x, y))
    found, main = score_image(image, reference), data_range_of(reference)
    for ours, (a, b), data_range in (
        ("psnr", (x, y), main),
        ("psnr_wide", wide, 4095 if modality is Modality.CT else main),
        ("psnr_slice", (x, y), np.ptp(y)),
    ):
        assert getattr(found, ours) == pytest.approx(peak_signal_noise_ratio(b, a, data_range=data_range), abs=1e-6)
        similarity = structural_similarity(b, a, data_range=data_range, **OPTIONS)
        assert getattr(found, ours.replace("psnr", "ssim")) == pytest.approx(similarity, abs=1e-6)
    assert scores(image, reference) == (found.psnr, found.ssim)


def test_the_foreground_leaves_air_out():
    image, reference = pair(Modality.CT)
    body = reference.voxels > -500
    clean_body = MedicalImage(np.where(body, reference.voxels, image.voxels + 900), modality=Modality.CT)
    found = score_image(clean_body, reference)
    assert np.isinf(found.psnr_foreground)
    assert np.isfinite(found.psnr)


@pytest.mark.parametrize("modality", [Modality.MR, Modality.PET])
def test_the_foreground_scores_agree_with_scikit_image(modality: Modality):
    image, reference = pair(modality)
    reference = reference.with_voxels(np.where(reference.voxels < 6, 0, reference.voxels))
    inside, main = foreground(reference)[0], data_range_of(reference)
    x, y = (one.voxels[0].astype(np.float64) for one in (image, reference))
    middles = slice(5, -5), slice(5, -5)
    assert 0 < inside[middles].mean() < 1
    found = score_image(image, reference)
    assert found.psnr_foreground == pytest.approx(peak_signal_noise_ratio(y[inside], x[inside], data_range=main))
    similarity = structural_similarity(y, x, data_range=main, full=True, **OPTIONS)[1]
    assert found.ssim_foreground == pytest.approx(similarity[middles][inside[middles]].mean(), abs=1e-6)


@pytest.mark.parametrize("modality", list(Modality))
def test_the_foreground_scores_of_a_volume_are_means_over_its_slices(modality: Modality):
    both = [[one.voxels[0] for one in pair(modality, seed)] for seed in (0, 1)]
    both[1][0] = both[1][1] + 0.2 * (both[1][0] - both[1][1])
    image, reference = (MedicalImage(np.stack(slices), modality=modality) for slices in zip(*both, strict=True))
    whole = score_image(image, reference)
    inside, last = foreground(reference), data_range_of(reference)
    x, y = (one.voxels.astype(np.float64) for one in (image, reference))
    if modality is Modality.CT:
        x, y = (np.clip(one, -160, 240) for one in (x, y))
    each = [peak_signal_noise_ratio(y[z][inside[z]], x[z][inside[z]], data_range=last) for z in (0, 1)]
    assert abs(each[0] - each[1]) > 5
    assert whole.psnr_foreground == pytest.approx(np.mean(each))
    blank = reference.voxels.copy()
    blank[0] = blank.min() if modality is Modality.CT else 0
    found = score_image(image, reference.with_voxels(np.minimum(blank, reference.voxels)), last)
    assert found.psnr_foreground == pytest.approx(each[1], abs=1e-6)


def test_a_slice_is_scored_on_the_range_of_its_volume():
    image, reference = pair(Modality.PET)
    own, main = score_image(image, reference), data_range_of(reference)
    volume = score_image(image, reference, 2 * main)
    assert volume.psnr == pytest.approx(own.psnr + 20 * np.log10(2))
    assert volume.psnr_foreground == pytest.approx(own.psnr_foreground + 20 * np.log10(2))
    assert volume.ssim > own.ssim
    assert (volume.psnr_slice, volume.ssim_slice) == (own.psnr_slice, own.ssim_slice)


def test_what_cannot_be_scored_is_said():
    image, reference = pair(Modality.MR)
    with pytest.raises(ValueError, match=r"differ in shape: \(1, 39, 52\) and \(1, 40, 52\)"):
        scores(MedicalImage(image.voxels[:, 1:]), reference)
    broken = image.voxels.copy()
    broken[0, 3, 4] = np.nan
    with pytest.raises(ValueError, match="1 voxels are NaN"):
        score_image(image.with_voxels(broken), reference)
    with pytest.raises(ValueError, match="must be positive, got 0"):
        score_image(image, reference, 0.0)
    with pytest.raises(ValueError, match="no data range"):
        score_image(image, reference.with_voxels(np.zeros(reference.shape)))


@pytest.mark.parametrize("modality", list(Modality))
def test_a_blank_slice_of_a_volume_is_left_out_of_its_psnr(modality: Modality):
    generator = np.random.default_rng(0)
    truth = generator.uniform(10, 200, (3, 32, 32))
    noisy = truth + generator.normal(0, 5, truth.shape)
    noisy[0] = truth[0] = 0
    whole = score_image(MedicalImage(noisy, modality=modality), MedicalImage(truth, modality=modality))
    last = data_range_of(MedicalImage(truth, modality=modality))
    expected = [peak_signal_noise_ratio(truth[i], noisy[i], data_range=last) for i in (1, 2)]
    assert whole.psnr == pytest.approx(np.mean(expected))
    assert all(np.isfinite(value) for value in (whole.psnr_wide, whole.psnr_slice, whole.ssim_slice))
    same = score_image(MedicalImage(truth, modality=modality), MedicalImage(truth, modality=modality))
    assert same.psnr == np.inf


@pytest.mark.parametrize("modality", list(Modality))
def test_a_gain_is_the_difference_of_two_psnrs_whatever_the_range(modality: Modality):
    image, reference = pair(modality)
    half = image.with_voxels((image.voxels + reference.voxels) / 2)
    expected = score_image(half, reference).psnr - score_image(image, reference).psnr
    assert psnr_gain(image, half, reference) == pytest.approx(expected, abs=1e-9)
    assert psnr_gain(image, half, reference, 50.0) == pytest.approx(expected, abs=1e-9)
    assert expected > 2
