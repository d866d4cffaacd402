"""A department to try the screen on: accounts, a small dataset of phantoms, drafts, and images given to reviewers."""

from __future__ import annotations

import random
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path

from medq_uni.annotate.images import open_source
from medq_uni.annotate.records import Account, Role
from medq_uni.annotate.store import Store
from medq_uni.data.dataset import Dataset, DatasetRecipe, build_dataset
from medq_uni.data.pairs import PairsConfig
from medq_uni.description import QualityDescription
from medq_uni.review.sign_in import hash_password
from tests.services.postgres import free_port

PASSWORD = "correct horse battery"
REVIEWERS = ("ana", "ben", "cora")
CHIEF = "chief"
START_S = 60.0


@cache
def password_hash() -> str:
    """Return the hash of everybody's password, made once."""
    return hash_password(PASSWORD)


def build_images(folder: Path, *, count: int, size: int) -> Path:
    """Return the folder of a new dataset of phantoms."""
    pairs = PairsConfig(count=count, seed=5, phantom_sizes=(size,), none_fraction=0.0)
    build_dataset(DatasetRecipe(name="department", splits={"test": pairs}), folder)
    return folder


def open_department(store: Store, images: Path, *, reviewers: tuple[str, ...] = REVIEWERS) -> dict[str, Account]:
    """Add accounts, drafts and assignments of round 1 to an empty store; every reviewer gets all images, shuffled."""
    accounts = {name: store.accounts.add(name, Role.REVIEWER, password_hash()) for name in reviewers}
    accounts[CHIEF] = store.accounts.add(CHIEF, Role.ADMINISTRATOR, password_hash())
    store.add_images(open_source(images).records())
    metas = list(Dataset(images).index())
    for meta in metas:
        store.add_draft(meta["key"], 1, "record", QualityDescription.from_text(meta["description"]))
    keys = [meta["key"] for meta in metas]
    for number, name in enumerate(reviewers):
        order = random.Random(number).sample(keys, len(keys))
        store.reviews.assign(1, [(key, accounts[name].id) for key in order])
    return accounts


def start_server(url: str, images: Path, port: int) -> subprocess.Popen[bytes]:
    """Return the process of a server that answers.

    Raises:
        RuntimeError: If it does not answer in time.
    """
    code = "import sys; from medq_uni.review.server import serve; serve(*sys.argv[1:3], port=int(sys.argv[3]))"
    process = subprocess.Popen([sys.executable, "-c", code, url, str(images), str(port)])
    ends = time.monotonic() + START_S
    while time.monotonic() < ends and process.poll() is None:
        try:
            with closing(urllib.request.urlopen(f"http://127.0.0.1:{port}/alive", timeout=2)):
                return process
        except OSError:
            time.sleep(0.1)
    process.kill()
    process.wait()
    raise RuntimeError(f"no server at port {port} (exit status {process.returncode})")


@contextmanager
def running_server(url: str, images: Path) -> Iterator[str]:
    """Yield the address of a server in a process of its own."""
    port = free_port()
    process = start_server(url, images, port)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=30)
