import contextlib
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from medq_uni.annotate.database import Database
from medq_uni.annotate.records import Exchange, ImageRecord, ReviewEntry, Role, StoreError
from medq_uni.annotate.schema import APPEND_ONLY, Base
from medq_uni.annotate.store import Store
from medq_uni.taxonomy import Modality

SAVER = """
import sys
from medq_uni.annotate.records import ReviewEntry, ImageRecord, Role
from medq_uni.annotate.store import Store
with Store.open(sys.argv[1]) as store:
    account = store.accounts.find("ann").id
    given = store.reviews.listing(account)[0]
    number = given.head
    while True:
        saved = store.reviews.save(
            given.id, account, based_on=number, entry=ReviewEntry(cause=f"text {number + 1}" * 40), is_done=False
        )
        number = saved.number
        print(number, flush=True)
"""


def test_the_migrations_make_the_tables_that_the_code_expects(store: Store):
    with store.database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_a_store_opens_again_with_what_it_held(project: SimpleNamespace, store_url: str):
    project.store.close()
    with Store.open(store_url, create=False) as again:
        assert [image.key for image in again.images()] == [f"image-{number}" for number in range(5)]


@pytest.mark.parametrize("table", APPEND_ONLY)
@pytest.mark.parametrize("change", ["UPDATE {} SET id = id + 1000", "DELETE FROM {}"])
def test_history_can_neither_be_changed_nor_removed(project: SimpleNamespace, noise, table: str, change: str):
    project.store.add_draft("image-0", 1, "record", noise)
    project.review("image-0", noise, noise, noise)
    project.store.outcomes.resolve("image-0", 1, project.administrator, based_on=0, entry=ReviewEntry.of(noise))
    project.store.add_exchange(
        Exchange("image-0", "hash", "model", {}, "", "", False, None, None, 0.1, datetime.now(UTC))
    )
    with pytest.raises(DBAPIError, match="append-only"), project.store.database.engine.begin() as connection:
        connection.execute(text(change.format(table)))


def test_four_programs_that_open_a_new_store_at_once_all_succeed(store_url: str):
    code = "import sys; from medq_uni.annotate.store import Store; Store.open(sys.argv[1]).close()"
    running = [subprocess.Popen([sys.executable, "-c", code, store_url], stderr=subprocess.PIPE) for _ in range(4)]
    for process in running:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()


@pytest.mark.parametrize("is_before", [True, False])
def test_a_store_that_another_program_makes_while_we_look_is_opened(store_url: str, monkeypatch, is_before: bool):
    look = MigrationContext.get_current_revision

    def look_beside_another(context: MigrationContext) -> str | None:
        monkeypatch.setattr(MigrationContext, "get_current_revision", look)
        found = None if is_before else look(context)
        Store.open(store_url).close()
        return look(context) if is_before else found

    monkeypatch.setattr(MigrationContext, "get_current_revision", look_beside_another)
    Store.open(store_url).close()
    Store.open(store_url, create=False).close()


def test_a_write_that_fails_leaves_nothing_behind(project: SimpleNamespace):
    database = project.store.database
    with contextlib.suppress(RuntimeError), database.writing() as session:
        session.execute(text("INSERT INTO image (key, modality, has_reference) VALUES ('half', 'ct', true)"))
        raise RuntimeError("in mid-save")
    assert "half" not in [image.key for image in project.store.images()]


def test_writers_wait_for_each_other(project: SimpleNamespace):
    errors: list[BaseException] = []

    def write(number: int) -> None:
        try:
            for count in range(10):
                project.store.log("knock", subject=f"{number}/{count}")
        except BaseException as error:  # noqa: BLE001 - shown by the main thread
            errors.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(project.store.events(kind="knock")) == 80


def test_every_save_that_was_confirmed_survives_kill_9(project: SimpleNamespace, store_url: str):
    project.store.reviews.assign(1, [("image-0", project.reviewers[0])])
    project.store.close()
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", SAVER, store_url], stdout=subprocess.PIPE)
        assert process.stdout is not None
        confirmed = [int(process.stdout.readline()) for _ in range(30)]
        process.send_signal(signal.SIGKILL)
        confirmed += [int(line) for line in process.stdout.read().split(b"\n") if line]
        process.stdout.close()
        assert process.wait() == -signal.SIGKILL
        with Store.open(store_url) as store:
            history = store.reviews.history(project.reviewers[0], store.reviews.listing(project.reviewers[0])[0].id)
            assert [one.number for one in history] == list(range(1, len(history) + 1))
            assert confirmed[-1] <= len(history) <= confirmed[-1] + 1  # the last may have been kept unsaid
            assert all(one.entry.cause == f"text {one.number}" * 40 for one in history)
            assert store.outcomes.check() == []


