import numpy as np
import pytest
import torch

from medq_uni.data.phantoms import phantom
from medq_uni.image import MedicalImage
from medq_uni.physics.degrade import apply_records
from medq_uni.physics.effect import effect, foreground, own_noise, total_effect
from medq_uni.physics.record import DegradationRecord
from medq_uni.taxonomy import Modality, Severity, Task


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_effect_is_the_standard_deviation_in_the_body_for_ct_and_the_relative_norm_elsewhere():
    truth = np.full((40, 40), 40.0)
    truth[:10] = -1000
    noisy = truth + np.where(np.indices(truth.shape).sum(0) % 2, 7.0, -7.0)
    images = [MedicalImage(v, modality=Modality.CT) for v in (noisy, truth)]
    assert effect(*images, Task.CT_LOW_DOSE) == pytest.approx(7.0)
    images = [MedicalImage(np.abs(v), modality=Modality.MR) for v in (1.1 * truth, truth)]
    assert effect(*images, Task.MR_NOISE) == pytest.approx(0.1, rel=1e-4)


@pytest.mark.parametrize("sd", [10.0, 20.0, 40.0])
def test_ct_noise_is_found_where_it_was_added(sd: float):
    clean = np.full((96, 96), -1000.0)
    clean[16:80, 16:80] = 50
    noise = torch.randn(96, 96, generator=generator()).numpy() * sd
    image = MedicalImage(clean + noise, modality=Modality.CT)
    assert own_noise(image) == pytest.approx(sd, rel=0.15)


@pytest.mark.parametrize("sigma", [0.05, 0.1])
def test_mr_noise_is_found_within_what_structure_adds(sigma: float):
    image = phantom(Modality.MR, generator(3), size=192)
    mean = float(image.voxels[foreground(image)].mean())
    params = {"sigma_fraction": sigma * mean / float(np.quantile(image.voxels, 0.995))}
    noisy = apply_records(image, DegradationRecord(Task.MR_NOISE, Severity.MILD, params))
    assert own_noise(noisy) == pytest.approx(sigma, rel=0.3)
    assert own_noise(image) < 0.025


def test_more_counts_are_less_pet_noise():
    image = phantom(Modality.PET, generator(3), size=128)
    found = []
    for reduction in (2.0, 50.0):
        params = {"dose_reduction": reduction, "counts_per_pixel": 100.0}
        found.append(own_noise(apply_records(image, DegradationRecord(Task.PET_LOW_COUNT, Severity.MILD, params))))
    assert own_noise(image) < found[0] < found[1]


@pytest.mark.parametrize("modality", list(Modality))
def test_empty_flat_and_tiny_images_have_no_noise(modality: Modality):
    for values in (np.zeros((40, 40)), np.full((40, 40), 30.0), np.ones((8, 8))):
        assert own_noise(MedicalImage(values, modality=modality)) == pytest.approx(0, abs=1e-3)
    assert own_noise(MedicalImage(np.ones((40, 40)))) == 0


def test_noise_of_a_reference_counts_only_above_its_limit_and_for_its_kind():
    assert total_effect(20.0, 10.0, Task.CT_LOW_DOSE) == 20.0
    assert total_effect(20.0, 21.0, Task.CT_LOW_DOSE) == pytest.approx(29.0)
    assert total_effect(0.1, 0.5, Task.MR_MOTION) == 0.1


def test_shapes_that_differ_have_no_effect_to_measure():
    image = phantom(Modality.MR, generator(3), size=96)
    with pytest.raises(ValueError, match="one shape"):
        effect(image, phantom(Modality.MR, generator(3), size=64), Task.MR_NOISE)
