"""The recipe of the dataset that the tests of datasets, shards and their checks share."""

import hashlib
from pathlib import Path

from medq_uni.data.dataset import DatasetRecipe
from medq_uni.data.pairs import PairsConfig

RECIPE = DatasetRecipe(
    name="tiny",
    splits={
        "train": PairsConfig(count=20, seed=1, phantom_sizes=(40,), mixed_fraction=0.3),
        "test": PairsConfig(count=7, seed=2, phantom_sizes=(40,)),
    },
    pairs_per_shard=5,
)


def bytes_of(folder: Path) -> dict[str, str]:
    """Return the hash of every file of a folder by name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
