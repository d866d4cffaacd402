import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medq_uni.config import ConfigError
from medq_uni.data.dataset import DatasetRecipe
from medq_uni.data.ood import KINDS, SCALES, draw
from medq_uni.data.pairs import PairsConfig, draw_pair
from medq_uni.taxonomy import Modality, Severity, Task


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(list(Modality)), st.integers(0, 5), st.integers(40, 90), st.integers(0, 10_000))
def test_a_reference_is_a_possible_image_and_the_same_every_time(modality: Modality, turn: int, size: int, seed: int):
    one, again = (draw(modality, turn, torch.Generator().manual_seed(seed), size=size) for _ in range(2))
    assert one.image.shape == (1, size, size)
    assert (one.kind, one.image.modality) == (KINDS[turn % 3], modality)
    assert np.array_equal(one.image.voxels, again.image.voxels)
    low, high = SCALES[modality]
    assert low - 1e-3 <= one.image.voxels.min() < one.image.voxels.max() <= high + 1e-3


def test_every_task_meets_every_kind_good_and_degraded():
    config = PairsConfig(count=60, seed=1, phantom_sizes=(48,), grades=tuple(Severity), unseen=True)
    pairs = [draw_pair(config, index) for index in range(60)]
    met = [(pair.task, pair.volume, pair.severity is Severity.NONE) for pair in pairs]
    for task in Task:
        for kind in KINDS:
            assert met.count((task, kind, True)) == 1
            assert met.count((task, kind, False)) == 3
    assert {pair.source for pair in pairs} == {"unseen"}
    assert len({pair.subject for pair in pairs if pair.volume == "foreign contrast"}) == 20


def test_nothing_is_trained_on_them_and_they_need_no_volumes():
    config = PairsConfig(count=5, seed=1, unseen=True)
    assert DatasetRecipe(name="x", splits={"test": config}).splits["test"].unseen
    with pytest.raises(ConfigError, match="only the split test"):
        DatasetRecipe(name="x", splits={"train": config})
    with pytest.raises(ConfigError, match="leave out data"):
        PairsConfig(count=5, seed=1, unseen=True, data=("somewhere",))
