from typing import Any

import numpy as np
from fastapi.testclient import TestClient
from sqlalchemy import event

from medq_uni.annotate.images import ImageSource
from medq_uni.annotate.records import Account, Role
from medq_uni.annotate.store import Store
from tests.review.conftest import SignIn
from tests.review.department import password_hash


def first_of(client: TestClient) -> dict:
    """Return the item of the reviewer's first image."""
    number = str(client.get("/review").url).rpartition("/")[2]
    return client.get(f"/api/reviews/{number}").json()


def save(client: TestClient, item: dict, *, done: bool = False, based_on: int | None = None, **changes: object):
    """Save an item with some aspects changed."""
    based_on = item["revision"] if based_on is None else based_on
    body = {"based_on": based_on, "done": done, "entry": item["entry"] | changes}
    return client.put(f"/api/reviews/{item['id']}", json=body)


def test_the_draft_is_what_an_untouched_review_says(sign_in: SignIn):
    item = first_of(sign_in("ana"))
    assert item["revision"] == 0
    assert not item["is_done"]
    assert not item["can_undo"]
    assert {name: item["entry"][name] for name in item["draft"]} == item["draft"]


def test_the_values_of_image_and_reference_arrive_bit_identical(
    sign_in: SignIn, source: ImageSource, store: Store, accounts: dict[str, Account]
):
    client = sign_in("ana")
    item = first_of(client)
    key = store.reviews.get(accounts["ana"].id, int(item["id"])).key
    for name, true in (("image", source.image(key)), ("reference", source.reference(key))):
        answer = client.get(f"/api/reviews/{item['id']}/{name}")
        shape = int(answer.headers["X-Height"]), int(answer.headers["X-Width"])
        assert true is not None
        assert np.array_equal(np.frombuffer(answer.content, "<f4").reshape(shape), true.voxels[0])
        assert answer.headers["X-Units"] == true.units.value
        assert answer.headers["X-Modality"] == true.modality


def test_accepting_leads_through_all_images_to_the_end(sign_in: SignIn):
    client = sign_in("ana")
    item, seen = first_of(client), []
    while item:
        seen.append(item["id"])
        answer = save(client, item, done=True).json()
        assert answer["progress"]["done"] == len(seen)
        item = client.get(f"/api/reviews/{answer['next']}").json() if answer["next"] else None
    assert len(set(seen)) == len(seen) == 4
    assert "All 4 images are done" in client.get("/review").text


def test_an_unfinished_text_is_kept_but_not_accepted(sign_in: SignIn):
    client = sign_in("ana")
    item = first_of(client)
    assert save(client, item, cause="").json()["revision"] == 1
    refused = save(client, item, done=True, based_on=1, cause="")
    assert refused.status_code == 422
    assert "cause" in refused.json()["message"].lower()
    assert client.get(f"/api/reviews/{item['id']}").json()["entry"]["cause"] == ""


def test_two_tabs_cannot_lose_each_others_work(sign_in: SignIn):
    client = sign_in("ana")
    item = first_of(client)
    assert save(client, item, cause="said in the first tab").status_code == 200
    stale = save(client, item, cause="said in the second tab")
    assert stale.status_code == 409
    newest = stale.json()["newest"]
    assert newest["entry"]["cause"] == "said in the first tab"
    again = save(client, item, based_on=newest["revision"], cause="said in the second tab")
    assert again.json()["revision"] == 2


def test_a_save_whose_answer_was_lost_can_be_repeated(sign_in: SignIn):
    client = sign_in("ana")
    item = first_of(client)
    one, other = (save(client, item, cause="said once").json() for _ in range(2))
    assert one["revision"] == other["revision"] == 1


def test_undo_goes_back_step_by_step_to_the_draft_and_keeps_the_history(
    sign_in: SignIn, store: Store, accounts: dict[str, Account]
):
    client = sign_in("ana")
    item = first_of(client)
    for number, cause in enumerate(("first", "second")):
        save(client, item, based_on=number, cause=cause)
    undo = f"/api/reviews/{item['id']}/undo"
    one = client.post(undo, json={"based_on": 2}).json()
    assert (one["entry"]["cause"], one["can_undo"]) == ("first", True)
    two = client.post(undo, json={"based_on": 3}).json()
    assert (two["entry"]["cause"], two["can_undo"]) == (item["entry"]["cause"], False)
    refused = client.post(undo, json={"based_on": 4})
    assert refused.status_code == 400
    assert "nothing to undo" in refused.json()["message"]
    history = store.reviews.history(accounts["ana"].id, int(item["id"]))
    assert [one.entry.cause for one in history] == ["first", "second", "first", item["entry"]["cause"]]


