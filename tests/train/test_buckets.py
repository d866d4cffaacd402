import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medq_uni.baselines.network import BaselineConfig
from medq_uni.config import ConfigError
from medq_uni.data.batches import BatchSampler
from medq_uni.data.pair_cache import build_pair_cache
from medq_uni.data.pairs import PairsConfig
from medq_uni.pretrained.load import load_pretrained
from medq_uni.train.buckets import Shape, shapes_of, tokens_of
from medq_uni.train.conditioning import PairTexts
from medq_uni.train.loop import train
from medq_uni.train.losses import LossWeights
from medq_uni.train.recipe import StageConfig, TextMix, TrainConfig
from medq_uni.train.sampling import BaselineBatchBuilder, BatchBuilder

NANO = load_pretrained("nano").config
STAGE = StageConfig(name="s", objective="joint", trainable=("ir",), steps=1, batch_size=6, crop_size=64)


@pytest.mark.parametrize(("objective", "tokens"), [("codec", 16), ("restore", 32), ("assess", 144), ("joint", 176)])
def test_tokens_are_those_of_the_image_blocks_of_a_layout(objective: str, tokens: int):
    assert tokens_of(objective, 64, NANO) == tokens  # 64 / 16 = 4 a side; the assessor sees 192 / 16 = 12 a side


def test_a_pair_that_is_assessed_beside_is_seen_twice():
    beside = replace(STAGE, assess_beside=True, token_budget=1280)
    assert tokens_of("joint", 64, NANO, assesses=True) == 320
    assert shapes_of(beside, NANO) == (Shape(64, 4),)
    assert shapes_of(replace(beside, assess_beside=False), NANO) == (Shape(64, 7),)


def test_without_a_budget_a_step_holds_its_batch():
    assert shapes_of(STAGE, NANO) == (Shape(64, 6),)
    assert shapes_of(replace(STAGE, crop_sizes=(96, 64)), NANO) == (Shape(64, 6), Shape(96, 6))


@given(st.integers(800, 20_000), st.integers(1, 4), st.sets(st.sampled_from([32, 64, 96, 128]), min_size=1))
def test_a_step_fills_its_budget_and_does_not_exceed_it(budget: int, world: int, sides: set[int]):
    stage = replace(STAGE, objective="restore", token_budget=budget, crop_sizes=tuple(sides))
    for shape in shapes_of(stage, NANO, world=world):
        tokens = tokens_of("restore", shape.side, NANO)
        assert shape.count % world == 0
        assert shape.count * tokens <= budget < (shape.count + world) * tokens


def test_a_budget_that_holds_nothing_says_what_it_needs():
    with pytest.raises(ConfigError, match=r"holds no crop of 64 pixels, of 176 tokens.*needs 352"):
        shapes_of(replace(STAGE, token_budget=300), NANO, world=2)


def test_a_batch_that_cannot_be_divided_says_so():
    with pytest.raises(ConfigError, match="cannot be divided among 4"):
        shapes_of(STAGE, NANO, world=4)


def test_draws_have_the_shapes_and_meet_them_all(tmp_path: Path):
    pool = build_pair_cache(PairsConfig(count=10, seed=1, phantom_sizes=(96,)), tmp_path)
    stage = replace(STAGE, token_budget=1000, crop_sizes=(32, 64), text=TextMix(generated=0.0))
    words = PairTexts(pool, load_pretrained("nano").tokenizer)
    drawer = BatchBuilder(words, stage, NANO, BatchSampler(pool, token_pixels=NANO.token_pixels), {})
    baseline = BaselineBatchBuilder(
        replace(stage, objective="baseline", trainable=("baseline",)), BatchSampler(pool, token_pixels=16)
    )
    for one in (drawer, baseline):
        found = set()
        for seed in range(30):
            draw = one.draw(seed)
            found.add(Shape(draw.batch.degraded.shape[-1], len(draw.batch.index)))
        assert found == set(one.shapes)


def test_a_run_with_a_budget_resumes_to_the_same_weights(tmp_path: Path):
    pairs = PairsConfig(count=10, seed=1, phantom_sizes=(64,))
    stage = StageConfig(
        name="baseline", objective="baseline", trainable=("baseline",), steps=8, token_budget=40, crop_sizes=(32, 64),
        warmup_steps=2, weights=LossWeights(l2=1.0),
    )  # fmt: skip
    recipe = TrainConfig(
        about=(), baseline=BaselineConfig(kind="nafnet", width=4, blocks=(1, 1)), pairs=pairs,
        val_pairs=replace(pairs, seed=2), stages=(stage,), bfloat16=False,
    )  # fmt: skip
    whole = train(recipe, tmp_path / "whole").model
    assert not train(recipe, tmp_path / "pieces", max_minutes=0).is_finished
    pieces = train(recipe, tmp_path / "pieces", resume=True).model
    for name, value in whole.state_dict().items():
        assert torch.equal(value, pieces.state_dict()[name]), name
    lines = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert any(line["event"] == "memory" and line["activations_gib"] > 0 for line in lines)
