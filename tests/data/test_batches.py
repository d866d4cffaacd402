from dataclasses import replace
from pathlib import Path

import pytest
import torch

from medq_uni.data.batches import BatchSampler, edited_target
from medq_uni.data.pair_cache import CACHED_SIDE, build_pair_cache
from medq_uni.data.pairs import PairsConfig
from medq_uni.seeding import generator_of
from medq_uni.taxonomy import Severity, Task

CONFIG = PairsConfig(count=10, seed=5, phantom_sizes=(48, 64))


def test_batches_have_the_crop_size_mark_padding_and_match_their_reference(tmp_path: Path):
    pairs = build_pair_cache(replace(CONFIG, none_fraction=1.0), tmp_path)
    batch = BatchSampler(pairs, token_pixels=16).draw(5, crop=64, generator=generator_of(1), seen=generator_of(2))
    assert batch.degraded.shape == batch.reference.shape == (5, 2, 64, 64)
    assert torch.equal(batch.degraded, batch.reference)
    assert batch.vision.shape[0] == 5
    assert 128 <= batch.vision.shape[-1] <= CACHED_SIDE
    sizes = [min(pairs.items[i].height, 64) * min(pairs.items[i].width, 64) for i in batch.index]
    assert batch.valid.sum(dim=(1, 2, 3)).tolist() == sizes
    assert {pairs.items[i].task for i in batch.index} == set(Task)


def test_emphasis_draws_a_task_twice_as_often(tmp_path: Path):
    pairs = build_pair_cache(CONFIG, tmp_path)
    sampler = BatchSampler(pairs, token_pixels=16, emphasis=(Task.MR_MOTION,))
    batch = sampler.draw(6, crop=32, generator=generator_of(1))
    tasks = [pairs.items[i].task for i in batch.index]
    assert {task: tasks.count(task) for task in Task} == {task: 2 if task is Task.MR_MOTION else 1 for task in Task}


@pytest.mark.parametrize("true", list(Severity)[1:])
def test_a_worse_stated_severity_asks_for_more(true: Severity):
    degraded, reference = torch.ones(2, 4, 4), torch.zeros(2, 4, 4)
    removed = [
        float((degraded - edited_target(degraded, reference, true=true, stated=stated)).mean()) for stated in Severity
    ]
    assert removed == sorted(set(removed))
    assert removed[0] == 0
    assert removed[true.level] == pytest.approx(1)
