import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medq_uni.data.phantoms import draw_phantom, phantom
from medq_uni.image import Units
from medq_uni.taxonomy import Anatomy, Modality

RANGES = {Modality.CT: (-1100, 3000), Modality.MR: (0, 1e4), Modality.PET: (0, 40)}
UNITS = {Modality.CT: Units.HU, Modality.MR: Units.ARBITRARY, Modality.PET: Units.SUV}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(list(Modality)), st.integers(32, 120), st.integers(0, 1000))
def test_a_phantom_has_the_size_units_and_range_of_its_modality(modality: Modality, size: int, seed: int):
    drawn = draw_phantom(modality, generator(seed), size=size)
    image = drawn.image
    assert image.shape == (1, size, size)
    assert image.units is UNITS[modality]
    assert image.modality is modality
    low, high = RANGES[modality]
    assert low <= image.voxels.min() < image.voxels.max() <= high
    for x, y, radius in drawn.lesions:
        assert 0 < radius < size
        assert -size * 0.1 < x < size * 1.1
        assert -size * 0.1 < y < size * 1.1


@pytest.mark.parametrize("modality", list(Modality))
def test_the_same_generator_gives_the_same_bits_and_another_does_not(modality: Modality):
    first, again, other = (phantom(modality, generator(s), size=64).voxels for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_several_anatomies_are_drawn():
    found = {draw_phantom(m, generator(s), size=32).anatomy for m in Modality for s in range(15)}
    assert {
        Anatomy.CHEST,
        Anatomy.ABDOMEN,
        Anatomy.PELVIS,
        Anatomy.BRAIN,
        Anatomy.EXTREMITY,
        Anatomy.TORSO,
    } <= found


def test_the_rim_of_a_ct_phantom_is_air():
    image = phantom(Modality.CT, generator(5), size=96).voxels[0]
    assert np.abs(image[0] + 1000).max() < 1


def test_too_small_a_phantom_is_refused():
    with pytest.raises(ValueError, match="at least 32"):
        phantom(Modality.CT, generator(0), size=8)
