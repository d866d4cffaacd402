"""Print how fast the annotation screen is: the next image with a long queue, and twenty reviewers at once.

Run: python -m experiments.annotation [--images N] [--rounds N] [--reviewers N] [--store URL]

The server is a process of its own, reached by HTTP over loopback. The queue holds the pairs of a small dataset of
phantoms again and again; it is larger than what the server keeps in memory, so that every image is read from its
shard. With --store (an empty PostgreSQL database) the reviewers at once work there, else on SQLite.
"""

from __future__ import annotations

import argparse
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import insert, select

from medq_uni.annotate.images import KEPT_PAIRS, DatasetImages
from medq_uni.annotate.records import ImageRecord, Role
from medq_uni.annotate.schema import DraftRow, ImageRow
from medq_uni.annotate.store import Store
from medq_uni.data.dataset import Dataset, DatasetRecipe, build_dataset
from medq_uni.data.pairs import PairsConfig
from medq_uni.description import QualityDescription
from medq_uni.image import MedicalImage
from medq_uni.review.sign_in import hash_password

PASSWORD = "a password for measuring"
START_S = 60.0
CHROMIUM = "/usr/bin/chromium"


def main() -> None:
    """Print markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000, help="images in the queue of every reviewer")
    parser.add_argument("--rounds", type=int, default=300, help="images that are accepted while it is measured")
    parser.add_argument("--reviewers", type=int, default=20, help="reviewers at once")
    parser.add_argument("--each", type=int, default=20, help="images that each of them finishes")
    parser.add_argument("--size", type=int, default=256, help="side of the images in pixels")
    parser.add_argument("--store", help="URL of an empty PostgreSQL database for the reviewers at once")
    parser.add_argument("--serve", nargs=3, metavar=("STORE", "DATASET", "PORT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        _serve(*options.serve)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = folder / "set"
        pairs = PairsConfig(count=KEPT_PAIRS + 16, seed=3, phantom_sizes=(options.size,))
        build_dataset(DatasetRecipe(name="speed", splits={"test": pairs}), images, workers=2)
        url = str(folder / "queue.sqlite")
        fill(url, images, reviewers=3, count=options.images)
        with running(url, images) as (address, _):
            _print_next(address, options.images, options.size, options.rounds)
            _print_browser(address)
        url = options.store or str(folder / "load.sqlite")
        fill(url, images, reviewers=options.reviewers, count=max(options.each, KEPT_PAIRS + 16))
        with running(url, images) as (address, _):
            kind = "PostgreSQL" if options.store else "SQLite"
            _print_load(address, kind, options.reviewers, options.each)


class Repeated:
    """The pairs of a dataset again and again, under as many keys as are asked for."""

    def __init__(self, dataset: Path) -> None:
        self._images = DatasetImages(dataset)
        self._keys = [record.key for record in self._images.records()]

    def records(self) -> Iterator[ImageRecord]:
        """Yield what is known about the pairs of the dataset."""
        return self._images.records()

    def image(self, key: str) -> MedicalImage:
        """Return the degraded slice."""
        return self._images.image(self._key(key))

    def reference(self, key: str) -> MedicalImage | None:
        """Return the clean slice."""
        return self._images.reference(self._key(key))

    def _key(self, key: str) -> str:
        return self._keys[int(key.rpartition("-")[2]) % len(self._keys)]


class Browser:
    """What a reviewer's browser asks for, one request after the other; answers other than success are counted.

    Attributes:
        seconds: Time of every request, by its kind.
        errors: Answers that are no success.
    """

    def __init__(self, address: str, name: str) -> None:
        self._client = httpx.Client(base_url=address, timeout=60.0, follow_redirects=True)
        self.seconds: dict[str, list[float]] = {}
        self.errors: list[str] = []
        page = self._ask("sign in", "POST", "/login", data={"name": name, "password": PASSWORD})
        found = re.search(r'name="csrf" content="(\w+)"', page.text)
        self._client.headers["X-CSRF-Token"] = found[1] if found else ""
        self.number = str(page.url).rpartition("/")[2]

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def show(self) -> dict[str, Any]:
        """Load draft, image and reference of the present image."""
        item = self._ask("draft", "GET", f"/api/reviews/{self.number}")
        self._ask("image", "GET", f"/api/reviews/{self.number}/image")
        self._ask("reference", "GET", f"/api/reviews/{self.number}/reference")
        return dict(item.json())

    def save(self, item: dict[str, Any], *, done: bool, **changes: object) -> dict[str, Any]:
        """Save an item with changes, and return it as it is then."""
        entry = item["entry"] | changes
        body = {"based_on": item["revision"], "done": done, "entry": entry}
        answer = self._ask("accept" if done else "autosave", "PUT", f"/api/reviews/{self.number}", json=body)
        return item | {"entry": entry} | answer.json()

    def undo(self, item: dict[str, Any]) -> dict[str, Any]:
        """Take back the last change, and return the item as it is then."""
        body = {"based_on": item["revision"]}
        return item | self._ask("undo", "POST", f"/api/reviews/{self.number}/undo", json=body).json()

    def review(self, count: int, seed: int) -> None:
        """Finish images as an expert does who corrects every one: edits, an undo, a last word."""
        chosen = random.Random(seed)
        for _ in range(count):
            item = self.show()
            item = self.save(item, done=False, cause="the patient mov")
            item = self.save(item, done=False, cause="the patient moved")
            item = self.undo(item)
            verdict = chosen.choice(["good", "usable", "reject"])
            item = self.save(item, done=True, verdict=verdict, cause="the patient moved", comment="<b>'; --")
            if not item.get("next"):
                return
            self.number = item["next"]

    def _ask(self, kind: str, method: str, address: str, **content: Any) -> httpx.Response:
        began = time.perf_counter()
        answer = self._client.request(method, address, **content)
        self.seconds.setdefault(kind, []).append(time.perf_counter() - began)
        if not answer.is_success:
            self.errors.append(f"{method} {address}: {answer.status_code}")
        return answer


def fill(url: str, dataset: Path, *, reviewers: int, count: int) -> None:
    """Fill an empty store: accounts ``reviewer 0``, ..., and images with drafts that all of them have to review."""
    metas = list(Dataset(dataset).index())
    with Store.open(url) as store:
        known = list(Repeated(dataset).records())
        keys = [f"image-{number:08d}" for number in range(count)]
        store.add_images(ImageRecord(key, known[n % len(known)].modality, True) for n, key in enumerate(keys))
        drafts = [QualityDescription.from_text(meta["description"]).to_dict() for meta in metas]
        with store.database.writing() as session:
            numbers = {key: number for key, number in session.execute(select(ImageRow.key, ImageRow.id))}
            shared = {"round": 1, "describer": "record", "at": datetime.now(UTC)}
            rows = [
                {"image_id": numbers[key], "description": drafts[n % len(drafts)]} | shared
                for n, key in enumerate(keys)
            ]
            session.execute(insert(DraftRow), rows)
        password = hash_password(PASSWORD)
        for number in range(reviewers):
            account = store.accounts.add(f"reviewer {number}", Role.REVIEWER, password)
            order = random.Random(number).sample(keys, len(keys))
            store.reviews.assign(1, [(key, account.id) for key in order])


@contextmanager
def running(url: str, dataset: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Yield the address of a server, and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "experiments.annotation", "--serve", url, str(dataset), str(port)]
    process = subprocess.Popen(command)
    address, ends = f"http://127.0.0.1:{port}", time.monotonic() + START_S
    try:
        while True:
            try:
                httpx.get(f"{address}/alive", timeout=2)
                break
            except httpx.HTTPError:
                if time.monotonic() > ends or process.poll() is not None:
                    raise
                time.sleep(0.1)
        yield address, process
    finally:
        process.terminate()
        process.wait(timeout=60)


def review_at_once(address: str, reviewers: int, each: int) -> tuple[list[Browser], float]:
    """Let reviewers work at the same time; return their browsers, and the seconds that it took."""

    def work(number: int) -> Browser:
        browser = Browser(address, f"reviewer {number}")
        try:
            browser.review(each, number)
        finally:
            browser.close()
        return browser

    began = time.perf_counter()
    with ThreadPoolExecutor(reviewers) as pool:
        browsers = list(pool.map(work, range(reviewers)))
    return browsers, time.perf_counter() - began


def _serve(url: str, dataset: str, port: str) -> None:
    import uvicorn

    from medq_uni.review.app import create_app

    with Store.open(url) as store:
        uvicorn.run(create_app(store, Repeated(Path(dataset))), port=int(port), log_level="warning")


def _print_next(address: str, images: int, size: int, rounds: int) -> None:
    browser = Browser(address, "reviewer 0")
    item, seconds = browser.show(), []
    for _ in range(rounds):
        began = time.perf_counter()
        item = browser.save(item, done=True)
        browser.number = item["next"]
        item = browser.show()
        seconds.append(time.perf_counter() - began)
    browser.close()
    print(
        f"Next image with {images} images in the queue of each of 3 reviewers, SQLite, {size}x{size}, {rounds} times:\n"
    )
    print("| step | median (ms) | 95th percentile (ms) | longest (ms) |\n|---|---|---|---|")
    _print_row("accept, then draft, image and reference of the next", seconds)
    for kind in ("accept", "draft", "image", "reference"):
        _print_row(kind, browser.seconds[kind])
    print(f"\nAnswers that were no success: {len(browser.errors)}.\n")


def _print_browser(address: str) -> None:
    """Measure in a real browser from the key to the painted image; there the next image was fetched before."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return
    if not Path(CHROMIUM).exists():
        return
    seconds = []
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1920, "height": 1080})
        page.goto(address)
        page.fill("[name=name]", "reviewer 1")
        page.fill("[name=password]", PASSWORD)
        page.keyboard.press("Enter")
        page.wait_for_selector("body[data-shown]")
        for _ in range(30):
            page.wait_for_timeout(500)  # a look at the image
            seconds.append(page.evaluate(_FROM_KEY_TO_PICTURE) / 1000)
        browser.close()
    print("| in Chromium, 1920x1080, 30 times | median (ms) | 95th percentile (ms) | longest (ms) |\n|---|---|---|---|")
    _print_row("Enter to next image painted", seconds)
    print()


