from dataclasses import replace
from pathlib import Path

import numpy as np

from medq_uni.data.dataset import DatasetRecipe, build_dataset
from medq_uni.data.pairs import PairsConfig
from medq_uni.systems.cases import Case, dataset_cases, drawn_cases, set_hash
from medq_uni.taxonomy import Severity, Task

CONFIG = PairsConfig(count=20, seed=5, phantom_sizes=(64,), grades=tuple(Severity))


def test_the_set_holds_every_task_and_good_images_and_is_the_same_every_time(cases: list[Case]):
    assert {case.task for case in cases} == set(Task)
    assert {case.severity for case in cases} == set(Severity)
    assert sum(case.severity is Severity.NONE for case in cases) >= len(Task)
    assert set_hash(cases) == set_hash(list(drawn_cases(CONFIG)))
    assert set_hash(cases) != set_hash(list(drawn_cases(replace(CONFIG, seed=6))))


def test_a_built_dataset_gives_the_same_cases(cases: list[Case], tmp_path: Path):
    build_dataset(DatasetRecipe(name="set", splits={"test": CONFIG}), tmp_path / "set")
    stored = list(dataset_cases(tmp_path / "set", "test"))
    for one, other in zip(stored, cases, strict=True):
        assert (one.task, one.severity, one.subject, one.group) == (
            other.task,
            other.severity,
            other.subject,
            other.group,
        )
        assert np.array_equal(one.degraded.voxels, other.degraded.voxels)
        assert one.degraded.modality is other.degraded.modality


def test_the_range_of_a_volume_counts_in_the_hash_of_a_set(cases: list[Case]):
    ranged = [replace(cases[0], data_range=7.0), *cases[1:]]
    assert len({set_hash(cases), set_hash(ranged), set_hash([replace(ranged[0], data_range=8.0), *cases[1:]])}) == 3
