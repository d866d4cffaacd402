from dataclasses import replace
from pathlib import Path

import pytest
import torch

from medq_uni.config import ConfigError
from medq_uni.data.batches import BatchSampler
from medq_uni.data.pair_cache import build_pair_cache
from medq_uni.data.pairs import PairsConfig
from medq_uni.description import QualityDescription
from medq_uni.physics.tasks import SPECS
from medq_uni.pretrained.load import load_pretrained
from medq_uni.seeding import generator_of
from medq_uni.train.conditioning import PairTexts
from medq_uni.train.recipe import StageConfig, TextMix
from medq_uni.train.sampling import BaselineBatchBuilder, BatchBuilder, Prefetcher, TrainBatch, next_seed


@pytest.fixture(scope="module")
def drawer(tmp_path_factory: pytest.TempPathFactory) -> BatchBuilder:
    pool = build_pair_cache(PairsConfig(count=15, seed=4, phantom_sizes=(64,)), tmp_path_factory.mktemp("pool"))
    nano = load_pretrained("nano")
    stage = StageConfig(name="joint", objective="joint", trainable=("ir",), steps=1, batch_size=5, crop_size=64)
    sampler = BatchSampler(pool, token_pixels=nano.config.token_pixels)
    return BatchBuilder(PairTexts(pool, nano.tokenizer), stage, nano.config, sampler, {})


def summary(draw: TrainBatch) -> tuple:
    return draw.objective, draw.batch.index, draw.questions, draw.told and draw.told.descriptions


@pytest.mark.parametrize("workers", [1, 2])
def test_drawing_ahead_gives_the_steps_that_drawing_in_turn_gives(drawer: BatchBuilder, workers: int) -> None:
    generator = generator_of(7)
    feed = Prefetcher(drawer, generator.get_state(), workers=workers)
    for _ in range(6):
        assert summary(feed.take()) == summary(drawer.draw(next_seed(generator)))
        assert torch.equal(feed.state, generator.get_state())
    feed.close()


def test_a_feed_goes_on_from_its_state_as_if_nothing_had_been_drawn_ahead(drawer: BatchBuilder) -> None:
    first = Prefetcher(drawer, generator_of(7).get_state())
    first.take()
    second = Prefetcher(drawer, first.state)
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
        {"assess_share": 0.0, "assess_beside": True, "noise_start": 1.0},
    ],
    ids=str,
)
def test_every_layout_meets_the_crops_of_a_baseline_in_the_same_order(drawer: BatchBuilder, changes: dict) -> None:
    ours = replace(drawer, stage=replace(drawer.stage, **changes))
    baseline = BaselineBatchBuilder(
        replace(drawer.stage, objective="baseline", trainable=("baseline",)), drawer.sampler
    )
    for seed in range(4):
        first, second = ours.draw(seed), baseline.draw(seed)
        assert first.batch.index == second.batch.index
        assert torch.equal(first.batch.degraded, second.batch.degraded)


def test_what_is_assessed_beside_is_not_trained_as_told(drawer: BatchBuilder) -> None:
    stage = replace(drawer.stage, assess_share=0.0, text=TextMix(reference=1.0, generated=0.0, edited=0.0))
    alone = replace(drawer, stage=stage).draw(5)
    beside = replace(drawer, stage=replace(stage, assess_beside=True)).draw(5)
    assert alone.told is not None
    assert beside.told is not None
    assert (alone.questions, all(alone.told.is_reference)) == (None, True)
    assert (any(beside.told.is_reference), all(beside.told.has_description)) == (False, True)
    assert beside.questions is not None
    assert beside.answers is not None
    for index, answer in zip(beside.batch.index, beside.answers, strict=True):
        said = QualityDescription.from_text(drawer.words.tokenizer.decode([token for token, _ in answer]))
        right = drawer.words.label(index, generator_of(0))
        assert (said.modality, said.degradations, said.verdict) == (right.modality, right.degradations, right.verdict)


def test_a_misread_report_asks_for_the_truth_all_the_same(drawer: BatchBuilder) -> None:
    mix = TextMix(reference=0.0, generated=0.0, edited=0.0, misread=1.0)
    drawer = replace(drawer, stage=replace(drawer.stage, text=mix, assess_share=0.0))
    decode, wrong = drawer.words.tokenizer.decode, 0
    for seed in range(6):
        draw = drawer.draw(seed)
        assert draw.told is not None
        assert torch.equal(draw.told.target, draw.batch.reference)
        assert (all(draw.told.has_description), any(draw.told.is_reference)) == (True, False)
        for index, told in zip(draw.batch.index, draw.told.descriptions, strict=True):
            said = QualityDescription.from_text(decode(told))
            right = drawer.words.label(index, generator_of(0))
            wrong += (said.degradations, said.verdict) != (right.degradations, right.verdict)
    assert 10 <= wrong < 30


def test_an_instruction_has_a_target_to_match(drawer: BatchBuilder) -> None:
    mix = TextMix(reference=0.0, generated=0.0, edited=0.0, instructed=1.0)
    drawer = replace(drawer, stage=replace(drawer.stage, text=mix, assess_share=0.0))
    decode, seen = drawer.words.tokenizer.decode, set()
    for seed in range(8):
        draw = drawer.draw(seed)
        assert draw.told is not None
        assert not any(draw.told.has_description)
        for place, index in enumerate(draw.batch.index):
            degraded, reference = draw.batch.degraded[place], draw.batch.reference[place]
            words, way = decode(draw.told.instructions[place]).lower(), reference - degraded
            if "noise" in words or "denoise" in words:
                share, kind = float(SPECS[drawer.words.pool.items[index].task].is_noise), "denoise"
            else:
                share, kind = (0.5, "less") if any(w in words for w in ("gently", "part", "little")) else (1.25, "more")
            seen.add(kind)
            torch.testing.assert_close(draw.told.target[place], degraded + share * way)
    assert seen == {"denoise", "less", "more"}


def test_an_error_while_drawing_ahead_reaches_the_step_that_takes_it(drawer: BatchBuilder, tmp_path: Path) -> None:
    broken = replace(drawer, stage=replace(drawer.stage, token_budget=1))
    feed = Prefetcher(broken, generator_of(7).get_state())
    with pytest.raises(ConfigError, match="holds no crop"):
        feed.take()
    feed.close()
