from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import uvicorn

from medq_uni.annotate.images import ImageSource
from medq_uni.annotate.records import Account
from medq_uni.annotate.store import Store
from medq_uni.errors import MedQError
from medq_uni.review import connections
from medq_uni.review.app import create_app
from medq_uni.review.connections import checked_proxies
from medq_uni.review.server import server_config
from medq_uni.review.sign_in import FREE_ATTEMPTS
from tests.review.department import PASSWORD
from tests.services.postgres import free_port

Serve = Callable[..., int]
GET = b"GET /alive HTTP/1.1\r\nHost: ward\r\n\r\n"


@pytest.fixture
def serve(store: Store, source: ImageSource, accounts: dict[str, Account]) -> Iterator[Serve]:
    """Return a function that runs the real server in a thread and returns its port."""
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(**options: object) -> int:
        port = free_port()
        server = uvicorn.Server(server_config(create_app(store, source), "127.0.0.1", port, **options))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        running.append((server, thread))
        deadline = time.monotonic() + 20
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.02)
        assert server.started
        return port

    yield start
    for server, thread in running:
        server.should_exit = server.force_exit = True
        thread.join(20)


def open_socket(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def answer_to(port: int, request: bytes) -> bytes:
    with open_socket(port) as link:
        link.sendall(request)
        return link.recv(65536)


def is_closed_after_s(link: socket.socket, trickle: bytes, every_s: float = 0.1) -> float:
    """Send bytes one by one until the server hangs up, and return after how many seconds it did."""
    began = time.monotonic()
    for number in range(100):
        try:
            link.sendall(trickle[number % len(trickle)].to_bytes(1, "big"))
            link.settimeout(every_s)
            if link.recv(65536) == b"":
                break
        except TimeoutError:
            continue
        except OSError:
            break
    else:
        pytest.fail("the connection was never closed")
    return time.monotonic() - began


def test_a_head_that_never_ends_is_cut_off(serve: Serve, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connections, "HEAD_S", 0.6)
    port = serve()
    with open_socket(port) as link:
        link.sendall(b"GET /alive HTTP/1.1\r\nX: ")
        assert 0.3 < is_closed_after_s(link, b"x") < 5
    with open_socket(port) as link:  # the second request of a connection too
        link.sendall(GET)
        assert b"200 OK" in link.recv(65536)
        link.sendall(b"GET /al")
        assert 0.3 < is_closed_after_s(link, b"x") < 5
    with open_socket(port) as silent:
        silent.settimeout(5)
        assert silent.recv(1) == b""
    assert b"200 OK" in answer_to(port, GET)


def test_a_body_that_never_ends_is_cut_off(serve: Serve, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connections, "BODY_S", 0.6)
    port = serve()
    head = (
        "{} HTTP/1.1\r\nHost: ward\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 60000\r\n\r\n"
    )
    for line in ("POST /login", "GET /alive"):  # what no route reads as well
        with open_socket(port) as link:
            link.sendall(head.format(line).encode())
            assert 0.3 < is_closed_after_s(link, b"name=ana&password=") < 8


def test_connections_are_counted(serve: Serve, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 5)
    port = serve()
    held = [open_socket(port) for _ in range(5)]
    time.sleep(0.3)
    assert b"503 Service" in answer_to(port, b"")
    held.pop().close()
    time.sleep(0.3)
    assert b"200 OK" in answer_to(port, GET)
    for link in held:
        link.close()


def test_one_address_has_a_share_of_them(serve: Serve, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connections, "MOST_PER_ADDRESS", 3)
    monkeypatch.setattr(connections.BoundedProtocol, "networks", ())
    port = serve()
    held = [open_socket(port) for _ in range(3)]
    time.sleep(0.3)
    assert b"503 Service" in answer_to(port, b"")
    proxied = serve(proxies=["127.0.0.1"])
    held += [open_socket(proxied) for _ in range(4)]
    time.sleep(0.3)
    assert b"200 OK" in answer_to(proxied, GET)
    for link in held:
        link.close()


def login(port: int, password: str, address: str, cookie: str = "") -> bytes:
    body = f"name=ana&password={password.replace(' ', '+')}"
    more = f"Cookie: {cookie}\r\n" if cookie else ""
    head = (
        f"POST /login HTTP/1.1\r\nHost: ward\r\nX-Forwarded-For: {address}\r\n{more}Connection: close\r\n"
        f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    )
    return answer_to(port, head.encode())


def test_only_a_configured_proxy_says_where_a_request_comes_from(serve: Serve):
    port = serve()
    for number in range(FREE_ATTEMPTS):
        assert b" 401 " in login(port, "wrong password", f"10.0.0.{number}")
    assert b" 429 " in login(port, PASSWORD, "10.0.0.99")  # all were from this computer
    proxied = serve(proxies=["127.0.0.1"])
    for _ in range(FREE_ATTEMPTS):
        assert b" 401 " in login(proxied, "wrong password", "10.0.0.1")
    assert b" 429 " in login(proxied, PASSWORD, "10.0.0.1")
    assert b" 429 " in login(proxied, PASSWORD, "10.0.0.2, 10.0.0.1")  # what the browser itself puts before counts not
    assert b" 303 " in login(proxied, PASSWORD, "10.0.0.2")


def test_a_browser_that_has_signed_in_is_known_again(serve: Serve):
    port = serve()
    found = re.search(rb"set-cookie: (medq_device=[^;]+);([^\r]*)", login(port, PASSWORD, ""), re.IGNORECASE)
    assert found
    assert b"httponly" in found[2].lower()
    for _ in range(FREE_ATTEMPTS):
        assert b" 401 " in login(port, "wrong password", "")
    assert b" 429 " in login(port, PASSWORD, "")
    assert b" 303 " in login(port, PASSWORD, "", found[1].decode())


@pytest.mark.parametrize("proxy", ["*", "ward.example", "0.0.0.0/0", "::/0", "10.0.0.1:80", ""])
def test_a_proxy_is_an_address(proxy: str):
    with pytest.raises(MedQError, match="--proxy"):
        checked_proxies([proxy])
    assert checked_proxies(["10.0.0.1", "10.1.0.0/16", "::1"]) == ["10.0.0.1", "10.1.0.0/16", "::1"]
