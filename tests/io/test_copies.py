"""Files that hold the same object: in two encodings, damaged beside a good one, or with other values."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEGLSNearLossless, RLELossless

from medq_uni.errors import UnreadableImage
from medq_uni.io.discover import find_images
from medq_uni.io.read_write import read_image
from tests.io.derived import load

STORED = np.random.default_rng(0).integers(0, 4000, (5, 16, 12)).astype(np.uint16)


def encoded(path: Path, target: Path, syntax: str = RLELossless) -> Path:
    ds = load(path)
    ds.compress(syntax, generate_instance_uid=False, **({"jls_error": 3} if syntax == JPEGLSNearLossless else {}))
    ds.save_as(target)
    return target


def test_the_same_object_in_two_encodings_counts_once(tmp_path, phantom):
    for path in phantom.series(tmp_path, STORED):
        encoded(path, path.with_name(f"rle-{path.name}"))
    found = find_images(tmp_path)
    assert [len(item.files) for item in found] == [5]
    np.testing.assert_array_equal(read_image(tmp_path).voxels, STORED - 1024.0)
    assert len(found.passed_over) == 5
    first = found.passed_over[0][1]
    assert first == "rle-000.dcm: a copy of 000.dcm (the same object in another encoding), counted once."


def test_a_multi_frame_object_in_two_encodings_counts_once(tmp_path, phantom):
    path = tmp_path / "e.dcm"
    phantom.enhanced(path, STORED, rescales=[(1.0, 0.0)] * 5, positions=list(range(5)), modality="MR")
    encoded(path, tmp_path / "f.dcm")
    shutil.copy(path, tmp_path / "g.dcm")
    found = find_images(tmp_path)
    assert [item.path.name for item in found] == ["e.dcm"]
    assert ["another encoding" in reason for _, reason in found.passed_over] == [True, False]


@pytest.mark.parametrize("kind", ["lossy", "rescale", "position"])
def test_other_values_under_the_same_number_are_refused_with_both_names(tmp_path, phantom, kind):
    paths = phantom.series(tmp_path, STORED)
    other = tmp_path / "other 2.dcm"
    if kind == "lossy":
        encoded(paths[2], other, JPEGLSNearLossless)
    else:
        ds = load(paths[2])
        if kind == "rescale":
            ds.RescaleIntercept = -1000
        else:
            ds.ImagePositionPatient = [0, 0, 4]
        ds.save_as(other)
    (item,) = {one.problem: one for one in find_images(tmp_path)}.values()
    for given in (item, tmp_path):
        with pytest.raises(UnreadableImage, match=r"^002\.dcm and other 2\.dcm are the same object") as caught:
            read_image(given)
        assert str(caught.value).endswith(
            "4 other files of its series are not done: 000.dcm, 001.dcm, 003.dcm, 004.dcm."
        )
    other.unlink()
    assert read_image(tmp_path).shape == STORED.shape


@pytest.mark.parametrize("name", ["000-damaged.dcm", "zzz.dcm", "sub/000.dcm"])
def test_a_good_copy_takes_the_place_of_a_damaged_one(tmp_path, phantom, name):
    paths = phantom.series(tmp_path / "in", STORED)
    damaged = tmp_path / "in" / name
    damaged.parent.mkdir(exist_ok=True)
    damaged.write_bytes(paths[1].read_bytes()[:-100])
    found = find_images(tmp_path)
    assert [len(item.files) for item in found] == [5]
    np.testing.assert_array_equal(read_image(found[0]).voxels, STORED - 1024.0)
    ((path, reason),) = found.passed_over
    assert path == damaged
    assert reason.startswith(f"{damaged.name}: damaged; ")
    assert "001.dcm, a good copy, is used. pixel data is truncated" in reason


def test_a_file_that_fails_its_series_is_named_with_those_that_are_not_done(tmp_path, phantom):
    paths = phantom.series(tmp_path, STORED)
    paths[1].write_bytes(paths[1].read_bytes()[:-100])
    with pytest.raises(UnreadableImage, match=r"^001\.dcm: pixel data is truncated") as caught:
        read_image(tmp_path)
    assert "4 other files of its series are not done: 000.dcm, 002.dcm, 003.dcm, 004.dcm." in str(caught.value)


def test_the_slice_that_is_unlike_the_others_is_named(tmp_path, phantom):
    def invert(ds: pydicom.Dataset, k: int) -> None:
        if k == 3:
            ds.PhotometricInterpretation = "MONOCHROME1"

    phantom.series(tmp_path, STORED, edit=invert)
    with pytest.raises(UnreadableImage, match=r"how pixels are stored\. Unlike the others: 003\.dcm\."):
        read_image(tmp_path)
