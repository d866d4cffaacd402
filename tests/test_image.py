from __future__ import annotations

import numpy as np
import pytest

from medq_uni.image import MedicalImage, axial_affine


def test_a_plane_becomes_a_volume_of_one_slice():
    image = MedicalImage(voxels=np.ones((4, 5)))
    assert image.shape == (1, 4, 5)
    assert image.voxels.dtype == np.float32


@pytest.mark.parametrize("shape", [(0, 4, 5), (2, 0, 5), (2, 3, 4, 5), (7,)])
def test_impossible_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"\(Z, Y, X\)"):
        MedicalImage(voxels=np.ones(shape))


def test_affine_spacing_and_padding_are_checked():
    voxels = np.ones((2, 3, 4))
    with pytest.raises(ValueError, match="4x4"):
        MedicalImage(voxels=voxels, affine=np.eye(3))
    with pytest.raises(ValueError, match="4x4"):
        MedicalImage(voxels=voxels, affine=np.full((4, 4), np.nan))
    with pytest.raises(ValueError, match="positive"):
        MedicalImage(voxels=voxels, spacing_mm=(1, 0, 1))
    with pytest.raises(ValueError, match="padding"):
        MedicalImage(voxels=voxels, padding=np.zeros((2, 3, 5), bool))


def test_other_voxels_keep_everything_else():
    padding = np.zeros((1, 2, 3), bool)
    image = MedicalImage(voxels=np.ones((1, 2, 3)), padding=padding, source="header")
    other = image.with_voxels(np.zeros((1, 2, 3)))
    assert other.source == "header"
    assert other.padding is padding
    np.testing.assert_array_equal(image.voxels, 1)
    with pytest.raises(ValueError, match="shape"):
        image.with_voxels(np.zeros((1, 2, 4)))


def test_a_slice_lies_where_it_lay_in_the_volume():
    affine = np.array([[-0.7, 0.1, 0.3, 5], [0.2, -0.8, 0.4, 6], [0.0, 0.3, 2.4, 7], [0, 0, 0, 1]])
    voxels = np.arange(24).reshape(2, 3, 4)
    image = MedicalImage(voxels=voxels, affine=affine, padding=voxels > 20)
    part = image.slice_at(1)
    np.testing.assert_allclose(part.affine @ (3, 2, 0, 1), affine @ (3, 2, 1, 1))
    np.testing.assert_array_equal(part.voxels[0], voxels[1])
    np.testing.assert_array_equal(part.padding[0], voxels[1] > 20)


def test_axial_affine_runs_to_the_left_and_back():
    np.testing.assert_array_equal(axial_affine((3, 2, 1)) @ (1, 1, 1, 1), (-1, -2, 3, 1))
