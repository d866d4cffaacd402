from dataclasses import replace
from pathlib import Path

import numpy as np

from medq_uni.data.pairs import PairsConfig, draw_pair
from medq_uni.data.pool import build_pool
from medq_uni.taxonomy import Task

CONFIG = PairsConfig(count=10, seed=5, phantom_sizes=(48, 64))


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
