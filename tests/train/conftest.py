"""What the tests of training share: pairs that are stored, and a way to train on them."""

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest

from medq_uni.data.pair_cache import PairCache, build_pair_cache
from medq_uni.pretrained.load import Pretrained, load_pretrained
from medq_uni.train import trainer
from medq_uni.train.recipe import TrainConfig, recipe_hash
from tests.train.tiny import TRAIN_PAIRS, baseline_recipe, make_quick, two_stages, unpack_pairs

__all__ = ["ticking"]


@pytest.fixture(scope="session", autouse=True)
def quick() -> Iterator[None]:
    """Let networks write about few pairs as a stage begins, and draw no curves; see :func:`make_quick`."""
    with pytest.MonkeyPatch.context() as patch:
        make_quick(patch)
        yield


@pytest.fixture(scope="session")
def pairs_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[TrainConfig], Path]:
    """Return the folder with the pairs of a recipe; those of tiny recipes are there, others are drawn there once."""
    root = tmp_path_factory.mktemp("pairs")

    def find(config: TrainConfig) -> Path:
        alike = baseline_recipe(pairs=config.pairs, val_pairs=config.val_pairs, dataset=config.dataset)
        folder = root / recipe_hash(alike)[:16]
        if not folder.exists():
            folder.mkdir()
            unpack_pairs(config, folder)
        return folder

    return find


@pytest.fixture(scope="session")
def train(pairs_of: Callable[[TrainConfig], Path]) -> Callable[..., trainer.Trained]:
    """Train a recipe on one CPU, with options by name."""

    def run(config: TrainConfig, folder: Path, **options: object) -> trainer.Trained:
        options = {"device": "cpu", "pairs_folder": pairs_of(config)} | options
        return trainer.train(config, folder, trainer.TrainOptions(**options))

    return run


@pytest.fixture(scope="session")
def pair_cache(pairs_of: Callable[[TrainConfig], Path]) -> PairCache:
    """Ten pairs of 64 pixels."""
    return build_pair_cache(TRAIN_PAIRS, pairs_of(baseline_recipe()) / "train_pairs")


@pytest.fixture(scope="session")
def whole(
    tmp_path_factory: pytest.TempPathFactory, train: Callable[..., trainer.Trained]
) -> tuple[Path, trainer.Trained]:
    """A run of two stages that nothing interrupted; never write to it."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, train(two_stages(), folder)


@pytest.fixture(scope="session")
def nano() -> Pretrained:
    """The shipped model; never train it."""
    return load_pretrained("nano")


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> float:
    """Let training's clock advance a second whenever it is read; return minutes that are enough for a few steps."""
    clock = count()
    monkeypatch.setattr("medq_uni.train.trainer.time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    return 10 / 60
