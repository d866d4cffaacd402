"""Several processes compute what one computes; a run may change their number."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from medq_uni.config_json import to_json
from medq_uni.train.recipe import TrainConfig
from medq_uni.train.trainer import Trained
from tests.train.processes import in_processes, start
from tests.train.tiny import BESIDE, losses, stage, tiny_recipe, unpack_pairs

ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def assert_same_curve(folder: Path, other: Path, stages: Sequence[str] | None = None) -> None:
    """Compare the losses of two runs, or of some stages of the second with those of the first."""
    ours, theirs = losses(folder), [line for line in losses(other) if stages is None or line["stage"] in stages]
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    for one, two in zip(ours, theirs, strict=True):
        assert {k: v for k, v in one.items() if k != "stage"} == pytest.approx(
            {k: v for k, v in two.items() if k != "stage"}, rel=2e-3, abs=2e-4
        )


@pytest.fixture(scope="module")
def config() -> TrainConfig:
    joint = stage("joint", steps=4), stage("joint", name="beside", steps=3, generated=0.0, **BESIDE)
    return replace(tiny_recipe(stage("codec", steps=4), stage("restore", steps=4), *joint), log_interval=1)


@pytest.fixture(scope="module")
def alone(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory, train: Callable[..., Trained]) -> Path:
    folder = tmp_path_factory.mktemp("alone") / "run"
    train(config, folder)
    return folder


@pytest.mark.slow
def test_two_processes_have_the_losses_and_weights_of_one(
    config: TrainConfig, alone: Path, tmp_path: Path, pairs_of: Callable[[TrainConfig], Path]
):
    folder = tmp_path / "run"
    in_processes(2, config, folder, pairs_of(config))
    assert_same_curve(folder, alone)
    assert (folder / "model" / "manifest.json").is_file()
    newest = [max(run.glob("checkpoint-*")) for run in (folder, alone)]
    assert len(list(newest[0].glob("*.safetensors"))) == 2  # every process wrote its part
    parts = [load_file(file) for file in newest[0].glob("*.safetensors")]
    whole = load_file(next(newest[1].glob("*.safetensors")))
    key = "model.transformer.blocks.0.ffn.ir.up.weight"
    assert sum(part[key].shape[0] for part in parts) == whole[key].shape[0]


@pytest.mark.slow
def test_a_run_killed_with_one_process_and_with_two_ends_on_the_curve_of_one(
    config: TrainConfig,
    alone: Path,
    tmp_path: Path,
    train: Callable[..., Trained],
    pairs_of: Callable[[TrainConfig], Path],
):
    folder, stages = tmp_path / "run", config.stages[:3]
    often = replace(config, save_interval_minutes=0.0, stages=stages)
    kill_after(1, often, folder, "checkpoint-01-00000001", pairs_of(config))
    kill_after(2, often, folder, "checkpoint-02-00000002", pairs_of(config), resume=True)
    train(often, folder, resume=True)
    assert_same_curve(folder, alone, [stage.name for stage in stages])


def kill_after(
    count: int, config: TrainConfig, folder: Path, checkpoint: str, pairs: Path, *, resume: bool = False
) -> None:
    """Train until a checkpoint or a later one is there, then kill every process with signal 9."""
    processes = start(count, config, folder, pairs, resume=resume)
    began = time.monotonic()
    while max((path.name for path in folder.glob("checkpoint-0*")), default="") < checkpoint:
        assert all(process.is_alive() for process in processes), "the run ended before it was killed"
        assert time.monotonic() - began < 120
        time.sleep(0.02)
    for process in processes:
        process.kill()
    for process in processes:
        process.join()
        assert process.exitcode == -signal.SIGKILL


def test_a_batch_that_cannot_be_divided_is_refused(tmp_path: Path, pairs_of: Callable[[TrainConfig], Path]):
    odd = tiny_recipe(stage("codec", steps=1, batch_size=3))
    with pytest.raises(AssertionError, match=r"batch_size 3 cannot be divided among 2\s+processes"):
        in_processes(2, odd, tmp_path / "run", pairs_of(odd))


@pytest.mark.slow
def test_torchrun_trains_as_one_process_does(tmp_path: Path, train: Callable[..., Trained]):
    config = replace(tiny_recipe(stage("codec", steps=4), stage("restore", steps=4)), log_interval=1)
    train(config, tmp_path / "alone")
    (tmp_path / "recipe.json").write_text(to_json(config))
    unpack_pairs(config, tmp_path / "run")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "medq_uni"]
    command = [*launcher, "train", str(tmp_path / "recipe.json"), "-o", str(tmp_path / "run"), "--device", "cpu"]
    done = subprocess.run(command, env=ONE_THREAD, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same_curve(tmp_path / "run", tmp_path / "alone")
    assert (tmp_path / "run" / "model" / "manifest.json").is_file()
