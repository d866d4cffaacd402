from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from medq_uni.errors import UnreadableImage, UnwritableImage
from medq_uni.image import MedicalImage
from medq_uni.io.read_write import check_writable, read_image, read_series, write_image

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
