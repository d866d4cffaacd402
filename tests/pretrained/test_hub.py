"""Fetching from a hub: a real HTTP server on this machine speaks the hub's protocol; the client is the real one."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from medq_uni.pretrained.hub import fetch, wanted
from medq_uni.pretrained.keys import WeightsMismatch
from medq_uni.pretrained.load import load_pretrained

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::ResourceWarning")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "owner/tiny"


class Hub(ThreadingHTTPServer):
    """One repository with one commit; can break off downloads and change bytes."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.files["pytorch_model.bin"] = b"never to be fetched"
        self.requested: list[tuple[str, str | None]] = []
        self.break_off: set[str] = set()
        self.tamper: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        parts = path.strip("/").split("/")
        if parts[:4] == ["api", "models", *REPOSITORY.split("/")]:
            return self._json(self._about(parts[4:]))
        name = parts[-1]
        if parts[:3] != [*REPOSITORY.split("/"), "resolve"] or name not in self.server.files:
            return self._missing("RepoNotFound" if parts[:2] != REPOSITORY.split("/") else "EntryNotFound")
        return self._file(name, with_body)

    def _about(self, rest: list[str]) -> object:
        if rest and rest[0] in ("tree", "paths-info"):
            return [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in self.server.files.items()
            ]
        return {"id": REPOSITORY, "sha": COMMIT, "siblings": [{"rfilename": name} for name in self.server.files]}

    def _json(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _missing(self, code: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _file(self, name: str, with_body: bool) -> None:
        data = self.server.files[name]
        is_large = name.endswith("safetensors")
        digest = hashlib.sha256(data).hexdigest() if is_large else hashlib.sha1(data).hexdigest()
        if name in self.server.tamper:
            data = data[:-1] + bytes([data[-1] ^ 1])
        wanted = self.headers.get("Range")
        if with_body:
            self.server.requested.append((name, wanted))
        begin = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
        self.send_response(206 if wanted else 200)
        self.send_header("ETag", f'"{digest}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        if is_large:
            self.send_header("X-Linked-Etag", f'"{digest}"')
            self.send_header("X-Linked-Size", str(len(data)))
        if wanted:
            self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - begin))
        self.end_headers()
        if not with_body:
            return
        body = data[begin:]
        if name in self.server.break_off:
            self.server.break_off.discard(name)
            body = body[: len(body) // 2]
            self.close_connection = True
        self.wfile.write(body)


@pytest.fixture
def hub(released: Path) -> Iterator[Hub]:
    server = Hub(released)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def cache(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Points the client at the server and at an empty cache."""
    from huggingface_hub import constants

    for name in ("HF_ENDPOINT", "ENDPOINT"):
        if hasattr(constants, name):
            monkeypatch.setattr(constants, name, hub.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    return tmp_path


def blocked(*args: object, **kwargs: object) -> None:
    raise AssertionError("a socket was opened")


def test_a_checkpoint_is_fetched_loaded_and_found_again_offline(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_pretrained(REPOSITORY)
    assert loaded.config.name == REPOSITORY
    assert "pytorch_model.bin" not in {name for name, _ in hub.requested}
    monkeypatch.setattr(socket.socket, "connect", blocked)
    monkeypatch.setattr(socket, "create_connection", blocked)
    monkeypatch.setattr(socket, "getaddrinfo", blocked)
    again = load_pretrained(REPOSITORY, offline=True)
    assert again.sha256 == loaded.sha256


def test_what_was_never_fetched_cannot_be_used_offline(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", blocked)
    with pytest.raises(WeightsMismatch, match=r"not downloaded to this machine.*medq weights fetch owner/tiny"):
        fetch(REPOSITORY, offline=True)


def test_an_interrupted_download_goes_on_where_it_stopped(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 65536)
    hub.break_off = {"ema.safetensors"}
    folder = fetch(REPOSITORY)
    ranges = [wanted for name, wanted in hub.requested if name == "ema.safetensors"]
    assert ranges[0] is None
    assert any(wanted is not None and not wanted.startswith("bytes=0-") for wanted in ranges[1:])
    assert load_pretrained(folder).config.name == folder.name


def test_bytes_that_changed_on_the_way_are_refused(hub: Hub, cache: Path) -> None:
    hub.files.pop("SHA256SUMS")  # only the hash that the hub itself announces is left
    hub.tamper = {"ema.safetensors"}
    with pytest.raises(WeightsMismatch, match=r"altered or damaged"):
        load_pretrained(REPOSITORY)


def test_unknown_repositories_are_clear_errors(hub: Hub, cache: Path) -> None:
    with pytest.raises(WeightsMismatch, match=r"The hub has no owner/other"):
        fetch("owner/other")
    hub.files = {"README.md": b"", "model.bin": b""}
    with pytest.raises(WeightsMismatch, match="no BAGEL checkpoint"):
        fetch(REPOSITORY)


def test_the_smaller_network_is_wanted_and_pickles_never() -> None:
    files = ["ema.safetensors", "ema_bf16.safetensors", "ae.safetensors", "llm_config.json", "merges.txt", "x.bin"]
    assert wanted(files) == ["ema_bf16.safetensors", "ae.safetensors", "llm_config.json", "merges.txt"]
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert wanted([*shards, "other.safetensors"]) == shards


def test_a_server_that_is_down_is_a_clear_error(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between the client's own attempts
    with pytest.raises(WeightsMismatch, match="could not be fetched"):
        fetch(REPOSITORY)


def test_the_first_call_of_a_process_says_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "medq_uni", "weights", "fetch", "owner/name"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: owner/name was not downloaded to this machine")
    assert len(done.stderr.splitlines()) == 1
