import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medq_uni.assessor import SURE, Assessor, key_slices
from medq_uni.data.phantoms import phantom
from medq_uni.image import MedicalImage
from medq_uni.preprocess import CannotAssess
from medq_uni.pretrained.calibration import Calibration, OperatingPoint
from medq_uni.pretrained.load import Pretrained, load_pretrained
from medq_uni.pretrained.ood_detector import Gaussian, OodDetector
from medq_uni.restorer import Restorer, RestoreSettings
from medq_uni.taxonomy import Modality, Verdict


@pytest.fixture(scope="module")
def nano() -> Pretrained:
    return replace(load_pretrained("nano"), calibration=None)


@pytest.fixture(scope="module")
def image() -> MedicalImage:
    return phantom(Modality.MR, torch.Generator().manual_seed(3), size=96)


def with_unlikeness(nano: Pretrained, image: MedicalImage, wanted: float) -> Pretrained:
    """Return a model to which the image has this unlikeness."""
    inference = Assessor(nano).inference
    features = inference.vision_features(inference.preprocessor.views(image)[0])[0]
    gaussian = Gaussian(
        mean=features + 2.0,
        directions=torch.eye(len(features))[:1],
        deviations=torch.ones(1),
        rest=torch.ones(()),
        limit=torch.tensor(2.0 * len(features) ** 0.5 / wanted),
    )
    return replace(nano, ood_detector=OodDetector({Modality.MR: gaussian}))


def test_a_familiar_image_is_described_without_a_word(nano: Pretrained, image: MedicalImage, recwarn):
    found = Assessor(with_unlikeness(nano, image, 0.7)).assess(image)
    assert found.ood_score == pytest.approx(0.7, rel=1e-3)
    assert not [w for w in recwarn if "unlike" in str(w.message)]


def test_a_doubtful_image_is_described_with_a_warning(nano: Pretrained, image: MedicalImage):
    with pytest.warns(UserWarning, match=r"As MR the image is unlike all .* .1\.2 times the limit"):
        found = Assessor(with_unlikeness(nano, image, 1.2)).assess(image)
    assert found.ood_score == pytest.approx(1.2, rel=1e-3)


def test_an_image_unlike_all_is_refused_unless_asked_for(nano: Pretrained, image: MedicalImage):
    assessor = Assessor(with_unlikeness(nano, image, 4.0))
    with pytest.raises(CannotAssess, match=r"4\.0 times the limit.*--modality.*--allow-ood"):
        assessor.assess(image)
    with pytest.warns(UserWarning, match="with doubt"):
        assert assessor.assess(image, allow_ood=True).description.modality is Modality.MR


def test_a_restoration_refuses_too_and_records_what_it_went_on_with(nano: Pretrained, image: MedicalImage):
    restorer = Restorer(with_unlikeness(nano, image, 4.0))
    with pytest.raises(CannotAssess, match="unlike all"):
        restorer.restore(image)
    with pytest.warns(UserWarning, match="with doubt"):
        result = restorer.restore(image, settings=RestoreSettings(allow_ood=True))
    assert result.provenance.ood_score == pytest.approx(4.0, rel=1e-3)
    assert result.provenance.options.allow_ood


def test_of_a_volume_the_middle_slice_speaks(nano: Pretrained, image: MedicalImage):
    noise = np.random.default_rng(0).uniform(0, image.voxels.max(), size=image.voxels.shape[1:])
    volume = image.with_voxels(image.voxels)
    volume = replace(image, voxels=np.stack([noise, *[image.voxels[0]] * 4]).astype(np.float32))
    known = with_unlikeness(nano, volume.slice_at(1), 0.5)
    assert Assessor(known).assess(volume).ood_score == pytest.approx(0.5, abs=0.2)


def test_a_model_that_kept_nothing_does_not_know(nano: Pretrained, image: MedicalImage):
    assert Assessor(replace(nano, ood_detector=None)).assess(image).ood_score is None


def with_cut(nano: Pretrained, cut: float) -> Pretrained:
    point = OperatingPoint(temperature=2.0, offset=0.5, cut=cut, flagged=0.0, noticed=1.0, error=0.0)
    calibration = Calibration(
        version=1, source_sha256="", subjects={}, images={}, operating_points={Modality.MR: point}
    )
    return replace(nano, calibration=calibration)


@pytest.mark.parametrize("is_degraded", [False, True])
def test_the_cut_decides_and_the_verdict_follows(nano: Pretrained, image: MedicalImage, is_degraded: bool):
    found = Assessor(with_cut(nano, -1e9 if is_degraded else 1e9)).assess(image)
    assert bool(found.description.degradations) == is_degraded
    assert (found.description.verdict is Verdict.GOOD) != is_degraded
    assert found.description.validate() == []


def test_the_probability_follows_the_log_odds_and_says_when_it_is_uncertain(nano: Pretrained, image: MedicalImage):
    plain, found = Assessor(nano).assess(image), Assessor(with_cut(nano, 0.0)).assess(image)
    assert plain.probability is None
    assert not plain.is_uncertain
    assert found.speaks.log_odds == pytest.approx(plain.speaks.log_odds, rel=1e-4)
    assert found.probability == pytest.approx(1 / (1 + math.exp(-(found.speaks.log_odds - 0.5) / 2)))
    sure = max(found.probability, 1 - found.probability)
    assert found.is_uncertain == (sure < SURE)
    against = Assessor(with_cut(nano, found.speaks.log_odds + 1)).assess(image)  # says good, though that is less likely
    assert against.description.verdict is Verdict.GOOD
    assert against.is_uncertain == (1 - against.probability < SURE)


def test_a_volume_keeps_what_was_found_in_its_slices(nano: Pretrained, image: MedicalImage):
    volume = replace(image, voxels=np.repeat(image.voxels, 20, axis=0))
    found = Assessor(nano).assess(volume)
    assert [one.z for one in found.slices] == key_slices(20)
    assert found.speaks in found.slices
    assert found.worst == ()


@settings(deadline=None)
@given(st.integers(1, 2000))
def test_slices_are_spread_over_a_volume(count: int):
    chosen = key_slices(count)
    assert chosen == sorted(set(chosen))
    assert all(0 <= z < count for z in chosen)
    assert min(count, 3) <= len(chosen) <= 9


def test_all_of_a_large_slice_is_seen(nano: Pretrained):
    """Noise in one corner of a slice of 400 pixels is outside the central 256."""
    wide = phantom(Modality.CT, torch.Generator().manual_seed(3), size=400)
    assessor = Assessor(nano)
    windows = assessor._windows(assessor.inference.preprocessor.views(wide)[0][0], wide)
    assert 2 <= len(windows) <= 4
    assert windows.shape[-1] < 256
    near = phantom(Modality.CT, torch.Generator().manual_seed(3), size=256)
    views = assessor.inference.preprocessor.views(near)[0][0]
    assert torch.equal(assessor._windows(views, near)[0], views)
