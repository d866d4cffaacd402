from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
import torch

from medq_uni.errors import MedQError, UnreadableImage
from medq_uni.image import MedicalImage, Units
from medq_uni.image_like import as_image
from medq_uni.io.read_write import num_frames, read_image, write_image
from medq_uni.restorer import Restorer, RestoreSettings
from medq_uni.taxonomy import Modality

VOXELS = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
AFFINE = np.array([[-0.7, 0, 0, 5], [0, -0.8, 0, 6], [0, 0, 2.5, 7], [0, 0, 0, 1.0]])


def test_an_array_takes_spacing_modality_and_units_as_words():
    image = as_image(VOXELS.astype(np.int16), spacing=(2.5, 0.8, 0.7), modality="ct")
    assert (image.modality, image.units, image.spacing_mm) == (Modality.CT, Units.HU, (2.5, 0.8, 0.7))
    np.testing.assert_array_equal(image.voxels, VOXELS)
    pet = as_image(VOXELS[0], modality="PT", units="g/ml", spacing=(2, 3))
    assert (pet.shape, pet.units, pet.spacing_mm) == ((1, 3, 4), Units.SUV, (1.0, 2.0, 3.0))
    assert as_image(VOXELS, spacing=2).spacing_mm == (2, 2, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int16, torch.float64])
def test_a_tensor_is_taken_as_an_array(dtype: torch.dtype):
    tensor = torch.from_numpy(VOXELS).to(dtype)
    np.testing.assert_array_equal(as_image(tensor, modality="mr").voxels, VOXELS)
    with_gradient = torch.from_numpy(VOXELS).requires_grad_()
    np.testing.assert_array_equal(as_image(with_gradient, modality="mr").voxels, VOXELS)


def test_a_nibabel_image_is_the_same_as_its_file(tmp_path: Path):
    kept = nibabel.Nifti1Image(VOXELS.transpose(2, 1, 0), AFFINE)
    nibabel.save(kept, tmp_path / "a.nii")
    read = read_image(tmp_path / "a.nii", modality="mr")
    for one in (kept, nibabel.load(tmp_path / "a.nii")):
        image = as_image(one, modality="mr")
        np.testing.assert_array_equal(image.voxels, read.voxels)
        np.testing.assert_allclose(image.affine, read.affine, atol=1e-6)


def test_a_simpleitk_image_lies_on_the_same_millimetres(tmp_path: Path):
    kept = nibabel.Nifti1Image(VOXELS.transpose(2, 1, 0), AFFINE)
    nibabel.save(kept, tmp_path / "a.nii")
    image = as_image(SimpleITK.ReadImage(str(tmp_path / "a.nii")), modality="mr")
    np.testing.assert_array_equal(image.voxels, VOXELS)
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-5)
    flat = as_image(SimpleITK.GetImageFromArray(VOXELS[0]))
    np.testing.assert_array_equal(flat.voxels, VOXELS[:1])


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_one_volume_of_a_4_d_file_or_image_is_chosen_by_its_number(tmp_path: Path, suffix: str):
    data = np.stack([VOXELS.transpose(2, 1, 0) + 100 * t for t in range(3)], axis=-1)
    path = tmp_path / f"a{suffix}"
    nibabel.save(nibabel.Nifti1Image(data, AFFINE), path)
    assert num_frames(path) == 3
    for given in (path, str(path), nibabel.load(path), SimpleITK.ReadImage(str(path))):
        np.testing.assert_array_equal(as_image(given, modality="mr", frame=2).voxels, VOXELS + 200)
        with pytest.raises(MedQError, match="frame"):
            as_image(given, modality="mr")
        with pytest.raises(MedQError, match="its last one is 2"):
            as_image(given, modality="mr", frame=3)
    with pytest.raises(MedQError, match="whole number"):
        read_image(path, frame=-1)


