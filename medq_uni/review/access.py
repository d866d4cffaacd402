"""Who may do what: session cookie, roles, forgery protection, and headers that keep foreign code from running."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medq_uni.annotate.records import Role
from medq_uni.review.sign_in import SESSION_HOURS, Entrance, SignedIn

COOKIE, DEVICE_COOKIE = "medq_session", "medq_device"
CSRF_HEADER = "X-CSRF-Token"
MOST_BODY_BYTES = 64 * 1024
_CHANGES = ("POST", "PUT", "PATCH", "DELETE")
_LAST = {"Connection": "close"}
"""Of an answer to a request whose body is not read."""
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


class NotSignedIn(Exception):  # noqa: N818 - answered with the way to sign in
    """The request has no session."""


class Forbidden(Exception):  # noqa: N818
    """The account may not do this, or the change does not come from a page of its session."""


def session_of(request: Request) -> SignedIn | None:
    """Return the session of a request; None where it has none."""
    entrance: Entrance = request.app.state.entrance
    return entrance.look_up(request.cookies.get(COOKIE))


def signed_in(request: Request) -> SignedIn:
    """Return the session of a request, which has to prove that a page of this session made it if it changes something.

    Raises:
        NotSignedIn: If it has none.
        Forbidden: If the proof is missing.
    """
    found = session_of(request)
    if found is None:
        raise NotSignedIn
    if request.method in _CHANGES and not found.is_own(request.headers.get(CSRF_HEADER, "")):
        raise Forbidden("This page is older than your session. Load it again.")
    return found


def reviewer(session: Annotated[SignedIn, Depends(signed_in)]) -> SignedIn:
    """Return the session of a reviewer.

    Raises:
        Forbidden: If the account has another role.
    """
    if session.account.role is not Role.REVIEWER:
        raise Forbidden("Only reviewers review; administrators see results, and that would not be blind.")
    return session


def administrator(session: Annotated[SignedIn, Depends(signed_in)]) -> SignedIn:
    """Return the session of an administrator.

    Raises:
        Forbidden: If the account has another role.
    """
    if session.account.role is not Role.ADMINISTRATOR:
        raise Forbidden("This page is for administrators.")
    return session


ReviewerSession = Annotated[SignedIn, Depends(reviewer)]
AdministratorSession = Annotated[SignedIn, Depends(administrator)]


def cookie_settings(request: Request, *, seconds: int = SESSION_HOURS * 3600, path: str = "/") -> dict[str, object]:
    """Return how a cookie is set: unseen by scripts, and never sent along from another site."""
    origin = request.headers.get("origin", "")  # a proxy may speak https in our place
    return {
        "httponly": True,
        "samesite": "strict",
        "secure": request.url.scheme == "https" or origin.startswith("https:"),
        "path": path,
        "max_age": seconds,
    }


class Guard:
    """Around the whole application: limits bodies, refuses changes from other sites, adds the headers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                is_file = scope["path"].startswith("/static/")
                headers["Cache-Control"] = "no-cache" if is_file else "no-store"
            await send(message)

        headers = Headers(scope=scope)
        if scope["method"] in _CHANGES and not _is_own_site(headers):
            answer = JSONResponse({"message": "Changes are accepted from this site's own pages only."}, 403, _LAST)
            await answer(scope, receive, send_guarded)
            return
        try:
            body = await _read_body(headers, receive) if scope["method"] in _CHANGES else b""
        except ClientDisconnect:
            return  # half a change is none
        if body is None:
            answer = JSONResponse({"message": f"A request may hold {MOST_BODY_BYTES} bytes."}, 413, _LAST)
            await answer(scope, receive, send_guarded)
            return
        await self._app(scope, _replay(body, receive), send_guarded)


def _is_own_site(headers: Headers) -> bool:
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc == headers.get("host")


async def _read_body(headers: Headers, receive: Receive) -> bytes | None:
    stated = headers.get("content-length", "0")
    if not stated.isdigit() or int(stated) > MOST_BODY_BYTES:
        return None
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if len(body) > MOST_BODY_BYTES:
            return None
        if not message.get("more_body", False):
            return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    is_given = False

    async def next_message() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return next_message
