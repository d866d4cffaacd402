from datetime import UTC, datetime, timedelta

import pytest

from medq_uni.annotate.records import Role, StoreError, UnknownRecord
from medq_uni.annotate.store import Store

HOSTILE = [
    "'; DROP TABLE account; --",
    '" OR 1=1 --',
    "<script>alert(1)</script>",
    "Robert'); DELETE FROM revision;--",
    "%s %(name)s {name} :name \\",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_a_name_and_nothing_more(store: Store, name: str):
    store.accounts.add("ann", Role.REVIEWER, "hash")
    made = store.accounts.add(name, Role.REVIEWER, "hash of the hostile one")
    assert store.accounts.find(name) == made
    assert store.accounts.password_hash(made.id) == "hash of the hostile one"
    assert {account.name for account in store.accounts.all()} == {"ann", name}
    assert store.accounts.find("' OR '1'='1") is None


@pytest.mark.parametrize("name", ["", " ann", "ann ", "a\nb", "a\0b", "a\u202eb", "\ud800", "x" * 65])
def test_what_is_no_name_is_refused(store: Store, name: str):
    with pytest.raises(StoreError, match="visible characters"):
        store.accounts.add(name, Role.REVIEWER, "hash")
    assert store.accounts.find(name) is None


def test_names_that_look_alike_are_one(store: Store):
    store.accounts.add("Strasse", Role.REVIEWER, "hash")
    for other in ("strasse", "STRASSE", "Stra\u00dfe", "\uff33trasse"):
        with pytest.raises(StoreError, match="taken"):
            store.accounts.add(other, Role.REVIEWER, "hash")
        assert store.accounts.find(other) is not None


def test_changes_of_an_account_are_kept_with_who_made_them(store: Store):
    root = store.accounts.add("root", Role.ADMINISTRATOR, "first")
    ann = store.accounts.add("ann", Role.REVIEWER, "first", by=root.id)
    store.accounts.change(ann.id, password_hash="second", by=ann.id)
    changed = store.accounts.change(ann.id, is_disabled=True, role=Role.ADMINISTRATOR, by=root.id)
    assert (changed.role, changed.is_disabled) == (Role.ADMINISTRATOR, True)
    assert store.accounts.password_hash(ann.id) == "second"
    kinds = [(event.kind, event.account_id) for event in store.events(subject=f"account {ann.id}")]
    assert kinds == [("account-changed", root.id), ("account-changed", ann.id), ("account-added", root.id)]
    assert "second" not in str(store.events())


def test_the_last_administrator_stays(store: Store):
    root = store.accounts.add("root", Role.ADMINISTRATOR, "hash")
    for change in ({"is_disabled": True}, {"role": Role.REVIEWER}):
        with pytest.raises(StoreError, match="last administrator"):
            store.accounts.change(root.id, **change)
    other = store.accounts.add("other", Role.ADMINISTRATOR, "hash")
    assert store.accounts.change(root.id, is_disabled=True).is_disabled
    with pytest.raises(StoreError, match="last administrator"):
        store.accounts.change(other.id, is_disabled=True)


def test_sessions_end_by_time_by_hand_and_with_the_password(store: Store):
    ann = store.accounts.add("ann", Role.REVIEWER, "hash")
    later = datetime.now(UTC) + timedelta(hours=1)
    for token in ("one", "two"):
        store.accounts.open_session(ann.id, token, later)
    found = store.accounts.session("one")
    assert found is not None
    assert (found.account, found.expires_at) == (ann, later)
    assert store.accounts.session("one", later) is None
    assert store.accounts.session("three") is None
    store.accounts.close_session("one")
    assert store.accounts.session("one") is None
    store.accounts.change(ann.id, role=Role.ADMINISTRATOR)
    assert store.accounts.session("two") is not None
    store.accounts.change(ann.id, password_hash="new")
    assert store.accounts.session("two") is None


def test_a_disabled_account_has_no_session(store: Store):
    ann = store.accounts.add("ann", Role.REVIEWER, "hash")
    store.accounts.change(ann.id, is_disabled=True)
    store.accounts.open_session(ann.id, "late", datetime.now(UTC) + timedelta(hours=1))
    assert store.accounts.session("late") is None


def test_unknown_accounts_are_said_to_be_unknown(store: Store):
    for call in (store.accounts.get, store.accounts.password_hash, store.accounts.change):
        with pytest.raises(UnknownRecord, match="no such account"):
            call(99)
