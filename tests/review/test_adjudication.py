from collections.abc import Callable
from dataclasses import replace

import pytest

from medq_uni.annotate.records import Account, ReviewEntry, Role
from medq_uni.annotate.store import Store
from medq_uni.description import Degradation
from medq_uni.taxonomy import Severity, Task, Verdict
from tests.review.conftest import SignIn
from tests.review.department import REVIEWERS, password_hash

KEY = "test-00000000"
ADDRESS = f"/api/adjudications/1/{KEY}"
Review = Callable[..., None]


@pytest.fixture
def review(store: Store, accounts: dict[str, Account]) -> Review:
    """Return a function that lets the three reviewers finish an image, each with another verdict or the same."""

    def finish(key: str, *, verdicts: tuple[Verdict, ...] = tuple(Verdict), count: int = 3) -> None:
        draft = store.draft(key, 1)
        assert draft is not None
        for name, verdict in list(zip(REVIEWERS, verdicts, strict=True))[:count]:
            account = accounts[name].id
            found = next(one for one in store.reviews.listing(account) if one.key == key)
            entry = ReviewEntry(
                **{**vars(ReviewEntry.of(draft.description)), "verdict": verdict, "comment": f"by {name}"}
            )
            store.reviews.save(found.id, account, based_on=found.head, entry=entry, is_done=True)

    return finish


def test_the_queue_leads_to_images_without_a_majority(sign_in: SignIn, review: Review):
    chief = sign_in("chief")
    assert "Nothing to decide" in chief.get("/adjudicate").text
    review("test-00000001", verdicts=(Verdict.GOOD,) * 3)
    assert "Nothing to decide" in chief.get("/adjudicate").text
    review(KEY)
    assert str(chief.get("/adjudicate").url).endswith(f"/adjudicate/1/{KEY}")


def test_an_image_shows_its_votes_without_names_and_what_is_contested(sign_in: SignIn, review: Review):
    review(KEY)
    item = sign_in("chief").get(ADDRESS).json()
    assert item["contested"] == ["verdict"]
    assert item["entry"]["verdict"] is None
    assert item["entry"]["modality"] is not None
    assert sorted(vote["label"] for vote in item["votes"]) == ["A", "B", "C"]
    assert {vote["entry"]["verdict"] for vote in item["votes"]} == {verdict.value for verdict in Verdict}
    assert not {"ana", "ben", "cora"} & set(str([{**vote, "entry": 0} for vote in item["votes"]]).split("'"))


def test_a_grade_without_a_majority_is_named_until_it_is_decided(
    sign_in: SignIn, store: Store, accounts: dict[str, Account]
):
    draft = store.draft(KEY, 1)
    assert draft is not None
    grades = (Severity.MILD, Severity.MODERATE, Severity.SEVERE)
    task = next(task for task in Task if task.modality is draft.description.modality)
    for name, grade in zip(REVIEWERS, grades, strict=True):
        account = accounts[name].id
        found = next(one for one in store.reviews.listing(account) if one.key == KEY)
        entry = replace(
            ReviewEntry.of(draft.description), degradations=(Degradation(task, grade),), verdict=Verdict.USABLE
        )
        store.reviews.save(found.id, account, based_on=0, entry=entry, is_done=True)
    chief = sign_in("chief")
    item = chief.get(ADDRESS).json()
    assert item["undecided"] == [task.value]
    assert item["entry"]["degradations"] == []
    assert chief.put(ADDRESS, json={"based_on": 0, "done": True, "entry": item["entry"]}).status_code == 200
    assert chief.get(ADDRESS).json()["undecided"] == []  # somebody decided for none


def test_a_decision_settles_the_image_and_a_second_one_from_an_old_page_is_stale(
    sign_in: SignIn, review: Review, store: Store
):
    review(KEY)
    chief = sign_in("chief")
    item = chief.get(ADDRESS).json()
    entry = item["entry"] | {"verdict": "usable"}
    body = {"based_on": 0, "done": True, "entry": entry}
    assert chief.put(ADDRESS, json=body).json()["next"] is None
    found = next(store.outcomes.reviewed(1, key=KEY)).result()
    assert found is not None
    assert found.verdict is Verdict.USABLE
    other = chief.put(ADDRESS, json=body | {"entry": entry | {"verdict": "good"}})
    assert other.status_code == 409
    assert other.json()["newest"]["entry"]["verdict"] == "usable"
    assert "Nothing to decide" in chief.get("/adjudicate").text


