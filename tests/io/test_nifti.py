from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest
import SimpleITK
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medq_uni.errors import ImageWarning, UnwritableImage
from medq_uni.image import MedicalImage, Units
from medq_uni.io.provenance import Derivation
from medq_uni.io.read_write import read_image, write_image
from medq_uni.taxonomy import Modality

AFFINE = np.array([[-0.7, 0.1, 0.0, 5], [0.2, -0.8, 0.4, 6], [0.05, 0.3, 2.4, 7], [0, 0, 0, 1.0]])


def rotation() -> np.ndarray:
    """Return a right-angled affine that lies along no axis."""
    q, _ = np.linalg.qr(AFFINE[:3, :3])
    affine = np.eye(4)
    affine[:3, :3] = q * (0.7, 0.8, 2.5)
    affine[:3, 3] = 1, 2, 3
    return affine


def save(path, data, affine=AFFINE, *, slope=None, inter=None, cls=nibabel.Nifti1Image):
    image = cls(data, affine)
    image.header.set_slope_inter(slope, inter)
    nibabel.save(image, path)
    return path


def test_axes_are_turned_around_and_nothing_is_reoriented(tmp_path):
    data = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    image = read_image(save(tmp_path / "a.nii.gz", data))
    assert image.shape == (4, 3, 2)
    assert image.voxels[3, 2, 1] == data[1, 2, 3]
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-6)
    np.testing.assert_allclose(image.spacing_mm, np.linalg.norm(AFFINE[:3, :3], axis=0)[::-1], rtol=1e-6)


def test_millimetres_are_those_of_simpleitk(tmp_path):
    data = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    path = save(tmp_path / "a.nii.gz", data, rotation())
    image, reference = read_image(path), SimpleITK.ReadImage(str(path))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(reference), image.voxels)
    for index in [(0, 0, 0), (2, 0, 0), (0, 3, 1), (1, 2, 4)]:
        lps = np.array(reference.TransformIndexToPhysicalPoint(index))
        np.testing.assert_allclose((image.affine @ (*index, 1))[:3], lps * (-1, -1, 1), atol=1e-3)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    dtype=st.sampled_from(["uint8", "int16", "uint16", "int32", "float32", "float64"]),
    shape=st.tuples(*[st.integers(1, 5)] * 3),
    scale=st.sampled_from([(None, None), (0.5, -3.0), (2.0, 100.0)]),
    seed=st.integers(0, 2**32 - 1),
    suffix=st.sampled_from([".nii", ".nii.gz"]),
)
def test_unchanged_image_comes_back_identical_with_its_type_and_header(
    tmp_path_factory, dtype, shape, scale, seed, suffix
):
    root = tmp_path_factory.mktemp("nifti")
    data = np.random.default_rng(seed).integers(0, 200, shape).astype(dtype)
    path = save(root / f"a{suffix}", data, slope=scale[0], inter=scale[1])
    image = read_image(path)
    write_image(image, root / f"b{suffix}")
    again = read_image(root / f"b{suffix}")
    np.testing.assert_array_equal(again.voxels, image.voxels)
    np.testing.assert_array_equal(again.affine, image.affine)
    before, after = nibabel.load(path).header, nibabel.load(root / f"b{suffix}").header
    for field in (
        "sform_code",
        "qform_code",
        "srow_x",
        "srow_y",
        "srow_z",
        "pixdim",
        "quatern_b",
        "xyzt_units",
    ):
        np.testing.assert_array_equal(before[field], after[field])
    if np.dtype(dtype).kind in "iu":
        assert after.get_data_dtype() == before.get_data_dtype()


def test_restored_values_are_kept_to_the_last_bit_as_float32(tmp_path):
    image = read_image(save(tmp_path / "a.nii", np.arange(24, dtype=np.int16).reshape(2, 3, 4)))
    restored = image.with_voxels(image.voxels * np.float32(1.2345))
    write_image(restored, tmp_path / "b.nii", derivation=Derivation(method="MedQ-UNI nano"))
    np.testing.assert_array_equal(read_image(tmp_path / "b.nii").voxels, restored.voxels)
    assert b"diagnostic" in nibabel.load(tmp_path / "b.nii").header["descrip"].tobytes()


