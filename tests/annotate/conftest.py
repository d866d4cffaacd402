from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from medq_uni.annotate.records import ImageRecord, ReviewEntry, Role
from medq_uni.annotate.store import Store
from medq_uni.data.dataset import DatasetRecipe, build_dataset
from medq_uni.data.pairs import PairsConfig
from medq_uni.description import QualityDescription
from medq_uni.taxonomy import Modality
from tests.chat import ChatServer
from tests.restorers import NOISE

RECIPE = DatasetRecipe(
    name="tiny", splits={"train": PairsConfig(count=10, seed=1, phantom_sizes=(40,))}, pairs_per_shard=4
)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of ten small pairs; never write to it."""
    folder = tmp_path_factory.mktemp("dataset") / "tiny"
    build_dataset(RECIPE, folder)
    return folder


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.services)])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store of either kind."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres_url"))
    return str(tmp_path / "store.sqlite")


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    with Store.open(store_url) as opened:
        yield opened


@pytest.fixture
def project(store: Store) -> SimpleNamespace:
    """A store with five images, three reviewers and an administrator; nothing is assigned."""
    store.add_images(ImageRecord(f"image-{number}", Modality.CT, True) for number in range(5))
    reviewers = [store.accounts.add(name, Role.REVIEWER, "hash").id for name in ("ann", "bob", "cat")]
    administrator = store.accounts.add("root", Role.ADMINISTRATOR, "hash").id

    def review(key: str, *descriptions: QualityDescription, round: int = 1, doubts: tuple[str, ...] = ()) -> None:
        """Assign an image to as many reviewers as there are descriptions, who give them and are done."""
        chosen = reviewers[: len(descriptions)]
        store.reviews.assign(round, [(key, reviewer) for reviewer in chosen], needed=3)
        for reviewer, description in zip(chosen, descriptions, strict=True):
            given = store.reviews.of_image(reviewer, key, round)
            entry = ReviewEntry.of(description, doubts=doubts)
            store.reviews.save(given.id, reviewer, based_on=given.head, entry=entry, is_done=True)

    return SimpleNamespace(store=store, reviewers=reviewers, administrator=administrator, review=review)


@pytest.fixture
def graded():
    """Return the description of a CT slice with noise of a grade."""
    return lambda severity, **changes: replace(NOISE.with_severity(severity), **changes)


@pytest.fixture
def chat() -> Iterator[ChatServer]:
    server = ChatServer(lambda request: NOISE.to_dict())
    yield server
    server.stop()
