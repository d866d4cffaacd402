import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from medq_uni.train.checkpoint import (
    KEPT,
    MANIFEST,
    PARTIAL,
    CheckpointError,
    RunPosition,
    TrainingState,
    WeightAverage,
    load_checkpoint,
    load_moments,
    newest_checkpoint,
    save_checkpoint,
)
from medq_uni.train.parallel import DistContext


def make(seed: int) -> TrainingState:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    average = WeightAverage(0.9)
    average.track(model)
    return TrainingState(model, average, optimizer, torch.Generator().manual_seed(seed))


def save(folder: Path, seed: int, step: int) -> None:
    position = RunPosition(stage=1, step=step, seconds=2.5, recipe_hash="x", updates=9)
    save_checkpoint(folder, make(seed), position, DistContext())


def test_everything_comes_back(tmp_path: Path):
    save(tmp_path, 1, 7)
    path, position = newest_checkpoint(tmp_path)
    assert (position.stage, position.step, position.updates) == (1, 7, 9)
    state, expected = make(2), make(1)
    load_checkpoint(path, state, position)
    load_moments(path, state.model, state.optimizer)
    assert torch.equal(state.model.weight, expected.model.weight)
    assert torch.equal(state.average.shadow["weight"], expected.average.shadow["weight"])
    assert state.average.updates == 9
    ours = state.optimizer.state[state.model.weight]
    theirs = expected.optimizer.state[expected.model.weight]
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert torch.equal(torch.rand(3, generator=state.generator), torch.rand(3, generator=expected.generator))


def test_no_file_of_a_checkpoint_can_hold_code(tmp_path: Path):
    save(tmp_path, 1, 7)
    path, _ = newest_checkpoint(tmp_path)
    assert {file.suffix for file in path.iterdir()} == {".safetensors", ".json"}


@pytest.mark.parametrize("damage", ["cut", "flipped", "missing", "no manifest"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path, damage: str):
    save(tmp_path, 1, 1)
    save(tmp_path, 1, 2)
    newest, _ = newest_checkpoint(tmp_path)
    file = next(newest.glob("*.safetensors"))
    content = bytearray(file.read_bytes())
    if damage == "cut":
        file.write_bytes(content[:50])
    elif damage == "flipped":
        content[-1] ^= 1
        file.write_bytes(content)
    else:
        (file if damage == "missing" else newest / MANIFEST).unlink()
    with pytest.warns(UserWarning, match=rf"{newest.name} .*: damaged, checkpoint-.* is used instead"):
        path, position = newest_checkpoint(tmp_path)
    assert position.step == 1
    (path / MANIFEST).write_text("{")
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        newest_checkpoint(tmp_path)


def test_only_the_last_two_are_kept(tmp_path: Path):
    for step in range(4):
        save(tmp_path, 1, step)
    assert [json.loads((p / MANIFEST).read_text())["progress"]["step"] for p in sorted(tmp_path.iterdir())] == [2, 3]
    assert KEPT == 2


def test_half_a_checkpoint_is_none(tmp_path: Path):
    (tmp_path / PARTIAL).mkdir()
    (tmp_path / PARTIAL / "shard-00001-model-00001-of-00001.safetensors").write_bytes(b"half")
    assert newest_checkpoint(tmp_path) is None
    save(tmp_path, 1, 1)
    assert newest_checkpoint(tmp_path)[1].step == 1
    assert not (tmp_path / PARTIAL).exists()


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path):
    save(tmp_path, 1, 1)
    path, position = newest_checkpoint(tmp_path)
    other = TrainingState(nn.Sequential(nn.Linear(3, 2)), WeightAverage(0.9), None, torch.Generator())
    with pytest.raises(CheckpointError, match="which this recipe's network does not have"):
        load_checkpoint(path, other, position)


FULL_DISK = """
import resource, sys
from pathlib import Path
from tests.train.test_checkpoint import save
from medq_uni.train.checkpoint import CheckpointError
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
save(Path(sys.argv[1]), 1, 1)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
try:
    save(Path(sys.argv[1]), 1, 2)
except CheckpointError as error:
    print(error)
"""


def test_a_full_disk_is_said_and_loses_no_earlier_checkpoint(tmp_path: Path):
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], cwd=root, capture_output=True, text=True, check=True
    )
    assert "make room, then go on with --resume" in done.stdout
    assert newest_checkpoint(tmp_path)[1].step == 1


def test_swapping_the_average_twice_changes_nothing():
    state = make(3)
    with torch.no_grad():
        state.model.weight.add_(1)
    before = state.model.weight.detach().clone()
    state.average.swap(state.model)
    assert not torch.equal(state.model.weight, before)
    state.average.swap(state.model)
    assert torch.equal(state.model.weight, before)
