"""Twenty reviewers at once on PostgreSQL, and a server that is killed between two saves on both databases."""

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from experiments.annotation import Browser, fill, review_at_once, running
from medq_uni.annotate.store import Store
from tests.review.department import build_images

pytestmark = [pytest.mark.services, pytest.mark.filterwarnings("ignore::ResourceWarning")]

REVIEWERS, EACH = 20, 6


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_images(tmp_path_factory.mktemp("images") / "set", count=4, size=96)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield str(tmp_path / "store.sqlite")
    else:
        yield request.getfixturevalue("postgres_url")


def test_twenty_reviewers_at_once_get_no_error_and_nothing_is_lost(url: str, images: Path):
    fill(url, images, reviewers=REVIEWERS, count=EACH)
    with running(url, images) as (address, _):
        browsers, _seconds = review_at_once(address, REVIEWERS, EACH)
    assert [error for browser in browsers for error in browser.errors] == []
    with Store.open(url) as store:
        for number in range(REVIEWERS):
            account = store.accounts.find(f"reviewer {number}")
            assert account is not None
            assert store.reviews.progress(account.id).done == EACH
            for assignment in store.reviews.listing(account.id):
                history = store.reviews.history(account.id, assignment.id)
                assert [one.is_done for one in history] == [False, False, False, True]
                assert history[-1].entry.comment == "<b>'; --"
        assert store.outcomes.check() == []
        counts = store.outcomes.counts(1)
        assert sum(counts.values()) == EACH


def test_two_tabs_that_save_at_the_same_moment_cannot_both_win(url: str, images: Path):
    fill(url, images, reviewers=1, count=1)
    with running(url, images) as (address, _):
        tabs = [Browser(address, "reviewer 0") for _ in range(8)]
        items = [tab.show() for tab in tabs]
        with ThreadPoolExecutor(len(tabs)) as pool:
            list(pool.map(lambda n: tabs[n].save(items[n], done=False, cause=f"tab {n}"), range(len(tabs))))
        for tab in tabs:
            tab.close()
    errors = [error for tab in tabs for error in tab.errors]
    assert len(errors) == len(tabs) - 1
    assert all(error.endswith(": 409") for error in errors)
    with Store.open(url) as store:
        account = store.accounts.find("reviewer 0")
        assert account is not None
        assert len(store.reviews.history(account.id, store.reviews.at(account.id, 1).id)) == 1


def test_what_was_confirmed_survives_kill_9_between_and_during_saves(url: str, images: Path):
    fill(url, images, reviewers=1, count=1)
    confirmed = 0
    for _ in range(3):
        with running(url, images) as (address, server):
            tab = Browser(address, "reviewer 0")
            item = tab.show()
            assert item["revision"] >= confirmed
            assert item["revision"] == 0 or item["entry"]["cause"] == f"save {item['revision']}"
            killing = threading.Timer(0.4, server.kill)
            killing.start()
            with contextlib.suppress(httpx.TransportError):
                while True:
                    item = tab.save(item, done=False, cause=f"save {item['revision'] + 1}")
                    confirmed = item["revision"]
            killing.join()
            tab.close()
            assert tab.errors == []
    with Store.open(url) as store:
        account = store.accounts.find("reviewer 0")
        assert account is not None
        history = store.reviews.history(account.id, store.reviews.at(account.id, 1).id)
        assert confirmed > 0
        assert confirmed <= len(history) <= confirmed + 1  # the last save may have been kept and not been confirmed
        assert [one.entry.cause for one in history] == [f"save {n}" for n in range(1, len(history) + 1)]
        assert store.outcomes.check() == []
