from __future__ import annotations

import numpy as np
import pydicom
import pytest
from pydicom import Dataset

from medq_uni.errors import UnreadableImage
from medq_uni.io.discover import find_images
from medq_uni.io.frames import stacks_of
from medq_uni.io.read_write import read_image, write_image
from tests.io.derived import DERIVATION, load


@pytest.fixture
def enhanced(tmp_path, phantom):
    """Return a function that writes a multi-frame MR object of eight frames and edits the group of each."""

    def write(edit, positions=tuple(range(8))):
        stored = np.arange(8 * 6 * 5, dtype=np.uint16).reshape(8, 6, 5)
        path = tmp_path / "in" / "e.dcm"
        path.parent.mkdir(exist_ok=True)
        phantom.enhanced(path, stored, rescales=[(1.0, 0.0)] * 8, positions=list(positions), modality="MR")
        ds = pydicom.dcmread(path)
        for k, group in enumerate(ds.PerFrameFunctionalGroupsSequence):
            edit(group, k)
        ds.save_as(path)
        return path, stored

    return write


def turned(group: Dataset, k: int) -> None:
    group.PlaneOrientationSequence = [Dataset()]
    turn = [1, 0, 0, 0, 1, 0] if k < 5 else [0, 1, 0, 0, 0, -1]
    group.PlaneOrientationSequence[0].ImageOrientationPatient = turn
    if k >= 5:
        group.PlanePositionSequence[0].ImagePositionPatient = [2.5 * k, 0, 0]


def echoes(group: Dataset, k: int) -> None:
    group.MREchoSequence = [Dataset()]
    group.MREchoSequence[0].EffectiveEchoTime = 10.0 if k % 2 else 80.0


def nothing(group: Dataset, k: int) -> None:
    pass


@pytest.mark.parametrize(
    ("edit", "positions", "expected"),
    [
        (turned, range(8), [(0, 1, 2, 3, 4), (5, 6, 7)]),
        (echoes, [0, 0, 1, 1, 2, 2, 3, 3], [(0, 2, 4, 6), (1, 3, 5, 7)]),
        (nothing, [0, 1, 2, 3, 0, 1, 2, 3], [(0, 1, 2, 3), (4, 5, 6, 7)]),  # time points that nothing names
    ],
)
def test_every_stack_of_a_multi_frame_object_is_an_image(enhanced, tmp_path, edit, positions, expected):
    path, stored = enhanced(edit, positions)
    assert list(stacks_of(load(path))) == expected
    found = find_images(path.parent)
    assert [item.relative.name for item in found] == ["e-stack0.dcm", "e-stack1.dcm"]
    uids, series = set(), set()
    for number, (item, frames) in enumerate(zip(found, expected, strict=True)):
        image = read_image(item)
        assert sorted(image.voxels[:, 0, 0]) == sorted(stored[list(frames), 0, 0])
        np.testing.assert_array_equal(read_image(path, frame=number).voxels, image.voxels)
        write_image(image, tmp_path / f"{number}.dcm", derivation=DERIVATION)
        ds = load(tmp_path / f"{number}.dcm")
        assert ds.NumberOfFrames == len(frames)
        np.testing.assert_array_equal(ds.pixel_array, stored[list(frames)])
        uids.add(ds.SOPInstanceUID)
        series.add(ds.SeriesInstanceUID)
        np.testing.assert_array_equal(read_image(tmp_path / f"{number}.dcm").voxels, image.voxels)
    assert (len(uids), len(series)) == (2, 1)
    with pytest.raises(UnreadableImage, match="holds 2 stacks"):
        read_image(path)
    with pytest.raises(UnreadableImage, match="its last one is 1"):
        read_image(path, frame=2)


def numbered(group: Dataset, k: int) -> None:
    group.FrameContentSequence = [Dataset()]
    group.FrameContentSequence[0].TemporalPositionIndex = k + 1


@pytest.mark.parametrize("edit", [nothing, numbered])
def test_a_stack_is_not_torn_by_numbers_of_its_slices(enhanced, edit):
    path, stored = enhanced(edit)
    assert stacks_of(load(path)) == ((),)
    assert [item.relative.name for item in find_images(path.parent)] == ["e.dcm"]
    assert read_image(path).shape == stored.shape
    assert read_image(path, frame=0).shape == stored.shape


def test_a_count_of_frames_costs_nothing():
    header = Dataset()
    header.NumberOfFrames = 2**31 - 1
    assert stacks_of(header) == ((),)
