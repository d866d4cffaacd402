from __future__ import annotations

import tempfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medq_uni.errors import ImageWarning, UnwritableImage
from medq_uni.image import Units, axial_affine
from medq_uni.io.read_write import read_image, write_image
from medq_uni.taxonomy import Modality
from tests.io.derived import DERIVATION, digest, load, shifted


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_an_unchanged_image_comes_back_bit_identical(phantom, data):
    dtype = data.draw(st.sampled_from(["uint8", "int8", "uint16", "int16", "int32"]))
    limits = np.iinfo(dtype)
    shape = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)))
    seed = data.draw(st.integers(0, 2**32 - 1))
    stored = np.random.default_rng(seed).integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)
    modality = data.draw(st.sampled_from(["CT", "MR", "PT"]))
    slope = data.draw(st.sampled_from([1.0, 0.5, 9.12329, 0.00123456789, -1.0, 3.0]))
    intercept = 0.0 if modality == "PT" else data.draw(st.sampled_from([0.0, -1024.0, -19595.25]))
    has_padding = data.draw(st.booleans())

    def edit(ds, k):
        if modality == "PT":
            phantom.pet_header(ds, k)
        if has_padding:
            vr = "SS" if np.dtype(dtype).kind == "i" else "US"
            ds.add_new(
                "PixelPaddingValue",
                vr,
                int(np.clip(int(stored.flat[0]), -32768, 65535 * (vr == "US") or 32767)),
            )

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        phantom.series(root / "in", stored, modality=modality, rescale=(slope, intercept), edit=edit)
        image = read_image(root / "in")
        write_image(image, root / "out", derivation=DERIVATION)
        again = read_image(root / "out")
        np.testing.assert_array_equal(again.voxels, image.voxels)
        np.testing.assert_array_equal(again.affine, image.affine)
        assert (again.units, again.modality, again.spacing_mm) == (
            image.units,
            image.modality,
            image.spacing_mm,
        )
        np.testing.assert_array_equal(again.source.stored, image.source.stored)
        if image.padding is not None:
            np.testing.assert_array_equal(again.padding, image.padding)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32 - 1), slope=st.sampled_from([1.0, 0.25, 2.0, 7.3]), signed=st.booleans())
def test_a_restored_ct_is_rounded_by_at_most_half_a_hounsfield_unit(phantom, seed, slope, signed):
    rng = np.random.default_rng(seed)
    stored = rng.integers(0, 400, (2, 5, 3)).astype(np.int16 if signed else np.uint16)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        phantom.series(root / "in", stored, rescale=(slope, -1024.0), bits=12)
        image = read_image(root / "in")
        voxels = image.voxels + rng.uniform(-300, 3000, image.shape).astype(np.float32)
        voxels[0, 0] = image.voxels[0, 0]
        write_image(image.with_voxels(voxels), root / "out", derivation=DERIVATION)
        again = read_image(root / "out").voxels
    assert np.abs(again - voxels).max() <= 0.5001
    np.testing.assert_array_equal(again[0, 0], image.voxels[0, 0])


def test_padding_keeps_its_integers_whatever_the_restoration_wrote(tmp_path, phantom):
    stored = np.array([[[-2000, 10, 20], [30, 40, -2000]]], np.int16)

    def pad(ds, k):
        ds.add_new("PixelPaddingValue", "SS", -2000)

    image = read_image(phantom.series(tmp_path / "in", stored, edit=pad)[0])
    write_image(shifted(image, 0.3), tmp_path / "out.dcm", derivation=DERIVATION)
    written = load(tmp_path / "out.dcm")
    np.testing.assert_array_equal(written.pixel_array[stored[0] == -2000], -2000)
    np.testing.assert_array_equal(read_image(tmp_path / "out.dcm").padding, image.padding)


def test_other_readers_see_the_derived_series(tmp_path, phantom, stored_ct):
    phantom.series(tmp_path / "in", stored_ct, step=(0.0, 0.0, 2.5))
    image = shifted(read_image(tmp_path / "in"), 11)
    write_image(image, tmp_path / "out", derivation=DERIVATION)
    names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path / "out"))
    seen = SimpleITK.ReadImage(names)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(seen), image.voxels)
    lps = np.array(seen.TransformIndexToPhysicalPoint((6, 8, 3)))
    np.testing.assert_allclose((image.affine @ (6, 8, 3, 1))[:3], lps * (-1, -1, 1), atol=1e-3)


def test_dicom_nifti_and_simpleitk_agree_on_millimetres(tmp_path, phantom, stored_ct):
    row = np.array([0.8, 0.6, 0.0])
    column = np.array([-0.48, 0.64, 0.6])
    phantom.series(
        tmp_path / "in",
        stored_ct,
        orientation=(*row, *column),
        step=tuple(2.5 * np.cross(row, column)),
    )
    image = read_image(tmp_path / "in")
    write_image(image, tmp_path / "v.nii.gz")
    by_nibabel = nibabel.load(tmp_path / "v.nii.gz")
    np.testing.assert_allclose(by_nibabel.affine, image.affine, atol=1e-4)
    np.testing.assert_array_equal(np.asarray(by_nibabel.dataobj).T, image.voxels)
    by_itk = SimpleITK.ReadImage(str(tmp_path / "v.nii.gz"))
    for index in [(0, 0, 0), (6, 1, 0), (2, 8, 3)]:
        lps = np.array(by_itk.TransformIndexToPhysicalPoint(index))
        np.testing.assert_allclose((image.affine @ (*index, 1))[:3], lps * (-1, -1, 1), atol=1e-3)
        z, y, x = index[::-1]
        assert by_itk[index] == image.voxels[z, y, x]