def test_doubts_are_counted_in_the_progress(sign_in: SignIn):
    client = sign_in("ana")
    answer = save(client, first_of(client), done=True, doubts=["cause"]).json()
    assert answer["progress"] == {"done": 1, "total": 4, "doubted": 1}


def test_a_wrong_number_is_not_found(sign_in: SignIn):
    client = sign_in("ana")
    for number in ("0", "-1", "999", "9" * 20, "1.5", "x", "%00", "1%20OR%201=1", "..%2f1"):
        for address in (f"/review/{number}", f"/api/reviews/{number}", f"/api/reviews/{number}/image"):
            assert client.get(address).status_code == 404, address
        assert client.post(f"/api/reviews/{number}/undo", json={"based_on": 0}).status_code == 404


def test_another_reviewers_images_answer_as_unknown_ones(sign_in: SignIn):
    ana, ben = sign_in("ana"), sign_in("ben")
    theirs = first_of(ben)
    save(ben, theirs, cause="said by ben")
    unknown = ana.get("/api/reviews/999").json()
    for name in ("", "/image", "/reference"):
        answer = ana.get(f"/api/reviews/{theirs['id']}{name}")
        assert (answer.status_code, answer.json()) == (404, unknown)
    assert ana.get(f"/review/{theirs['id']}").status_code == 404
    assert save(ana, theirs, based_on=1, cause="said by ana").status_code == 404
    assert ana.post(f"/api/reviews/{theirs['id']}/undo", json={"based_on": 1}).status_code == 404
    assert first_of(ben)["entry"]["cause"] == "said by ben"


def test_what_a_reviewer_gets_to_read_names_no_other_reviewer(sign_in: SignIn):
    ana, ben = sign_in("ana"), sign_in("ben")
    save(ben, first_of(ben), done=True, cause="said by ben", comment="written by ben")
    number = 1
    while (answer := ana.get(f"/api/reviews/{number}")).status_code == 200:
        assert "ben" not in answer.text
        number += 1
    assert number == 5


def test_a_malformed_save_is_refused_with_a_sentence(sign_in: SignIn):
    client = sign_in("ana")
    plain = {"based_on": 0, "done": False, "entry": {}}
    entries = (
        {"account_id": 2},
        {"modality": "xray"},
        {"cause": 7},
        {"cause": "x" * 2001},
        {"cause": "\u0000"},
        {"doubts": ["everything"]},
        {"doubts": 7},
        {"degradations": [{"task": "mr-noise"}]},
        {"degradations": "mr-noise"},
    )
    wrong = ({"based_on": -1}, {"based_on": 2**40}, {"based_on": "0"}, {"based_on": None}, {"account_id": 2})
    bodies = [plain | one for one in wrong] + [plain | {"entry": one} for one in entries] + [{}, [], None, "x"]
    for body in bodies:
        answer = client.put("/api/reviews/1", json=body)
        assert answer.status_code == 422, body
        assert answer.json()["message"].endswith((".", "!"))
    assert client.put("/api/reviews/1", content=b"{not json").status_code == 422
    assert client.get("/api/reviews/1").json()["revision"] == 0


def test_a_save_that_is_too_large_is_refused_before_it_is_read(sign_in: SignIn):
    client = sign_in("ana")
    assert client.put("/api/reviews/1", content=b"x" * 70_000).status_code == 413
    chunks = (b"x" * 1000 for _ in range(70))
    assert client.put("/api/reviews/1", content=chunks).status_code == 413


def test_a_reviewer_without_images_is_told_so(sign_in: SignIn, store: Store):
    store.accounts.add("new", Role.REVIEWER, password_hash())
    assert "Nothing to review yet" in sign_in("new").get("/review").text


def test_a_full_disk_is_said_and_the_same_save_works_when_there_is_room(sign_in: SignIn, store: Store):
    client = sign_in("ana")
    item = first_of(client)

    def limit(pages: int) -> None:
        store.database.close()  # the next connections have the limit

        @event.listens_for(store.database.engine, "connect")
        def bound(connection: Any, _: Any) -> None:
            connection.execute(f"PRAGMA max_page_count = {pages}")

    limit(1)  # SQLite takes the present size then
    answers = []
    for number in range(200):
        revision = client.get(f"/api/reviews/{item['id']}").json()["revision"]
        answers.append(save(client, item, based_on=revision, comment=f"{number} " + "x" * 1900))
        if answers[-1].status_code != 200:
            break
    assert answers[-1].status_code == 503
    assert "disk is full" in answers[-1].json()["message"]
    assert client.get(f"/api/reviews/{item['id']}").json()["revision"] == revision
    assert client.get(f"/review/{item['id']}").status_code == 200
    limit(1_000_000)
    again = save(client, item, based_on=revision, comment=f"{number} " + "x" * 1900)
    assert again.json()["revision"] == revision + 1
