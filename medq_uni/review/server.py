"""Run the annotation screen."""

from __future__ import annotations

import ipaddress
import socket
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medq_uni.annotate.images import open_source
from medq_uni.annotate.store import Store
from medq_uni.errors import MedQError

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

LOOPBACK = ("localhost", "127.0.0.1", "::1")
DEFAULT_PORT = 8765
_STOP_WAIT_S = 10


class NotServed(MedQError):  # noqa: N818 - what happened
    """The server does not start; the message says what to do."""


def serve(
    store_url: str | Path,
    source: str | Path,
    *,
    host: str = LOOPBACK[1],
    port: int = DEFAULT_PORT,
    names: Sequence[str] = (),
    proxies: Sequence[str] = (),
    tls: tuple[Path | None, Path | None] = (None, None),
    announce: Callable[[str], None] | None = None,
) -> None:
    """Serve the annotation screen until it is interrupted.

    Args:
        store_url: Store of the reviews; a path or an SQLAlchemy URL.
        source: Dataset or folder that holds the images.
        host: Address to listen at. Anything but loopback needs an account that can sign in.
        port: Port to listen at.
        names: Host names by which browsers reach the server, for example through a proxy that speaks https; empty is
            any, at loopback those of this computer alone.
        proxies: Addresses or networks of proxies; what they say of the browser's address and of https is believed
            (``X-Forwarded-For``, ``X-Forwarded-Proto``), and nobody else's word.
        tls: TLS certificate (PEM) and its private key (PEM); with them cookies travel over https only.
        announce: Is told the address of the screen before it opens.

    Raises:
        NotServed: If the address is open to others and nobody could sign in, or cannot be listened at.
        MedQError: If a proxy is no address.
        StoreError: If the store cannot be opened.
    """
    import uvicorn

    from medq_uni.review.app import create_app
    from medq_uni.review.connections import checked_proxies

    proxies = checked_proxies(proxies)

    with Store.open(store_url) as store:
        check_address(store, host)
        if not is_loopback(host) and tls[0] is None:
            warnings.warn(
                "passwords travel unencrypted to other computers. Pass --certificate and --key, or listen at 127.0.0.1 "
                "behind a proxy that speaks https and pass its --name.",
                stacklevel=2,
            )
        images = open_source(source)
        _check_free(host, port)
        hosts = [*LOOPBACK, "[::1]", *names] if is_loopback(host) else list(names) or ["*"]
        if announce is not None:
            shown = f"[{host}]" if ":" in host and not host.startswith("[") else host
            announce(f"{'https' if tls[0] else 'http'}://{shown}:{port}")
        app = create_app(store, images, hosts=hosts)
        uvicorn.Server(server_config(app, host, port, proxies, tls)).run()


def server_config(
    app: FastAPI,
    host: str,
    port: int,
    proxies: Sequence[str] = (),
    tls: tuple[Path | None, Path | None] = (None, None),
) -> uvicorn.Config:
    """Return how the application is served: what a connection may cost, and whose word on addresses is taken."""
    import uvicorn

    from medq_uni.review.connections import bounded_protocol

    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http=bounded_protocol(proxies),
        ws="none",
        log_level="warning",
        server_header=False,
        proxy_headers=bool(proxies),
        forwarded_allow_ips=list(proxies),
        timeout_graceful_shutdown=_STOP_WAIT_S,
        ssl_certfile=tls[0],
        ssl_keyfile=tls[1],
    )


def check_address(store: Store, host: str) -> None:
    """Refuse to listen to other computers where nobody has an account.

    Raises:
        NotServed: If it is so.
    """
    if is_loopback(host) or any(not account.is_disabled for account in store.accounts.all()):
        return
    raise NotServed(
        f"{host} can be reached from other computers, and the store has no account that can sign in. "
        "Add one with: medq annotate user add, or listen at 127.0.0.1."
    )


def is_loopback(host: str) -> bool:
    """Return whether only this computer reaches an address; a name that is not known to be local does not count."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _check_free(host: str, port: int) -> None:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((host, port))
    except (OSError, OverflowError) as error:
        raise NotServed(f"cannot listen at {host}, port {port}: {error}. Choose another --host or --port.") from error