_FROM_KEY_TO_PICTURE = """() => new Promise((resolve, reject) => {
  setTimeout(() => reject(new Error("no other image was shown")), 20000);
  const began = performance.now();
  const watch = new MutationObserver(() => {
    watch.disconnect();
    requestAnimationFrame(() => requestAnimationFrame(() => resolve(performance.now() - began)));
  });
  watch.observe(document.body, { attributes: true, attributeFilter: ["data-shown"] });
  document.body.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true }));
})"""


def _print_load(address: str, kind: str, reviewers: int, each: int) -> None:
    browsers, seconds = review_at_once(address, reviewers, each)
    by_kind: dict[str, list[float]] = {}
    for browser in browsers:
        for name, times in browser.seconds.items():
            by_kind.setdefault(name, []).extend(times)
    count = sum(len(times) for times in by_kind.values())
    errors = [error for browser in browsers for error in browser.errors]
    print(f"{reviewers} reviewers at once on {kind}, {each} images each without a pause: {count} requests in ", end="")
    print(f"{seconds:.1f} s ({count / seconds:.0f} per second), {len(errors)} errors.\n")
    print("| request | median (ms) | 95th percentile (ms) | longest (ms) |\n|---|---|---|---|")
    for name, times in by_kind.items():
        _print_row(name, times)
    for error in errors[:10]:
        print(error)


def _print_row(name: str, seconds: list[float]) -> None:
    late = sorted(seconds)[min(int(0.95 * len(seconds)), len(seconds) - 1)]
    print(f"| {name} | {1000 * statistics.median(seconds):.1f} | {1000 * late:.1f} | {1000 * max(seconds):.1f} |")


if __name__ == "__main__":
    main()
