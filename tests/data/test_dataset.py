import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from medq_uni.config import ConfigError
from medq_uni.data import shards
from medq_uni.data.dataset import Dataset, DatasetRecipe, build_dataset, leaks_between_splits, read_dataset_recipe
from medq_uni.data.pairs import PairsConfig, draw_pair
from medq_uni.data.shards import DatasetError, records_of
from medq_uni.data.verify import verify_dataset
from medq_uni.physics.degrade import apply_records
from medq_uni.taxonomy import Severity, Task
from tests.data.tiny import RECIPE, bytes_of

ROOT = Path(__file__).parents[2]


def test_a_dataset_holds_what_its_recipe_says(built: Path):
    dataset = Dataset(built)
    assert len(dataset) == 27
    assert [shard["pairs"] for shard in dataset.manifest["shards"]] == [5, 5, 5, 5, 5, 2]
    pairs = list(dataset.pairs())
    assert len(list(dataset.pairs("test"))) == 7
    assert {pair.task for pair in pairs} == set(Task)
    assert verify_dataset(built) == []
    assert any(len(pair.meta["records"]) == 2 for pair in pairs)
    for pair, meta in zip(pairs, dataset.index(), strict=True):
        meta.pop("shard")
        assert pair.meta == meta
        again = apply_records(pair.image(pair.reference), records_of(meta))
        assert np.allclose(again.voxels[0], pair.degraded, rtol=1e-4, atol=0.05)  # spacing has six digits
        is_good = pair.severity is Severity.NONE
        assert ("Degradation: none." in meta["description"]) == is_good


def test_the_bytes_do_not_depend_on_workers(built: Path, tmp_path: Path):
    build_dataset(RECIPE, tmp_path / "two", workers=2)
    assert bytes_of(tmp_path / "two") == bytes_of(built)


