from __future__ import annotations

import warnings

import numpy as np
import pydicom
import pytest
import SimpleITK

from medq_uni.errors import ImageWarning, UnreadableImage
from medq_uni.image import Units
from medq_uni.io.discover import find_images
from medq_uni.io.read_write import read_image, read_series
from medq_uni.taxonomy import Modality


def oblique_axes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return three perpendicular unit vectors that lie along no axis."""
    row = np.array([0.9, 0.1, -0.2]) / np.linalg.norm([0.9, 0.1, -0.2])
    column = np.array([0.05, 0.8, 0.6])
    column -= (column @ row) * row
    column /= np.linalg.norm(column)
    return row, column, np.cross(row, column)


def test_ct_is_read_in_hounsfield_units(tmp_path, phantom, stored_ct):
    phantom.series(tmp_path / "ct", stored_ct)
    image = read_image(tmp_path / "ct")
    assert image.units is Units.HU
    assert image.modality is Modality.CT
    np.testing.assert_array_equal(image.voxels, stored_ct.astype(np.float32) - 1024)
    assert image.spacing_mm == pytest.approx((2.5, 0.7, 0.9))
    # LPS (-10, 20, 30) is RAS (10, -20, 30)
    np.testing.assert_allclose(image.affine[:3, 3], (10, -20, 30))


def test_order_of_slices_follows_position_not_names(tmp_path, phantom, stored_ct):
    phantom.series(tmp_path / "a", stored_ct)
    phantom.series(tmp_path / "b", stored_ct, names=["z.dcm", "10.dcm", "9", "a.ima"])
    one, other = read_image(tmp_path / "a"), read_image(tmp_path / "b")
    np.testing.assert_array_equal(one.voxels, other.voxels)
    np.testing.assert_array_equal(one.affine, other.affine)


def test_stack_that_runs_down_is_turned_along_the_normal(tmp_path, phantom, stored_ct):
    phantom.series(tmp_path / "ct", stored_ct, step=(0.0, 0.0, -2.5))
    image = read_image(tmp_path / "ct")
    np.testing.assert_array_equal(image.voxels, stored_ct[::-1].astype(np.float32) - 1024)
    assert image.affine[2, 2] == pytest.approx(2.5)


def test_oblique_volume_lies_on_the_same_millimetres_in_simpleitk(tmp_path, phantom, stored_ct):
    row, column, normal = oblique_axes()
    paths = phantom.series(
        tmp_path / "mr",
        stored_ct,
        modality="MR",
        rescale=None,
        orientation=tuple(np.round([*row, *column], 10)),
        step=tuple(2.5 * normal),
    )
    image = read_image(tmp_path / "mr")
    reference = SimpleITK.ReadImage([str(path) for path in paths])
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(reference), image.voxels)
    for index in [(0, 0, 0), (6, 0, 0), (0, 8, 0), (0, 0, 3), (3, 5, 2)]:
        ours = (image.affine @ (*index, 1))[:3]
        lps = np.array(reference.TransformIndexToPhysicalPoint(index))
        np.testing.assert_allclose(ours, lps * (-1, -1, 1), atol=1e-3)


def test_gantry_tilt_keeps_its_shear(tmp_path, phantom, stored_ct):
    phantom.series(tmp_path / "ct", stored_ct, step=(0.0, 0.6, 2.5))
    image = read_image(tmp_path / "ct")
    np.testing.assert_allclose(image.affine[:3, 2], (0, -0.6, 2.5), atol=1e-9)


def test_missing_slice_is_named_with_its_gap(tmp_path, phantom, stored_ct):
    paths = phantom.series(tmp_path / "ct", np.concatenate([stored_ct, stored_ct]))
    paths[3].unlink()
    with pytest.raises(UnreadableImage, match=r"5\.000 mm after slice 3 \(1 missing\)"):
        read_image(tmp_path / "ct")


def test_duplicate_positions_are_named(tmp_path, phantom, stored_ct):
    def same_place(ds, k):
        ds.ImagePositionPatient = [0, 0, 2.5 * (k // 2)]

    phantom.series(tmp_path / "ct", stored_ct, edit=same_place)
    with pytest.raises(UnreadableImage, match="slices 1 and 2, 3 and 4"):
        read_image(tmp_path / "ct")


def test_mixed_orientation_is_refused(tmp_path, phantom, stored_ct):
    def turn_last(ds, k):
        if k == 3:
            ds.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]

    phantom.series(tmp_path / "ct", stored_ct, edit=turn_last)
    with pytest.raises(UnreadableImage, match="1 of 4 slices have another orientation"):
        read_image(tmp_path / "ct")


def test_slices_without_position_are_refused_as_a_volume(tmp_path, phantom, stored_ct):
    def lose(ds, k):
        del ds.ImagePositionPatient

    phantom.series(tmp_path / "ct", stored_ct, edit=lose)
    with pytest.raises(UnreadableImage, match="4 of 4 slices have no ImagePositionPatient"):
        read_image(tmp_path / "ct")


@pytest.mark.parametrize("keyword", ["PixelSpacing", "Rows"])
def test_slices_that_differ_are_refused(tmp_path, phantom, stored_ct, keyword):
    def change_last(ds, k):
        if k != 3:
            return
        if keyword == "Rows":
            phantom.set_pixels(ds, stored_ct[k, :5])
        else:
            ds.PixelSpacing = [0.7, 0.8]

    phantom.series(tmp_path / "ct", stored_ct, edit=change_last)
    with pytest.raises(UnreadableImage, match="differ"):
        read_image(tmp_path / "ct")


def test_several_series_in_a_folder_are_counted_and_can_be_chosen(tmp_path, phantom, stored_ct):
    def second(ds, k):
        ds.SeriesInstanceUID = "1.2.3.4.77"

    names = [f"b{k}.dcm" for k in range(3)]
    phantom.series(tmp_path, stored_ct)
    phantom.series(tmp_path, stored_ct[:3] + 1, edit=second, names=names)
    with pytest.raises(UnreadableImage, match=r"2 DICOM series: .*\(4 files\)|\(3 files\)") as error:
        read_image(tmp_path)
    assert "find_images" in str(error.value)
    assert sorted(image.shape[0] for image in read_series(tmp_path)) == [3, 4]
    assert sorted(read_image(item).shape[0] for item in find_images(tmp_path)) == [3, 4]


def test_enhanced_multiframe_uses_rescale_and_position_of_each_frame(tmp_path, phantom, stored_ct):
    stored = stored_ct[:3]
    path = phantom.enhanced(
        tmp_path / "e.dcm", stored, rescales=[(1, -1024), (2, -1000), (0.5, 3)], positions=[6.0, 0.0, 3.0]
    )
    image = read_image(path)
    assert image.units is Units.HU
    f = stored.astype(np.float32)
    np.testing.assert_array_equal(image.voxels, np.stack([f[1] * 2 - 1000, f[2] * 0.5 + 3, f[0] - 1024]))
    assert image.spacing_mm == pytest.approx((3.0, 0.5, 0.6))
    np.testing.assert_allclose(image.affine[:3, 3], (5, -6, 0))


def test_padding_value_and_range_become_the_mask(tmp_path, phantom):
    stored = np.array([[[-2000, -1990, 5], [0, 7, -2000]]], np.int16)

    def pad(ds, k):
        ds.add_new("PixelPaddingValue", "SS", -2000)

    def pad_range(ds, k):
        pad(ds, k)
        ds.add_new("PixelPaddingRangeLimit", "SS", -1990)

    one = read_image(phantom.series(tmp_path / "a", stored, edit=pad)[0])
    both = read_image(phantom.series(tmp_path / "b", stored, edit=pad_range)[0])
    np.testing.assert_array_equal(one.padding, stored == -2000)
    np.testing.assert_array_equal(both.padding, stored <= -1990)
    none = read_image(phantom.series(tmp_path / "c", stored)[0])
    assert none.padding is None


def test_padding_value_with_the_wrong_sign_is_understood(tmp_path, phantom):
    def pad(ds, k):
        ds.add_new("PixelPaddingValue", "US", 65536 - 2000)

    image = read_image(phantom.series(tmp_path, np.array([[[-2000, 1]]], np.int16), edit=pad)[0])
    np.testing.assert_array_equal(image.padding, [[[True, False]]])


@pytest.mark.parametrize(("modality", "rescale"), [("CT", (1.0, -1024.0)), ("MR", None)])
def test_monochrome1_is_a_matter_of_display(tmp_path, phantom, stored_ct, modality, rescale):
    def negative(ds, k):
        ds.PhotometricInterpretation = "MONOCHROME1"
        ds.PixelPaddingValue = 100

    def plain(ds, k):
        ds.PixelPaddingValue = 100

    phantom.series(tmp_path / "plain", stored_ct, modality=modality, rescale=rescale, edit=plain)
    phantom.series(tmp_path / "negative", stored_ct, modality=modality, rescale=rescale, edit=negative)
    found, expected = read_image(tmp_path / "negative"), read_image(tmp_path / "plain")
    np.testing.assert_array_equal(found.voxels, expected.voxels)
    np.testing.assert_array_equal(found.padding, expected.padding)
    assert found.units is expected.units


def test_signed_values_without_spread_sign_are_extended(tmp_path, phantom):
    stored = np.array([[[0x0FFF, 5], [0x0800, 0]]], np.int16)  # twelve bits: -1, 5, -2048, 0
    image = read_image(phantom.series(tmp_path, stored, bits=12, rescale=(1, 0))[0])
    np.testing.assert_array_equal(image.voxels, [[[-1, 5], [-2048, 0]]])


def test_ct_that_does_not_say_hounsfield_is_arbitrary_with_a_warning(tmp_path, phantom, stored_ct):
    path = phantom.series(tmp_path, stored_ct[:1], rescale=None)[0]
    with pytest.warns(ImageWarning, match="Hounsfield"):
        assert read_image(path).units is Units.ARBITRARY


def test_modality_can_be_overridden(tmp_path, phantom, stored_ct):
    path = phantom.series(tmp_path, stored_ct[:1])[0]
    assert read_image(path, modality=Modality.MR).modality is Modality.MR


@pytest.mark.parametrize(
    "name",
    [
        "MR_small_bigendian.dcm",
        "MR_small_implicit.dcm",
        "MR_small_RLE.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "MR_small_padded.dcm",
        "MR_small_expb.dcm",
    ],
)
def test_every_transfer_syntax_gives_the_same_voxels(bundled, name):
    image, reference = read_image(bundled(name)), read_image(bundled("MR_small.dcm"))
    np.testing.assert_array_equal(image.voxels, reference.voxels)
    np.testing.assert_array_equal(image.affine, reference.affine)


def test_jpeg2000_with_mismatched_sign_is_corrected(bundled):
    image = read_image(bundled("J2K_pixelrep_mismatch.dcm"))
    assert (image.voxels.min(), image.voxels.max()) == (-2000, 1896)


def test_deflated_file_is_read(bundled):
    with pytest.warns(ImageWarning, match="missing"):
        assert read_image(bundled("image_dfl.dcm"), modality=Modality.MR).shape == (1, 512, 512)


def test_file_without_preamble_and_meta_header_is_read(tmp_path, phantom, stored_ct):
    path = phantom.series(tmp_path, stored_ct[:1])[0]
    ds = pydicom.dcmread(path)
    del ds.file_meta
    ds.preamble = None
    bare = tmp_path / "bare"
    ds.save_as(bare, implicit_vr=False, little_endian=True)
    assert bare.read_bytes()[128:132] != b"DICM"
    np.testing.assert_array_equal(read_image(bare).voxels, read_image(path).voxels)


def test_odd_headers_raise_no_foreign_warnings(tmp_path, phantom, stored_ct):
    def break_values(ds, k):
        ds.add_new("SOPInstanceUID", "UI", "../../etc/x")
        ds.add_new("PatientBirthDate", "DA", "not a date")
        ds.add_new("PatientName", "PN", phantom.canary * 30)

    path = phantom.series(tmp_path, stored_ct[:1], edit=break_values)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(path).shape == (1, 9, 7)


def test_slice_of_a_volume_keeps_its_place(tmp_path, phantom, stored_ct):
    paths = phantom.series(tmp_path / "ct", stored_ct)
    part = read_image(tmp_path / "ct").slice_at(2)
    alone = read_image(paths[2])
    np.testing.assert_allclose(part.affine[:3, 3], alone.affine[:3, 3])
    np.testing.assert_array_equal(part.voxels, alone.voxels)
