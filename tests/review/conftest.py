import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from medq_uni.annotate.images import ImageSource, open_source
from medq_uni.annotate.records import Account
from medq_uni.annotate.store import Store
from medq_uni.review import measuring
from medq_uni.review.app import create_app
from tests.review.department import PASSWORD, build_images, open_department

SignIn = Callable[..., TestClient]


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_images(tmp_path_factory.mktemp("images") / "set", count=4, size=40)


@pytest.fixture
def source(images: Path) -> ImageSource:
    return open_source(images)


@pytest.fixture(scope="session")
def department(tmp_path_factory: pytest.TempPathFactory, images: Path) -> tuple[Path, dict[str, Account]]:
    """Return a store with a department, to be copied, and its accounts."""
    path = tmp_path_factory.mktemp("department") / "store.sqlite"
    with Store.open(path) as store:
        return path, open_department(store, images)


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """Yield a store: that of a department where a test asks for its accounts, else an empty one."""
    if "accounts" in request.fixturenames:
        shutil.copy(request.getfixturevalue("department")[0], tmp_path / "store.sqlite")
    with Store.open(tmp_path / "store.sqlite") as opened:
        yield opened


@pytest.fixture
def accounts(department: tuple[Path, dict[str, Account]]) -> dict[str, Account]:
    return department[1]


@pytest.fixture
def sign_in(
    store: Store, source: ImageSource, accounts: dict[str, Account], monkeypatch: pytest.MonkeyPatch
) -> Iterator[SignIn]:
    """Return a function that gives the browser of an account; it sends the session's proof with every change."""
    monkeypatch.setattr(measuring, "WAIT_S", 60.0)  # however slow the computer, a page shows the newest count
    app = create_app(store, source)
    opened = []

    def enter(name: str, password: str = PASSWORD) -> TestClient:
        client = TestClient(app)
        opened.append(client)
        answer = client.post("/login", data={"name": name, "password": password})
        assert answer.status_code == 200, answer.text
        found = re.search(r'name="csrf" content="(\w+)"', answer.text)
        assert found
        client.headers["X-CSRF-Token"] = found[1]
        return client

    yield enter
    for client in opened:
        client.close()


@pytest.fixture
def visitor(store: Store, source: ImageSource) -> Iterator[TestClient]:
    """Return a browser that has not signed in."""
    with TestClient(create_app(store, source), follow_redirects=False) as client:
        yield client
