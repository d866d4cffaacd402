"""Errors as sentences: JSON for the screen's own requests, a page for the address bar."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from medq_uni.annotate.records import StaleRevision, StoreError, UnknownRecord
from medq_uni.errors import MedQError, where_raised
from medq_uni.review.access import Forbidden, NotSignedIn, session_of
from medq_uni.review.pages import message_page

_log = logging.getLogger(__name__)
_NOT_DONE = "The server could not do this just now; nothing was changed. Try again, and tell the administrator."


def add_errors(app: FastAPI) -> None:
    """Let an application answer every error that a request can cause with a sentence."""
    app.add_exception_handler(NotSignedIn, _ask_to_sign_in)
    app.add_exception_handler(StaleRevision, _show_newest)
    app.add_exception_handler(StoreError, _explain_store)
    app.add_exception_handler(RequestValidationError, _explain_fields)
    app.add_exception_handler(HTTPException, _explain_status)
    app.add_exception_handler(Forbidden, _refuse)
    app.add_exception_handler(MedQError, _explain_value)
    for kind in (OSError, SQLAlchemyError, ValueError):
        app.add_exception_handler(kind, _fail)


def _ask_to_sign_in(request: Request, error: Exception) -> Response:
    if request.url.path.startswith("/api/"):
        return JSONResponse({"message": "You are signed out. Sign in again."}, 401)
    return RedirectResponse(f"/login?next={request.url.path}", 303)


def _refuse(request: Request, error: Exception) -> Response:
    return _answer(request, 403, "Not allowed", str(error))


def _show_newest(request: Request, error: Exception) -> Response:
    assert isinstance(error, StaleRevision)
    newest, shown = error.newest, None
    if newest is not None:
        shown = {"revision": newest.number, "entry": newest.entry.to_dict(), "at": newest.at.isoformat()}
    return _answer(request, 409, "Changed elsewhere", str(error), newest=shown)


def _explain_store(request: Request, error: Exception) -> Response:
    if isinstance(error, UnknownRecord):
        return _answer(request, 404, "Not found", str(error))
    if not isinstance(error.__cause__, SQLAlchemyError):
        return _answer(request, 400, "Not done", str(error))
    _log.error("store: %s", error)
    return _answer(request, 503, "Not done", str(error))


def _explain_fields(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["loc"][0] == "path":
        return _answer(request, 404, "Not found", "There is no such page.")
    place = ".".join(str(part) for part in first["loc"][1:]) or "request"
    return _answer(request, 422, "Not accepted", f"{place}: {first['msg']}.")


def _explain_value(request: Request, error: Exception) -> Response:
    """Descriptions, images and datasets say themselves what came and what is needed."""
    return _answer(request, 422, "Not accepted", str(error))


def _explain_status(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    said = {404: "There is no such page.", 405: "This address does not take that."}
    return _answer(request, error.status_code, "Not found", said.get(error.status_code, str(error.detail)))


def _fail(request: Request, error: Exception) -> Response:
    _log.error("request failed: %s", where_raised(error))
    return _answer(request, 503, "Not done", _NOT_DONE)


def _answer(request: Request, status: int, heading: str, message: str, **more: object) -> Response:
    message = message[:1].upper() + message[1:]
    if request.url.path.startswith("/api/"):
        return JSONResponse({"message": message, **more}, status)
    try:
        session = session_of(request)
    except (StoreError, SQLAlchemyError):  # the page that says so must not fail in turn
        session = None
    return message_page(heading, message, session, status=status, link=("/", "Go on"))
