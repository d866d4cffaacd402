import threading
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import pytest

from medq_uni.annotate.records import Account, StoreError
from medq_uni.annotate.store import Store
from medq_uni.review import sign_in as sign_in_module
from medq_uni.review.sign_in import (
    FREE_ATTEMPTS,
    FREE_ATTEMPTS_PER_ADDRESS,
    LONGEST_WAIT_S,
    MOST_WAITING,
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


def test_of_many_guesses_at_once_only_the_free_ones_are_looked_at(entrance: Entrance, monkeypatch: pytest.MonkeyPatch):
    looked, said, barrier = [], [], threading.Barrier(30)

    def slow(kept: str, password: str) -> bool:
        looked.append(password)
        time.sleep(0.05)
        return False

    def guess(number: int) -> None:
        barrier.wait()
        try:
            entrance.sign_in("ana", f"wrong password {number}", "here")
        except SignInRefused as error:
            said.append(error.wait_s)

    monkeypatch.setattr(sign_in_module, "check_password", slow)
    running = [threading.Thread(target=guess, args=(number,)) for number in range(30)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert len(looked) == FREE_ATTEMPTS
    assert sum(wait == 0 for wait in said) == FREE_ATTEMPTS
    assert len(said) == 30


def test_others_behind_the_same_proxy_lock_nobody_out(
    entrance: Entrance, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sign_in_module, "check_password", lambda kept, password: password == PASSWORD)
    for number in range(FREE_ATTEMPTS_PER_ADDRESS + 10):
        with pytest.raises(SignInRefused):
            entrance.sign_in(f"n{number}", "wrong password", "proxy")
    for _ in range(60):
        with pytest.raises(SignInRefused):
            entrance.sign_in(f"q{clock.now}", "wrong password", "proxy")
        assert entrance.sign_in("ana", PASSWORD, "proxy").account.name == "ana"
        clock.now += 5


def test_a_known_browser_is_not_kept_out_by_guesses_at_its_name(
    store: Store, entrance: Entrance, accounts: dict[str, Account], clock: Clock
):
    account = entrance.sign_in("ana", PASSWORD, "proxy").account
    device = entrance.device_of(account)
    assert entrance.device_of(account, device) == device
    for _ in range(FREE_ATTEMPTS):
        with pytest.raises(SignInRefused):
            entrance.sign_in("ana", "wrong password", "proxy")
    strange = [None, "", "x.y", device[:-1] + "x", entrance.device_of(accounts["ben"])]
    for other in strange:
        with pytest.raises(SignInRefused, match="Try again"):
            entrance.sign_in("ana", PASSWORD, "proxy", other)
    assert entrance.sign_in("ana", PASSWORD, "proxy", device).account == account
    for _ in range(FREE_ATTEMPTS):  # nor may whoever has the browser guess without end
        with pytest.raises(SignInRefused, match="do not fit"):
            entrance.sign_in("ana", "wrong password", "proxy", device)
    with pytest.raises(SignInRefused, match="Try again"):
        entrance.sign_in("ana", PASSWORD, "proxy", device)
    clock.now += LONGEST_WAIT_S
    store.accounts.change(account.id, password_hash=hash_password("another password"))
    with pytest.raises(SignInRefused, match="do not fit"):
        entrance.sign_in("ana", PASSWORD, "proxy", device)
    assert entrance.device_of(account, device) != device


def test_too_many_that_wait_are_asked_to_come_again_and_known_browsers_are_not(
    entrance: Entrance, accounts: dict[str, Account]
):
    device = entrance.device_of(accounts["ana"])
    with ExitStack() as stack:
        for number in range(MOST_WAITING):
            stack.enter_context(entrance._place(False, f"address {number}"))
        with pytest.raises(SignInRefused, match="Many are signing in"):
            entrance.sign_in("ana", PASSWORD, "here")
        assert entrance.sign_in("ana", PASSWORD, "here", device).account.name == "ana"
    assert entrance.sign_in("ana", PASSWORD, "here").account.name == "ana"
