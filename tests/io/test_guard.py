"""What a file may cost is enforced by the system, and whoever costs more is named."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from medq_uni.errors import ImageWarning, MedQError, UnreadableImage
from medq_uni.io import guard, wire
from medq_uni.io.guard import guarded
from medq_uni.io.limits import Allowance
from medq_uni.io.read_write import read_image
from medq_uni.io.spool import Spool, shared_file
from tests.io.guarded_functions import (
    crashing,
    doubled,
    endless,
    evil,
    faulty,
    folder,
    granted,
    greedy,
    killed,
    loaded,
    own_limits,
    process,
    refusing,
    second_is_endless,
    sleeping,
)

MIB = 2**20


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "scan.dcm"
    path.write_bytes(b"x")
    return path


def test_what_takes_too_long_is_stopped_and_named(path, monkeypatch):
    monkeypatch.setenv("MEDQ_READ_SECONDS", "1")
    for function in (endless, sleeping):
        began = time.monotonic()
        with pytest.raises(UnreadableImage, match=r"^scan.dcm: .*longer than the 1 s .*MEDQ_READ_SECONDS"):
            guarded([path], function, path)
        assert time.monotonic() - began < 30


def test_the_file_that_takes_too_long_is_the_one_that_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDQ_READ_SECONDS", "3")
    paths = [tmp_path / "first.dcm", tmp_path / "second.dcm"]
    with pytest.raises(UnreadableImage, match=r"^second.dcm: "):
        guarded(paths, second_is_endless, paths)


def test_what_takes_too_much_memory_is_refused_and_named(path):
    with pytest.raises(UnreadableImage, match=r"^scan.dcm: .*more than the 1000 MiB .*MEDQ_READ_MEMORY_MB"):
        guarded([path], greedy, path)


def test_memory_is_granted_for_an_image_that_is_as_large_as_it_says(path):
    assert guarded([path], granted, path) == 1500 * MIB


def test_a_limit_is_raised_by_the_environment(path, monkeypatch):
    monkeypatch.setenv("MEDQ_READ_MEMORY_MB", "700")
    assert guarded([path], own_limits, path)[0] < 1400 * MIB
    monkeypatch.setenv("MEDQ_READ_MEMORY_MB", "5000")
    assert guarded([path], own_limits, path)[0] > 5000 * MIB


@pytest.mark.parametrize("variable", ["MEDQ_READ_SECONDS", "MEDQ_READ_MEMORY_MB", "MEDQ_MAX_IMAGE_GB"])
@pytest.mark.parametrize("value", ["much", "-1", "0", "inf", "nan"])
def test_a_limit_that_is_no_number_is_refused(path, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(MedQError, match=f"{variable} must be a positive number"):
        guarded([path], process, path)


@pytest.mark.parametrize(("function", "why"), [(crashing, "crashed on it .SIGSEGV"), (killed, "no memory left")])
def test_a_decoder_that_dies_is_a_file_that_cannot_be_read(path, function, why):
    with pytest.raises(UnreadableImage, match=f"^scan.dcm: .*{why}"):
        guarded([path], function, path)
    assert guarded([path], process, path) != os.getpid()


def test_a_fault_of_ours_is_no_fault_of_the_file_and_shows_no_values(path):
    with pytest.raises(RuntimeError, match="KeyError at") as error:
        guarded([path], faulty, path)
    assert "ZZCANARY" not in str(error.value)


def test_refusals_and_warnings_come_through(path):
    with pytest.warns(ImageWarning, match="noted"), pytest.raises(UnreadableImage, match=r"scan.dcm: no\.") as error:
        guarded([path], refusing, path)
    assert error.value.__cause__ is None


def test_voxels_come_through_shared_memory_and_belong_to_the_reader(path):
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    found = guarded([path], doubled, path, values).array()
    np.testing.assert_array_equal(found, values * 2)
    found[0] = -1  # as any other array
    assert (found[0] == -1).all()
    np.testing.assert_array_equal(found[1], values[1] * 2)


def test_a_worker_is_used_again_and_replaced_when_it_is_gone(path):
    first = guarded([path], process, path)
    assert guarded([path], process, path) == first
    os.kill(first, signal.SIGKILL)
    os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
    assert guarded([path], process, path) != first


def test_a_worker_loads_little(path):
    guard._pool.close()
    assert guarded([path], loaded, path) == []


def test_threads_read_at_the_same_time(path):
    found = []
    threads = [threading.Thread(target=lambda: found.append(guarded([path], process, path))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert os.getpid() not in found


def test_a_forked_process_has_workers_of_its_own(path):
    ours = guarded([path], process, path)
    receiving, sending = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of forking beside threads
        child = os.fork()
    if child == 0:
        try:
            os.write(sending, str(guarded([path], process, path)).encode())
        finally:
            guard._pool.close()
            os._exit(0)
    os.waitpid(child, 0)
    theirs = int(os.read(receiving, 20))
    os.close(receiving)
    os.close(sending)
    assert theirs != ours
    assert guarded([path], process, path) == ours


def test_the_switch_reads_in_the_process_itself(path, monkeypatch):
    monkeypatch.setenv("MEDQ_GUARD", "off")
    assert guarded([path], process, path) == os.getpid()


def test_an_answer_cannot_run_code(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(pickle.UnpicklingError, match="no part of an image"):
        guarded([path], evil, path)
    assert not (tmp_path / "harm").exists()
    for value in (os.system, eval, subprocess.Popen, open, getattr, guard._Worker, read_image):
        with pytest.raises(pickle.UnpicklingError):
            wire.unpacked(pickle.dumps(value), [])


def test_shared_memory_of_another_size_is_refused():
    with pytest.raises(UnreadableImage, match="size"):
        Spool.received(shared_file(10), (2, 3), "<f4")


def test_a_library_may_read_beside_torch(tmp_path, phantom, stored_ct):
    files = phantom.series(tmp_path, stored_ct)
    torch.zeros(64, 64) @ torch.zeros(64, 64)  # its threads are there
    image = read_image(tmp_path)
    assert image.shape[0] == len(files)
    assert torch.from_numpy(image.voxels).sum() == pytest.approx(float(image.voxels.sum()))


def test_a_script_without_a_main_guard_reads(tmp_path, phantom, stored_ct):
    phantom.series(tmp_path / "ct", stored_ct)
    script = tmp_path / "script.py"
    script.write_text("from medq_uni import read_image\nprint(read_image('ct').shape)\n")
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(stored_ct.shape)


def test_the_allowance_of_a_file_grows_with_its_size():
    assert Allowance().seconds_for(0) <= 20
    assert Allowance().seconds_for(200 * MIB) > 100


def test_a_relative_path_means_the_folder_where_the_reader_is(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        assert guarded([], folder, Path("scan.dcm")) == str(tmp_path / name)
