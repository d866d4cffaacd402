from dataclasses import replace

import pytest
import torch

from medq_uni.data.batches import BatchSampler
from medq_uni.data.pair_cache import build_pair_cache
from medq_uni.data.pairs import PairsConfig
from medq_uni.pretrained.load import load_pretrained
from medq_uni.train.conditioning import PairTexts
from medq_uni.train.objective import Objective
from medq_uni.train.recipe import StageConfig, TextMix
from medq_uni.train.sampling import BatchBuilder


@pytest.fixture(scope="module")
def nano():
    return load_pretrained("nano")


@pytest.fixture(scope="module")
def drawer(nano, tmp_path_factory: pytest.TempPathFactory) -> BatchBuilder:
    pool = build_pair_cache(PairsConfig(count=10, seed=4, phantom_sizes=(64,)), tmp_path_factory.mktemp("pool"))
    stage = StageConfig(
        name="joint",
        objective="joint",
        trainable=("iqa", "ir"),
        steps=1,
        batch_size=2,
        crop_size=64,
        assess_share=0.0,
        noise_start=0.0,
        text=TextMix(reference=1.0, generated=0.0, edited=0.0),
    )
    sampler = BatchSampler(pool, token_pixels=nano.config.token_pixels)
    return BatchBuilder(PairTexts(pool, nano.tokenizer), stage, nano.config, sampler, {})


def test_a_step_that_assesses_beside_has_the_losses_of_both(nano, drawer: BatchBuilder) -> None:
    both = replace(drawer, stage=replace(drawer.stage, assess_beside=True)).draw(1)
    with torch.no_grad():
        losses = Objective(nano.model).losses(both)
        alone = Objective(nano.model).losses(replace(both, objective="assess", told=None, bridge=None))
        restored = Objective(nano.model).losses(replace(both, questions=None, answers=None))
    assert set(alone) == {"text", "slots"}
    assert {"flow", "l1", "l2", "ssim"} <= set(losses)
    for name, value in losses.items():
        assert float(value) == pytest.approx(float(alone.get(name, restored.get(name))))


def test_a_restoration_that_trains_its_description_has_no_loss_of_slots(nano, drawer: BatchBuilder) -> None:
    with torch.no_grad():
        losses = Objective(nano.model).losses(drawer.draw(1))
    assert float(losses["text"]) > 0
    assert "slots" not in losses