def test_a_full_disk_loses_nothing_already_written(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls = []
    real = shards._npy

    def full(array: np.ndarray) -> bytes:
        calls.append(1)
        if len(calls) > 25:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(array)

    folder = tmp_path / "full"
    monkeypatch.setattr(shards, "_npy", full)
    with pytest.raises(DatasetError, match=r"No space left.*run the same command to go on"):
        build_dataset(RECIPE, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["recipe.json", "train-000000.tar", "train-000001.tar"]
    monkeypatch.setattr(shards, "_npy", real)
    build_dataset(RECIPE, folder)
    assert bytes_of(folder) == bytes_of(built)


def test_a_damaged_shard_is_built_again(copy: Path, built: Path):
    path = copy / "train-000001.tar"
    path.write_bytes(path.read_bytes()[:3000])
    build_dataset(RECIPE, copy)
    assert bytes_of(copy) == bytes_of(built)


def test_a_killed_build_goes_on_to_the_same_bytes(built: Path, tmp_path: Path):
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps(asdict(RECIPE)))
    folder = tmp_path / "killed"
    code = "from medq_uni.cli.main import main; main()"
    command = [sys.executable, "-c", code, "dataset", "build", str(recipe), "-o", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (folder / "train-000001.tar").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (folder / "dataset.json").exists()
    with pytest.raises(DatasetError, match="did not finish"):
        Dataset(folder)
    for left in folder.glob(".medq-*"):
        left.unlink()  # what the killed process was writing
    kept = (folder / "train-000000.tar").stat().st_mtime_ns
    build_dataset(RECIPE, folder)
    assert (folder / "train-000000.tar").stat().st_mtime_ns == kept
    assert bytes_of(folder) == bytes_of(built)


def test_subjects_and_scans_on_two_sides_are_found(data: Path, tmp_path: Path):
    pairs = PairsConfig(count=5, seed=1, data=(str(data),), real_fraction=1.0, none_fraction=0.0)
    leaky = {"train": pairs, "more": replace(pairs, seed=2)}  # both from split train
    with pytest.raises(DatasetError, match=r"leaks.*subject (ct|mr|pet)-train is in train and in more"):
        build_dataset(DatasetRecipe(name="leaky", splits=leaky), tmp_path / "leaky")
    twins = {"train": pairs, "test": replace(pairs, seed=2, split="test")}  # the fixture's subjects are one scan
    with pytest.raises(DatasetError, match="nearly the same slice under two subjects"):
        build_dataset(DatasetRecipe(name="twins", splits=twins), tmp_path / "twins")


def test_distinct_slices_are_no_leak(built: Path):
    assert leaks_between_splits(list(Dataset(built).index())) == []


def test_another_recipe_or_a_foreign_folder_is_refused(copy: Path, tmp_path: Path):
    with pytest.raises(DatasetError, match="another recipe"):
        build_dataset(replace(RECIPE, name="other"), copy)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("keep")
    with pytest.raises(DatasetError, match="not empty"):
        build_dataset(RECIPE, tmp_path / "mine")
    with pytest.raises(DatasetError, match="no finished dataset"):
        Dataset(tmp_path / "mine")


def test_a_dataset_with_the_keys_of_version_0_1_is_read_and_gone_on_with(copy: Path, built: Path):
    for name in ("dataset.json", "recipe.json"):
        text = (copy / name).read_text()
        (copy / name).write_text(text.replace('"alternative"', '"second_way"'))
    assert '"second_way"' in (copy / "recipe.json").read_text()
    assert len(Dataset(copy)) == 27
    assert verify_dataset(copy) == []
    (copy / "dataset.json").unlink()
    (copy / "test-000001.tar").unlink()
    build_dataset(RECIPE, copy)
    assert bytes_of(copy)["index.jsonl"] == bytes_of(built)["index.jsonl"]
    (copy / "recipe.json").write_text("{")
    with pytest.raises(DatasetError, match="another recipe"):
        build_dataset(RECIPE, copy)


def test_real_volumes_without_a_source_are_not_replaced_by_phantoms(tmp_path: Path):
    for path in (ROOT / "benchmark/real.json", ROOT / "recipes/dataset-paper.json"):
        with pytest.raises(DatasetError, match=r"has no source.*--source"):
            build_dataset(read_dataset_recipe(path), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_sources_go_to_the_sides_that_want_them_and_to_their_own_split():
    wants, phantoms = PairsConfig(count=5, seed=1, split="test"), PairsConfig(count=5, seed=2, real_fraction=0.0)
    unseen = PairsConfig(count=5, seed=3, unseen=True)
    sides = DatasetRecipe(name="x", splits={"test": wants, "more": phantoms}).with_sources(("somewhere",)).splits
    assert sides == {"test": replace(wants, data=("somewhere",)), "more": phantoms}
    recipe = DatasetRecipe(name="x", splits={"test": unseen})
    assert recipe.with_sources(("somewhere",)) == recipe
    with pytest.raises(ConfigError, match=r"x: the side 'val' would be drawn .* of split 'train'. Write \"split\""):
        DatasetRecipe(name="x", splits={"val": replace(wants, split="train")}).with_sources(("somewhere",))
    with pytest.raises(ConfigError, match=r"x: the side 'test' would be drawn .* of split 'train'"):
        DatasetRecipe(name="x", splits={"test": replace(wants, split="train", data=("somewhere",))})


def test_the_range_of_a_volume_comes_along(data: Path, tmp_path: Path):
    config = PairsConfig(count=5, seed=3, data=(str(data),), real_fraction=1.0, grades=(Severity.MILD,))
    dataset = build_dataset(DatasetRecipe(name="real", splits={"train": config}), tmp_path / "real")
    for index, pair in enumerate(dataset.pairs("train")):
        drawn = draw_pair(config, index)
        assert pair.meta.get("volume_peak") == (drawn.volume_peak and pytest.approx(drawn.volume_peak, rel=1e-5))
        assert ("volume_peak" in pair.meta) == (drawn.task is not Task.CT_LOW_DOSE)


def test_a_pinned_content_hash_is_kept(built: Path, tmp_path: Path):
    pinned = replace(RECIPE, content_sha256=Dataset(built).manifest["content_sha256"])
    build_dataset(pinned, tmp_path / "pinned")
    with pytest.raises(DatasetError, match="the recipe pins 0000"):
        build_dataset(replace(RECIPE, content_sha256="0" * 64), tmp_path / "wrong")


def test_wrong_labels_are_made_and_recorded(tmp_path: Path):
    recipe = replace(RECIPE, wrong_labels=0.3, splits={"test": RECIPE.splits["test"]})
    wrong, right = (
        build_dataset(recipe, tmp_path / "w"),
        build_dataset(replace(recipe, wrong_labels=0.0), tmp_path / "r"),
    )
    changed = 0
    for one, other in zip(wrong.index(), right.index(), strict=True):
        assert (one["description"] != other["description"]) == bool(one["wrong_slots"])
        assert one["records"] == other["records"]
        changed += len(one["wrong_slots"])
    assert 5 <= changed <= 25  # 7 pairs of 6 slots
    assert verify_dataset(tmp_path / "w") == []


@pytest.mark.parametrize(
    "path", [*sorted((ROOT / "benchmark").glob("*.json")), *(ROOT / "recipes").glob("dataset-*.json")]
)
def test_the_recipes_that_come_with_the_project_are_read(path: Path):
    assert read_dataset_recipe(path).splits


def test_bad_recipes_name_what_is_wrong(tmp_path: Path):
    with pytest.raises(ConfigError, match="no such recipe"):
        read_dataset_recipe(tmp_path / "gone.json")
    (tmp_path / "typo.json").write_text('{"name": "x", "splits": {"test": {"cuont": 3, "seed": 1}}}')
    with pytest.raises(ConfigError, match="Did you mean 'count'"):
        read_dataset_recipe(tmp_path / "typo.json")
    (tmp_path / "old.json").write_text('{"name": "x", "splits": {"test": {"count": 3, "seed": 1, "second_way": true}}}')
    with pytest.raises(ConfigError, match="'second_way' is called 'alternative'"):
        read_dataset_recipe(tmp_path / "old.json")
    with pytest.raises(ConfigError, match="same seed"):
        DatasetRecipe(name="x", splits=dict.fromkeys(("a", "b"), PairsConfig(count=1, seed=1)))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "pairs"), [("phantoms", 100), ("unseen", 60)])
def test_the_public_benchmark_is_the_pinned_one(tmp_path: Path, name: str, pairs: int):
    recipe = read_dataset_recipe(ROOT / f"benchmark/{name}.json")
    dataset = build_dataset(recipe, tmp_path / name)  # fails if the content differs
    assert dataset.manifest["content_sha256"] == recipe.content_sha256
    assert len(dataset) == pairs
