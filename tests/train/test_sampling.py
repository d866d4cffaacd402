from dataclasses import replace
from pathlib import Path

import pytest
import torch

from medq_uni.config import ConfigError
from medq_uni.data.batches import BatchSampler
from medq_uni.data.pair_cache import PairCache
from medq_uni.description import QualityDescription
from medq_uni.physics.tasks import SPECS
from medq_uni.pretrained.load import Pretrained
from medq_uni.seeding import generator_of
from medq_uni.train.conditioning import PairTexts
from medq_uni.train.losses import LossWeights
from medq_uni.train.prefetch import Prefetcher, next_seed
from medq_uni.train.sampling import BaselineBatchBuilder, BatchBuilder, TrainBatch
from medq_uni.train.stage import ConditioningConfig
from tests.train.tiny import stage, with_changes


@pytest.fixture(scope="module")
def builder(pair_cache: PairCache, nano: Pretrained) -> BatchBuilder:
    joint = stage("joint", trainable=("iqa", "ir"), steps=1, batch_size=5)
    sampler = BatchSampler(pair_cache, token_pixels=nano.config.token_pixels)
    return BatchBuilder(PairTexts(pair_cache, nano.tokenizer), joint, nano.config, sampler, {})


def summary(batch: TrainBatch) -> tuple:
    return batch.objective, batch.crops.index, batch.questions, batch.conditioning and batch.conditioning.descriptions


@pytest.mark.parametrize("workers", [1, 2])
def test_drawing_ahead_gives_the_steps_that_drawing_in_turn_gives(builder: BatchBuilder, workers: int) -> None:
    generator = generator_of(7)
    feed = Prefetcher(builder, generator.get_state(), workers=workers)
    for _ in range(6):
        assert summary(feed.take()) == summary(builder.build(next_seed(generator)))
        assert torch.equal(feed.state, generator.get_state())
    feed.close()


def test_a_feed_goes_on_from_its_state_as_if_nothing_had_been_drawn_ahead(builder: BatchBuilder) -> None:
    first = Prefetcher(builder, generator_of(7).get_state())
    first.take()
    second = Prefetcher(builder, first.state)
    assert summary(first.take()) == summary(second.take())
    first.close()
    second.close()


@pytest.mark.parametrize(
    "changes",
    [
        {"objective": "codec", "trainable": ("decoder",)},
        {"objective": "restore"},
        {"objective": "assess", "trainable": ("iqa",)},
        {"assess_share": 0.5},
        {"assess_share": 0.0, "assess_same_pairs": True, "noise_share": 1.0},
    ],
    ids=str,
)
def test_every_layout_meets_the_crops_of_a_baseline_in_the_same_order(builder: BatchBuilder, changes: dict) -> None:
    ours = replace(builder, stage=with_changes(builder.stage, **changes))
    baseline = BaselineBatchBuilder(
        replace(builder.stage, objective="baseline", trainable=("baseline",), losses=LossWeights()), builder.sampler
    )
    for seed in range(4):
        first, second = ours.build(seed), baseline.build(seed)
        assert first.crops.index == second.crops.index
        assert torch.equal(first.crops.degraded, second.crops.degraded)


def test_what_is_assessed_beside_is_not_trained_as_told(builder: BatchBuilder) -> None:
    joint = replace(
        builder.stage, assess_share=0.0, conditioning=ConditioningConfig(reference=1.0, generated=0.0, edited=0.0)
    )
    alone = replace(builder, stage=joint).build(5)
    beside = replace(builder, stage=replace(joint, assess_same_pairs=True)).build(5)
    assert alone.conditioning is not None
    assert beside.conditioning is not None
    assert (alone.questions, all(alone.conditioning.is_reference)) == (None, True)
    assert (any(beside.conditioning.is_reference), all(beside.conditioning.has_description)) == (False, True)
    assert beside.questions is not None
    assert beside.answers is not None
    for index, answer in zip(beside.crops.index, beside.answers, strict=True):
        said = QualityDescription.from_text(builder.texts.tokenizer.decode([token for token, _ in answer]))
        right = builder.texts.label(index, generator_of(0))
        assert (said.modality, said.degradations, said.verdict) == (right.modality, right.degradations, right.verdict)


def test_a_corrupted_report_asks_for_the_truth_all_the_same(builder: BatchBuilder) -> None:
    mix = ConditioningConfig(reference=0.0, generated=0.0, edited=0.0, corrupted=1.0)
    builder = replace(builder, stage=replace(builder.stage, conditioning=mix, assess_share=0.0))
    decode, wrong = builder.texts.tokenizer.decode, 0
    for seed in range(6):
        batch = builder.build(seed)
        assert batch.conditioning is not None
        assert torch.equal(batch.conditioning.target, batch.crops.reference)
        assert (all(batch.conditioning.has_description), any(batch.conditioning.is_reference)) == (True, False)
        for index, told in zip(batch.crops.index, batch.conditioning.descriptions, strict=True):
            said = QualityDescription.from_text(decode(told))
            right = builder.texts.label(index, generator_of(0))
            wrong += (said.degradations, said.verdict) != (right.degradations, right.verdict)
    assert 10 <= wrong < 30


def test_an_instruction_has_a_target_to_match(builder: BatchBuilder) -> None:
    mix = ConditioningConfig(reference=0.0, generated=0.0, edited=0.0, instructed=1.0)
    builder = replace(builder, stage=replace(builder.stage, conditioning=mix, assess_share=0.0))
    decode, seen = builder.texts.tokenizer.decode, set()
    for seed in range(8):
        batch = builder.build(seed)
        assert batch.conditioning is not None
        assert not any(batch.conditioning.has_description)
        for place, index in enumerate(batch.crops.index):
            degraded, reference = batch.crops.degraded[place], batch.crops.reference[place]
            texts, way = decode(batch.conditioning.instructions[place]).lower(), reference - degraded
            if "noise" in texts or "denoise" in texts:
                share, kind = float(SPECS[builder.texts.pairs.items[index].task].is_noise), "denoise"
            else:
                share, kind = (0.5, "less") if any(w in texts for w in ("gently", "part", "little")) else (1.25, "more")
            seen.add(kind)
            torch.testing.assert_close(batch.conditioning.target[place], degraded + share * way)
    assert seen == {"denoise", "less", "more"}


def test_an_error_while_drawing_ahead_reaches_the_step_that_takes_it(builder: BatchBuilder, tmp_path: Path) -> None:
    broken = replace(builder, stage=with_changes(builder.stage, token_budget=1))
    feed = Prefetcher(broken, generator_of(7).get_state())
    with pytest.raises(ConfigError, match="holds no crop"):
        feed.take()
    feed.close()