def test_slice_of_a_volume_is_written_where_it_lay(tmp_path):
    image = read_image(save(tmp_path / "a.nii", np.arange(24, dtype=np.int16).reshape(2, 3, 4)))
    part = image.slice_at(2)
    write_image(part, tmp_path / "b.nii")
    again = read_image(tmp_path / "b.nii")
    np.testing.assert_allclose(again.affine, part.affine, atol=1e-5)
    np.testing.assert_array_equal(again.voxels, part.voxels)


def test_sheared_dicom_goes_to_nifti_with_an_sform_alone(tmp_path, phantom, stored_ct):
    phantom.series(tmp_path / "ct", stored_ct, step=(0.0, 0.9, 2.5))
    image = read_image(tmp_path / "ct")
    write_image(image, tmp_path / "a.nii.gz")
    made = nibabel.load(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(made.affine, image.affine, atol=1e-5)
    assert (int(made.header["sform_code"]), int(made.header["qform_code"])) == (1, 0)


def test_same_image_gives_the_same_bytes(tmp_path):
    image = read_image(save(tmp_path / "a.nii", np.arange(24, dtype=np.int16).reshape(2, 3, 4)))
    for name in ("b", "c"):
        (tmp_path / name).mkdir()
        write_image(image, tmp_path / name / "x.nii.gz")
    assert (tmp_path / "b/x.nii.gz").read_bytes() == (tmp_path / "c/x.nii.gz").read_bytes()


def test_trailing_axes_of_one_are_dropped_and_a_plane_is_a_slice(tmp_path):
    assert read_image(save(tmp_path / "a.nii", np.ones((2, 3, 4, 1), np.int16))).shape == (4, 3, 2)
    assert read_image(save(tmp_path / "b.nii", np.ones((2, 3), np.int16))).shape == (1, 3, 2)


def test_nifti2_and_big_endian_are_read(tmp_path):
    data = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    expected = read_image(save(tmp_path / "a.nii", data)).voxels
    two = read_image(save(tmp_path / "b.nii", data, cls=nibabel.Nifti2Image))
    np.testing.assert_array_equal(two.voxels, expected)
    write_image(two, tmp_path / "d.nii")
    assert isinstance(nibabel.load(tmp_path / "d.nii"), nibabel.Nifti2Image)
    header = nibabel.Nifti1Header(endianness=">")
    nibabel.save(nibabel.Nifti1Image(data, AFFINE, header), tmp_path / "c.nii")
    np.testing.assert_array_equal(read_image(tmp_path / "c.nii").voxels, expected)


@pytest.mark.parametrize(
    ("sidecar", "override", "modality", "units"),
    [
        (None, None, None, Units.ARBITRARY),
        (None, Modality.CT, Modality.CT, Units.HU),
        (None, Modality.PET, Modality.PET, Units.ARBITRARY),
        ({"Modality": "PT", "Units": "Bq/mL"}, None, Modality.PET, Units.BQML),
        ({"Modality": "PT", "Units": "SUV"}, None, Modality.PET, Units.SUV),
        ({"Modality": "PT", "Units": "BQML"}, None, Modality.PET, Units.BQML),
        ({"Modality": "PT", "Units": "GML"}, None, Modality.PET, Units.SUV),
        ({"Modality": "MR"}, None, Modality.MR, Units.ARBITRARY),
        ({"Modality": "CT"}, None, Modality.CT, Units.HU),
        ({"Modality": "CT"}, Modality.MR, Modality.MR, Units.ARBITRARY),
    ],
)
def test_modality_and_units_come_from_the_sidecar(tmp_path, sidecar, override, modality, units):
    path = save(tmp_path / "a.nii.gz", np.ones((2, 3, 4), np.int16))
    if sidecar is not None:
        (tmp_path / "a.json").write_text(json.dumps(sidecar))
    image = read_image(path, modality=override)
    assert (image.modality, image.units) == (modality, units)


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 5000, " " * (2**20 + 1)])
def test_broken_sidecar_is_passed_over_with_a_warning(tmp_path, text):
    path = save(tmp_path / "a.nii", np.ones((2, 3, 4), np.int16))
    (tmp_path / "a.json").write_text(text)
    with pytest.warns(ImageWarning, match="not a BIDS sidecar"):
        assert read_image(path).modality is None