def test_an_undecided_entry_is_not_a_decision(sign_in: SignIn, review: Review, store: Store):
    review(KEY)
    chief = sign_in("chief")
    body = {"based_on": 0, "done": True, "entry": chief.get(ADDRESS).json()["entry"]}
    assert chief.put(ADDRESS, json=body).status_code == 422
    assert store.outcomes.resolution(KEY, 1) is None


def test_an_image_whose_reviews_are_missing_cannot_be_seen_or_decided(sign_in: SignIn, review: Review):
    review(KEY, count=2)
    chief = sign_in("chief")
    for address in (ADDRESS, f"{ADDRESS}/image", f"{ADDRESS}/reference", f"/adjudicate/1/{KEY}"):
        assert chief.get(address).status_code == 404
    entry = {"modality": "ct", "anatomy": "chest", "cause": "x", "impact": "y", "verdict": "good"}
    assert chief.put(ADDRESS, json={"based_on": 0, "done": True, "entry": entry}).status_code == 400


@pytest.mark.parametrize("address", ["2/test-00000000", "1/nothing", "0/x", "1/' OR 1=1 --", "x/y", "1/..%2f..%2fetc"])
def test_unknown_images_and_rounds_are_not_found(sign_in: SignIn, review: Review, address: str):
    review(KEY)
    chief = sign_in("chief")
    assert chief.get(f"/api/adjudications/{address}").status_code == 404
    assert chief.get(f"/api/adjudications/{address}/image").status_code == 404


def test_the_overview_counts_images_and_reviewers(sign_in: SignIn, review: Review):
    review(KEY)
    review("test-00000001", verdicts=(Verdict.GOOD,) * 3)
    text = " ".join(sign_in("chief").get("/progress").text.split())
    for state, count in (("open", 2), ("agreed", 1), ("disputed", 1), ("resolved", 0)):
        assert f"<b>{count}</b><span>{state}</span>" in text
    for name in REVIEWERS:
        assert f"<td>{name}</td><td>2</td><td>4</td>" in text


def test_the_overview_says_who_is_disabled(sign_in: SignIn, store: Store, accounts: dict[str, Account]):
    chief = sign_in("chief")
    assert "disabled" not in chief.get("/progress").text
    store.accounts.change(accounts["cora"].id, is_disabled=True)
    assert "cora <small>disabled</small>" in chief.get("/progress").text


def test_the_agreement_page_shows_numbers_of_the_round_and_a_plot(sign_in: SignIn, review: Review):
    chief = sign_in("chief")
    assert chief.get("/agreement").status_code == 200  # before any review
    review(KEY)
    review("test-00000001", verdicts=(Verdict.GOOD,) * 3)
    text = " ".join(chief.get("/agreement").text.split())
    assert "Round 1: 2 images with at least two reviews" in text
    # verdicts good usable reject, good good good: P = (0 + 1) / 2, P_e = (4^2 + 1 + 1) / 36 = 1 / 2
    # drawn again, the two images give 0.00, -0.50 (the first twice), or none (the second twice)
    assert "<td>verdict</td><td>2</td><td>0.00</td><td>-0.50 to 0.00</td><td>0.50</td>" in text
    assert "<td>ana, ben</td><td>2</td>" in text
    assert "data:image/png;base64,iVBOR" in text


def test_the_agreement_page_escapes_names(sign_in: SignIn, review: Review, store: Store, accounts: dict[str, Account]):
    name = "<img src=x onerror=alert(1)> $\\frac{1}"
    account = store.accounts.add(name, Role.REVIEWER, password_hash())
    store.reviews.assign(1, [(KEY, account.id)])
    review(KEY)
    draft = store.draft(KEY, 1)
    assert draft is not None
    found = store.reviews.listing(account.id)[0]
    entry = ReviewEntry.of(draft.description)
    store.reviews.save(found.id, account.id, based_on=0, entry=entry, is_done=True)
    text = sign_in("chief").get("/agreement").text
    assert "<img src=x" not in text
    assert "&lt;img src=x" in text
