"""Connection to the database: transactions, migrations, and errors in plain words."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from medq_uni.annotate.records import StoreError

BUSY_TIMEOUT_MS = 15_000
"""How long a write waits for another one in SQLite."""
_WRITES = "medq_writes"
_MIGRATION_LOCK = 0x6D656471
_NO_STORE = "no annotation store here. Begin one with: medq annotate draft"
_POOL = {"pool_size": 20, "max_overflow": 20, "pool_timeout": 30}
"""Most connections, and how many seconds a thread waits for one; a web server has forty threads."""
_REASONS = (
    (
        ("disk is full", "disk i/o error", "no space left", "could not extend", "diskfull"),
        "the disk is full, or the file may not grow. Nothing that was saved before is lost and this change was not "
        "saved. Free space, then save it again.",
    ),
    (("database is locked", "database table is locked"), "another program writes for too long. Try again."),
    (
        ("readonly", "read-only", "permission denied"),
        "may not be written to. Check the permissions of file and folder.",
    ),
    (
        ("not a database", "malformed", "file is encrypted"),
        "damaged, or no annotation store. Restore a backup into a new one: medq annotate restore",
    ),
    (("unable to open",), "cannot be opened. Check that the folder exists and may be written to."),
    (
        ("connection", "could not translate host", "password authentication", "server closed", "does not exist"),
        "the database server does not let us in. Check that it runs, and the host, port, name and password.",
    ),
)


class Database:
    """An open database.

    SQLite runs in WAL mode with synchronous=FULL: what a transaction has committed survives kill -9 and power loss.

    Attributes:
        engine: Of SQLAlchemy.
        name: What messages call it; without a password.
        version: Of its tables.
    """

    def __init__(self, url: str | Path, *, create: bool = True) -> None:
        """Connect, and bring the tables to the newest version.

        Args:
            url: Path of a SQLite file, or a URL: ``sqlite:///FILE``, ``postgresql://USER@HOST/NAME``.
            create: Whether a store that is not there is made.

        Raises:
            StoreError: If it cannot be opened, is no annotation store, or was made by newer software.
        """
        parsed = _parse(url)
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        self.path = Path(parsed.database or "") if self.is_sqlite else None
        self.name = self.path.name if self.path is not None else parsed.render_as_string(hide_password=True)
        if self.path is not None and not create and not self.path.is_file():
            raise StoreError(f"{self.name}: {_NO_STORE}")
        if self.path is not None:
            _claim(self.path, self.name)
        self.engine = _engine(parsed, self.is_sqlite)
        self._writing = self.engine.execution_options(**{_WRITES: True})
        try:
            with self.plain_errors():
                self._migrate(create)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Yield a session that sees one state of the database.

        Raises:
            StoreError: If the database cannot be read.
        """
        with self.plain_errors(), Session(self.engine) as session, session.begin():
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """Yield a session whose changes are kept all together when the block ends, or not at all.

        Raises:
            StoreError: If they cannot be kept, for example because the disk is full.
        """
        with self.plain_errors(), Session(self._writing) as session, session.begin():
            yield session

    @contextmanager
    def plain_errors(self, name: str | None = None) -> Iterator[None]:
        """Turn errors of the database that a user can cause into :class:`StoreError`.

        Args:
            name: What the message calls the file, where it is another one than this database.

        Raises:
            StoreError: With what to do.
        """
        try:
            yield
        except PoolTimeout as error:
            raise StoreError(f"{name or self.name}: too many at once. Try again.") from error
        except (DBAPIError, sqlite3.Error) as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            said = f"{type(cause).__name__} {cause}".lower()
            for signs, reason in _REASONS:
                if any(sign in said for sign in signs):
                    raise StoreError(f"{name or self.name}: {reason}") from error
            raise

    @staticmethod
    def newest_version() -> str:
        """Return the version of the tables that this software works with."""
        newest = ScriptDirectory.from_config(_migrations()).get_current_head()
        assert newest is not None
        return newest

    def _migrate(self, create: bool) -> None:
        config = _migrations()
        script = ScriptDirectory.from_config(config)
        self.version = self.newest_version()
        with self.engine.connect() as connection:
            found = self._version(connection, script)
        if found == self.version:
            return
        if found is None and not create:
            raise StoreError(f"{self.name}: {_NO_STORE}")
        with self._writing.begin() as connection:
            if not self.is_sqlite:  # two servers that start together must not migrate together
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
            if self._version(connection, script) != self.version:
                config.attributes["connection"] = connection
                command.upgrade(config, "head")

    def _version(self, connection: Connection, script: ScriptDirectory) -> str | None:
        tables = inspect(connection).get_table_names()  # before the version: another program may just commit both
        found = MigrationContext.configure(connection).get_current_revision()
        if found is None and tables:
            raise StoreError(f"{self.name}: holds tables of something else. Choose an empty database or another file.")
        if found is not None and found not in {one.revision for one in script.walk_revisions()}:
            raise StoreError(f"{self.name}: was made by a newer version of this software. Update medq-uni.")
        return found


def _migrations() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    return config


def _parse(url: str | Path) -> URL:
    if isinstance(url, Path) or "://" not in url:
        return URL.create("sqlite", database=str(Path(url).absolute()))
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise StoreError("the store's URL cannot be read. Use sqlite:///FILE or postgresql://HOST/NAME.") from error
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise StoreError(f"a store is SQLite or PostgreSQL, got {parsed.drivername!r}. Use sqlite:///FILE or a path.")
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise StoreError("a store in memory would be lost. Use sqlite:///FILE or a path.")
    return parsed


def _engine(url: URL, is_sqlite: bool) -> Engine:
    if not is_sqlite:
        try:
            return create_engine(url, pool_pre_ping=True, **_POOL)
        except (ImportError, NoSuchModuleError) as error:
            raise StoreError('PostgreSQL needs psycopg. Install it: pip install "medq-uni[postgres]"') from error
    engine = create_engine(url, **_POOL)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _claim(path: Path, name: str) -> None:
    """Make the file if it is not there, for its owner alone: it will hold hashes of passwords."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise StoreError(f"{name}: cannot be opened ({error.strerror}). Check that the folder exists.") from error


def _prepare_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # the driver would begin transactions late, and commit before DDL
    cursor = connection.cursor()
    try:
        cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA foreign_keys = ON")
    finally:
        cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