def test_forms_that_disagree_are_said(tmp_path):
    image = nibabel.Nifti1Image(np.ones((2, 3, 4), np.int16), rotation())
    image.set_sform(rotation(), code=1)
    image.set_qform(np.diag([1.0, 1, 1, 1]), code=1)
    nibabel.save(image, tmp_path / "a.nii")
    with pytest.warns(ImageWarning, match="sform and qform disagree"):
        read = read_image(tmp_path / "a.nii")
    np.testing.assert_allclose(read.affine, rotation(), atol=1e-6)


def test_failing_write_leaves_nothing_and_keeps_the_old_file(tmp_path, monkeypatch):
    image = read_image(save(tmp_path / "a.nii", np.ones((2, 3, 4), np.int16)))
    write_image(image, tmp_path / "b.nii.gz")
    old = (tmp_path / "b.nii.gz").read_bytes()

    def fail(made, path):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(nibabel, "save", fail)
    with pytest.raises(UnwritableImage, match="disk is not full"):
        write_image(image.with_voxels(image.voxels + 1), tmp_path / "b.nii.gz", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nii", "b.nii.gz"]
    assert (tmp_path / "b.nii.gz").read_bytes() == old


def test_not_finite_values_are_not_written(tmp_path):
    image = read_image(save(tmp_path / "a.nii", np.ones((2, 3, 4), np.int16)))
    with pytest.raises(UnwritableImage, match="NaN"):
        write_image(image.with_voxels(image.voxels * np.nan), tmp_path / "b.nii")


@pytest.mark.parametrize(
    ("modality", "units"),
    [
        (Modality.PET, Units.SUV),
        (Modality.PET, Units.BQML),
        (Modality.PET, Units.ARBITRARY),
        (Modality.CT, Units.HU),
        (Modality.CT, Units.ARBITRARY),
    ],
)
def test_what_was_written_says_its_modality_and_units(tmp_path, modality, units):
    image = MedicalImage(np.ones((2, 3, 4)), modality=modality, units=units)
    write_image(image, tmp_path / "a.nii.gz")
    again = read_image(tmp_path / "a.nii.gz")
    assert (again.modality, again.units) == (modality, units)
    write_image(image, tmp_path / "a.nii.gz", overwrite=True)  # its own sidecar is no obstacle


def test_a_foreign_sidecar_is_not_overwritten(tmp_path):
    image = MedicalImage(np.ones((2, 3, 4)), modality=Modality.PET, units=Units.SUV)
    (tmp_path / "a.json").write_text('{"Modality": "PT", "Units": "Bq/mL"}')
    with pytest.raises(UnwritableImage, match="says another modality or other units"):
        write_image(image, tmp_path / "a.nii.gz")
    assert not (tmp_path / "a.nii.gz").exists()
    (tmp_path / "a.json").write_text('{"Modality": "PT", "Units": "GML", "Tracer": "FDG"}')
    write_image(image, tmp_path / "a.nii.gz")
    assert "FDG" in (tmp_path / "a.json").read_text()


def test_units_that_are_not_understood_are_said(tmp_path):
    path = save(tmp_path / "a.nii", np.ones((2, 3, 4), np.int16))
    (tmp_path / "a.json").write_text('{"Modality": "PT", "Units": "CNTS"}')
    with pytest.warns(ImageWarning, match="Units are not understood"):
        assert read_image(path).units is Units.ARBITRARY


def test_the_record_of_a_restoration_says_modality_and_units(tmp_path):
    path = save(tmp_path / "a.nii.gz", np.ones((2, 3, 4), np.int16))
    (tmp_path / "a.medq.json").write_text('{"modality": "mr", "units": "a.u."}')
    assert read_image(path).modality is Modality.MR


def test_free_text_of_the_source_is_in_no_output(tmp_path):
    path = save(tmp_path / "a.nii.gz", np.ones((2, 3, 4), np.int16))
    made = nibabel.load(path)
    made.header["descrip"], made.header["aux_file"] = b"Doe^Jane 1970", b"doe_jane"
    nibabel.save(made, tmp_path / "b.nii.gz")
    image = read_image(tmp_path / "b.nii.gz")
    write_image(image, tmp_path / "out.nii.gz")
    header = nibabel.load(tmp_path / "out.nii.gz").header
    assert (header["descrip"].item(), header["aux_file"].item()) == (b"", b"")
