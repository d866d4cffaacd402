import re

import pytest
from fastapi.testclient import TestClient

from medq_uni.annotate.images import ImageSource
from medq_uni.annotate.records import Account, Role
from medq_uni.annotate.store import Store
from medq_uni.review.app import create_app
from tests.review.conftest import SignIn
from tests.review.department import PASSWORD, password_hash

PAGES = ("/review", "/review/1", "/adjudicate", "/progress", "/agreement")
READS = ("/api/reviews/1", "/api/reviews/1/image", "/api/reviews/1/reference", "/api/adjudications/1/test-00000000")
SAVE = {"based_on": 0, "done": False, "entry": {}}
HOSTILE = "\"><script>alert(1)</script>'; DROP TABLE account; --"


def test_pages_ask_a_stranger_to_sign_in_and_data_is_refused(visitor: TestClient, accounts: dict[str, Account]):
    for address in PAGES:
        answer = visitor.get(address)
        assert (answer.status_code, answer.headers["location"]) == (303, f"/login?next={address}")
    for address in READS:
        assert visitor.get(address).status_code == 401
    assert visitor.put("/api/reviews/1", json=SAVE).status_code == 401
    assert visitor.post("/api/reviews/1/undo", json={"based_on": 0}).status_code == 401


def test_every_route_but_the_entrance_needs_a_session(visitor: TestClient, accounts: dict[str, Account]):
    from fastapi.routing import APIRoute

    open_to_all = {"/", "/login", "/logout", "/alive"}
    checked = 0
    for route in all_routes(visitor.app.router.routes):
        if isinstance(route, APIRoute) and route.path not in open_to_all:
            path = re.sub(r"\{\w+\}", "1", route.path)
            for method in route.methods:
                answer = visitor.request(method, path, json=SAVE)
                assert answer.status_code in (303, 401), f"{method} {path}"
                checked += 1
    assert checked >= 14


def all_routes(routes: list) -> list:
    """Return routes with those of included routers."""
    found = []
    for route in routes:
        nested = getattr(route, "original_router", None) or getattr(route, "router", None)
        found += all_routes(nested.routes) if nested is not None else [route]
    return found


def test_the_session_cookie_is_hidden_from_scripts_and_other_sites(visitor: TestClient, accounts: dict[str, Account]):
    answer = visitor.post("/login", data={"name": "ana", "password": PASSWORD})
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "secure" not in cookie
    assert answer.headers["location"] == "/review"


def test_over_https_the_cookie_is_secure(store: Store, source: ImageSource, accounts: dict[str, Account]):
    with TestClient(create_app(store, source), base_url="https://ward", follow_redirects=False) as client:
        answer = client.post("/login", data={"name": "ana", "password": PASSWORD})
        assert "secure" in answer.headers["set-cookie"].lower()


def test_behind_a_proxy_with_https_the_cookie_is_secure(visitor: TestClient, accounts: dict[str, Account]):
    headers = {"Host": "ward.example", "Origin": "https://ward.example"}
    answer = visitor.post("/login", data={"name": "ana", "password": PASSWORD}, headers=headers)
    assert "secure" in answer.headers["set-cookie"].lower()


def test_a_change_without_the_proof_of_its_session_is_refused(sign_in: SignIn):
    client = sign_in("ana")
    for token in (b"", b"wrong", b"\xe4", b"0" * 64):
        proof = {"X-CSRF-Token": token}
        assert client.put("/api/reviews/1", json=SAVE, headers=proof).status_code == 403
        assert client.post("/api/reviews/1/undo", json={"based_on": 0}, headers=proof).status_code == 403
        assert client.post("/logout", data={"csrf": token.decode("latin-1")}).status_code == 403
    assert client.get("/api/reviews/1").json()["revision"] == 0


def test_the_proof_of_one_session_does_not_fit_another(sign_in: SignIn):
    ana, ben = sign_in("ana"), sign_in("ben")
    ana.headers["X-CSRF-Token"] = ben.headers["X-CSRF-Token"]
    assert ana.put("/api/reviews/1", json=SAVE).status_code == 403


def test_changes_from_other_sites_are_refused_even_with_the_proof(sign_in: SignIn):
    client = sign_in("ana")
    for name, value in (
        ("Origin", "http://evil.example"),
        ("Origin", "null"),
        ("Sec-Fetch-Site", "cross-site"),
        ("Sec-Fetch-Site", "same-site"),
    ):
        assert client.put("/api/reviews/1", json=SAVE, headers={name: value}).status_code == 403
        answer = client.post("/login", data={"name": "ana", "password": PASSWORD}, headers={name: value})
        assert answer.status_code == 403
    assert client.put("/api/reviews/1", json=SAVE, headers={"Origin": "http://testserver"}).status_code == 200


def test_an_administrator_does_not_review_and_a_reviewer_sees_no_results(sign_in: SignIn):
    ana, chief = sign_in("ana"), sign_in("chief")
    for address in (
        "/adjudicate",
        "/progress",
        "/agreement",
        "/adjudicate/1/test-00000000",
        "/api/adjudications/1/test-00000000",
    ):
        assert ana.get(address).status_code == 403, address
    assert ana.put("/api/adjudications/1/test-00000000", json=SAVE).status_code == 403
    for address in ("/review", "/review/1", "/api/reviews/1", "/api/reviews/1/image"):
        assert chief.get(address).status_code == 403, address
    assert chief.put("/api/reviews/1", json=SAVE).status_code == 403


