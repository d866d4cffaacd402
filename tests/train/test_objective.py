from dataclasses import replace

import pytest
import torch

from medq_uni.data.batches import BatchSampler
from medq_uni.data.pair_cache import PairCache
from medq_uni.pretrained.load import Pretrained
from medq_uni.train.conditioning import PairTexts
from medq_uni.train.objective import Objective
from medq_uni.train.sampling import BatchBuilder
from tests.train.tiny import stage


@pytest.fixture(scope="module")
def builder(nano: Pretrained, pair_cache: PairCache) -> BatchBuilder:
    shares = {"assess_share": 0.0, "noise_share": 0.0, "reference": 1.0, "generated": 0.0, "edited": 0.0}
    joint = stage("joint", trainable=("iqa", "ir"), steps=1, batch_size=2, **shares)
    sampler = BatchSampler(pair_cache, token_pixels=nano.config.token_pixels)
    return BatchBuilder(PairTexts(pair_cache, nano.tokenizer), joint, nano.config, sampler, {})


def test_a_step_that_assesses_the_same_pairs_has_the_losses_of_both(nano: Pretrained, builder: BatchBuilder) -> None:
    both = replace(builder, stage=replace(builder.stage, assess_same_pairs=True)).build(1)
    with torch.no_grad():
        losses = Objective(nano.model).losses(both)
        alone = Objective(nano.model).losses(replace(both, objective="assess", conditioning=None, flow=None))
        restored = Objective(nano.model).losses(replace(both, questions=None, answers=None))
    assert set(alone) == {"text", "slots"}
    assert {"flow", "l1", "l2", "ssim"} <= set(losses)
    for name, value in losses.items():
        assert float(value) == pytest.approx(float(alone.get(name, restored.get(name))))


def test_a_restoration_that_trains_its_description_has_no_loss_of_slots(
    nano: Pretrained, builder: BatchBuilder
) -> None:
    with torch.no_grad():
        losses = Objective(nano.model).losses(builder.build(1))
    assert float(losses["text"]) > 0
    assert "slots" not in losses
