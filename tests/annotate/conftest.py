from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from medq_uni.annotate.records import Entry, ImageRecord, Role
from medq_uni.annotate.store import Store
from medq_uni.data.dataset import DatasetRecipe, build_dataset
from medq_uni.data.pairs import PairsConfig
from medq_uni.description import Degradation, QualityDescription
from medq_uni.image import MedicalImage, Units
from medq_uni.taxonomy import Anatomy, Modality, Severity, Task, Verdict

NOISE = QualityDescription(
    Modality.CT,
    Anatomy.CHEST,
    (Degradation(Task.CT_LOW_DOSE, Severity.MILD),),
    "the tube current was reduced",
    "soft tissue is a little grainy",
    Verdict.USABLE,
)
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
            entry = Entry.of(description, doubts=doubts)
            store.reviews.save(given.id, reviewer, based_on=given.head, entry=entry, is_done=True)

    return SimpleNamespace(store=store, reviewers=reviewers, administrator=administrator, review=review)


@pytest.fixture
def noise() -> QualityDescription:
    """A valid description of a CT slice with mild noise."""
    return NOISE


@pytest.fixture
def graded():
    """Return the description of a CT slice with noise of a grade."""
    return lambda severity, **changes: replace(NOISE.with_severity(severity), **changes)


class ChatServer:
    """A small HTTP server that speaks the OpenAI chat protocol.

    Attributes:
        requests: What was asked, as JSON values.
        reply: Makes the answer to a request: an entry as a dictionary, text of the answer, or (status, headers, body).
        delay_s: Wait between the bytes of an answer; None sends it at once.
    """

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.models = ["qwen3-vl"]
        self.delay_s: float | None = None
        self.reply: Callable[[dict[str, Any]], Any] = lambda request: NOISE.to_dict()
        chat = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = {"object": "list", "data": [{"id": name, "object": "model"} for name in chat.models]}
                self.answer(200, {}, json.dumps(body).encode())

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                chat.requests.append(request)
                chat.headers.append({name.lower(): value for name, value in self.headers.items()})
                reply = chat.reply(request)
                self.answer(*(reply if isinstance(reply, tuple) else (200, {}, chat.completion(reply))))

            def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                try:
                    if chat.delay_s is None:
                        self.wfile.write(body)
                        return
                    for byte in body:
                        time.sleep(chat.delay_s)
                        self.wfile.write(bytes([byte]))
                        self.wfile.flush()
                except OSError:  # the describer has hung up
                    self.close_connection = True

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    @staticmethod
    def completion(content: Any, finish_reason: str = "stop") -> bytes:
        """Return the body of a chat completion."""
        text = content if isinstance(content, str) or content is None else json.dumps(content)
        choice = {"index": 0, "finish_reason": finish_reason, "message": {"role": "assistant", "content": text}}
        usage = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
        values = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        return json.dumps(values | {"usage": usage}).encode()

    def stop(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def chat() -> Iterator[ChatServer]:
    server = ChatServer()
    yield server
    server.stop()


@pytest.fixture
def slice_ct() -> MedicalImage:
    """A CT slice of 32 x 48 pixels with air, water and bone."""
    voxels = np.full((1, 32, 48), -1000.0, np.float32)
    voxels[0, 8:24, 8:40] = 40
    voxels[0, 14:18, 20:26] = 900
    return MedicalImage(voxels, modality=Modality.CT, units=Units.HU)
