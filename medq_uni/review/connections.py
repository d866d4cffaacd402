"""What a connection may cost: time for the head and the body of a request, and how many there are at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from medq_uni.errors import MedQError

HEAD_S, BODY_S = 10.0, 30.0
"""How long a browser may take to send the head of a request, and then its body."""
MOST_CONNECTIONS, MOST_PER_ADDRESS = 256, 64
"""At once; the second from one address, unless a configured proxy or this computer is there."""
_REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 5\r\nContent-Length: 0\r\n\r\n"


def checked_proxies(proxies: Sequence[str]) -> list[str]:
    """Return the addresses and networks of proxies whose word on the browser's address is taken.

    Raises:
        MedQError: If one is no address or network, or is every address.
    """
    for proxy in proxies:
        try:
            network = ip_network(proxy, strict=False)
        except ValueError:
            raise MedQError(f"--proxy {proxy}: not an address or network. Give one such as 127.0.0.1.") from None
        if network.prefixlen == 0:
            raise MedQError(f"--proxy {proxy}: everybody could say where a request comes from. Name the proxy alone.")
    return list(proxies)


class BoundedProtocol(H11Protocol):
    """HTTP on one connection, which is closed where it takes too long or there are too many.

    Attributes:
        networks: Addresses that speak for many browsers, and have no bound of their own.
    """

    networks: tuple[IPv4Network | IPv6Network, ...] = tuple(map(ip_network, ("127.0.0.0/8", "::1")))
    _timer: asyncio.TimerHandle | None = None
    _watched: Any = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a new connection, or refuse it at once."""
        super().connection_made(transport)
        if self._is_too_many():
            transport.write(_REFUSAL)
            transport.close()
            return
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Take what a browser sent."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """End with the connection."""
        self._stop()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Begin the time of a head or a body when its first byte is awaited, and end it with its last."""
        state = self.conn.their_state
        if state is self._watched:
            return
        self._stop()
        self._watched = state
        allowed_s = HEAD_S if state is h11.IDLE else BODY_S if state is h11.SEND_BODY else None
        if allowed_s is not None:
            self._timer = self.loop.call_later(allowed_s, self.transport.abort)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _is_too_many(self) -> bool:
        if len(self.connections) > MOST_CONNECTIONS:
            return True
        here = _host_of(self)
        if not here or any(ip_address(here.partition("%")[0]) in network for network in self.networks):
            return False
        return sum(_host_of(one) == here for one in self.connections) > MOST_PER_ADDRESS


def bounded_protocol(proxies: Sequence[str]) -> type[BoundedProtocol]:
    """Return the protocol of a server behind proxies, whose addresses and networks are given."""
    networks = tuple(ip_network(proxy, strict=False) for proxy in proxies)
    return type("ProxiedProtocol", (BoundedProtocol,), {"networks": (*networks, *BoundedProtocol.networks)})


def _host_of(connection: object) -> str:
    client: tuple[str, int] | None = getattr(connection, "client", None)
    return client[0] if client else ""
