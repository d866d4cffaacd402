from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from medq_uni.errors import ImageWarning, UnreadableImage
from medq_uni.io.discover import find_images
from medq_uni.io.read_write import read_image


@pytest.fixture
def tree(tmp_path, phantom, stored_ct, bundled):
    """Return a folder with two series in one place, others elsewhere, and things that are no images."""

    def second(ds, k):
        ds.SeriesInstanceUID = "1.2.3.4.77"

    def third(ds, k):
        ds.SeriesInstanceUID = "1.2.3.4.78"

    phantom.series(tmp_path / "study", stored_ct)
    phantom.series(tmp_path / "study", stored_ct, edit=second, names=[f"{k}" for k in range(4)])
    phantom.series(tmp_path / "other/deep", stored_ct[:1], edit=third)
    for k in range(2):
        name = f"multi{k}.dcm"
        phantom.enhanced(tmp_path / "e" / name, stored_ct[:2], rescales=[(1, 0)] * 2, positions=[0, 1])
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "a.medq.json").write_text("{}")
    (tmp_path / ".hidden.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("nothing")
    (tmp_path / "report.dcm").write_bytes(bundled("reportsi.dcm").read_bytes())
    (tmp_path / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\1\2\3")
    return tmp_path


def test_every_image_is_found_once_and_every_other_file_has_a_reason(tree, phantom):
    found = find_images(tree)
    by_format = sorted((item.format, len(item.files)) for item in found)
    assert by_format == [("dicom", 1), ("dicom", 1), ("dicom", 4), ("dicom", 4), ("png", 1)]
    reasons = {path.name: reason for path, reason in found.skipped}
    assert sorted(reasons) == ["broken.dcm", "multi1.dcm", "notes.txt", "report.dcm"]
    assert "a copy of multi0.dcm" in reasons["multi1.dcm"]
    assert [path.name for path, _ in found.broken] == ["broken.dcm"]
    assert "not an image" in reasons["notes.txt"]
    assert "Basic Text SR" in reasons["report.dcm"]
    assert not any(phantom.canary in reason for reason in reasons.values())


def test_places_of_results_are_unique_and_name_no_tag(tree):
    found = find_images(tree)
    places = [str(item.relative) for item in found]
    assert len(set(places)) == len(places)
    assert not any("1.2.3" in place for place in places)
    assert places == [str(item.relative) for item in find_images(tree)]
    assert "a.png" in places
    assert sum(place.startswith("study/series-") for place in places) == 2


def test_a_series_has_a_folder_of_its_own_for_its_result(tmp_path, phantom, stored_ct):
    for number, place in enumerate(("alone", "beside", "above", "above/below")):

        def own(ds, k, number=number):
            ds.SeriesInstanceUID = f"1.2.3.4.{number}"

        phantom.series(tmp_path / place, stored_ct, edit=own)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "beside" / "a.png")
    places = {str(item.relative) for item in find_images(tmp_path)}
    assert {"alone", "above/below", "beside/a.png"} < places
    assert sum(place.startswith(("beside/series-", "above/series-")) for place in places) == 2


def test_every_found_item_can_be_read(tree):
    for item in find_images(tree):
        assert read_image(item).voxels.size


def test_folder_without_dicom_says_what_it_holds(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(UnreadableImage, match="1 other image files; pass one of them"):
        read_image(tmp_path)


def test_missing_folder_is_refused(tmp_path):
    with pytest.raises(UnreadableImage, match="no such folder"):
        find_images(tmp_path / "gone")


def test_links_to_folders_are_not_followed(tree):
    before = len(find_images(tree))
    (tree / "loop").symlink_to(tree, target_is_directory=True)
    assert len(find_images(tree)) == before


def test_what_looks_like_an_image_and_is_left_out_is_named(tmp_path, phantom, stored_ct):
    phantom.series(tmp_path / "ct", stored_ct)
    (tmp_path / "gone_T1w.nii.gz").symlink_to("../.git/annex/objects/x/gone.nii.gz")
    (tmp_path / "IM0001").symlink_to("nowhere")
    (tmp_path / "notes.md").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "scan.mha").write_bytes(b"ObjectType = Image")
    (tmp_path / "torn").write_bytes(b"\0" * 128 + b"DICM" + b"\1\2\3")  # no suffix, yet DICOM
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "a.nii").write_bytes(b"\0" * 400)
    found = find_images(tmp_path)
    reasons = {path.name: reason for path, reason in found.skipped}
    assert sorted(reasons) == ["IM0001", "gone_T1w.nii.gz", "loop", "notes.md", "scan.mha", "torn"]
    assert sorted(path.name for path, _ in found.broken) == ["IM0001", "gone_T1w.nii.gz", "scan.mha", "torn"]
    assert sorted(path.name for path, _ in found.passed_over) == ["loop", "notes.md"]
    assert "target is not there" in reasons["gone_T1w.nii.gz"]
    assert "Convert it to NIfTI" in reasons["scan.mha"]


def test_a_series_is_not_read_from_its_folder_without_a_word_about_what_is_left_out(tmp_path, phantom, stored_ct):
    phantom.series(tmp_path, stored_ct)
    (tmp_path / "003.dcm").write_bytes(b"")
    with pytest.warns(ImageWarning, match="left out: 003.dcm: the file is empty"):
        assert read_image(tmp_path).shape[0] == 3
