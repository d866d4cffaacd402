import json
import resource
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from medq_uni.annotate.backup import back_up, restore
from medq_uni.annotate.records import Exchange, ImageRecord, ReviewEntry, Role, StoreError
from medq_uni.annotate.store import Store
from medq_uni.taxonomy import Modality


@pytest.fixture
def full(project: SimpleNamespace, noise, graded) -> SimpleNamespace:
    """A store with something in every table."""
    store = project.store
    store.add_draft("image-0", 1, "nano", noise)
    store.add_exchange(
        Exchange("image-0", "h", "m", {"messages": ["\u4e2d\n"]}, "answer", "", True, 1, None, 0.25, datetime.now(UTC))
    )
    project.review("image-0", noise, noise, noise)
    project.review("image-1", graded("mild"), graded("moderate"), graded("severe"), doubts=("cause",))
    store.outcomes.resolve(
        "image-1", 1, project.administrator, based_on=0, entry=ReviewEntry.of(noise, comment="'; --")
    )
    store.accounts.change(project.reviewers[0], password_hash="second", by=project.administrator)
    store.accounts.open_session(project.administrator, "token", datetime.now(UTC) + timedelta(hours=1))
    return project


@pytest.fixture
def other_url(store_url: str, tmp_path: Path, request: pytest.FixtureRequest):
    """Another empty store of the same kind."""
    if "://" not in store_url:
        yield str(tmp_path / "other.sqlite")
        return
    import psycopg

    name = store_url.rpartition("/")[2] + "_other"
    with psycopg.connect(store_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    yield store_url + "_other"
    with psycopg.connect(store_url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name}")


def contents(store: Store, scratch: Path) -> list[dict[str, object]]:
    """Return all rows of a store but the event of its restoration."""
    path = scratch / f"contents-{len(list(scratch.iterdir()))}.jsonl"
    back_up(store, path)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[1:-1]]
    return [row for row in rows if row["row"].get("kind") != "restored"]


def test_a_restored_archive_holds_the_same_and_work_goes_on(
    full: SimpleNamespace, tmp_path: Path, other_url: str, noise
):
    archive = tmp_path / "backup.jsonl"
    counts = back_up(full.store, archive)
    assert counts["revision"] == 6
    assert set(counts) == {row["table"] for row in contents(full.store, tmp_path)}
    with Store.open(other_url) as other:
        assert restore(archive, other) == counts
        assert contents(other, tmp_path) == contents(full.store, tmp_path)
        assert other.accounts.session("token") is None
        assert other.accounts.password_hash(full.reviewers[0]) == "second"
        ann = full.reviewers[0]
        history = other.reviews.history(ann, other.reviews.of_image(ann, "image-1", 1).id)
        assert history == full.store.reviews.history(ann, full.store.reviews.of_image(ann, "image-1", 1).id)
        other.add_images([ImageRecord("new", Modality.CT, False)])
        other.add_draft("new", 1, "nano", noise)
        other.accounts.add("dora", Role.REVIEWER, "hash")
        given = other.reviews.of_image(ann, "image-1", 1)
        assert other.reviews.save(given.id, ann, based_on=1, entry=ReviewEntry(), is_done=False).number == 2


def test_an_archive_moves_a_store_to_the_other_kind_of_database(full: SimpleNamespace, tmp_path: Path):
    archive = tmp_path / "backup.jsonl"
    back_up(full.store, archive)
    with Store.open(tmp_path / "moved.sqlite") as other:
        restore(archive, other)
        assert contents(other, tmp_path) == contents(full.store, tmp_path)


def test_a_restore_needs_an_empty_store(full: SimpleNamespace, tmp_path: Path):
    archive = tmp_path / "backup.jsonl"
    back_up(full.store, archive)
    before = contents(full.store, tmp_path)
    with pytest.raises(StoreError, match="is not empty"):
        restore(archive, full.store)
    assert contents(full.store, tmp_path) == before