FILLER = """
import resource, sys
from medq_uni.annotate.records import ReviewEntry, Exchange, ImageRecord, Role, StoreError
from medq_uni.annotate.store import Store
with Store.open(sys.argv[1]) as store:
    account = store.accounts.find("ann").id
    given = store.reviews.listing(account)[0]
    limit = int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    number = given.head
    try:
        while number < 100000:
            entry = ReviewEntry(cause=f"{number + 1} " + "x" * 1900)
            number = store.reviews.save(given.id, account, based_on=number, entry=entry, is_done=False).number
    except StoreError as error:
        print(f"{number}|{error}")
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    after = store.reviews.save(given.id, account, based_on=number, entry=ReviewEntry(cause="after"), is_done=False)
    print(after.number)
"""


def test_a_full_disk_loses_nothing_says_so_and_work_goes_on_when_there_is_space(tmp_path: Path, local: SimpleNamespace):
    path = local.store.database.path
    local.store.reviews.assign(1, [("image-0", local.reviewers[0])])
    local.store.close()
    limit = str(path.stat().st_size + 400_000)
    run = subprocess.run(
        [sys.executable, "-c", FILLER, str(path), limit], capture_output=True, text=True, check=False, timeout=120
    )
    assert run.returncode == 0, run.stderr
    said, after = run.stdout.splitlines()
    saved, _, message = said.partition("|")
    assert int(saved) > 10
    assert "the disk is full" in message
    assert "Free space" in message
    assert int(after) == int(saved) + 1
    with Store.open(path) as store:
        history = store.reviews.history(local.reviewers[0], store.reviews.listing(local.reviewers[0])[0].id)
        assert len(history) == int(after)
        assert all(one.entry.cause.startswith(f"{one.number} ") for one in history[:-1])
        assert store.outcomes.check() == []
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.fixture
def local(tmp_path: Path) -> Iterator[SimpleNamespace]:
    """A SQLite store with an image and a reviewer."""
    store = Store.open(tmp_path / "local.sqlite")
    store.add_images([ImageRecord("image-0", Modality.CT, False)])
    yield SimpleNamespace(store=store, reviewers=[store.accounts.add("ann", Role.REVIEWER, "hash").id])
    store.close()


def test_a_sqlite_store_is_safe_by_its_settings_and_for_its_owner_alone(tmp_path: Path):
    with Store.open(tmp_path / "store.sqlite") as store, store.database.engine.connect() as connection:
        values = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")]
        assert values == ["wal", 2]  # 2 is FULL
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
        assert stat.S_IMODE((tmp_path / "store.sqlite").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://host/name", "SQLite or PostgreSQL"),
        ("sqlite://", "in memory"),
        ("://", "cannot be read"),
        ("postgresql://medq:SECRET@127.0.0.1:1/none", "does not let us in"),
    ],
)
def test_a_url_that_leads_nowhere_is_refused_without_its_password(url: str, message: str):
    with pytest.raises(StoreError, match=message) as caught:
        Store.open(url)
    assert "SECRET" not in str(caught.value)


def test_files_that_are_no_store_are_refused_and_stay_as_they_are(tmp_path: Path):
    noise = tmp_path / "noise.sqlite"
    noise.write_bytes(b"no database at all " * 100)
    with pytest.raises(StoreError, match="no annotation store"):
        Store.open(noise)
    assert noise.read_bytes() == b"no database at all " * 100
    other = tmp_path / "other.sqlite"
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE theirs (id INTEGER)")
        connection.commit()
    with pytest.raises(StoreError, match="something else"):
        Store.open(other)
    with pytest.raises(StoreError, match="no annotation store here"):
        Store.open(tmp_path / "missing.sqlite", create=False)
    assert not (tmp_path / "missing.sqlite").exists()
    with pytest.raises(StoreError, match="folder exists"):
        Store.open(tmp_path / "nowhere" / "store.sqlite")


def test_a_database_without_a_store_is_left_empty_unless_one_is_begun(store_url: str):
    if "://" not in store_url:
        Path(store_url).touch()
    with pytest.raises(StoreError, match="no annotation store here"):
        Store.open(store_url, create=False)
    Store.open(store_url).close()
    Store.open(store_url, create=False).close()


def test_a_store_of_newer_software_is_refused(tmp_path: Path):
    path = tmp_path / "store.sqlite"
    Database(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    with pytest.raises(StoreError, match="newer version"):
        Store.open(path)
