import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import webdataset

from medq_uni.data.pairs import draw_pair
from medq_uni.data.shards import DatasetError, ShardReader, StoredPair, read_shard, records_of, store, write_shard
from medq_uni.taxonomy import Severity, Task
from tests.data.tiny import RECIPE

SHARD = "train-000000.tar"


@pytest.fixture(scope="module")
def pairs() -> list[StoredPair]:
    config = RECIPE.splits["test"]
    return [store(draw_pair(config, index), split="test", index=index, seed=config.seed) for index in range(3)]


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_the_shards(built: Path):
    found = list(webdataset.WebDataset(str(built / "train-000000.tar"), shardshuffle=False).decode())
    assert len(found) == 5
    assert found[0]["reference.npy"].shape == (40, 40)
    assert found[0]["json"]["key"] == found[0]["__key__"] == "train-00000000"


def test_what_is_written_is_read_and_the_same_pairs_give_the_same_bytes(pairs: list[StoredPair], tmp_path: Path):
    for name in ("one.tar", "two.tar"):
        write_shard(tmp_path / name, iter(pairs))
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    for pair, again in zip(pairs, read_shard(tmp_path / "one.tar"), strict=True):
        assert again.meta == pair.meta
        assert again.task is Task(pair.meta["task"])
        assert again.severity is Severity(pair.meta["severity"])
        assert np.array_equal(again.degraded, pair.degraded)
        assert np.array_equal(again.reference, pair.reference)
        assert [record.task for record in records_of(again.meta)][-1:] == [again.task]


def test_an_interrupted_shard_leaves_nothing(pairs: list[StoredPair], tmp_path: Path):
    def interrupted():
        yield pairs[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(tmp_path / "shard.tar", interrupted())
    assert list(tmp_path.iterdir()) == []


def test_a_stored_pair_knows_its_image(pairs: list[StoredPair]):
    drawn = draw_pair(RECIPE.splits["test"], 0)
    image = pairs[0].image(pairs[0].reference)
    assert (image.modality, image.units) == (drawn.reference.modality, drawn.reference.units)
    assert image.spacing_mm[1:] == pytest.approx(drawn.reference.spacing_mm[1:], rel=1e-5)
    assert np.array_equal(image.voxels, drawn.reference.voxels)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.95])
def test_a_truncated_shard_is_refused_wherever_it_ends(copy: Path, share: float):
    path = copy / SHARD
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DatasetError, match=SHARD):
        list(read_shard(path))
    reader = ShardReader(copy)
    with pytest.raises(DatasetError, match=SHARD):
        [reader.read(SHARD, f"train-{index:08d}") for index in range(5)]


def test_pairs_are_read_in_any_order_and_a_missing_one_is_told(built: Path):
    reader, stored = ShardReader(built), {pair.meta["key"]: pair for pair in read_shard(built / SHARD)}
    assert list(reader.places(SHARD)) == list(stored)
    for key in reversed(stored):
        assert reader.read(SHARD, key).meta == stored[key].meta
    with pytest.raises(DatasetError, match="does not hold train-00000099"):
        reader.read(SHARD, "train-00000099")


def test_pixels_that_do_not_have_their_hash_are_refused(pairs: list[StoredPair], tmp_path: Path):
    wrong = replace(pairs[0], degraded=pairs[0].degraded + 1)
    write_shard(tmp_path / "shard.tar", [wrong, pairs[1]])
    reader = ShardReader(tmp_path)
    with pytest.raises(DatasetError, match="the bytes of a pair have changed"):
        reader.read("shard.tar", wrong.meta["key"])
    assert reader.read("shard.tar", pairs[1].meta["key"]).meta == pairs[1].meta


def test_a_key_that_comes_twice_is_refused(pairs: list[StoredPair], tmp_path: Path):
    write_shard(tmp_path / "shard.tar", [pairs[0], pairs[0]])
    for read in (lambda path: list(read_shard(path)), lambda path: ShardReader(path.parent).places(path.name)):
        with pytest.raises(DatasetError, match="comes twice"):
            read(tmp_path / "shard.tar")


def test_a_shard_of_other_files_is_refused(tmp_path: Path):
    with webdataset.TarWriter(str(tmp_path / "shard.tar"), encoder=False) as writer:
        writer.write({"__key__": "a", "json": json.dumps({}).encode(), "txt": b"1", "png": b"2"})
    with pytest.raises(DatasetError, match="not a whole shard"):
        list(read_shard(tmp_path / "shard.tar"))