def test_signing_out_ends_the_session(sign_in: SignIn):
    client = sign_in("ana")
    cookie = client.cookies["medq_session"]
    client.post("/logout", data={"csrf": client.headers["X-CSRF-Token"]})
    client.cookies.set("medq_session", cookie)
    assert client.get("/api/reviews/1").status_code == 401


def test_every_answer_forbids_foreign_code_frames_and_guessing_of_types(sign_in: SignIn):
    client = sign_in("ana")
    for address in ("/", "/login", "/review/1", "/api/reviews/1", "/static/review.js", "/nowhere", "/progress"):
        headers = client.get(address).headers
        policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == "'self'"
        assert policy["frame-ancestors"] == "'none'"
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] in ("no-store", "no-cache")


def test_pages_hold_no_inline_code_and_no_address_of_another_site(sign_in: SignIn):
    reviewer, chief = sign_in("ana"), sign_in("chief")
    for client, address in ((reviewer, "/review"), (chief, "/progress"), (chief, "/agreement"), (chief, "/adjudicate")):
        text = client.get(address).text
        assert not re.search(r"<script(?![^>]*\bsrc=)", text)
        assert not re.search(r"\son\w+=|style=|javascript:", text)
        assert "http:" not in text
        assert "https:" not in text
        assert "Research use only. Not for diagnostic use." in text


def test_static_files_hold_no_address_of_another_site():
    from medq_uni.review.pages import STATIC

    for path in STATIC.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http" + "://" not in text, path.name
        assert "https" + "://" not in text, path.name
        assert "innerHTML" not in text, path.name
        assert len(text.splitlines()) <= 500, path.name


@pytest.mark.parametrize("path", ["../accounts.py", "%2e%2e/accounts.py", "..%2faccounts.py", "/etc/passwd", "%00"])
def test_static_files_stay_in_their_folder(visitor: TestClient, path: str):
    assert visitor.get(f"/static/{path}").status_code == 404


def test_a_hostile_name_is_shown_as_text(store: Store, sign_in: SignIn):
    name = HOSTILE[:64]
    store.accounts.add(name, Role.REVIEWER, password_hash())
    for client, address in ((sign_in(name), "/review"), (sign_in("chief"), "/progress")):
        text = client.get(address).text
        assert "<script>alert" not in text
        assert "&lt;script&gt;alert(1)" in text


def test_a_hostile_name_at_the_door_is_shown_as_text(visitor: TestClient, accounts: dict[str, Account]):
    answer = visitor.post("/login", data={"name": HOSTILE, "password": "x", "next": HOSTILE})
    assert answer.status_code == 401
    assert "<script>alert" not in answer.text
    assert len(visitor.app.state.store.accounts.all()) == 4


def test_a_hostile_comment_comes_back_as_it_was_and_runs_nothing(sign_in: SignIn, store: Store):
    client = sign_in("ana")
    item = client.get("/api/reviews/1").json()
    body = {"based_on": 0, "done": False, "entry": item["entry"] | {"comment": HOSTILE, "cause": HOSTILE}}
    client.put("/api/reviews/1", json=body)
    answer = client.get("/api/reviews/1")
    assert answer.json()["entry"]["comment"] == HOSTILE
    assert answer.headers["content-type"] == "application/json"
    assert "<script>alert" not in client.get("/review/1").text
    assert len(store.accounts.all()) == 4


@pytest.mark.parametrize("next", ["//evil.example", "/\\evil.example", "https://evil.example", "evil", "/a\r\nX: y"])
def test_signing_in_never_leads_to_another_site(visitor: TestClient, accounts: dict[str, Account], next: str):
    answer = visitor.post("/login", data={"name": "ana", "password": PASSWORD, "next": next})
    assert answer.headers["location"] == "/review"


def test_signing_in_leads_back_to_where_one_was(visitor: TestClient, accounts: dict[str, Account]):
    answer = visitor.post("/login", data={"name": "ana", "password": PASSWORD, "next": "/review/2"})
    assert answer.headers["location"] == "/review/2"


def test_too_many_attempts_are_answered_with_when_to_try_again(visitor: TestClient, accounts: dict[str, Account]):
    codes = [visitor.post("/login", data={"name": "ana", "password": "wrong"}).status_code for _ in range(6)]
    assert codes == [401] * 5 + [429]
    answer = visitor.post("/login", data={"name": "ana", "password": PASSWORD})
    assert int(answer.headers["retry-after"]) >= 1


def test_a_request_under_a_foreign_host_name_is_refused(store: Store, source: ImageSource):
    with TestClient(create_app(store, source, hosts=("localhost", "127.0.0.1"))) as client:
        assert client.get("/login", headers={"Host": "evil.example"}).status_code == 400
        assert client.get("/login", headers={"Host": "localhost:8765"}).status_code == 200


def test_without_accounts_the_door_says_how_to_make_one(visitor: TestClient):
    text = visitor.get("/login").text
    assert "There is no account yet" in text
    assert "medq annotate user add" in text
