from __future__ import annotations

import errno
import gzip
import os
import subprocess
import sys
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from medq_uni.errors import MedQError, UnreadableImage, UnwritableImage
from medq_uni.image import MedicalImage
from medq_uni.io.read_write import check_writable, read_image, read_series, write_image
from medq_uni.taxonomy import Modality

PLAIN = MedicalImage(voxels=np.arange(12.0).reshape(1, 3, 4))


def test_importing_io_loads_no_format_library():
    code = (
        "import sys, medq_uni.io;"
        "heavy = {'pydicom', 'nibabel', 'tifffile', 'PIL', 'torch', 'scipy'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["a.jpg", "a.nrrd", "a.gz"])
def test_unknown_target_is_refused(tmp_path, name):
    with pytest.raises(UnwritableImage, match="cannot tell the format"):
        write_image(PLAIN, tmp_path / name)


def test_file_where_a_folder_is_needed_and_the_reverse_are_refused(tmp_path):
    (tmp_path / "a").write_text("x")
    (tmp_path / "b.nii").mkdir()
    with pytest.raises(UnwritableImage, match="needs a folder"):
        write_image(PLAIN, tmp_path / "a", overwrite=True)
    with pytest.raises(UnwritableImage, match="is a folder"):
        write_image(PLAIN, tmp_path / "b.nii", overwrite=True)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a/b/c.nii", "a, which is a file"),
        ("c.jpg", "cannot tell the format"),
        ("c.dcm", "was not read from DICOM"),
        ("c", "was not read from DICOM"),
        ("c.png", "holds one slice, this image has 2"),
    ],
)
def test_what_cannot_be_written_is_known_before_the_work(tmp_path, name, reason):
    (tmp_path / "a").write_text("x")
    volume = MedicalImage(voxels=np.zeros((2, 3, 4)))
    with pytest.raises(UnwritableImage, match=reason):
        check_writable(volume, tmp_path / name)
    with pytest.raises(UnwritableImage, match=reason):
        write_image(volume, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("name", ["sub/a.nii", "a.nii"])
def test_a_folder_that_is_closed_to_writing_is_known_before_the_work(tmp_path, monkeypatch, name):
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed" / "a.nii").touch()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "closed")  # root may write anywhere
    with pytest.raises(UnwritableImage, match="nothing may be written to the folder closed"):
        check_writable(PLAIN, tmp_path / "closed" / name, overwrite=True)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.tif", "a.png"])
def test_image_without_a_source_is_written(tmp_path, name):
    write_image(PLAIN, tmp_path / "new" / name)
    np.testing.assert_allclose(read_image(tmp_path / "new" / name).voxels, PLAIN.voxels, atol=1e-4)
    assert len(list((tmp_path / "new").iterdir())) == 1


def test_content_decides_over_the_name(tmp_path, phantom, stored_ct):
    path = phantom.series(tmp_path, stored_ct[:1])[0].rename(tmp_path / "a.png")
    assert read_image(path).shape == (1, 9, 7)


def test_folder_without_a_series_has_no_series(tmp_path):
    with pytest.raises(UnreadableImage, match="no DICOM image"):
        next(read_series(tmp_path))


def test_written_files_get_ordinary_permissions(tmp_path):
    (tmp_path / "plain").touch()
    write_image(PLAIN, tmp_path / "a.nii")
    assert (tmp_path / "a.nii").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_modality_may_be_a_word(tmp_path, phantom, stored_ct):
    path = phantom.series(tmp_path, stored_ct[:1], modality="MR", rescale=None)[0]
    for word, modality in (("mr", Modality.MR), ("MRI", Modality.MR), ("PET", Modality.PET), (None, Modality.MR)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a PET without Units
            assert read_image(path, modality=word).modality is modality
    with pytest.raises(MedQError, match="modality must be ct, mr, pet, got 'xray'"):
        read_image(path, modality="xray")


def test_the_class_of_an_object_may_be_in_the_file_meta_alone(tmp_path, phantom, stored_ct):
    path = phantom.series(tmp_path, stored_ct[:1], edit=lambda ds, k: ds.__delitem__("SOPClassUID"))[0]
    write_image(read_image(path), tmp_path / "out.dcm")
    written = pydicom.dcmread(tmp_path / "out.dcm")
    assert written.SOPClassUID == phantom.sop_classes["CT"] == written.file_meta.MediaStorageSOPClassUID


def test_an_object_without_a_class_is_refused_before_the_work(tmp_path, phantom, stored_ct):
    path = phantom.series(tmp_path, stored_ct[:1])[0]
    image = read_image(path)
    del image.source.headers[0].SOPClassUID
    with pytest.raises(UnwritableImage, match=r"no SOPClassUID.*\.nii\.gz"):
        check_writable(image, tmp_path / "out.dcm")


@pytest.mark.parametrize(
    ("number", "said"),
    [(errno.ENOSPC, "The disk is full"), (errno.EACCES, "may not be written to"), (None, "the format; write .nii.gz")],
)
def test_the_disk_is_called_full_only_where_it_is(tmp_path, phantom, stored_ct, monkeypatch, number, said):
    image = read_image(phantom.series(tmp_path, stored_ct[:1])[0])

    def fail(*args, **options):
        raise AttributeError("x") if number is None else OSError(number, "no")

    monkeypatch.setattr(pydicom.Dataset, "save_as", fail)
    with pytest.raises(UnwritableImage, match=said) as error:
        write_image(image, tmp_path / "out.dcm")
    assert ("disk" in str(error.value)) == (number == errno.ENOSPC)


def test_a_name_that_is_too_long_is_refused_before_the_work(tmp_path, phantom, stored_ct):
    image = read_image(phantom.series(tmp_path, stored_ct[:1])[0])
    with pytest.raises(UnwritableImage, match="more than 255 bytes"):
        check_writable(image, tmp_path / ("ü" * 130 + ".nii.gz"))


@pytest.mark.parametrize(
    ("name", "is_compressed", "said"),
    [
        ("a.nii.gz", False, "named .gz but is not compressed. Rename it: a.nii"),
        ("a.nii", True, "compressed but not named .gz. Rename it: a.nii.gz"),
    ],
)
def test_compression_goes_by_content(tmp_path, name, is_compressed, said):
    nibabel.save(nibabel.Nifti1Image(np.ones((3, 4, 5), np.int16), np.eye(4)), tmp_path / "x.nii")
    data = (tmp_path / "x.nii").read_bytes()
    (tmp_path / name).write_bytes(gzip.compress(data) if is_compressed else data)
    with pytest.raises(UnreadableImage, match=said):
        read_image(tmp_path / name)
