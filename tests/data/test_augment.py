import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medq_uni.data.augment import SIDES, augment
from medq_uni.data.phantoms import phantom
from medq_uni.image import MedicalImage
from medq_uni.taxonomy import Modality


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(list(Modality)), st.integers(64, 90), st.integers(0, 10_000))
def test_a_variation_keeps_the_field_of_view_and_is_a_possible_image(modality: Modality, size: int, seed: int):
    image = phantom(modality, seeded(seed), size=size)
    augmented = augment(image, seeded(seed))
    assert np.isfinite(augmented.voxels).all()
    extent = sorted(n * mm for n, mm in zip(augmented.shape[1:], augmented.spacing_mm[1:], strict=True))
    before = sorted(n * mm for n, mm in zip(image.shape[1:], image.spacing_mm[1:], strict=True))
    assert extent == pytest.approx(before)
    assert max(augmented.shape) <= max(SIDES[1], size)
    if modality is Modality.CT:
        assert np.array_equal(augmented.voxels, image.voxels)
    else:
        assert augmented.voxels.min() >= 0


def test_the_same_seed_gives_the_same_variation_and_other_seeds_give_others():
    image = phantom(Modality.MR, seeded(1), size=96)
    assert np.array_equal(augment(image, seeded(5)).voxels, augment(image, seeded(5)).voxels)
    shapes = {augment(image, seeded(seed)).shape for seed in range(20)}
    assert len(shapes) > 5


def test_a_reference_may_carry_noise_of_its_own_but_little():
    flat = MedicalImage(np.full((1, 80, 80), 100.0), modality=Modality.MR)
    spreads = [float(augment(flat, seeded(seed)).voxels.std()) for seed in range(40)]
    assert min(spreads) < 1e-3
    assert 0.1 < max(spreads) < 2
