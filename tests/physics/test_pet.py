import pytest
import torch

from medq_uni.data.phantoms import phantom
from medq_uni.physics import pet
from medq_uni.taxonomy import Modality


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_low_count_pet_keeps_the_mean_activity_and_more_counts_are_less_noise():
    image = torch.from_numpy(phantom(Modality.PET, generator(3), size=96).voxels[0])
    errors = []
    for counts in (30.0, 3000.0):
        params = {"dose_reduction": 10.0, "counts_per_pixel": counts}
        low = pet.low_count(image, params=params, spacing_mm=(4.0, 4.0), generator=generator())
        body = image > 0.1
        assert float(low[body].mean()) == pytest.approx(float(image[body].mean()), rel=0.1)
        errors.append(float((low - image).square().mean()))
    assert errors[1] < 0.2 * errors[0]


def test_the_full_scan_and_its_thinning_share_their_noise():
    image = torch.from_numpy(phantom(Modality.PET, generator(3), size=64).voxels[0])
    errors = {}
    for reduction in (1.0, 1.5, 10.0):
        params = {"dose_reduction": reduction, "counts_per_pixel": 100.0}
        low = pet.low_count(image, params=params, spacing_mm=(4.0, 4.0), generator=generator())
        errors[reduction] = float((low - image).square().mean())
    assert errors[1.0] == pytest.approx(0, abs=1e-8)
    assert errors[1.5] < 0.2 * errors[10.0]


def test_randoms_are_a_third_of_the_prompts():
    image = torch.rand(1, 32, 32, generator=generator()) + 1
    scanner = pet.Scanner(image, 4.0)
    expected, gain, randoms = scanner.exposure(image, 50.0)
    trues = gain * float(expected.mean())
    assert randoms / (randoms + trues) == pytest.approx(1 / 3)
    assert float(gain * expected.sum()) == pytest.approx(50 * 32 * 32, rel=1e-4)


def test_added_activity_adds_its_counts_to_the_same_noise():
    image = torch.rand(1, 32, 32, generator=generator()) + 1
    params = {"dose_reduction": 4.0, "counts_per_pixel": 50.0}
    scan = pet.acquire(image, 4.0, params=params, generator=generator())
    added = torch.zeros(1, 32, 32)
    assert torch.equal(pet.with_added(scan, added, generator()).thinned, scan.thinned)
    added[:, 12:20, 12:20] = 2.0
    more = pet.with_added(scan, added, generator())
    expected = float(scan.gain * scan.scanner.forward(added).sum())
    assert (more.full >= scan.full).all()
    assert float((more.full - scan.full).sum()) == pytest.approx(expected, rel=0.03)
    assert float((more.thinned - scan.thinned).sum()) == pytest.approx(expected / 4, rel=0.05)