def test_4_d_files_are_written_with_the_header_of_their_source(tmp_path: Path):
    data = np.stack([VOXELS.transpose(2, 1, 0) + 100 * t for t in range(3)], axis=-1).astype(np.int16)
    made = nibabel.Nifti1Image(data, AFFINE)
    made.header.set_xyzt_units("mm", "sec")
    made.header["pixdim"][4] = 2.2
    nibabel.save(made, tmp_path / "a.nii.gz")
    first, *more = [read_image(tmp_path / "a.nii.gz", modality="mr", frame=t) for t in range(3)]
    write_image(first, tmp_path / "b.nii.gz", more=more)
    again = nibabel.load(tmp_path / "b.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(again.dataobj), data)
    assert again.get_data_dtype() == np.int16
    assert again.header.get_xyzt_units() == ("mm", "sec")
    assert again.header["pixdim"][4] == pytest.approx(2.2)
    more[1] = more[1].with_voxels(more[1].voxels + np.float32(0.25))  # one that the integers cannot hold
    write_image(first, tmp_path / "c.nii.gz", more=more)
    np.testing.assert_array_equal(read_image(tmp_path / "c.nii.gz", frame=2).voxels, more[1].voxels)
    np.testing.assert_array_equal(read_image(tmp_path / "c.nii.gz", frame=0).voxels, first.voxels)
    with pytest.raises(MedQError, match="4-D"):
        write_image(first, tmp_path / "d.tif", more=more)


@pytest.mark.parametrize(
    ("given", "stated", "message"),
    [
        ([1, 2, 3], {}, "must be a path, a MedicalImage"),
        (None, {}, "got NoneType"),
        (VOXELS.astype(complex), {}, "real numbers"),
        (VOXELS.astype(object), {}, "real numbers"),
        (np.zeros((2, 2, 2, 2)), {}, "shape"),
        (np.zeros((0, 2)), {}, "shape"),
        (VOXELS > 1, {}, "this is a mask"),
        (VOXELS, {"spacing": (1, 2, -3)}, "positive millimetres"),
        (VOXELS, {"spacing": "wide"}, "positive millimetres"),
        (VOXELS, {"modality": "us"}, "modality must be"),
        (VOXELS, {"units": "litres"}, "units must be"),
        (VOXELS, {"frame": 1}, "frame="),
        (MedicalImage(VOXELS), {"spacing": 1}, "spacing= is for arrays"),
        (SimpleITK.GetImageFromArray(np.zeros((2, 2, 3)), isVector=True), {}, "several values"),
    ],
)
def test_what_is_no_image_is_refused_at_the_door(given: object, stated: dict, message: str):
    with pytest.raises(MedQError, match=message):
        as_image(given, **stated)


def test_an_image_takes_words_too():
    image = MedicalImage(VOXELS, modality="MRI", units="a.u.")
    assert (image.modality, image.units) == (Modality.MR, Units.ARBITRARY)
    assert as_image(image) is image
    assert as_image(image, modality="ct").modality is Modality.CT
    for wrong in ({"modality": "xray"}, {"units": "litres"}):
        with pytest.raises(MedQError, match="must be"):
            MedicalImage(VOXELS, **wrong)


def test_a_time_point_of_a_dicom_series_is_chosen_by_its_number(tmp_path: Path, phantom):
    def place(ds, k):
        ds.ImagePositionPatient = [0, 0, 2.5 * (k % 4)]
        ds.AcquisitionNumber = 1 + k // 4

    stored = np.arange(8 * 5 * 4, dtype=np.uint16).reshape(8, 5, 4)
    phantom.series(tmp_path, stored, modality="MR", rescale=None, edit=place)
    for frame in (0, 1):
        np.testing.assert_array_equal(as_image(tmp_path, frame=frame).voxels, stored[4 * frame : 4 * frame + 4])
    with pytest.raises(UnreadableImage, match="has no frame 2"):
        as_image(tmp_path, frame=2)
    with pytest.raises(UnreadableImage, match=r"lie at the same position.* frame=0 to 1"):
        as_image(tmp_path)


def test_a_misspelt_word_is_a_type_error():
    with pytest.raises(TypeError, match="spacing_mm"):
        as_image(VOXELS, spacing_mm=1)


def test_words_are_checked_before_a_file_is_read(tmp_path: Path):
    with pytest.raises(MedQError, match="modality must be"):
        read_image(tmp_path / "not-there.nii", modality="xray")
    with pytest.raises(MedQError, match="units must be"):
        read_image(tmp_path / "not-there.nii", units="metres")
    with pytest.raises(UnreadableImage):
        as_image(tmp_path / "not-there.nii")


def test_units_are_stated_where_a_file_does_not_say_them(tmp_path: Path, phantom, stored_ct):
    write_image(MedicalImage(VOXELS), tmp_path / "a.nii")
    image = read_image(tmp_path / "a.nii", modality="pet", units="Bq/ml")
    assert (image.modality, image.units) == (Modality.PET, Units.BQML)
    phantom.series(tmp_path / "ct", stored_ct)
    assert read_image(tmp_path / "ct", units="hu").units is Units.HU
    with pytest.raises(MedQError, match="header says"):
        read_image(tmp_path / "ct", units="SUV")


def test_other_libraries_are_recognized_without_being_loaded():
    code = "import sys, medq_uni.image_like; sys.exit('SimpleITK' in sys.modules or 'nibabel' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.filterwarnings("ignore:.*is unlike all:UserWarning")
def test_a_restorer_takes_all_of_them(restorer: Restorer, tmp_path: Path):
    generator = np.random.default_rng(1)
    voxels = np.clip(generator.normal(100, 30, (1, 64, 64)), 0, None).astype(np.float32)
    write_image(MedicalImage(voxels), tmp_path / "a.nii")
    nifti = nibabel.load(tmp_path / "a.nii")
    given = [tmp_path / "a.nii", str(tmp_path / "a.nii"), voxels, voxels[0], torch.from_numpy(voxels), nifti]
    given += [SimpleITK.GetImageFromArray(voxels), MedicalImage(voxels)]
    found = {restorer.assess(one, modality="mr", allow_ood=True).to_text() for one in given}
    assert len(found) == 1
    settings = RestoreSettings(force=True, allow_ood=True)
    results = [restorer.restore(one, modality="mr", settings=settings).restored.voxels for one in given]
    for one in results:
        np.testing.assert_array_equal(one, results[0])
    with pytest.raises(MedQError, match="must be a path"):
        restorer.restore({"voxels": voxels})
