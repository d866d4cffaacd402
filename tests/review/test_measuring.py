import threading
from collections.abc import Callable

import pytest

from medq_uni.annotate.agreement import Agreement, measure_agreement
from medq_uni.annotate.records import Account, ReviewEntry, StoreError
from medq_uni.annotate.store import Store
from medq_uni.review import measuring
from medq_uni.review.measuring import Measurement
from tests.review.conftest import SignIn
from tests.review.department import REVIEWERS

LONG_S = 60.0


@pytest.fixture
def finish(store: Store, accounts: dict[str, Account]) -> Callable[..., None]:
    """Return a function that lets a reviewer finish the next image with the draft as it is."""

    def accept(name: str, round: int = 1) -> None:
        found = store.reviews.next_open(accounts[name].id)
        assert found is not None
        draft = store.draft(found.key, round)
        assert draft is not None
        entry = ReviewEntry.of(draft.description)
        store.reviews.save(found.id, accounts[name].id, based_on=0, entry=entry, is_done=True)

    return accept


def test_a_long_count_does_not_keep_the_page_waiting(
    sign_in: SignIn, finish: Callable[..., None], monkeypatch: pytest.MonkeyPatch
):
    for _ in range(4):
        for name in REVIEWERS:
            finish(name)
    may_end = threading.Event()

    def count_slowly(*arguments) -> Agreement:
        may_end.wait(LONG_S)
        return measure_agreement(*arguments)

    monkeypatch.setattr(measuring, "measure_agreement", count_slowly)
    monkeypatch.setattr(measuring, "WAIT_S", 0.01)
    chief = sign_in("chief")
    first = chief.get("/agreement")
    assert first.status_code == 200
    assert "are being counted" in first.text
    assert int(first.headers["Refresh"]) > 0
    may_end.set()
    monkeypatch.setattr(measuring, "WAIT_S", LONG_S)
    second = chief.get("/agreement")
    assert "Round 1: 4 images with at least two reviews" in second.text
    assert "Refresh" not in second.headers


def test_an_old_count_is_shown_as_such_while_a_new_one_is_made(
    store: Store, finish: Callable[..., None], monkeypatch: pytest.MonkeyPatch
):
    measurement = Measurement(store)
    finish("ana")
    old, is_current = measurement.read(LONG_S)
    assert old is not None
    assert is_current
    finish("ben")
    may_end = threading.Event()

    def count_slowly(*arguments) -> Agreement:
        may_end.wait(LONG_S)
        return measure_agreement(*arguments)

    monkeypatch.setattr(measuring, "measure_agreement", count_slowly)
    assert measurement.read(0.0) == (old, False)
    may_end.set()
    new, is_current = measurement.read(LONG_S)
    assert is_current
    assert new is not old


def test_only_a_round_that_changed_is_counted_again(
    store: Store, accounts: dict[str, Account], finish: Callable[..., None], monkeypatch: pytest.MonkeyPatch
):
    key = store.images()[0].key
    draft = store.draft(key, 1)
    assert draft is not None
    store.add_draft(key, 2, "record", draft.description)
    store.reviews.assign(2, [(key, accounts[name].id) for name in REVIEWERS])
    counted: list[int] = []

    def count(round: int, *arguments) -> Agreement:
        counted.append(round)
        return measure_agreement(round, *arguments)

    monkeypatch.setattr(measuring, "measure_agreement", count)
    measurement = Measurement(store)
    assert measurement.read(LONG_S)[1]
    assert measurement.read(LONG_S)[1]
    assert counted == [1, 2]
    finish("ana")
    measured, is_current = measurement.read(LONG_S)
    assert is_current
    assert measured is not None
    assert [one.round for one in measured.agreements] == [1, 2]
    assert counted == [1, 2, 1]


def test_a_count_that_fails_says_so_and_can_be_made_again(store: Store, monkeypatch: pytest.MonkeyPatch):
    def fail(*_) -> None:
        raise StoreError("the disk is full.")

    measurement = Measurement(store)
    with monkeypatch.context() as patched:
        patched.setattr(measuring, "plot_rounds", fail)
        patched.setattr(store.outcomes, "rounds", lambda: [1])
        with pytest.raises(StoreError, match="disk is full"):
            measurement.read(LONG_S)
    assert measurement.read(LONG_S)[1]


def test_a_long_count_rests_before_the_next(store: Store, finish: Callable[..., None], monkeypatch: pytest.MonkeyPatch):
    measurement = Measurement(store)
    finish("ana")
    monkeypatch.setattr(measuring, "LONG_S", 0.0)
    monkeypatch.setattr(measuring, "RESTS", 10**9)
    old, is_current = measurement.read(LONG_S)
    assert is_current
    finish("ben")
    assert measurement.read(LONG_S) == (old, False)
    assert Measurement(store).read(LONG_S)[1]
