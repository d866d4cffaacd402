"""Passwords, sign-in and sign-out: argon2 hashes, throttled attempts, sessions by a secret cookie."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from medq_uni.annotate.records import MAX_NAME_CHARS, Account
from medq_uni.annotate.store import Store
from medq_uni.errors import MedQError

PASSWORD_CHARS = (10, 256)
"""Fewest and most characters of a password."""
SESSION_HOURS = 12
FREE_ATTEMPTS = 5
"""Wrong passwords for one name from one address before each further one has to wait."""
FREE_ATTEMPTS_PER_ADDRESS = 30
"""Wrong passwords from one address before its further attempts are looked at one after another."""
MOST_WAITING = 24
"""Attempts of strangers that wait for their password to be looked at: a room full of reviewers.

Each holds one of the 40 threads of the server.
"""
DEVICE_DAYS = 180
LONGEST_WAIT_S = 300.0
_FORGET_AFTER_S = 3600.0
_MOST_TRACKED = 10_000
_HASHES_AT_ONCE = 2

_hashing = threading.BoundedSemaphore(_HASHES_AT_ONCE)  # each hash holds 64 MiB


class SignInRefused(MedQError):  # noqa: N818 - what happened, in the words of the screen
    """A sign-in that was not accepted; the message can be shown.

    Attributes:
        wait_s: Seconds until the next attempt is looked at; 0 where it may follow at once.
    """

    def __init__(self, message: str, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


@dataclass(frozen=True)
class SignedIn:
    """The account behind a request, and the secret of its browser."""

    account: Account
    token: str

    @property
    def csrf(self) -> str:
        """What a page must send along with every change; a foreign site cannot know it."""
        return hmac.new(self.token.encode(), b"csrf", hashlib.sha256).hexdigest()

    def is_own(self, csrf: str) -> bool:
        """Return whether a change comes from a page of this session."""
        return hmac.compare_digest(csrf.encode(), self.csrf.encode())


def hash_password(password: str) -> str:
    """Return the argon2id hash of a password.

    Raises:
        MedQError: If it is too short or too long.
    """
    least, most = PASSWORD_CHARS
    if not least <= len(password) <= most:
        raise MedQError(f"a password needs {least} to {most} characters, got {len(password)}. Choose another one.")
    with _hashing:
        return PasswordHasher().hash(password)


def check_password(password_hash: str, password: str) -> bool:
    """Return whether a password is the one that was hashed."""
    with _hashing:
        try:
            return PasswordHasher().verify(password_hash, password)
        except (VerificationError, InvalidHashError):
            return False


class Throttle:
    """Counts failures by key and says how long the next attempt has to wait.

    After ``free`` failures the wait doubles from one second up to :data:`LONGEST_WAIT_S`.
    """

    def __init__(self, free: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._free = free
        self._clock = clock
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._lock = threading.Lock()

    def wait_s(self, key: str) -> float:
        """Return the seconds until the next attempt is looked at; 0 where it is looked at now."""
        with self._lock:
            return self._wait_s(key)

    def reserve(self, key: str) -> float:
        """Count an attempt as a failure before it is looked at, and return 0; or the seconds that it has to wait.

        Both are one step, so that attempts at the same moment cannot all pass.
        """
        with self._lock:
            wait = self._wait_s(key)
            if wait == 0:
                self._count(key)
            return wait

    def fail(self, key: str) -> None:
        """Count a failure."""
        with self._lock:
            self._count(key)

    def is_spent(self, key: str) -> bool:
        """Return whether a key has used up its free failures."""
        with self._lock:
            count, last = self._failures.get(key, (0, 0.0))
            return count >= self._free and self._clock() - last <= _FORGET_AFTER_S

    def succeed(self, key: str) -> None:
        """Forget the failures of a key."""
        with self._lock:
            self._failures.pop(key, None)

    def _wait_s(self, key: str) -> float:
        count, last = self._failures.get(key, (0, 0.0))
        if count < self._free:
            return 0.0
        pause = min(2.0 ** min(count - self._free, 60), LONGEST_WAIT_S)
        return max(last + pause - self._clock(), 0.0)

    def _count(self, key: str) -> None:
        now = self._clock()
        count, last = self._failures.pop(key, (0, now))
        self._failures[key] = (1 if now - last > _FORGET_AFTER_S else count + 1, now)
        while len(self._failures) > _MOST_TRACKED:
            self._failures.popitem(last=False)


class Entrance:
    """Signs browsers in and out of a store.

    Guesses at one name from one address have to wait longer and longer. Nobody is refused for what others at the same
    address do with other names, since everybody behind a proxy has one address; many failures from there only put
    its attempts in a row. A browser that has signed in before is known by a secret, and has attempts of its own, so
    that guesses at its user's name do not keep it out.
    """

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._names = Throttle(FREE_ATTEMPTS, clock)
        self._addresses = Throttle(FREE_ATTEMPTS_PER_ADDRESS, clock)
        self._waiting = threading.BoundedSemaphore(MOST_WAITING)
        self._row = threading.Lock()

    def sign_in(self, name: str, password: str, address: str, device: str | None = None) -> SignedIn:
        """Return a new session.

        An unknown name, a wrong password and a disabled account get the same answer after the same work.

        Args:
            name: Of the account, in any case.
            password: As typed.
            address: Where the request comes from.
            device: Secret that :meth:`device_of` gave to this browser, None where it has none.

        Raises:
            SignInRefused: If they do not fit, or there were too many attempts.
        """
        account = self._store.accounts.find(name)
        kept = _hash_of_nothing() if account is None else self._store.accounts.password_hash(account.id)
        is_known = account is not None and _is_device(device, account, kept)
        name_key = f"{name[:MAX_NAME_CHARS].casefold()}\n{address}"
        key = f"device\n{device}" if is_known else name_key
        with self._place(is_known, address):
            wait = self._names.reserve(key)
            if wait > 0:
                raise SignInRefused(f"Too many attempts. Try again in {int(wait) + 1} s.", wait)
            is_right = check_password(kept, password[: PASSWORD_CHARS[1]])
        if account is None or account.is_disabled or not is_right:
            self._addresses.fail(address)
            self._store.log("sign-in-refused", account_id=None if account is None else account.id)
            raise SignInRefused("Name and password do not fit.")
        self._names.succeed(key)
        token = secrets.token_urlsafe(32)
        self._store.accounts.open_session(
            account.id, _digest(token), datetime.now(UTC) + timedelta(hours=SESSION_HOURS)
        )
        self._store.log("sign-in", account_id=account.id)
        return SignedIn(account, token)

    def device_of(self, account: Account, device: str | None = None) -> str:
        """Return the secret by which a browser is known that signed in: its own if it has one, else a new one.

        It ends with the password.
        """
        kept = self._store.accounts.password_hash(account.id)
        if device is not None and _is_device(device, account, kept):
            return device
        nonce = secrets.token_urlsafe(16)
        return f"{nonce}.{_device_proof(nonce, account, kept)}"

    @contextmanager
    def _place(self, is_known: bool, address: str) -> Iterator[None]:
        """Hold a place among those whose password is looked at; known browsers need none.

        Raises:
            SignInRefused: If too many strangers wait.
        """
        if is_known:
            yield
            return
        if not self._waiting.acquire(blocking=False):
            raise SignInRefused("Many are signing in just now. Try again in 2 s.", 1.0)
        try:
            with self._row if self._addresses.is_spent(address) else nullcontext():
                yield
        finally:
            self._waiting.release()

    def look_up(self, token: str | None) -> SignedIn | None:
        """Return the session of a browser's secret; None where it has ended or never was."""
        session = self._store.accounts.session(_digest(token)) if token else None
        return None if session is None or token is None else SignedIn(session.account, token)

    def sign_out(self, signed_in: SignedIn) -> None:
        """End a session."""
        self._store.accounts.close_session(_digest(signed_in.token))
        self._store.log("sign-out", account_id=signed_in.account.id)


def _is_device(device: str | None, account: Account, kept: str) -> bool:
    nonce, _, proof = (device or "").partition(".")
    return bool(nonce) and hmac.compare_digest(proof.encode(), _device_proof(nonce, account, kept).encode())


def _device_proof(nonce: str, account: Account, kept: str) -> str:
    secret = hashlib.sha256(f"device {kept}".encode()).digest()
    return hmac.new(secret, f"{account.id} {nonce}".encode(), hashlib.sha256).hexdigest()


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


@cache
def _hash_of_nothing() -> str:
    return hash_password(secrets.token_urlsafe(32))
