"""The promise of SECURITY.md: what a hostile file costs, in memory of both processes and in time."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from medq_uni.errors import UnreadableImage
from medq_uni.io import guard
from medq_uni.io.read_write import read_image
from tests.io.hostile_files import FILES, MIB

PROMISED_BYTES, PROMISED_S = 1500 * MIB, 20.0


def peak(process: int | str) -> int:
    """Return the most memory that a process has held since it was last asked to forget, in bytes."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


def forget(process: int | str) -> None:
    Path(f"/proc/{process}/clear_refs").write_text("5")


@pytest.mark.parametrize("name", FILES)
def test_a_hostile_file_costs_little_and_is_named(tmp_path, name):
    make, refusal = FILES[name]
    path = tmp_path / name
    path.write_bytes(make())
    worker = guard._pool.take()
    guard._pool.give_back(worker)
    forget("self")
    before = peak("self")
    forget(worker._process.pid)
    began = time.perf_counter()
    if refusal:
        with pytest.raises(UnreadableImage, match=refusal) as error:
            read_image(path)
        assert str(error.value).startswith(name)
        assert "ZZCANARY" not in str(error.value)
    else:
        assert read_image(path).voxels.size == 8 * 8 * (8 if ".nii" in name else 1)
    assert time.perf_counter() - began < PROMISED_S
    ours = peak("self") - before
    theirs = peak(worker._process.pid) if worker.is_alive() else 0  # a dead one was held by its limit
    assert ours + theirs < PROMISED_BYTES


def test_folder_of_hostile_files_is_searched_to_its_end(tmp_path):
    from medq_uni.io.discover import find_images

    for name in ("items.dcm", "wide-nest.dcm", "never-closed.dcm"):
        (tmp_path / name).write_bytes(FILES[name][0]())
    found = find_images(tmp_path)
    assert not found
    assert sorted(path.name for path, _ in found.broken) == ["items.dcm", "never-closed.dcm", "wide-nest.dcm"]
