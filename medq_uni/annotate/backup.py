"""Backup and restore: a checked copy of a SQLite store, or an archive that every database takes.

An archive has one JSON object per line: a header, the rows of every table, and the sha256 of all lines before the last.
Signed-in browsers are left out. Both kinds hold hashes of passwords: only their owner may read them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Table, func, insert, select, text
from sqlalchemy.orm import Session

from medq_uni.annotate.database import Database
from medq_uni.annotate.records import StoreError
from medq_uni.annotate.schema import Base, UtcTime, WebSessionRow
from medq_uni.annotate.store import Store
from medq_uni.files import atomic_file
from medq_uni.json_text import parse_json

FORMAT = "medq-annotation-archive-1"
ARCHIVE_SUFFIX = ".jsonl"
_SQLITE_MAGIC = b"SQLite format 3\0"
_TABLES = [table for table in Base.metadata.sorted_tables if table is not WebSessionRow.__table__]
_BATCH = 500


def back_up(store: Store, path: Path) -> dict[str, int]:
    """Write a backup of one state of a store, while it is in use, and return the number of rows by table.

    Args:
        store: What to save.
        path: File that is not there yet; ``.jsonl`` for an archive, which a PostgreSQL store needs, else a SQLite file.

    Raises:
        StoreError: If the file is there, the disk is full, or what was written does not pass the checks.
    """
    if path.exists():
        raise StoreError(f"{path.name}: exists already. Choose another name.")
    is_archive = path.suffix == ARCHIVE_SUFFIX
    if not is_archive and not store.database.is_sqlite:
        raise StoreError(f"{path.name}: a PostgreSQL store is saved as an archive. Choose a name that ends in .jsonl.")
    with store.database.plain_errors(path.name), atomic_file(path) as temporary:
        temporary.chmod(0o600)
        if is_archive:
            _write_archive(store.database, temporary)
            return dict(Counter(table for table, _ in _archived_rows(temporary)))
        _copy_sqlite(store.database, temporary)
        with _opened_copy(temporary) as copy:
            return _check(copy)


def restore(path: Path, store: Store) -> dict[str, int]:
    """Fill an empty store from a backup, all or nothing, and return the number of rows by table.

    Raises:
        StoreError: If the store is not empty, or the backup is damaged, incomplete, or of another version.
    """
    if not path.is_file():
        raise StoreError(f"{path.name}: no such file. Check the path.")
    with path.open("rb") as file:
        is_sqlite = file.read(len(_SQLITE_MAGIC)) == _SQLITE_MAGIC
    if not is_sqlite:
        for _ in _archived_rows(path):  # the whole archive is checked before anything is written
            pass
        return _fill(store, _archived_rows(path))
    with _opened_copy(path) as copy:
        _check(copy)
        return _fill(store, _rows(copy.database))


def _copy_sqlite(database: Database, path: Path) -> None:
    with database.engine.connect() as connection, closing(sqlite3.connect(path)) as target:
        driver: Any = connection.connection.driver_connection
        driver.backup(target)
        target.execute("PRAGMA journal_mode = DELETE")  # one file, without the journal beside it


@contextmanager
def _opened_copy(path: Path) -> Iterator[Store]:
    """Yield a store over a copy of a SQLite file, so that the file itself is only read."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy.sqlite"
        shutil.copyfile(path, copy)
        with Store.open(copy, create=False) as store:
            yield store


def _check(store: Store) -> dict[str, int]:
    """Return the number of rows by table of a copy that is whole.

    Raises:
        StoreError: If it is not.
    """
    with store.database.reading() as session:
        found = [str(row[0]) for row in session.execute(text("PRAGMA integrity_check"))]
        orphans = session.execute(text("PRAGMA foreign_key_check")).all()
    if found != ["ok"] or orphans or store.outcomes.check():
        raise StoreError("the copy is damaged. Check the disk, and keep the older backups.")
    return _counts(store)


def _counts(store: Store) -> dict[str, int]:
    with store.database.reading() as session:
        counts = {table.name: session.scalar(select(func.count()).select_from(table)) or 0 for table in _TABLES}
    return {name: count for name, count in counts.items() if count}


