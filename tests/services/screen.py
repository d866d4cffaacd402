"""The annotation screen in a real browser: a running ward, and what tests do on its pages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Page, expect

from medq_uni.annotate.records import Account, ReviewEntry
from medq_uni.annotate.store import Store
from medq_uni.taxonomy import Modality
from tests.review.department import PASSWORD

PEOPLE = tuple(f"reviewer {number}" for number in range(20))
SIZES = ((1280, 800), (1920, 1080))
HOSTILE = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>\'; DROP TABLE revision; --'


@dataclass
class Ward:
    """A running server with its store."""

    address: str
    store: Store
    accounts: dict[str, Account]
    images: Path

    def newest(self, page: Page, name: str) -> ReviewEntry:
        """Return the entry that is stored for the image on a page."""
        revision = self.store.reviews.newest(self.accounts[name].id, shown(page))
        assert revision is not None
        return revision.entry

    def key(self, page: Page, name: str) -> str:
        """Return the key of the image on a page."""
        return self.store.reviews.get(self.accounts[name].id, shown(page)).key


def fill_in(page: Page, address: str, name: str) -> None:
    """Sign in by the keyboard; the name has the focus."""
    page.goto(address)
    expect(page.locator("[name=name]")).to_be_focused()
    page.keyboard.type(name)
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("/(review|progress)"))
    if "/review/" in page.url:
        page.wait_for_selector("body[data-shown]")


def shown(page: Page) -> int:
    """Return the number of the image on a page."""
    return int(page.get_attribute("body", "data-shown") or 0)


def accept(page: Page) -> None:
    """Accept the image after the least time that one has to look at it."""
    page.wait_for_timeout(300)
    page.keyboard.press("Enter")


def another(page: Page, number: int) -> None:
    """Wait until another image is shown."""
    page.wait_for_selector(f"body[data-shown]:not([data-shown='{number}'])")


def press(page: Page, keys: str) -> None:
    """Press keys one after the other; names of keys are separated by spaces."""
    for key in keys.split():
        page.keyboard.press(key)


def saved(page: Page) -> None:
    """Wait until the screen says that everything is saved."""
    expect(page.locator("#saving")).to_have_attribute("data-state", "saved")


def go_to(page: Page, ward: Ward, name: str, modality: Modality) -> None:
    """Open the person's first image of a modality."""
    listing = ward.store.reviews.listing(ward.accounts[name].id)
    found = next(one for one in listing if one.modality is modality)
    page.goto(f"{ward.address}/review/{found.id}")
    page.wait_for_selector(f"body[data-shown='{found.id}']")


def assert_nothing_is_cut(page: Page) -> None:
    """Check that every word and button has the room that it needs."""
    cut = page.evaluate(
        """() => [...document.querySelectorAll(".word, button, #count, #place, .task, .top, .actions, .tools")]
          .filter((one) => {
            const text = document.createRange();
            text.selectNodeContents(one);
            const [needed, given] = [text, one].map((part) => part.getBoundingClientRect().width);
            return one.checkVisibility() && needed > given + 0.2;
          })
          .map((one) => one.textContent)"""
    )
    assert cut == [], cut


def window_of(page: Page) -> tuple[float, float]:
    """Return width and level, as the screen shows them."""
    page.wait_for_timeout(60)
    match = re.match(r"W (\S+) +L (\S+)", page.inner_text("#window"))
    assert match
    return float(match[1]), float(match[2])


def gray_at(page: Page, column: int, row: int) -> int:
    """Return the gray value that the canvas shows at a pixel of the image, unzoomed."""
    return page.evaluate(
        """([column, row]) => {
          const canvas = document.querySelector("figure:not([hidden]) canvas");
          const [w, h] = [canvas.width, canvas.height];
          const side = Math.min(w, h);
          const x = (w - side) / 2 + ((column + 0.5) / 192) * side;
          const y = (h - side) / 2 + ((row + 0.5) / 192) * side;
          return canvas.getContext("2d").getImageData(Math.floor(x), Math.floor(y), 1, 1).data[0];
        }""",
        [column, row],
    )
