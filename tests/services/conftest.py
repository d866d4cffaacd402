import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from medq_uni.annotate.store import Store
from tests.review.department import build_images, open_department, running_server
from tests.services.packages import CHROMIUM
from tests.services.screen import PEOPLE, SIZES, Ward, fill_in

QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Yield a real browser without a window."""
    with sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of pictures for people: MEDQ_SCREENSHOTS, else a temporary one."""
    chosen = os.environ.get("MEDQ_SCREENSHOTS")
    folder = Path(chosen) if chosen else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_images(tmp_path_factory.mktemp("images") / "set", count=6, size=192)


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Iterator[Ward]:
    path = tmp_path_factory.mktemp("ward") / "store.sqlite"
    with Store.open(path) as store:
        accounts = open_department(store, images, reviewers=PEOPLE)
        with running_server(str(path), images) as address:
            yield Ward(address, store, accounts, images)


@pytest.fixture
def enter(ward: Ward, browser: Browser) -> Iterator[Callable[..., Page]]:
    """Return a function that signs a person in and gives the page; nothing may fail or leave the site."""
    contexts, problems = [], []

    def sign_in(name: str, size: tuple[int, int] = SIZES[0]) -> Page:
        context = browser.new_context(viewport={"width": size[0], "height": size[1]})
        contexts.append(context)
        context.on("request", lambda r: None if r.url.startswith((ward.address, "data:")) else problems.append(r.url))
        context.on("weberror", lambda error: problems.append(str(error.error)))
        context.on("dialog", lambda dialog: problems.append(dialog.message))
        context.on("console", lambda m: problems.append(m.text) if "Security Policy" in m.text else None)
        page = context.new_page()
        fill_in(page, ward.address, name)
        return page

    yield sign_in
    for context in contexts:
        for page in context.pages:
            page.wait_for_load_state("networkidle")
        # cut off from the next test; it ends with the browser, since closing one of several can hang Chromium
        context.set_offline(True)
    assert problems == []
