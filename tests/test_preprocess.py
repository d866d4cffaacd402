import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medq_uni.image import MedicalImage, Units
from medq_uni.preprocess import CannotAssess, as_channels, assessable, guess_modality, to_image, to_tensor, vision_view
from medq_uni.scaling import scaling_of
from medq_uni.taxonomy import Modality

CASES = {
    Modality.CT: (Units.HU, -1500.0, 3500.0),
    Modality.MR: (Units.ARBITRARY, 0.0, 900.0),
    Modality.PET: (Units.SUV, 0.0, 30.0),
}


def image(modality: Modality, height: int = 21, width: int = 18, seed: int = 0, padding=None) -> MedicalImage:
    units, low, high = CASES[modality]
    values = np.random.default_rng(seed).uniform(low, high, (2, height, width))
    return MedicalImage(values, modality=modality, units=units, padding=padding)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(list(Modality)), st.integers(16, 40), st.integers(16, 40), st.integers(0, 99))
def test_the_way_there_and_back_is_exact(modality: Modality, height: int, width: int, seed: int):
    original = image(modality, height, width, seed)
    views, inverse = to_tensor(original, multiple=16)
    assert views.shape[1] == 2
    assert views.shape[-2] % 16 == views.shape[-1] % 16 == 0
    assert views.abs().max() <= 1
    back = to_image(views, inverse)
    span = inverse.scaling.high - inverse.scaling.low
    assert np.abs(back.voxels - original.voxels).max() <= 1e-6 * span
    outside = (original.voxels < inverse.scaling.low) | (original.voxels > inverse.scaling.high)
    assert np.array_equal(back.voxels[outside], original.voxels[outside])


def test_padding_comes_back_bit_identical_whatever_the_network_says():
    padding = np.zeros((2, 21, 18), bool)
    padding[:, :5] = True
    original = image(Modality.CT, padding=padding)
    views, inverse = to_tensor(original, multiple=16)
    back = to_image(torch.zeros_like(views), inverse)
    assert np.array_equal(back.voxels[padding], original.voxels[padding])


def test_the_merge_is_continuous_across_the_window_edge():
    scaling = scaling_of(image(Modality.CT))
    values = torch.linspace(-400, 500, 4001)[None, None]
    merged = scaling.from_views(scaling.to_views(values))
    assert torch.allclose(merged, values, atol=1e-3)


def test_the_window_view_magnifies_soft_tissue_tenfold():
    scaling = scaling_of(image(Modality.CT))
    wide, window = (
        scaling.to_views(torch.tensor([[[0.0, 40.0]]]))[0, :, 0, 1] - scaling.to_views(torch.zeros(1, 1, 2))[0, :, 0, 1]
    ).tolist()
    assert window / wide == pytest.approx(4095 / 400)


def test_spread_is_in_the_units_of_the_image():
    scaling = scaling_of(image(Modality.CT))
    views = scaling.to_views(torch.tensor([[[0.0, 1500.0]]]))
    spread = scaling.spread_from_views(torch.full_like(views, 0.1), views)[0, 0]
    assert spread.tolist() == pytest.approx([0.1 * 200, 0.1 * 4095 / 2])


def test_a_reference_can_use_the_scaling_of_its_degraded_image():
    scaling = scaling_of(image(Modality.MR, seed=1))
    _, inverse = to_tensor(image(Modality.MR, seed=2), multiple=1, scaling=scaling)
    assert inverse.scaling == scaling


def test_large_slices_show_the_assessor_their_center_at_native_resolution():
    views = torch.arange(20.0)[None, None, None].expand(1, 2, 20, 20)
    assert vision_view(views, size=8)[0, 0, 0].tolist() == list(range(6, 14))
    assert vision_view(views, size=64).shape == views.shape


def test_networks_of_natural_images_get_the_wide_view_repeated():
    views = torch.rand(1, 2, 4, 4)
    assert as_channels(views, channels=2) is views
    assert torch.equal(as_channels(views, channels=3)[:, 2], views[:, 0])


@pytest.mark.parametrize(
    ("values", "units", "expected"),
    [
        ([-1000, 50], Units.ARBITRARY, Modality.CT),
        ([0, 50], Units.HU, Modality.CT),
        ([0, 5], Units.SUV, Modality.PET),
        ([0, 500], Units.ARBITRARY, Modality.MR),
    ],
)
def test_a_guess_of_the_modality_says_that_it_is_one(values: list[float], units: Units, expected: Modality):
    with pytest.warns(UserWarning, match="guessed"):
        assert guess_modality(MedicalImage(np.array([values]), units=units)) is expected


@pytest.mark.parametrize(
    ("voxels", "modality", "message"),
    [
        (np.full((1, 32, 32), 3.0), Modality.MR, "constant"),
        (np.ones((1, 4, 40)) * np.arange(40), Modality.MR, "at least 16"),
        (np.where(np.eye(32) > 0, np.nan, 1.0)[None], Modality.CT, "NaN"),
        (np.linspace(-1000, 100, 1024).reshape(1, 32, 32), Modality.PET, "--modality ct"),
        (np.linspace(0, 1, 1024).reshape(1, 32, 32), Modality.CT, "Hounsfield"),
    ],
)
def test_what_cannot_be_assessed_is_said_clearly(voxels: np.ndarray, modality: Modality, message: str):
    with pytest.raises(CannotAssess, match=message):
        assessable(MedicalImage(voxels, modality=modality))


def test_an_image_without_modality_or_positive_values_has_no_scaling():
    with pytest.raises(ValueError, match="no modality"):
        scaling_of(MedicalImage(np.ones((1, 4, 4))))
    with pytest.raises(ValueError, match="no value above 0"):
        scaling_of(MedicalImage(np.zeros((1, 4, 4)), modality=Modality.MR))
    with pytest.raises(ValueError, match="NaN"):
        to_tensor(MedicalImage(np.full((1, 4, 4), np.nan), modality=Modality.CT), multiple=2)
