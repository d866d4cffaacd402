from dataclasses import replace

import numpy as np
import pytest
import torch

from medq_uni.config import SamplerConfig
from medq_uni.data.pair_cache import PairCache, pair_images
from medq_uni.image import MedicalImage
from medq_uni.inference import Inference
from medq_uni.preprocess import Scaling
from medq_uni.pretrained.load import Pretrained
from medq_uni.scoring import score_image
from medq_uni.seeding import generator_of
from medq_uni.taxonomy import Modality, Severity
from medq_uni.train.conditioning import PairTexts
from medq_uni.train.validate import (
    PairRestorer,
    degraded_indices,
    described,
    inference_of,
    mean_gains,
    right_shares,
    uncertainty_scale,
)

NOISE = SamplerConfig(start="noise", num_steps=1, num_samples=2)


@pytest.fixture(scope="module")
def inference(nano: Pretrained) -> Inference:
    return inference_of(nano.model, nano.tokenizer)


@pytest.fixture(scope="module")
def texts(nano: Pretrained, pair_cache: PairCache) -> PairTexts:
    return PairTexts(pair_cache, nano.tokenizer)


def blurred(image: MedicalImage) -> MedicalImage:
    return image.with_voxels((image.voxels + np.roll(image.voxels, 1, 1) + np.roll(image.voxels, 1, 2)) / 3)


@pytest.mark.parametrize("is_peak_known", [True, False])
def test_a_gain_is_the_difference_of_two_scores(pair_cache: PairCache, is_peak_known: bool):
    for index in degraded_indices(pair_cache):
        peak = 123.0 if is_peak_known and pair_cache.items[index].task.modality is not Modality.CT else None
        alone = _Alone(pair_cache, index, peak)
        degraded, reference = pair_images(pair_cache, index)
        (gain,) = mean_gains(alone, lambda _, index=index: blurred(pair_images(pair_cache, index)[0])).values()
        after, before = (score_image(image, reference, peak).psnr for image in (blurred(degraded), degraded))
        assert gain == pytest.approx(after - before, abs=1e-9)


class _Alone:
    """One pair alone, with a peak of its own."""

    def __init__(self, pairs: PairCache, index: int, peak: float | None) -> None:
        self.pairs, self.index = pairs, index
        self.items = [replace(pairs.items[index], reference_peak=peak)]

    def __len__(self) -> int:
        return 1

    def views(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.pairs.views(self.index)

    def values(self, index: int) -> torch.Tensor:
        return self.pairs.values(self.index)

    def scaling(self, index: int) -> Scaling:
        return self.pairs.scaling(self.index)


def test_good_pairs_have_no_gain(pair_cache: PairCache):
    found = degraded_indices(pair_cache)
    assert {pair_cache.items[index].severity for index in set(range(len(pair_cache))) - set(found)} <= {Severity.NONE}
    assert degraded_indices(pair_cache, 3) == [index for index in found if index < 3]


@pytest.mark.parametrize("objective", ["codec", "restore", "joint"])
def test_a_pair_is_restored_as_its_objective_restores_it(inference: Inference, texts: PairTexts, objective: str):
    restorer = PairRestorer(inference, texts, objective, SamplerConfig())
    (image, deviation), (degraded, reference) = restorer.restore(1), pair_images(texts.pairs, 1)
    assert image.shape == degraded.shape
    assert deviation is not None
    assert deviation.voxels.max() > 0
    assert score_image(image, reference).psnr > score_image(degraded, reference).psnr
    again = restorer.restore(1)[0]
    assert np.array_equal(image.voxels, again.voxels)


def test_what_is_told_takes_the_place_of_the_label(inference: Inference, texts: PairTexts):
    restorer = PairRestorer(inference, texts, "joint", SamplerConfig())
    label = texts.tokens(1, generator_of(1))
    images = [restorer.restore(1, told)[0].voxels for told in (None, label, [])]
    assert np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])


def test_samples_from_noise_are_averaged_and_their_noise_is_that_of_the_pair(inference: Inference, texts: PairTexts):
    both = PairRestorer(inference, texts, "joint", NOISE).restore(1)[0]
    again = PairRestorer(inference, texts, "joint", NOISE).restore(1)[0]
    first = PairRestorer(inference, texts, "joint", replace(NOISE, num_samples=1)).restore(1)[0]
    assert np.array_equal(both.voxels, again.voxels)
    assert not np.array_equal(both.voxels, first.voxels)


def test_pairs_are_described_alike_alone_and_together(inference: Inference, texts: PairTexts):
    all_of_them = described(inference, texts.pairs, 4)
    assert sorted(all_of_them) == [0, 1, 2, 3]
    assert described(inference, texts.pairs, 1) == {0: all_of_them[0]}
    shares = right_shares(texts, all_of_them)
    assert set(shares) == {"right_verdict", "right_severity", "right_mr_type"}
    assert right_shares(texts, {index: texts.tokens(index, generator_of(0)) for index in range(4)}) == dict.fromkeys(
        shares, 1.0
    )


def test_the_scale_of_the_uncertainty_is_a_quantile_for_every_modality(inference: Inference, texts: PairTexts):
    scale = uncertainty_scale(inference, texts, SamplerConfig())
    assert set(scale) == {"ct", "mr", "pet"}
    assert all(0 < value < 100 for value in scale.values())
