"""The web application: sign-in, and the routes of every role."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import FastAPI, Form, Request, Response
from fastapi.responses import RedirectResponse
from fastapi.staticfiles import StaticFiles
from starlette.middleware.trustedhost import TrustedHostMiddleware

from medq_uni.annotate.images import ImageSource
from medq_uni.annotate.records import Role
from medq_uni.annotate.store import Store
from medq_uni.review import adjudication, progress, reviewing
from medq_uni.review.access import COOKIE, DEVICE_COOKIE, Forbidden, Guard, cookie_settings, session_of
from medq_uni.review.errors import add_errors
from medq_uni.review.measuring import Measurement
from medq_uni.review.pages import STATIC, page
from medq_uni.review.sign_in import DEVICE_DAYS, Entrance, SignedIn, SignInRefused


def create_app(store: Store, source: ImageSource, *, hosts: Sequence[str] = ("*",)) -> FastAPI:
    """Return the application.

    Args:
        store: Accounts, drafts and reviews.
        source: The images.
        hosts: Names under which it may be reached; ``*`` is any.
    """
    app = FastAPI(title="MedQ-UNI annotation", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.store, app.state.source, app.state.entrance = store, source, Entrance(store)
    app.state.measurement = Measurement(store)
    app.include_router(reviewing.router)
    app.include_router(adjudication.router)
    app.include_router(progress.router)
    _add_sign_in(app)
    app.mount("/static", StaticFiles(directory=STATIC))
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    app.add_middleware(Guard)
    add_errors(app)
    return app


def _add_sign_in(app: FastAPI) -> None:
    _add_entrance(app)

    @app.get("/")
    def home(request: Request) -> Response:
        session = session_of(request)
        if session is None:
            return RedirectResponse("/login", 303)
        return RedirectResponse(_home_of(session), 303)

    @app.get("/login")
    def show_login(request: Request, next: str = "") -> Response:
        session = session_of(request)
        if session is not None:
            return RedirectResponse(_own_path(next) or _home_of(session), 303)
        return _login_page(request, next=next)

    @app.get("/alive")
    def alive() -> dict[str, bool]:
        return {"alive": True}


def _add_entrance(app: FastAPI) -> None:
    @app.post("/login")
    def sign_in(
        request: Request,
        name: Annotated[str, Form(max_length=256)],
        password: Annotated[str, Form(max_length=1024)],
        next: Annotated[str, Form(max_length=1024)] = "",
    ) -> Response:
        entrance: Entrance = request.app.state.entrance
        address, device = request.client.host if request.client else "", request.cookies.get(DEVICE_COOKIE)
        try:
            session = entrance.sign_in(name, password, address, device)
        except SignInRefused as refused:
            answer = _login_page(request, next=next, name=name, message=str(refused), status=401)
            if refused.wait_s > 0:
                answer.status_code = 429
                answer.headers["Retry-After"] = str(int(refused.wait_s) + 1)
            return answer
        response = RedirectResponse(_own_path(next) or _home_of(session), 303)
        response.set_cookie(COOKIE, session.token, **cookie_settings(request))  # type: ignore[arg-type]
        long = cookie_settings(request, seconds=DEVICE_DAYS * 86400, path="/login")
        response.set_cookie(DEVICE_COOKIE, entrance.device_of(session.account, device), **long)  # type: ignore[arg-type]
        return response

    @app.post("/logout")
    def sign_out(request: Request, csrf: Annotated[str, Form(max_length=256)] = "") -> Response:
        session = session_of(request)
        if session is not None:
            if not session.is_own(csrf):
                raise Forbidden("This page is older than your session. Load it again.")
            request.app.state.entrance.sign_out(session)
        response = RedirectResponse("/login", 303)
        response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
        return response


def _home_of(session: SignedIn) -> str:
    return "/review" if session.account.role is Role.REVIEWER else "/progress"


def _own_path(address: str) -> str:
    """Return the address if it leads to a page of this site, else nothing."""
    is_own = address.startswith("/") and not address.startswith(("//", "/\\")) and address.isprintable()
    return address if is_own else ""


def _login_page(request: Request, *, next: str, name: str = "", message: str = "", status: int = 200) -> Response:
    has_accounts = bool(request.app.state.store.accounts.all())
    own = _own_path(next)
    return page("login", status=status, next=own, name=name, message=message, has_accounts=has_accounts)
