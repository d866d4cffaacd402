import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from medq_uni import files
from medq_uni.errors import UnwritableImage
from medq_uni.files import (
    atomic_file,
    atomic_folder,
    check_target,
    file_digest,
    files_digest,
    set_aside,
    write_bytes,
    write_text,
)

posix = pytest.mark.skipif(os.name != "posix", reason="the system has no such links and permissions")


class Crash(BaseException):
    """What no handler of errors expects, as an interruption from the keyboard."""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the disk run full when written files are flushed."""

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", fail)


# check_target


def test_a_new_place_is_fine_and_nothing_is_made(tmp_path: Path):
    check_target(tmp_path / "a" / "b" / "out.png", sources=[tmp_path / "in.png"])
    assert names(tmp_path) == []


def test_the_source_is_never_a_target(tmp_path: Path):
    source = tmp_path / "in.png"
    source.write_bytes(b"x")
    (tmp_path / "sub").mkdir()
    for target in (source, tmp_path / "sub" / ".." / "in.png"):
        with pytest.raises(UnwritableImage, match=r"in\.png: this is the source"):
            check_target(target, sources=[source], overwrite=True)


@posix
def test_the_source_under_another_name_is_never_a_target(tmp_path: Path):
    source = tmp_path / "in.png"
    source.write_bytes(b"x")
    (tmp_path / "link.png").symlink_to(source)
    (tmp_path / "hard.png").hardlink_to(source)
    for name in ("link.png", "hard.png"):
        with pytest.raises(UnwritableImage, match=f"{name}: this is the source"):
            check_target(tmp_path / name, sources=[source], overwrite=True)


def test_the_folder_of_the_source_is_never_a_target(tmp_path: Path):
    source = tmp_path / "series" / "0001.dcm"
    source.parent.mkdir()
    source.write_bytes(b"x")
    with pytest.raises(UnwritableImage, match="series: this is the source"):
        check_target(source.parent, sources=[source], overwrite=True)


def test_a_target_that_exists_needs_leave(tmp_path: Path):
    target = tmp_path / "out.png"
    target.write_bytes(b"x")
    with pytest.raises(UnwritableImage, match=r"out\.png: exists already\. .*--overwrite"):
        check_target(target)
    check_target(target, overwrite=True)


@posix
def test_a_link_to_nothing_exists_too(tmp_path: Path):
    (tmp_path / "out.png").symlink_to(tmp_path / "absent")
    with pytest.raises(UnwritableImage, match="exists already"):
        check_target(tmp_path / "out.png")


def test_only_a_folder_of_slices_may_be_replaced(tmp_path: Path):
    folder = tmp_path / "series"
    folder.mkdir()
    check_target(folder, overwrite=True)
    for name in ("0001.dcm", "12345.dcm"):
        (folder / name).write_bytes(b"x")
    check_target(folder, overwrite=True)
    for name in ("001.dcm", "0001.dcm.bak", "notes.txt"):
        (folder / name).write_bytes(b"x")
        with pytest.raises(UnwritableImage, match="series: the folder holds other files"):
            check_target(folder, overwrite=True)
        (folder / name).unlink()


def test_a_target_below_a_file_is_refused(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(UnwritableImage, match=r"out\.png: cannot lie below file, which is a file"):
        check_target(tmp_path / "file" / "sub" / "out.png")


def test_a_target_in_a_closed_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files.os, "access", lambda path, mode: Path(path) != tmp_path)  # root may write everywhere
    with pytest.raises(UnwritableImage, match=rf"nothing may be written to the folder {tmp_path.name}"):
        check_target(tmp_path / "new" / "out.png")


# one file


def test_a_file_appears_whole_with_the_folders_above_it(tmp_path: Path):
    target = tmp_path / "a" / "b" / "out.nii.gz"
    with atomic_file(target) as temporary:
        assert temporary.parent == target.parent
        assert temporary.name.endswith(".nii.gz")  # writers choose the format by it
        assert temporary.name.startswith(".")
        temporary.write_bytes(b"whole")
        assert not target.exists()
    assert target.read_bytes() == b"whole"
    assert names(target.parent) == ["out.nii.gz"]


@pytest.mark.parametrize("error", [ValueError("bad"), Crash()])
@pytest.mark.parametrize("before", [None, b"before"])
def test_a_block_that_fails_leaves_what_was(tmp_path: Path, error: BaseException, before: bytes | None):
    target = tmp_path / "out.json"
    if before is not None:
        target.write_bytes(before)

    def fail() -> None:
        with atomic_file(target) as temporary:
            temporary.write_bytes(b"half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert names(tmp_path) == ([] if before is None else ["out.json"])
    assert before is None or target.read_bytes() == before


KILLED = """
import os, sys
from pathlib import Path
from medq_uni.files import atomic_file, atomic_folder
with {block}(Path(sys.argv[1])) as temporary:
    {write}
    os._exit(9)
