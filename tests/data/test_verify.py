import json
import random
from pathlib import Path

import numpy as np
import pytest

from medq_uni.data.shards import DatasetError
from medq_uni.data.verify import contact_sheet, verify_dataset


def test_every_flipped_byte_is_found(copy: Path):
    draw = random.Random(0)
    for path in [*sorted(copy.glob("*.tar")), copy / "index.jsonl"]:
        content = path.read_bytes()
        for place in (0, len(content) - 1, *(draw.randrange(len(content)) for _ in range(6))):
            path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            assert any(path.name in problem for problem in verify_dataset(copy)), (path.name, place)
        path.write_bytes(content)
    assert verify_dataset(copy) == []


def test_missing_and_foreign_shards_are_found(copy: Path):
    (copy / "train-000002.tar").rename(copy / "train-000009.tar")
    problems = verify_dataset(copy)
    assert "train-000002.tar: the shard is missing." in problems
    assert "train-000009.tar: not part of the dataset." in problems


def test_every_shard_is_checked_and_told(built: Path):
    told = []
    assert verify_dataset(built, progress=lambda done, total: told.append((done, total))) == []
    assert told == [(number, 6) for number in range(1, 7)]


def test_an_index_that_says_other_things_than_the_manifest_is_not_searched_further(copy: Path):
    manifest = json.loads((copy / "dataset.json").read_text())
    (copy / "dataset.json").write_text(json.dumps(manifest | {"content_sha256": "0" * 64}))
    assert verify_dataset(copy) == ["index.jsonl: does not hold what the manifest says."]
    (copy / "train-000000.tar").write_bytes(b"")
    (copy / "index.jsonl").write_text("{}\n")
    assert verify_dataset(copy) == ["index.jsonl: its bytes have changed since it was built."]


def test_what_is_no_finished_dataset_is_refused(tmp_path: Path):
    for check in (verify_dataset, lambda folder: contact_sheet(folder, tmp_path / "sheet.png")):
        with pytest.raises(DatasetError, match="no finished dataset"):
            check(tmp_path)


def test_a_contact_sheet_is_a_picture(built: Path, tmp_path: Path):
    from PIL import Image

    contact_sheet(built, tmp_path / "sheet.png", columns=2)
    with Image.open(tmp_path / "sheet.png") as picture:
        assert np.asarray(picture).std() > 20
