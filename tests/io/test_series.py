"""Which files are one image, and what becomes of stacks on no regular grid."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest

from medq_uni.errors import ImageWarning, UnwritableImage
from medq_uni.io.discover import find_images
from medq_uni.io.read_write import for_nifti, read_image, write_image
from tests.io.derived import DERIVATION, load

STORED = np.arange(8 * 6 * 5, dtype=np.uint16).reshape(8, 6, 5)


def sizes(folder) -> list[int]:
    return sorted(len(item.files) for item in find_images(folder))


def test_a_series_that_was_exported_twice_counts_once(tmp_path, phantom):
    phantom.series(tmp_path / "visit1/CT", STORED)
    shutil.copytree(tmp_path / "visit1/CT", tmp_path / "export2/CT")
    found = find_images(tmp_path)
    assert [str(item.relative) for item in found] == ["export2/CT"]
    assert read_image(found[0]).shape == STORED.shape
    assert len(found.passed_over) == 8
    assert all("a copy of export2/CT/00" in reason for _, reason in found.passed_over)
    assert not found.broken


def test_a_file_kept_twice_counts_once(tmp_path, phantom):
    paths = phantom.series(tmp_path, STORED)
    shutil.copy(paths[1], tmp_path / "001 (1).dcm")
    assert read_image(tmp_path).shape == STORED.shape
    assert "a copy of 001 (1).dcm" in find_images(tmp_path).passed_over[0][1]


def test_the_same_objects_with_other_content_are_an_image_per_folder(tmp_path, phantom):
    phantom.series(tmp_path / "a", STORED)
    phantom.series(tmp_path / "b", STORED + np.uint16(1))
    found = find_images(tmp_path)
    assert [str(item.relative) for item in found] == ["a", "b"]
    assert [float(read_image(item).voxels.min()) for item in found] == [-1024, -1023]


@pytest.mark.parametrize(
    "edit",
    [
        lambda ds, k: setattr(ds, "EchoTime", 5 + k // 4),
        lambda ds, k: setattr(ds, "TemporalPositionIdentifier", k // 4 + 1),
        lambda ds, k: None,  # nothing but the order of acquisition
    ],
)
def test_echoes_and_time_points_are_images_of_their_own(tmp_path, phantom, edit):
    def place(ds, k):
        ds.ImagePositionPatient = [0, 0, 2.5 * (k % 4)]
        edit(ds, k)

    phantom.series(tmp_path, STORED, modality="MR", rescale=None, edit=place)
    found = find_images(tmp_path)
    assert len({item.relative for item in found}) == 2
    firsts = sorted(float(read_image(item).voxels[0, 0, 0]) for item in found)
    assert firsts == [0, 120]
    assert [read_image(item).shape[0] for item in found] == [4, 4]


def test_stacks_of_other_orientation_or_patient_are_apart(tmp_path, phantom):
    def turn(ds, k):
        if k >= 5:
            ds.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
            ds.ImagePositionPatient = [2.5 * k, 0, 0]

    def other(ds, k):
        ds.PatientID = "another" if k < 3 else "one"

    phantom.series(tmp_path / "a", STORED, modality="MR", rescale=None, edit=turn)
    assert sizes(tmp_path / "a") == [3, 5]
    phantom.series(tmp_path / "b", STORED, modality="MR", rescale=None, edit=other)
    assert sizes(tmp_path / "b") == [3, 5]


def two_steps(ds, k):
    z = 4.0 * min(k, 4) + 7.0 * max(k - 4, 0)
    ds.ImagePositionPatient = [0, 0.3 * z, z]  # tilted as well


def test_a_head_ct_with_two_steps_becomes_one_derived_series(tmp_path, phantom):
    paths = phantom.series(tmp_path / "in", STORED, edit=two_steps)
    with pytest.warns(ImageWarning, match=r"irregularly spaced\. Usual step .* DICOM output"):
        image = read_image(tmp_path / "in")
    restored = image.with_voxels(image.voxels + np.float32(3))
    write_image(restored, tmp_path / "out", derivation=DERIVATION)
    written = [load(path) for path in sorted((tmp_path / "out").iterdir())]
    assert len({ds.SeriesInstanceUID for ds in written}) == 1
    for ds, path in zip(written, paths, strict=True):
        assert ds.ImagePositionPatient == load(path).ImagePositionPatient
    with pytest.warns(ImageWarning, match="irregularly spaced"):
        np.testing.assert_array_equal(read_image(tmp_path / "out").voxels, restored.voxels)
    with pytest.raises(UnwritableImage, match="no regular grid"):
        write_image(restored, tmp_path / "out.nii.gz")
    with pytest.warns(ImageWarning, match="without a place in space"):
        write_image(for_nifti(restored), tmp_path / "map.nii.gz")


def test_slices_that_are_shifted_in_plane_become_one_derived_series(tmp_path, phantom):
    def shift(ds, k):
        ds.ImagePositionPatient = [3.0 * (k % 2), 0, 2.5 * k]

    phantom.series(tmp_path / "in", STORED, edit=shift)
    with pytest.warns(ImageWarning, match="shifted against each other in plane by up to"):
        image = read_image(tmp_path / "in")
    write_image(image, tmp_path / "out", derivation=DERIVATION)
    assert len(list((tmp_path / "out").iterdir())) == 8


def test_the_derived_series_does_not_depend_on_what_was_found(tmp_path, phantom):
    paths = phantom.series(tmp_path / "in", STORED)
    found = [("Severe noise.", ("ct-low-dose",), "one"), ("Good.", (), "two")]
    uids, objects = set(), set()
    for number, (words, tasks, assessed) in enumerate(found):
        settings = {"num_steps": 1, "assessment": assessed, "strength": float(number), "ood_score": 0.1 * number}
        derivation = replace(DERIVATION, description=words, tasks=tasks, settings=settings)
        write_image(read_image(paths[number]), tmp_path / f"{number}.dcm", derivation=derivation)
        ds = load(tmp_path / f"{number}.dcm")
        uids.add(ds.SeriesInstanceUID)
        objects.add(ds.SOPInstanceUID)
    assert (len(uids), len(objects)) == (1, 2)