def test_pet_goes_back_to_becquerel_with_a_slope_for_each_slice(tmp_path, phantom):
    stored = np.arange(2 * 4 * 3).reshape(2, 4, 3).astype(np.int16) * 40
    phantom.series(
        tmp_path / "in",
        stored,
        modality="PT",
        rescale=[(9.12329, 0.0), (46.2619, 0.0)],
        edit=phantom.pet_header,
    )
    image = read_image(tmp_path / "in")
    assert image.units is Units.SUV
    restored = image.with_voxels(image.voxels * np.linspace(0.5, 1.5, 4)[:, None].astype(np.float32))
    write_image(restored, tmp_path / "out", derivation=DERIVATION)
    factor = image.source.frames[0].rescale.factor
    for z in range(2):
        ds = load(tmp_path / f"out/000{z + 1}.dcm")
        assert (ds.Units, ds.DecayCorrection, float(ds.RescaleIntercept)) == ("BQML", "START", 0.0)
        activity = ds.pixel_array * float(ds.RescaleSlope)
        # far finer than the 9 and 46 Bq/ml per step of the source
        np.testing.assert_allclose(activity * factor, restored.voxels[z], atol=0.5 * float(ds.RescaleSlope) * factor)
        assert float(ds.RescaleSlope) < float(load(tmp_path / f"in/00{z}.dcm").RescaleSlope) / 8
    slopes = {load(path).RescaleSlope for path in (tmp_path / "out").iterdir()}
    assert len(slopes) == 2
    np.testing.assert_allclose(read_image(tmp_path / "out").voxels, restored.voxels, atol=5e-4)


def test_pet_above_the_range_of_its_integers_gets_a_coarser_slope(tmp_path, phantom):
    stored = np.array([[[0, 32767]]], np.int16)
    path = phantom.series(tmp_path, stored, modality="PT", rescale=(2.0, 0.0), edit=phantom.pet_header)[0]
    image = read_image(path)
    write_image(image.with_voxels(image.voxels * 3), tmp_path / "out.dcm", derivation=DERIVATION)
    np.testing.assert_allclose(read_image(tmp_path / "out.dcm").voxels, image.voxels * 3, rtol=1e-4)
    assert float(load(tmp_path / "out.dcm").RescaleIntercept) == 0


def test_mr_without_rescale_gets_none(tmp_path, phantom, stored_ct):
    image = read_image(phantom.series(tmp_path, stored_ct[:1], modality="MR", rescale=None)[0])
    write_image(shifted(image, 0.4), tmp_path / "out.dcm", derivation=DERIVATION)
    assert "RescaleSlope" not in load(tmp_path / "out.dcm")
    np.testing.assert_array_equal(read_image(tmp_path / "out.dcm").voxels, image.voxels)


def test_clipping_that_loses_something_is_said(tmp_path, phantom, stored_ct):
    image = read_image(phantom.series(tmp_path, stored_ct[:1], modality="MR", rescale=None)[0])
    with pytest.warns(ImageWarning, match="clipped"):
        write_image(shifted(image, -300), tmp_path / "out.dcm", derivation=DERIVATION)


def test_bits_stored_grows_with_the_values(tmp_path, phantom, stored_ct):
    image = read_image(phantom.series(tmp_path, stored_ct[:1], bits=12)[0])
    write_image(shifted(image, 5000), tmp_path / "out.dcm", derivation=DERIVATION)
    ds = load(tmp_path / "out.dcm")
    assert (ds.BitsStored, ds.HighBit) == (16, 15)
    np.testing.assert_array_equal(read_image(tmp_path / "out.dcm").voxels, image.voxels + 5000)


def test_monochrome1_keeps_the_integers_that_nothing_was_done_to(tmp_path, phantom, stored_ct):
    def negative(ds, k):
        ds.PhotometricInterpretation = "MONOCHROME1"

    phantom.series(tmp_path / "in", stored_ct, modality="MR", rescale=None, edit=negative)
    image = read_image(tmp_path / "in")
    voxels = image.voxels.copy()
    voxels[:, :2] += 7  # beyond the range of the others, which used to move all of them
    voxels[0, 0, 0] = 60_000
    write_image(image.with_voxels(voxels), tmp_path / "out", derivation=DERIVATION)
    for z in range(4):
        ds = load(tmp_path / f"out/000{z + 1}.dcm")
        assert ds.PhotometricInterpretation == "MONOCHROME1"
        np.testing.assert_array_equal(ds.pixel_array, voxels[z])
        np.testing.assert_array_equal(ds.pixel_array[2:], stored_ct[z, 2:])
    np.testing.assert_array_equal(read_image(tmp_path / "out").voxels, voxels)


