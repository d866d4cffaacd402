from datetime import UTC, datetime, timedelta

import pytest

from medq_uni.annotate.records import Account, StoreError
from medq_uni.annotate.store import Store
from medq_uni.review.sign_in import (
    FREE_ATTEMPTS,
    FREE_ATTEMPTS_PER_ADDRESS,
    LONGEST_WAIT_S,
    Entrance,
    SignInRefused,
    Throttle,
    check_password,
    hash_password,
)
from tests.review.department import PASSWORD


class Clock:
    """Time that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def entrance(store: Store, accounts: dict[str, Account], clock: Clock) -> Entrance:
    return Entrance(store, clock)


def test_a_password_is_kept_as_an_argon2id_hash():
    kept = hash_password(PASSWORD)
    assert kept.startswith("$argon2id$")
    assert PASSWORD not in kept
    assert check_password(kept, PASSWORD)
    assert not check_password(kept, PASSWORD + " ")
    assert not check_password("no hash", PASSWORD)
    assert hash_password(PASSWORD) != kept


@pytest.mark.parametrize("password", ["", "short", "x" * 9, "x" * 257])
def test_a_password_of_bad_length_is_refused_without_showing_it(password: str):
    with pytest.raises(ValueError, match="10 to 256 characters") as caught:
        hash_password(password)
    assert not password or password not in str(caught.value)


def test_a_session_lasts_until_it_is_signed_out(entrance: Entrance):
    session = entrance.sign_in("Ana", PASSWORD, "here")
    assert session.account.name == "ana"
    assert entrance.look_up(session.token) == session
    entrance.sign_out(session)
    assert entrance.look_up(session.token) is None


@pytest.mark.parametrize("token", [None, "", "guessed", "x" * 100_000, "' OR 1=1 --"])
def test_a_guessed_token_is_no_session(entrance: Entrance, token: str | None):
    entrance.sign_in("ana", PASSWORD, "here")
    assert entrance.look_up(token) is None


def test_a_session_ends_by_itself(store: Store, entrance: Entrance, accounts: dict[str, Account]):
    from medq_uni.review.sign_in import _digest

    store.accounts.open_session(accounts["ana"].id, _digest("old"), datetime.now(UTC) - timedelta(seconds=1))
    assert entrance.look_up("old") is None


def test_a_new_password_and_the_end_of_an_account_close_its_sessions(
    store: Store, entrance: Entrance, accounts: dict[str, Account]
):
    one = entrance.sign_in("ana", PASSWORD, "here")
    store.accounts.change(accounts["ana"].id, password_hash=hash_password("another password"))
    assert entrance.look_up(one.token) is None
    two = entrance.sign_in("ana", "another password", "here")
    store.accounts.change(accounts["ana"].id, is_disabled=True)
    assert entrance.look_up(two.token) is None
    with pytest.raises(SignInRefused, match="do not fit"):
        entrance.sign_in("ana", "another password", "here")


def test_the_token_itself_is_not_in_the_store(store: Store, entrance: Entrance):
    token = entrance.sign_in("ana", PASSWORD, "here").token
    assert store.database.path is not None
    for path in store.database.path.parent.iterdir():
        assert token.encode() not in path.read_bytes()


@pytest.mark.parametrize("name", ["nobody", "", "ana' --", "' OR '1'='1", "ana\x00", "\U0001f600" * 300, "ana "])
def test_unknown_and_hostile_names_get_the_answer_of_a_wrong_password(entrance: Entrance, name: str):
    with pytest.raises(SignInRefused) as wrong:
        entrance.sign_in("ana", "wrong password", "elsewhere")
    with pytest.raises(SignInRefused) as unknown:
        entrance.sign_in(name, PASSWORD, "here")
    assert str(unknown.value) == str(wrong.value)


def test_attempts_on_a_name_have_to_wait_longer_and_longer(entrance: Entrance, clock: Clock):
    waits = []
    for _ in range(FREE_ATTEMPTS + 3):
        with pytest.raises(SignInRefused, match="do not fit"):
            entrance.sign_in("ana", "wrong password", "here")
        with pytest.raises(SignInRefused) as caught:
            entrance.sign_in("ana", "wrong password", "here") if len(waits) >= FREE_ATTEMPTS - 1 else fail()
        waits.append(caught.value.wait_s)
        clock.now += caught.value.wait_s
    assert waits[FREE_ATTEMPTS - 1 :] == [1.0, 2.0, 4.0, 8.0]


def fail() -> None:
    raise SignInRefused("", 0.0)


def test_the_right_password_has_to_wait_too_and_is_free_from_another_address(entrance: Entrance, clock: Clock):
    for _ in range(FREE_ATTEMPTS):
        with pytest.raises(SignInRefused):
            entrance.sign_in("ana", "wrong password", "attacker")
    with pytest.raises(SignInRefused, match=r"Try again in \d+ s"):
        entrance.sign_in("ana", PASSWORD, "attacker")
    assert entrance.sign_in("ana", PASSWORD, "clinic").account.name == "ana"


def test_a_throttle_bounds_its_wait_forgets_and_tells_addresses_apart(clock: Clock):
    throttle = Throttle(FREE_ATTEMPTS_PER_ADDRESS, clock)
    for _ in range(FREE_ATTEMPTS_PER_ADDRESS + 50):
        throttle.fail("here")
    assert throttle.wait_s("here") == LONGEST_WAIT_S
    assert throttle.wait_s("there") == 0
    clock.now += 3601
    throttle.fail("here")
    assert throttle.wait_s("here") == 0


def test_sign_ins_are_in_the_log_without_names_of_strangers(store: Store, entrance: Entrance):
    with pytest.raises(SignInRefused):
        entrance.sign_in("a password typed as a name", "x", "here")
    entrance.sign_out(entrance.sign_in("ana", PASSWORD, "here"))
    events = store.events()
    assert {event.kind for event in events} >= {"sign-in", "sign-out", "sign-in-refused"}
    assert "typed as a name" not in str(events)


def test_the_last_administrator_cannot_be_disabled(store: Store, accounts: dict[str, Account]):
    with pytest.raises(StoreError, match="last administrator"):
        store.accounts.change(accounts["chief"].id, is_disabled=True)