"""


@pytest.mark.parametrize(
    ("block", "write"),
    [("atomic_file", 'temporary.write_bytes(b"half")'), ("atomic_folder", '(temporary / "a").write_bytes(b"half")')],
)
def test_a_process_that_is_killed_leaves_what_was(tmp_path: Path, block: str, write: str):
    target = tmp_path / "out"
    if block == "atomic_file":
        target.write_bytes(b"before")
    else:
        target.mkdir()
        (target / "a").write_bytes(b"before")
    code = KILLED.format(block=block, write=write)
    done = subprocess.run([sys.executable, "-c", code, str(target)], cwd=Path(__file__).parents[1], check=False)
    assert done.returncode == 9
    assert (target if block == "atomic_file" else target / "a").read_bytes() == b"before"
    (left,) = [path for path in tmp_path.iterdir() if path != target]
    assert left.name.startswith(".medq-")  # hidden, and never taken for a result


def test_a_full_disk_leaves_what_was(tmp_path: Path, full_disk: None):
    target = tmp_path / "out.json"
    target.write_bytes(b"before")
    with pytest.raises(OSError, match="No space left"):
        write_text(target, "after")
    assert target.read_bytes() == b"before"
    assert names(tmp_path) == ["out.json"]


def test_a_folder_in_the_place_of_a_file_stays(tmp_path: Path):
    (tmp_path / "out" / "sub").mkdir(parents=True)
    with pytest.raises(OSError):  # noqa: PT011 - the words are the system's
        write_bytes(tmp_path / "out", b"x")
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["sub"]


@posix
def test_permissions_of_a_new_file_are_those_of_the_user(tmp_path: Path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "out.txt", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "out.txt").stat().st_mode & 0o777 == 0o640


def test_text_is_utf_8_and_replaces_what_was(tmp_path: Path):
    for text in ("longer before", "\u00e4\n"):
        write_text(tmp_path / "out.txt", text)
    assert (tmp_path / "out.txt").read_bytes() == b"\xc3\xa4\n"


# several files at a time


@pytest.fixture
def results(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A file, a folder and a place where nothing is yet."""
    (tmp_path / "file").write_bytes(b"before")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "0001.dcm").write_bytes(b"before")
    return tmp_path / "file", tmp_path / "folder", tmp_path / "new"


def overwrite(places: tuple[Path, Path, Path]) -> None:
    """Write all three anew."""
    file, folder, new = places
    assert not file.exists()
    assert not folder.exists()
    file.write_bytes(b"after")
    folder.mkdir()
    (folder / "0002.dcm").write_bytes(b"after")
    new.write_bytes(b"after")


def test_what_was_set_aside_is_gone_when_all_went_well(tmp_path: Path, results: tuple[Path, Path, Path]):
    with set_aside(results):
        overwrite(results)
    assert names(tmp_path) == ["file", "folder", "new"]
    assert names(tmp_path / "folder") == ["0002.dcm"]
    assert (tmp_path / "file").read_bytes() == b"after"


