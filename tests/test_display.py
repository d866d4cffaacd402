from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from medq_uni.display import Window, png_of, windows_of
from medq_uni.image import MedicalImage
from medq_uni.taxonomy import Modality


def pixels(image: MedicalImage, window: Window) -> np.ndarray:
    with Image.open(BytesIO(png_of(image, window))) as picture:
        return np.asarray(picture)


def test_ct_is_seen_in_the_soft_tissue_and_a_wide_window(slice_ct: MedicalImage):
    assert [(w.name, w.low, w.high) for w in windows_of(slice_ct)] == [
        ("soft tissue", -160.0, 240.0),
        ("wide", -1000.0, 1000.0),
    ]


@pytest.mark.parametrize("modality", [Modality.MR, Modality.PET])
def test_mr_and_pet_are_seen_up_to_a_percentile(modality: Modality):
    voxels = np.arange(10_000, dtype=np.float32).reshape(1, 100, 100)
    voxels[0, -1, -1] = 1e6  # one hot voxel does not darken the rest
    (window,) = windows_of(MedicalImage(voxels, modality=modality))
    assert window.low == 0
    assert window.high == pytest.approx(9950, abs=2)
    seen = pixels(MedicalImage(voxels, modality=modality), window)
    assert (seen[0, 0], seen[-1, -1]) == (0, 255)


@pytest.mark.parametrize("value", [0.0, 5.0, -3.0])
def test_a_constant_slice_has_a_window(value: float):
    image = MedicalImage(np.full((1, 8, 8), value, np.float32), modality=Modality.MR)
    (window,) = windows_of(image)
    assert window.high > window.low
    assert len(np.unique(pixels(image, window))) == 1


def test_values_that_are_no_numbers_are_drawn_as_black_and_white():
    voxels = np.array([[[np.nan, np.inf, -np.inf, 2.0]]], np.float32)
    image = MedicalImage(voxels, modality=Modality.MR)
    (window,) = windows_of(image)
    assert pixels(image, window).tolist() == [[0, 255, 0, 255]]


def test_the_same_slice_gives_the_same_bytes(slice_ct: MedicalImage):
    window = windows_of(slice_ct)[0]
    assert png_of(slice_ct, window) == png_of(slice_ct.with_voxels(slice_ct.voxels.copy()), window)
