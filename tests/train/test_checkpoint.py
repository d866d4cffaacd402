from pathlib import Path

import pytest
import torch
from torch import nn

from medq_uni.train.checkpoint import (
    PREVIOUS_NAME,
    STATE_NAME,
    CheckpointError,
    Progress,
    WeightAverage,
    read_checkpoint,
    restore,
    restore_optimizer,
    save_checkpoint,
)


def make(seed: int) -> tuple[nn.Module, WeightAverage, torch.optim.AdamW, torch.Generator]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    average = WeightAverage(0.9)
    average.track(model)
    return model, average, optimizer, torch.Generator().manual_seed(seed)


def save(folder: Path, seed: int, step: int) -> None:
    model, average, optimizer, generator = make(seed)
    progress = Progress(stage=1, step=step, seconds=2.5, recipe_hash="x")
    save_checkpoint(folder, model=model, average=average, optimizer=optimizer, generator=generator, progress=progress)


def test_everything_comes_back(tmp_path: Path):
    save(tmp_path, 1, 7)
    tensors, progress, updates = read_checkpoint(tmp_path)
    assert (progress.stage, progress.step) == (1, 7)
    model, average, optimizer, generator = make(2)
    restore(tensors, updates, model=model, average=average, generator=generator)
    restore_optimizer(tensors, model, optimizer)
    expected, expected_average, expected_optimizer, expected_generator = make(1)
    assert torch.equal(model.weight, expected.weight)
    assert torch.equal(average.shadow["weight"], expected_average.shadow["weight"])
    ours, theirs = optimizer.state[model.weight], expected_optimizer.state[expected.weight]
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert torch.equal(torch.rand(3, generator=generator), torch.rand(3, generator=expected_generator))


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path):
    save(tmp_path, 1, 1)
    save(tmp_path, 1, 2)
    path = tmp_path / STATE_NAME
    path.write_bytes(path.read_bytes()[:50])
    assert read_checkpoint(tmp_path)[1].step == 1
    (tmp_path / PREVIOUS_NAME).write_bytes(b"")
    with pytest.raises(CheckpointError, match="no readable checkpoint"):
        read_checkpoint(tmp_path)


def test_an_empty_folder_has_no_checkpoint(tmp_path: Path):
    assert read_checkpoint(tmp_path) is None


def test_swapping_the_average_twice_changes_nothing():
    model, average, _, _ = make(3)
    with torch.no_grad():
        model.weight.add_(1)
    before = model.weight.detach().clone()
    average.swap(model)
    assert not torch.equal(model.weight, before)
    average.swap(model)
    assert torch.equal(model.weight, before)