def test_a_backup_replaces_nothing(full: SimpleNamespace, tmp_path: Path):
    for name in ("backup.jsonl", "backup.sqlite"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(StoreError, match="exists already"):
            back_up(full.store, tmp_path / name)
        assert (tmp_path / name).read_text() == "mine"


def damaged(archive: Path) -> list[bytes]:
    lines = archive.read_bytes().splitlines(keepends=True)
    swapped = [line.replace(b'"ann"', b'"eve"') for line in lines]
    header = json.loads(lines[0])
    return [
        b"".join(lines[:-1]),
        b"".join(lines[:-3]),
        b"".join(lines)[:-20],
        b"".join(lines[:5] + lines[6:]),
        b"".join(swapped),
        b"".join(lines) + lines[-2],
        b"".join(lines[1:]),
        json.dumps(header | {"version": "9999"}).encode() + b"\n" + b"".join(lines[1:]),
        b"",
        b"[]\n",
        b"no backup",
        lines[0] + b'{"table": "pg_user", "row": {}}\n' + b"".join(lines[1:]),
    ]


def test_a_damaged_archive_is_refused_and_nothing_is_written(full: SimpleNamespace, tmp_path: Path, other_url: str):
    archive = tmp_path / "backup.jsonl"
    back_up(full.store, archive)
    cases = damaged(archive)
    with Store.open(other_url) as other:
        for number, content in enumerate(cases):
            bad = tmp_path / f"bad-{number}.jsonl"
            bad.write_bytes(content)
            with pytest.raises(StoreError, match="bad-"):
                restore(bad, other)
            assert other.images() == []
            assert other.accounts.all() == []
        with pytest.raises(StoreError, match="no such file"):
            restore(tmp_path / "missing.jsonl", other)


def test_a_backup_of_a_store_in_use_is_one_moment_of_it(full: SimpleNamespace, tmp_path: Path):
    stop = threading.Event()
    ann = full.reviewers[0]
    given = full.store.reviews.of_image(ann, "image-1", 1)

    def write() -> None:
        number = 1
        while not stop.is_set():
            entry = ReviewEntry(cause=f"text {number}")
            number = full.store.reviews.save(given.id, ann, based_on=number, entry=entry, is_done=False).number

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for number in range(5):
            back_up(full.store, tmp_path / f"{number}.jsonl")
    finally:
        stop.set()
        thread.join()
    for number in range(5):
        with Store.open(tmp_path / f"{number}.sqlite") as other:
            restore(tmp_path / f"{number}.jsonl", other)  # which checks that heads and history agree
            assert len(other.reviews.history(ann, given.id)) == other.reviews.get(ann, given.id).head


@pytest.fixture
def local(tmp_path: Path):
    """A SQLite store with some rows."""
    with Store.open(tmp_path / "local.sqlite") as store:
        store.add_images(ImageRecord(f"image-{number}", Modality.CT, True) for number in range(3000))
        yield store


def test_a_copy_of_a_sqlite_store_is_one_file_that_opens_and_restores(local: Store, tmp_path: Path):
    copy = tmp_path / "copy.sqlite"
    assert back_up(local, copy) == {"image": 3000}
    assert sorted(path.name for path in tmp_path.glob("copy*")) == ["copy.sqlite"]
    assert copy.stat().st_mode & 0o777 == 0o600
    with Store.open(tmp_path / "restored.sqlite") as other:
        assert restore(copy, other) == {"image": 3000}
        assert other.images() == local.images()


def test_a_damaged_copy_is_refused(local: Store, tmp_path: Path):
    copy = tmp_path / "copy.sqlite"
    back_up(local, copy)
    content = bytearray(copy.read_bytes())
    content[4096 * 5 : 4096 * 7] = b"\xff" * 8192
    copy.write_bytes(content)
    with Store.open(tmp_path / "restored.sqlite") as other:
        with pytest.raises(StoreError, match="damaged"):
            restore(copy, other)
        assert other.images() == []


@pytest.mark.parametrize("name", ["copy.sqlite", "copy.jsonl"])
def test_a_backup_that_does_not_fit_on_the_disk_leaves_nothing(local: Store, tmp_path: Path, name: str):
    code = (
        "import resource, sys\nfrom pathlib import Path\n"
        "from medq_uni.annotate.backup import back_up\nfrom medq_uni.annotate.store import Store\n"
        "with Store.open(sys.argv[1]) as store:\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "    back_up(store, Path(sys.argv[2]))\n"
    )
    target = tmp_path / "backups" / name
    target.parent.mkdir()
    run = subprocess.run(
        [sys.executable, "-c", code, str(local.database.path), str(target)], capture_output=True, text=True, check=False
    )
    assert run.returncode != 0
    assert "the disk is full" in run.stderr or "File too large" in run.stderr
    assert list(target.parent.iterdir()) == []
    assert len(local.images()) == 3000
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 50_000


@pytest.mark.services
def test_a_postgresql_store_is_saved_as_an_archive_alone(postgres_url: str, tmp_path: Path):
    with Store.open(postgres_url) as store, pytest.raises(StoreError, match=r"ends in \.jsonl"):
        back_up(store, tmp_path / "copy.sqlite")
