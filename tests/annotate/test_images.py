import json
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from medq_uni.annotate.images import DatasetImages, FolderImages, open_source
from medq_uni.annotate.records import UnknownRecord
from medq_uni.data.dataset import Dataset
from medq_uni.data.shards import DatasetError
from medq_uni.errors import UnreadableImage
from medq_uni.image import MedicalImage
from medq_uni.io.read_write import write_image
from medq_uni.taxonomy import Modality


@pytest.fixture
def folder(tmp_path: Path, phantom: SimpleNamespace) -> Path:
    """A folder with a CT series of five slices, and a NIfTI volume of an MR that does not say so."""
    root = tmp_path / "Mueller^Hans"
    values = np.random.default_rng(0).integers(0, 2000, (5, 32, 32)).astype(np.uint16)
    phantom.series(root / f"{phantom.canary} ct", values)
    write_image(MedicalImage(values.astype(np.float32)), root / "brain.nii.gz")
    return root


def test_every_pair_of_a_dataset_is_found_by_its_key_without_reading_the_others(dataset: Path):
    source = open_source(dataset)
    assert isinstance(source, DatasetImages)
    pairs = {pair.meta["key"]: pair for pair in Dataset(dataset).pairs()}
    records = {record.key: record for record in source.records()}
    assert list(records) == list(pairs)
    for key in sorted(pairs, reverse=True):
        image, reference = source.image(key), source.reference(key)
        assert (image.voxels[0] == pairs[key].degraded).all()
        assert reference is not None
        assert (reference.voxels[0] == pairs[key].reference).all()
        assert image.modality is records[key].modality
        assert source.meta(key)["description"] == pairs[key].meta["description"]
    with pytest.raises(UnknownRecord, match="no such image"):
        source.image("train-99999999")


def test_a_dataset_is_only_read(dataset: Path):
    before = {path.name: path.read_bytes() for path in dataset.iterdir()}
    source = open_source(dataset)
    for record in source.records():
        source.image(record.key)
    assert {path.name: path.read_bytes() for path in dataset.iterdir()} == before


def test_a_changed_voxel_is_noticed(dataset: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in dataset.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    shard = copy / "train-000001.tar"
    content = bytearray(shard.read_bytes())
    content[2000] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DatasetError, match="bytes of a pair have changed"):
        open_source(copy).image("train-00000004")
    shard.write_bytes(content[:700])
    with pytest.raises((DatasetError, UnknownRecord), match="train-000001"):
        open_source(copy).image("train-00000005")


@pytest.mark.parametrize(
    "change", [{"key": "../../outside"}, {"key": "/etc/passwd"}, {"shard": "../elsewhere.tar"}, {"key": ""}]
)
def test_an_index_that_points_outside_the_dataset_is_refused(dataset: Path, tmp_path: Path, change: dict[str, str]):
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "dataset.json").write_bytes((dataset / "dataset.json").read_bytes())
    meta = json.loads((dataset / "index.jsonl").read_text().splitlines()[0])
    (copy / "index.jsonl").write_text(json.dumps(meta | change) + "\n")
    with pytest.raises(DatasetError, match="no plain name"):
        open_source(copy)


def test_many_threads_read_at_once(dataset: Path):
    source = open_source(dataset)
    keys = [record.key for record in source.records()] * 4
    want = {key: source.image(key).voxels.sum() for key in set(keys)}
    found: list[bool] = []
    threads = [
        threading.Thread(target=lambda key=key: found.append(source.image(key).voxels.sum() == want[key]))
        for key in keys
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * len(keys)


def test_a_folder_gives_slices_by_keys_that_tell_no_names(folder: Path, phantom: SimpleNamespace):
    source = open_source(folder)
    assert isinstance(source, FolderImages)
    records = list(source.records())
    assert {record.modality for record in records} == {Modality.CT, None}
    assert not any(record.has_reference for record in records)
    for record in records:
        assert "brain" not in record.key
        assert phantom.canary not in record.key
        assert source.reference(record.key) is None
        assert not source.place(record.key).is_absolute()
    (ct,) = [record.key for record in records if record.modality is Modality.CT]
    image = source.image(ct)
    assert image.shape == (1, 32, 32)
    assert image.modality is Modality.CT
    assert open_source(folder).image(ct).voxels.tolist() == image.voxels.tolist()


def test_slices_are_spread_over_a_volume(folder: Path):
    source = open_source(folder, modality=Modality.CT, slices=3)
    keys = [record.key for record in source.records()]
    assert len(keys) == 6
    heights = [source.image(key).affine[2, 3] for key in keys if source.place(key).name != "brain.nii.gz"]
    assert heights == [30.0, 35.0, 40.0]  # slices 0, 2 and 4 of five, 2.5 mm apart


def test_a_modality_that_nothing_states_is_given_or_guessed_with_a_warning(folder: Path):
    (key,) = [record.key for record in open_source(folder).records() if record.modality is None]
    with pytest.warns(UserWarning, match="guessed 'mr'"):
        assert open_source(folder).image(key).modality is Modality.MR
    assert open_source(folder, modality=Modality.PET).image(key).modality is Modality.PET


@pytest.mark.parametrize("key", ["", "x", "0" * 16 + "-1of1", "../../etc/passwd", "0" * 16 + "-2of1"])
def test_a_key_of_no_image_is_refused(folder: Path, key: str):
    with pytest.raises(UnknownRecord):
        open_source(folder).image(key)


def test_what_holds_no_images_is_refused(tmp_path: Path):
    with pytest.raises(UnreadableImage, match="no image"):
        open_source(tmp_path)
    with pytest.raises(UnreadableImage, match="no such folder"):
        open_source(tmp_path / "missing")
    (tmp_path / "recipe.json").write_text("{}")
    with pytest.raises(DatasetError, match="did not finish"):
        open_source(tmp_path)


def test_files_that_look_like_images_and_are_none_are_named(folder: Path, tmp_path: Path):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    (copy / "broken.dcm").write_bytes(b"no DICOM at all")
    (copy / "notes.txt").write_text("not meant to be an image")
    source = open_source(copy)
    whole = [record.key for record in open_source(folder).records()]
    assert {record.key for record in source.records()} >= set(whole)
    told = " ".join(source.problems())
    assert "broken.dcm" in told
    assert "notes.txt" not in told
    assert open_source(folder).problems() == []
