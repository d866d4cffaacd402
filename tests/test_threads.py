import os
import subprocess
import sys
from pathlib import Path

import pytest

from medq_uni import threads


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree of control groups in which this process is in ``outer/inner``, on a machine with eight cores."""
    (tmp_path / "own").write_text("1:cpu:/old\n0::/outer/inner\n")
    (tmp_path / "groups" / "outer" / "inner").mkdir(parents=True)
    monkeypatch.setattr(threads, "CGROUPS", tmp_path / "groups")
    monkeypatch.setattr(threads, "OWN_GROUP", tmp_path / "own")
    monkeypatch.setattr(threads, "_bound", lambda: 8)
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return tmp_path / "groups"


@pytest.mark.parametrize(
    ("outer", "inner", "cores"),
    [
        ("max 100000", "max 100000", 8),
        ("200000 100000", "max 100000", 2),
        ("400000 100000", "150000 100000", 2),
        ("max 100000", "50000 100000", 1),
        ("max 100000", "1600000 100000", 8),
        ("broken", "300000 100000", 3),
    ],
)
def test_a_quota_of_any_group_above_counts(groups: Path, outer: str, inner: str, cores: int):
    (groups / "outer" / "cpu.max").write_text(outer)
    (groups / "outer" / "inner" / "cpu.max").write_text(inner)
    assert threads.usable_cores() == cores
    threads.set_thread_defaults()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    assert os.environ.get("OMP_NUM_THREADS") == (None if cores == 8 else str(cores))


def test_what_is_set_already_stays(groups: Path, monkeypatch: pytest.MonkeyPatch):
    (groups / "cpu.max").write_text("100000 100000")
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    threads.set_thread_defaults()
    assert (os.environ["OMP_NUM_THREADS"], os.environ["OMP_WAIT_POLICY"]) == ("5", "ACTIVE")


def test_without_control_groups_the_cores_of_the_process_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(threads, "OWN_GROUP", tmp_path / "none")
    assert 1 <= threads.usable_cores() <= (os.cpu_count() or 1)


def test_the_command_line_sets_them_before_torch_is_loaded():
    code = (
        "import os, sys; del os.environ['OMP_WAIT_POLICY']; sys.argv = ['medq', '--version']\n"
        "from medq_uni.cli.main import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "sys.exit('torch' in sys.modules or os.environ['OMP_WAIT_POLICY'] != 'PASSIVE')"
    )
    environment = os.environ | {"OMP_WAIT_POLICY": "ACTIVE"}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
