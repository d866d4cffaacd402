"""Several processes compute what one computes; a run may change their number."""

import contextlib
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from medq_uni.config_json import to_json
from medq_uni.train.loop import train
from medq_uni.train.recipe import TrainConfig
from tests.train.test_loop import BESIDE, stage, step_lines, tiny_recipe

ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def command_of(count: int, config: TrainConfig, folder: Path, *options: str) -> list[str]:
    """Return how a user trains with several processes."""
    recipe = folder.parent / "recipe.json"
    recipe.write_text(to_json(config))
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"] if count > 1 else []
    return [sys.executable, *launcher, "-m", "medq_uni", "train", str(recipe), "-o", str(folder), *options]


def in_processes(count: int, config: TrainConfig, folder: Path, *options: str) -> None:
    command = command_of(count, config, folder, *options)
    done = subprocess.run(command, env=ONE_THREAD, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def losses(folder: Path) -> list[dict]:
    return [{k: v for k, v in line.items() if k not in ("seconds", "waited", "event")} for line in step_lines(folder)]


def assert_same_curve(folder: Path, other: Path) -> None:
    ours, theirs = losses(folder), losses(other)
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    for one, two in zip(ours, theirs, strict=True):
        assert {k: v for k, v in one.items() if k != "stage"} == pytest.approx(
            {k: v for k, v in two.items() if k != "stage"}, rel=2e-3, abs=2e-4
        )


@pytest.fixture(scope="module")
def config() -> TrainConfig:
    joint = stage("joint", steps=12), stage("joint", name="beside", steps=8, **BESIDE)
    return tiny_recipe(stage("codec", steps=10), stage("restore", steps=10), *joint)


@pytest.fixture(scope="module")
def alone(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone") / "run"
    train(config, folder, device="cpu")
    return folder


def test_two_processes_have_the_losses_and_weights_of_one(config: TrainConfig, alone: Path, tmp_path: Path):
    folder = tmp_path / "run"
    in_processes(2, config, folder)
    assert_same_curve(folder, alone)
    assert (folder / "model" / "manifest.json").is_file()
    newest = [max(run.glob("checkpoint-*")) for run in (folder, alone)]
    assert len(list(newest[0].glob("*.safetensors"))) == 2  # every process wrote its part
    parts = [load_file(file) for file in newest[0].glob("*.safetensors")]
    whole = load_file(next(newest[1].glob("*.safetensors")))
    key = "model.transformer.blocks.0.ffn.ir.up.weight"
    assert sum(part[key].shape[0] for part in parts) == whole[key].shape[0]


def test_a_run_killed_with_one_process_and_with_two_ends_on_the_curve_of_one(
    config: TrainConfig, alone: Path, tmp_path: Path
):
    folder = tmp_path / "run"
    often = replace(config, checkpoint_minutes=0.0)
    kill_after(1, often, folder, "checkpoint-01-00000003")
    kill_after(2, often, folder, "checkpoint-02-00000005", "--resume")
    train(often, folder, resume=True, device="cpu")
    assert_same_curve(folder, alone)


def kill_after(count: int, config: TrainConfig, folder: Path, checkpoint: str, *options: str) -> None:
    """Train until a checkpoint or a later one is there, then kill every process with signal 9."""
    command = command_of(count, config, folder, *options)
    process = subprocess.Popen(command, env=ONE_THREAD, stderr=subprocess.DEVNULL)
    began = time.monotonic()
    while max((path.name for path in folder.glob("checkpoint-0*")), default="") < checkpoint:
        assert process.poll() is None, "the run ended before it was killed"
        assert time.monotonic() - began < 120
        time.sleep(0.02)
    # torchrun gives every worker a session of its own, so no signal to the launcher's group reaches them
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()
    psutil.wait_procs(family)


def test_a_batch_that_cannot_be_divided_is_refused(config: TrainConfig, tmp_path: Path):
    odd = tiny_recipe(stage("codec", steps=1, batch_size=3))
    with pytest.raises(AssertionError, match=r"batch_size 3 cannot be divided among 2\s+processes"):
        in_processes(2, odd, tmp_path / "run")