@pytest.mark.parametrize("error", [OSError("full"), Crash()])
def test_what_was_set_aside_comes_back_when_something_fails(
    tmp_path: Path, results: tuple[Path, Path, Path], error: BaseException
):
    def fail() -> None:
        with set_aside(results):
            overwrite(results)
            raise error

    with pytest.raises(type(error)):
        fail()
    assert names(tmp_path) == ["file", "folder"]
    assert names(tmp_path / "folder") == ["0001.dcm"]
    assert (tmp_path / "file").read_bytes() == b"before"


def test_nothing_is_moved_if_something_cannot_be(
    tmp_path: Path, results: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
):
    replace = os.replace

    def stuck(source: Path, target: Path) -> None:
        if Path(source).name == "folder":
            raise PermissionError(13, "Permission denied", str(source))
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", stuck)
    with pytest.raises(PermissionError), set_aside(results):
        pytest.fail("nothing may be written")
    assert names(tmp_path) == ["file", "folder"]
    assert (tmp_path / "file").read_bytes() == b"before"
    assert names(tmp_path / "folder") == ["0001.dcm"]


# a folder


def test_a_folder_appears_whole_and_replaces_the_one_before(tmp_path: Path):
    target = tmp_path / "a" / "model"
    for name in ("first", "second"):
        with atomic_folder(target) as temporary:
            assert temporary.parent == target.parent
            (temporary / name).write_bytes(b"x")
            assert names(target.parent) == sorted([temporary.name, *(["model"] if name == "second" else [])])
    assert names(target) == ["second"]
    assert names(target.parent) == ["model"]


@pytest.mark.parametrize("error", [ValueError("bad"), Crash()])
def test_a_folder_that_fails_leaves_the_one_before(tmp_path: Path, error: BaseException):
    target = tmp_path / "model"
    target.mkdir()
    (target / "before").write_bytes(b"x")

    def fail() -> None:
        with atomic_folder(target) as temporary:
            (temporary / "half").write_bytes(b"x")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert names(tmp_path) == ["model"]
    assert names(target) == ["before"]


def test_a_folder_that_cannot_take_its_place_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    target = tmp_path / "model"
    target.mkdir()
    (target / "before").write_bytes(b"x")
    replace, calls = os.replace, []

    def stuck(source: Path, place: Path) -> None:
        calls.append(place)
        if len(calls) == 2:  # the old one is aside, the new one not yet there
            raise PermissionError(13, "Permission denied")
        replace(source, place)

    monkeypatch.setattr(files.os, "replace", stuck)
    with pytest.raises(PermissionError), atomic_folder(target) as temporary:
        (temporary / "after").write_bytes(b"x")
    assert names(tmp_path) == ["model"]
    assert names(target) == ["before"]


def test_a_folder_in_the_place_of_a_file_leaves_nothing_beside_it(tmp_path: Path):
    target = tmp_path / "model"
    target.write_bytes(b"a file")
    with atomic_folder(target) as temporary:
        (temporary / "after").write_bytes(b"x")
    assert names(tmp_path) == ["model"]
    assert names(target) == ["after"]


# hashes


def test_hashes_are_those_of_the_bytes_in_any_order(tmp_path: Path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"1")
    other.write_bytes(b"2" * 100_000)
    assert file_digest(one) == hashlib.sha256(b"1").hexdigest()
    assert file_digest(other) == hashlib.sha256(b"2" * 100_000).hexdigest()
    assert files_digest([one, other]) == files_digest([other, one])
    both = "".join(sorted([file_digest(one), file_digest(other)]))
    assert files_digest([one, other]) == hashlib.sha256(both.encode()).hexdigest()
    other.write_bytes(b"3")
    assert files_digest([one, other]) != hashlib.sha256(both.encode()).hexdigest()
    with pytest.raises(FileNotFoundError):
        files_digest([one, tmp_path / "absent"])
