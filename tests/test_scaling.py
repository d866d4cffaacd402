from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from medq_uni.image import MedicalImage, Units
from medq_uni.preprocess import to_image, to_tensor
from medq_uni.scaling import KneeScaling, reaching, scaling_of
from medq_uni.taxonomy import Modality


def pet(values: np.ndarray) -> MedicalImage:
    return MedicalImage(values.astype(np.float32), modality=Modality.PET, units=Units.SUV)


def hot_spot(peak: float) -> MedicalImage:
    y, x = np.mgrid[:48, :48]
    return pet(1.5 + peak * np.exp(-((x - 24) ** 2 + (y - 24) ** 2) / 12)[None])


def smoothed(views: torch.Tensor) -> torch.Tensor:
    """What a network may do that takes a hot spot for noise."""
    kernel = torch.full((2, 1, 3, 3), 1 / 9)
    return F.conv2d(F.pad(views, (1, 1, 1, 1), mode="replicate"), kernel, groups=2)


def bias(restored: np.ndarray, original: np.ndarray) -> tuple[float, float]:
    """Relative change of SUVmax, and of SUVpeak, the mean over 3 x 3 pixels."""
    peak = (slice(None), slice(23, 26), slice(23, 26))
    return float(restored.max() / original.max() - 1), float(restored[peak].mean() / original[peak].mean() - 1)


@pytest.mark.parametrize("peak", [22.0, 30.0, 60.0])
def test_a_hot_spot_above_the_range_keeps_its_order(peak: float):
    image = hot_spot(peak)
    views, inverse = to_tensor(image, multiple=16)
    restored = to_image(smoothed(views), inverse).voxels
    profile = restored[0, 24, 24:36]
    assert (np.diff(profile) < 0).all()
    suv_max, suv_peak = bias(restored, image.voxels)
    assert -0.5 < suv_max < -0.05  # it is smoothed like its neighbours, not left standing among them
    assert abs(suv_max - suv_peak) < 0.2
    clipped, way_back = to_tensor(image, multiple=16, scaling=scaling_of(image))
    spiked = to_image(smoothed(clipped), way_back).voxels
    assert bias(spiked, image.voxels)[0] == 0.0  # what it was like: the maximum untouched


@pytest.mark.parametrize("modality", list(Modality))
def test_an_image_inside_the_range_is_seen_bit_for_bit_as_before(modality: Modality):
    units = {Modality.CT: Units.HU, Modality.PET: Units.SUV, Modality.MR: Units.ARBITRARY}[modality]
    values = np.full((1, 32, 32), 20.0, np.float32)
    values[:, :16] = np.random.default_rng(0).uniform(0, 20, (1, 16, 32))
    image = MedicalImage(values, modality=modality, units=units)
    scaling = scaling_of(image)
    assert reaching(scaling, image) is scaling
    assert torch.equal(to_tensor(image, multiple=16)[0], to_tensor(image, multiple=16, scaling=scaling)[0])


def test_metal_in_ct_passes_through():
    image = MedicalImage(np.linspace(-1024, 9000, 400).reshape(1, 20, 20), modality=Modality.CT, units=Units.HU)
    assert reaching(scaling_of(image), image) == scaling_of(image)


@given(st.floats(20.001, 2000.0), st.integers(0, 99))
def test_the_bent_range_is_increasing_and_inverted_exactly(top: float, seed: int):
    values = np.random.default_rng(seed).uniform(0, top, (1, 20, 20))
    values[0, 0, 0] = top
    image = pet(values)
    scaling = reaching(scaling_of(image), image)
    assert isinstance(scaling, KneeScaling)
    assert scaling.high == np.float32(top)
    ordered = torch.linspace(0, scaling.high, 1000)[None, None]
    wide = scaling.to_wide(ordered)
    assert float(wide.min()) == -1
    assert float(wide.max()) == pytest.approx(1, abs=1e-5)
    assert (wide.diff() > 0).all()
    torch.testing.assert_close(scaling.from_wide(wide), ordered, rtol=2e-5, atol=2e-5)
    below = ordered[ordered < scaling.knee][None, None]
    torch.testing.assert_close(scaling.to_wide(below), scaling_of(image).to_wide(below), rtol=0, atol=1e-6)
    step = 1e-3
    middle = wide[..., 1:-1]
    slope = (scaling.from_wide(middle + step) - scaling.from_wide(middle - step)) / (2 * step)
    torch.testing.assert_close(scaling.slope_from_wide(middle)[..., :-50], slope[..., :-50], rtol=0.02, atol=0.5)


def test_the_spread_grows_with_the_slope_above_the_knee():
    image = hot_spot(60.0)
    views, inverse = to_tensor(image, multiple=16)
    spread = inverse.scaling.spread_from_views(torch.full_like(views, 0.01), views)
    assert float(spread[0, 24, 24]) > 10 * float(spread[0, 24, 34])
    assert float(spread[0, 24, 34]) == pytest.approx(0.01 * 2.5)  # in the window view of [0, 5]
