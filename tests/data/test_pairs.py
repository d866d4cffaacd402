from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from medq_uni.data.batches import BatchSampler, edited_target
from medq_uni.data.pairs import POOL_SIZE, PairsConfig, build_pool, draw_pair, generator_of
from medq_uni.data.sources import ManifestError, anatomy_of, read_manifest
from medq_uni.distribute import WorkerError, map_items
from medq_uni.taxonomy import Anatomy, Severity, Task

CONFIG = PairsConfig(count=10, seed=5, phantom_sizes=(48, 64))


def fail_on_three(number: int) -> int:
    if number == 3:
        raise ValueError("three")
    return number * number


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    rows = ["path,modality,anatomy,subject,split,units"]
    values = np.random.default_rng(0).uniform(10, 900, (40, 36, 3)).astype(np.float32)
    for modality, units in (("ct", "HU"), ("mr", "a.u."), ("pet", "SUV")):
        for split in ("train", "test"):
            name = f"{modality}_{split}.nii.gz"
            nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folder / name)
            rows.append(f"{name},{modality},brain T1w,{modality}-{split},{split},{units}")
    (folder / "MANIFEST.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_a_pair_depends_on_seed_and_index_alone():
    first, again = draw_pair(CONFIG, 3), draw_pair(CONFIG, 3)
    other = draw_pair(replace(CONFIG, seed=6), 3)
    assert np.array_equal(first.degraded.voxels, again.degraded.voxels)
    assert first.degraded.shape != other.degraded.shape or not np.array_equal(
        first.degraded.voxels, other.degraded.voxels
    )


def test_a_pool_is_the_same_for_any_number_of_workers_and_is_reused(tmp_path: Path):
    one = build_pool(CONFIG, tmp_path / "one")
    two = build_pool(CONFIG, tmp_path / "two", workers=2)
    assert one.items == two.items
    assert np.array_equal(one.arrays, two.arrays)
    assert {item.task for item in one.items} == set(Task)
    calls = []
    build_pool(CONFIG, tmp_path / "one", progress=lambda *numbers: calls.append(numbers))
    assert calls == []


def test_a_split_never_shows_subjects_of_another(data: Path):
    config = replace(CONFIG, data=str(data), real_fraction=1.0)
    assert {draw_pair(config, i).subject for i in range(10)} <= {"ct-train", "mr-train", "pet-train"}


def test_batches_have_the_crop_size_mark_padding_and_match_their_reference(tmp_path: Path):
    pool = build_pool(replace(CONFIG, none_fraction=1.0), tmp_path)
    batch = BatchSampler(pool, token_pixels=16).draw(5, crop=64, generator=generator_of(1))
    assert batch.degraded.shape == batch.reference.shape == (5, 2, 64, 64)
    assert torch.equal(batch.degraded, batch.reference)
    assert batch.vision.shape[-1] <= POOL_SIZE
    sizes = [min(pool.items[i].height, 64) * min(pool.items[i].width, 64) for i in batch.index]
    assert batch.valid.sum(dim=(1, 2, 3)).tolist() == sizes
    assert {pool.items[i].task for i in batch.index} == set(Task)


@pytest.mark.parametrize("true", list(Severity)[1:])
def test_a_worse_stated_severity_asks_for_more(true: Severity):
    degraded, reference = torch.ones(2, 4, 4), torch.zeros(2, 4, 4)
    removed = [
        float((degraded - edited_target(degraded, reference, true=true, stated=stated)).mean()) for stated in Severity
    ]
    assert removed == sorted(set(removed))
    assert removed[0] == 0
    assert removed[true.level] == pytest.approx(1)


def test_a_manifest_names_what_is_wrong(data: Path, tmp_path: Path):
    assert len(read_manifest(data, split="train")) == 3
    with pytest.raises(ManifestError, match="no manifest"):
        read_manifest(tmp_path)
    text = (data / "MANIFEST.csv").read_text()
    for old, new, message in (
        (",mr,", ",us,", "line 4: modality"),
        ("mr_train.nii.gz", "gone.nii.gz", "gone.nii.gz does not exist"),
        ("mr-train", "", "no value for subject"),
    ):
        (data / "MANIFEST.csv").write_text(text.replace(old, new))
        with pytest.raises(ManifestError, match=message):
            read_manifest(data)


def test_anatomy_is_read_from_words():
    assert anatomy_of("brain T1w") is Anatomy.BRAIN
    assert anatomy_of("chest+upper abdomen") is Anatomy.CHEST
    assert anatomy_of("knee") is Anatomy.BODY


@pytest.mark.parametrize("workers", [1, 2])
def test_items_are_mapped_in_order_and_a_failure_names_its_item(workers: int):
    assert list(map_items(fail_on_three, [2, 1, 4], workers=workers)) == [4, 1, 16]
    with pytest.raises(WorkerError, match="item 3 failed: ValueError: three"):
        list(map_items(fail_on_three, range(5), workers=workers))