def _rows(database: Database) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every row of one state of a database, tables before those that refer to them."""
    with database.reading() as session:
        if not database.is_sqlite:
            session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        for table in _TABLES:
            query = select(table).order_by(*table.primary_key.columns).execution_options(yield_per=_BATCH)
            for row in session.execute(query):
                yield table.name, dict(row._mapping)


def _write_archive(database: Database, path: Path) -> None:
    digest, count = hashlib.sha256(), 0
    with path.open("wb") as file:

        def write(values: dict[str, Any]) -> None:
            line = (json.dumps(values, sort_keys=True) + "\n").encode()
            digest.update(line)
            file.write(line)

        write({"format": FORMAT, "version": database.version})
        for table, row in _rows(database):
            plain = {key: value.isoformat() if isinstance(value, datetime) else value for key, value in row.items()}
            write({"table": table, "row": plain})
            count += 1
        file.write((json.dumps({"rows": count, "sha256": digest.hexdigest()}) + "\n").encode())


def _archived_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every row of an archive.

    Raises:
        StoreError: At the end at the latest, if it is damaged, incomplete, or of another version.
    """
    damaged = StoreError(f"{path.name}: damaged or incomplete. Use another backup.")
    newest = Database.newest_version()
    times = {table.name: [one.name for one in table.columns if isinstance(one.type, UtcTime)] for table in _TABLES}
    digest, count, is_ended = hashlib.sha256(), 0, False
    try:
        with path.open("rb") as file:
            head = file.readline()
            header = parse_json(head)
            if not isinstance(header, dict) or header.get("format") != FORMAT:
                raise StoreError(f"{path.name}: no backup of an annotation store. Check the path.")
            if header["version"] != newest:
                raise StoreError(
                    f"{path.name}: is of version {header['version']}, this software reads {newest}. "
                    "Restore it with the software that wrote it, then update."
                )
            digest.update(head)
            for line in file:
                values = parse_json(line)
                if is_ended:
                    raise damaged
                if "sha256" in values:
                    is_ended = values == {"rows": count, "sha256": digest.hexdigest()}
                    continue
                digest.update(line)
                count += 1
                row = values["row"]
                for name in times[values["table"]]:
                    row[name] = datetime.fromisoformat(row[name])
                yield values["table"], row
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, StoreError):
            raise
        raise damaged from error
    if not is_ended:
        raise damaged


def _fill(store: Store, rows: Iterator[tuple[str, dict[str, Any]]]) -> dict[str, int]:
    tables = {table.name: table for table in _TABLES}
    counts: Counter[str] = Counter()
    with store.database.writing() as session:
        for table in _TABLES:
            if session.execute(select(table).limit(1)).first() is not None:
                raise StoreError(f"{store.database.name}: is not empty. Restore into a new file or database.")
        batch: list[dict[str, Any]] = []
        last = ""
        for name, row in rows:
            if batch and (name != last or len(batch) == _BATCH):
                session.execute(insert(tables[last]), batch)
                batch = []
            last = name
            batch.append(row)
            counts[name] += 1
        if batch:
            session.execute(insert(tables[last]), batch)
        if not store.database.is_sqlite:
            _set_sequences(session)
    if dict(counts) != _counts(store) or store.outcomes.check():
        raise StoreError(f"{store.database.name}: does not hold what the backup does. Restore into another one.")
    store.log("restored", detail={"rows": sum(counts.values())})
    return dict(counts)


def _set_sequences(session: Session) -> None:
    """Let the numbers of new rows begin behind those that were restored."""
    for table in _TABLES:
        if "id" in table.columns and _has_sequence(session, table):
            session.execute(
                text(
                    f"SELECT setval(pg_get_serial_sequence('{table.name}', 'id'), "
                    f"(SELECT coalesce(max(id), 0) + 1 FROM {table.name}), false)"
                )
            )


def _has_sequence(session: Session, table: Table) -> bool:
    return session.scalar(text(f"SELECT pg_get_serial_sequence('{table.name}', 'id')")) is not None
