"""Run the annotation screen."""

from __future__ import annotations

import ipaddress
import socket
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from medq_uni.annotate.images import open_source
from medq_uni.annotate.store import Store
from medq_uni.errors import MedQError

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
    certificate: Path | None = None,
    key: Path | None = None,
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
        certificate: TLS certificate (PEM); with it cookies travel over https only.
        key: Its private key (PEM).
        announce: Is told the address of the screen before it opens.

    Raises:
        NotServed: If the address is open to others and nobody could sign in, or cannot be listened at.
        StoreError: If the store cannot be opened.
    """
    import uvicorn

    from medq_uni.review.app import create_app

    with Store.open(store_url) as store:
        check_address(store, host)
        if not is_loopback(host) and certificate is None:
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
            announce(f"{'https' if certificate else 'http'}://{shown}:{port}")
        uvicorn.run(
            create_app(store, images, hosts=hosts),
            host=host,
            port=port,
            log_level="warning",
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=_STOP_WAIT_S,
            ssl_certfile=certificate,
            ssl_keyfile=key,
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
