"""Accounts and signed-in browsers, as the store keeps them. Passwords come as hashes only."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, aliased

from medq_uni.annotate.database import Database
from medq_uni.annotate.records import Account, Role, StoreError, UnknownRecord, WebSession, name_key
from medq_uni.annotate.schema import AccountRevisionRow, AccountRow, EventRow, WebSessionRow

_TIMES_TRIED = 3


@dataclass(frozen=True)
class _Current:
    account: Account
    number: int
    password_hash: str


class Accounts:
    """The accounts of a store; every change of role, password or state is a new row."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, name: str, role: Role, password_hash: str, *, by: int | None = None) -> Account:
        """Return a new account.

        Args:
            name: 1 to 64 visible characters; no two names differ in case alone.
            role: What it may do.
            password_hash: As argon2 writes it; never the password.
            by: Account that adds it; None on the command line.

        Raises:
            StoreError: If the name is taken or is no name.
        """
        key = name_key(name)
        try:
            with self._database.writing() as session:
                row = AccountRow(name=name, name_key=key)
                session.add(row)
                session.flush()
                _revise(session, row.id, 1, role, password_hash, False, by)
                _log(session, "account-added", by, row.id, {"role": role.value})
                return Account(row.id, name, role, False)
        except IntegrityError as error:
            raise StoreError("this name is taken. Choose another one.") from error

    def change(
        self,
        account_id: int,
        *,
        role: Role | None = None,
        password_hash: str | None = None,
        is_disabled: bool | None = None,
        by: int | None = None,
    ) -> Account:
        """Return the account with what was given changed; a new password or the end of it closes its sessions.

        Raises:
            UnknownRecord: If there is no such account.
            StoreError: If no administrator who can sign in would be left.
        """
        for attempt in range(_TIMES_TRIED):
            try:
                with self._database.writing() as session:
                    return self._change(session, account_id, role, password_hash, is_disabled, by)
            except IntegrityError:  # another change took the number
                if attempt == _TIMES_TRIED - 1:
                    raise
        raise AssertionError

    def _change(
        self,
        session: Session,
        account_id: int,
        role: Role | None,
        password_hash: str | None,
        is_disabled: bool | None,
        by: int | None,
    ) -> Account:
        now = _one(session, account_id)
        new_role = role or now.account.role
        disabled = now.account.is_disabled if is_disabled is None else is_disabled
        was_in_charge = now.account.role is Role.ADMINISTRATOR and not now.account.is_disabled
        if was_in_charge and (disabled or new_role is not Role.ADMINISTRATOR):
            others = [one for one in _all(session) if one.id != account_id and not one.is_disabled]
            if not any(one.role is Role.ADMINISTRATOR for one in others):
                raise StoreError("this is the last administrator. Make another account administrator first.")
        changed = {
            "role": [now.account.role.value, new_role.value],
            "is_disabled": [now.account.is_disabled, disabled],
            "password": password_hash is not None,
        }
        _revise(session, account_id, now.number + 1, new_role, password_hash or now.password_hash, disabled, by)
        _log(session, "account-changed", by, account_id, changed)
        if disabled or password_hash is not None:
            session.execute(delete(WebSessionRow).where(WebSessionRow.account_id == account_id))
        return Account(account_id, now.account.name, new_role, disabled)

    def all(self) -> list[Account]:
        """Return every account, by name."""
        with self._database.reading() as session:
            return _all(session)

    def find(self, name: str) -> Account | None:
        """Return the account of a name, in any case; None where there is none."""
        try:
            key = name_key(name)
        except StoreError:
            return None
        with self._database.reading() as session:
            found = session.scalar(select(AccountRow.id).where(AccountRow.name_key == key))
            return None if found is None else _one(session, found).account

    def get(self, account_id: int) -> Account:
        """Return an account.

        Raises:
            UnknownRecord: If there is none.
        """
        with self._database.reading() as session:
            return _one(session, account_id).account

    def password_hash(self, account_id: int) -> str:
        """Return the hash of an account's password.

        Raises:
            UnknownRecord: If there is no such account.
        """
        with self._database.reading() as session:
            return _one(session, account_id).password_hash

    def open_session(self, account_id: int, token_hash: str, expires_at: datetime) -> None:
        """Keep a signed-in browser; those that have expired are removed.

        Args:
            account_id: Who signed in.
            token_hash: Hash of the secret that the browser holds, at most 64 characters.
            expires_at: When it ends.
        """
        with self._database.writing() as session:
            session.execute(delete(WebSessionRow).where(WebSessionRow.expires_at <= datetime.now(UTC)))
            session.add(WebSessionRow(token_hash=token_hash, account_id=account_id, expires_at=expires_at))

    def session(self, token_hash: str, now: datetime | None = None) -> WebSession | None:
        """Return the signed-in browser with this token; None if it ended or its account is disabled."""
        with self._database.reading() as session:
            row = session.get(WebSessionRow, token_hash)
            if row is None or row.expires_at <= (now or datetime.now(UTC)):
                return None
            account = _one(session, row.account_id).account
            return None if account.is_disabled else WebSession(account, row.expires_at)

    def close_session(self, token_hash: str) -> None:
        """Forget a signed-in browser."""
        with self._database.writing() as session:
            session.execute(delete(WebSessionRow).where(WebSessionRow.token_hash == token_hash))


def current_accounts(*where: ColumnElement[bool]) -> Any:
    """Return the query of accounts with their newest revisions, for those that meet the conditions."""
    newest = aliased(AccountRevisionRow)
    number = select(func.max(newest.number)).where(newest.account_id == AccountRow.id).scalar_subquery()
    joined = AccountRevisionRow.account_id == AccountRow.id, AccountRevisionRow.number == number
    query = select(AccountRow, AccountRevisionRow).join(AccountRevisionRow, joined[0] & joined[1])
    return query.where(*where)


def _all(session: Session) -> list[Account]:
    return [_account(*row) for row in session.execute(current_accounts().order_by(AccountRow.name_key))]


def _one(session: Session, account_id: int) -> _Current:
    row = session.execute(current_accounts(AccountRow.id == account_id)).first()
    if row is None:
        raise UnknownRecord("there is no such account. List them with: medq annotate user list")
    return _Current(_account(*row), row[1].number, row[1].password_hash)


def _account(row: AccountRow, revision: AccountRevisionRow) -> Account:
    return Account(row.id, row.name, Role(revision.role), revision.is_disabled)


def _revise(
    session: Session, account_id: int, number: int, role: Role, password_hash: str, is_disabled: bool, by: int | None
) -> None:
    session.add(
        AccountRevisionRow(
            account_id=account_id,
            number=number,
            role=role.value,
            password_hash=password_hash,
            is_disabled=is_disabled,
            by_id=by,
            at=datetime.now(UTC),
        )
    )
    session.flush()


def _log(session: Session, kind: str, by: int | None, account_id: int, detail: dict[str, Any]) -> None:
    at = datetime.now(UTC)
    session.add(EventRow(at=at, kind=kind, account_id=by, subject=f"account {account_id}", detail=detail))
