from __future__ import annotations

import gzip
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from medq_uni.errors import UnreadableImage
from medq_uni.io.discover import find_images
from medq_uni.io.geometry import LPS_TO_RAS
from medq_uni.io.mosaic import mosaic_of
from medq_uni.io.read_write import read_image, write_image
from tests.io.derived import DERIVATION, load

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it calls itself experimental
    from nibabel.nicom.dicomwrappers import wrapper_from_file

REAL = Path(nibabel.__file__).parent / "nicom" / "tests" / "data"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two volumes of a diffusion series, as a Siemens scanner wrote them, with noise for their pixels, which are 0."""
    (tmp_path / "in").mkdir()
    for name in ("siemens_dwi_0", "siemens_dwi_1000"):
        with gzip.open(REAL / f"{name}.dcm.gz") as file:
            ds = pydicom.dcmread(file)
        ds.PixelData = np.random.default_rng(1).integers(0, 4096, (896, 896)).astype(np.uint16).tobytes()
        ds.save_as(tmp_path / "in" / f"{name}.dcm")
    return tmp_path / "in"


def test_a_mosaic_becomes_the_volume_that_nibabel_makes_of_it(folder: Path):
    path = folder / "siemens_dwi_0.dcm"
    image, reference = read_image(path), wrapper_from_file(path)
    data = np.asarray(reference.get_data())
    assert image.shape == (48, 128, 128)
    affine = LPS_TO_RAS @ reference.affine  # of rows, columns, slices
    for row, column, z in [(0, 0, 0), (0, 0, 47), (127, 5, 20), (3, 100, 31)]:
        spot = affine @ (row, column, z, 1)
        i, j, k = np.rint(np.linalg.solve(image.affine, spot)[:3]).astype(int)
        np.testing.assert_allclose((image.affine @ (i, j, k, 1)), spot, atol=2e-2)
        assert image.voxels[k, j, i] == data[row, column, z]


def test_its_slices_are_written_as_objects_of_their_own(folder: Path, tmp_path: Path):
    path = folder / "siemens_dwi_0.dcm"
    image = read_image(path)
    write_image(image, tmp_path / "out", derivation=DERIVATION)
    written = [load(one) for one in sorted((tmp_path / "out").iterdir())]
    source = load(path)
    assert len({ds.SOPInstanceUID for ds in written}) == 48
    assert len({ds.SeriesInstanceUID for ds in written}) == 1
    assert {ds.SourceImageSequence[0].ReferencedSOPInstanceUID for ds in written} == {source.SOPInstanceUID}
    for ds in written:
        assert "MOSAIC" not in ds.ImageType
        assert (0x0029, 0x1010) not in ds  # it still spoke of 48 slices in one picture
        assert (ds.Rows, ds.Columns) == (128, 128)
    assert len({ds.InstanceNumber for ds in written}) == 48
    again = read_image(tmp_path / "out")
    np.testing.assert_array_equal(again.voxels, image.voxels)
    np.testing.assert_allclose(again.affine, image.affine, atol=1e-3)


def test_every_mosaic_of_a_series_is_a_volume(folder: Path):
    found = find_images(folder)
    assert [(item.relative.name, item.number) for item in found] == [
        ("siemens_dwi_0.dcm", 0),
        ("siemens_dwi_1000.dcm", 1),
    ]
    assert len({item.series for item in found}) == 1 or len(found) == 2
    assert {read_image(item).shape for item in found} == {(48, 128, 128)}


@pytest.mark.parametrize("lost", ["csa", "garbled", "step", "position", "size"])
def test_a_mosaic_that_does_not_say_how_it_is_made_is_refused(folder: Path, tmp_path: Path, lost: str):
    ds = pydicom.dcmread(folder / "siemens_dwi_0.dcm")
    if lost == "csa":
        del ds[0x0029, 0x1010]
    elif lost == "garbled":
        ds[0x0029, 0x1010].value = b"SV10" + b"\xff" * 600
    elif lost == "step":
        ds.SliceThickness = ds.SpacingBetweenSlices = None
    elif lost == "position":
        del ds.ImagePositionPatient
    else:
        ds.Columns, ds.Rows = 512, 1568
    assert mosaic_of(ds) is None
    ds.save_as(tmp_path / "lost.dcm")
    with pytest.raises(UnreadableImage, match="mosaic"):
        read_image(tmp_path / "lost.dcm")
