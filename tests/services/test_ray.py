import hashlib
import os
from pathlib import Path

import pytest

from medq_uni.data.dataset import DatasetRecipe, build_dataset
from medq_uni.data.pairs import PairsConfig
from medq_uni.distribute import WorkerError, map_items

pytestmark = [
    pytest.mark.services,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"),
]


@pytest.fixture
def address() -> str:
    return os.environ["MEDQ_RAY_ADDRESS"]  # missing means that no cluster was started: fail, do not skip


def square(number: int) -> int:
    import medq_uni  # workers have the package  # noqa: F401

    if number < 0:
        raise ValueError("below zero")
    return number * number


def test_items_are_mapped_in_order_on_a_cluster_and_a_failure_names_its_item(address: str):
    assert list(map_items(square, range(7), workers=3, address=address)) == [n * n for n in range(7)]
    with pytest.raises(WorkerError, match="item -2 failed: ValueError: below zero"):
        list(map_items(square, [1, -2, 3], workers=2, address=address))


def test_a_session_of_the_caller_is_used_and_left_alone(address: str):
    import ray

    ray.init(address=address, log_to_driver=False)
    try:
        assert list(map_items(square, [2, 3], address=address)) == [4, 9]
        assert ray.is_initialized()
    finally:
        ray.shutdown()


def test_a_dataset_built_on_a_cluster_has_the_bytes_of_one_built_here(address: str, tmp_path: Path):
    pairs = PairsConfig(count=12, seed=1, phantom_sizes=(40,))
    recipe = DatasetRecipe(name="tiny", splits={"test": pairs}, pairs_per_shard=5)
    here, there = tmp_path / "here", tmp_path / "there"
    build_dataset(recipe, here)
    build_dataset(recipe, there, workers=2, address=address)
    for path in here.iterdir():
        digests = [hashlib.sha256(one.read_bytes()).digest() for one in (path, there / path.name)]
        assert digests[0] == digests[1], path.name


def test_no_cluster_at_the_address_is_a_clear_error():
    with pytest.raises(ValueError, match="no Ray cluster answers"):
        list(map_items(square, [1], address="127.0.0.1:1"))