@pytest.mark.parametrize(
    ("name", "warned"),
    [
        ("CT_small.dcm", False),
        ("MR_small_bigendian.dcm", False),
        ("MR_small_RLE.dcm", False),
        ("MR_small_jp2klossless.dcm", False),
        ("MR_small_jpeg_ls_lossless.dcm", False),
        ("693_J2KI.dcm", False),
        ("JPEG2000.dcm", True),
    ],
)
def test_real_files_come_back_identical(tmp_path, bundled, name, warned):
    def read(path):
        if not warned:
            return read_image(path)
        with pytest.warns(ImageWarning, match="missing"):
            return read_image(path, modality=Modality.MR)  # of nuclear medicine

    image = read(bundled(name))
    write_image(image, tmp_path / "out.dcm", derivation=DERIVATION)
    again = read(tmp_path / "out.dcm")
    np.testing.assert_array_equal(again.voxels, image.voxels)
    np.testing.assert_array_equal(again.affine, image.affine)


def test_series_cannot_go_into_one_file(tmp_path, phantom, stored_ct):
    phantom.series(tmp_path / "in", stored_ct)
    with pytest.raises(UnwritableImage, match="4 slices, one object each"):
        write_image(read_image(tmp_path / "in"), tmp_path / "out.dcm")


def test_image_without_a_dicom_source_is_refused(tmp_path, phantom, stored_ct):
    image = read_image(phantom.series(tmp_path, stored_ct[:1])[0])
    nowhere = type(image)(voxels=image.voxels, affine=axial_affine((1, 1, 1)))
    with pytest.raises(UnwritableImage, match=r"\.nii\.gz"):
        write_image(nowhere, tmp_path / "out.dcm")


def test_moved_geometry_is_refused(tmp_path, phantom, stored_ct):
    phantom.series(tmp_path / "in", stored_ct)
    image = read_image(tmp_path / "in")
    moved = image.affine.copy()
    moved[0, 3] += 5
    fields = {**vars(image), "affine": moved}
    with pytest.raises(UnwritableImage, match="no longer lies on the grid"):
        write_image(type(image)(**fields), tmp_path / "out")


def test_not_finite_values_are_refused(tmp_path, phantom, stored_ct):
    image = read_image(phantom.series(tmp_path, stored_ct[:1])[0])
    with pytest.raises(ValueError, match="NaN"):
        write_image(shifted(image, np.nan), tmp_path / "out.dcm")
    assert not (tmp_path / "out.dcm").exists()


def test_failing_series_leaves_no_folder(tmp_path, phantom, stored_ct, monkeypatch):
    import medq_uni.io.dicom_write as module

    phantom.series(tmp_path / "in", stored_ct)
    image = read_image(tmp_path / "in")
    real, calls = module._save, []

    def fail_at_third(dataset, path):
        calls.append(path)
        if len(calls) == 3:
            raise OSError(f"disk full {phantom.canary}")
        real(dataset, path)

    monkeypatch.setattr(module, "_save", fail_at_third)
    with pytest.raises(UnwritableImage, match="OSError") as error:
        write_image(image, tmp_path / "out")
    assert phantom.canary not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_the_source_is_never_written_to(tmp_path, phantom, stored_ct):
    paths = phantom.series(tmp_path / "in", stored_ct[:1])
    before = digest(tmp_path / "in")
    image = read_image(paths[0])
    (tmp_path / "link.dcm").symlink_to(paths[0])
    (tmp_path / "hard.dcm").hardlink_to(paths[0])
    for target in (
        paths[0],
        tmp_path / "in",
        tmp_path / "x/../in/000.dcm",
        tmp_path / "link.dcm",
        tmp_path / "hard.dcm",
    ):
        (tmp_path / "x").mkdir(exist_ok=True)
        with pytest.raises(UnwritableImage, match="source"):
            write_image(image, target, overwrite=True)
    assert digest(tmp_path / "in") == before


def test_existing_targets_need_overwrite_and_foreign_folders_are_kept(tmp_path, phantom, stored_ct):
    phantom.series(tmp_path / "in", stored_ct)
    image = read_image(tmp_path / "in")
    write_image(image, tmp_path / "out", derivation=DERIVATION)
    with pytest.raises(UnwritableImage, match="overwrite=True"):
        write_image(image, tmp_path / "out", derivation=DERIVATION)
    write_image(shifted(image, 3), tmp_path / "out", derivation=DERIVATION, overwrite=True)
    np.testing.assert_array_equal(read_image(tmp_path / "out").voxels, image.voxels + 3)
    (tmp_path / "out/thesis.doc").write_text("years of work")
    with pytest.raises(UnwritableImage, match="other files"):
        write_image(image, tmp_path / "out", derivation=DERIVATION, overwrite=True)
    assert (tmp_path / "out/thesis.doc").exists()
