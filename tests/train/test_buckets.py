import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medq_uni.config import ConfigError
from medq_uni.data.batches import BatchSampler
from medq_uni.data.pair_cache import PairCache
from medq_uni.pretrained.load import Pretrained, load_pretrained
from medq_uni.train.buckets import Shape, shapes_of, tokens_of
from medq_uni.train.conditioning import PairTexts
from medq_uni.train.losses import LossWeights
from medq_uni.train.sampling import BaselineBatchBuilder, BatchBuilder
from medq_uni.train.trainer import Trained
from tests.train.tiny import NAFNET, baseline_recipe, baseline_stage, stage, with_changes

NANO = load_pretrained("nano").config
STAGE = stage("joint", name="s", trainable=("ir",), steps=1, batch_size=6, assess_share=0.0)


@pytest.mark.parametrize(("objective", "tokens"), [("codec", 16), ("restore", 32), ("assess", 144), ("joint", 176)])
def test_tokens_are_those_of_the_image_blocks_of_a_layout(objective: str, tokens: int):
    assert tokens_of(objective, 64, NANO) == tokens  # 64 / 16 = 4 a side; the assessor sees 192 / 16 = 12 a side


def test_a_pair_that_is_assessed_beside_is_seen_twice():
    beside = with_changes(STAGE, assess_same_pairs=True, token_budget=1280)
    assert tokens_of("joint", 64, NANO, assesses=True) == 320
    assert shapes_of(beside, NANO) == (Shape(64, 4),)
    assert shapes_of(replace(beside, assess_same_pairs=False), NANO) == (Shape(64, 7),)


def test_without_a_budget_a_step_holds_its_batch():
    assert shapes_of(STAGE, NANO) == (Shape(64, 6),)
    assert shapes_of(with_changes(STAGE, sides=(96, 64)), NANO) == (Shape(64, 6), Shape(96, 6))


@given(st.integers(800, 20_000), st.integers(1, 4), st.sets(st.sampled_from([32, 64, 96, 128]), min_size=1))
def test_a_step_fills_its_budget_and_does_not_exceed_it(budget: int, world: int, sides: set[int]):
    stage = with_changes(STAGE, objective="restore", token_budget=budget, sides=tuple(sides))
    for shape in shapes_of(stage, NANO, world=world):
        tokens = tokens_of("restore", shape.side, NANO)
        assert shape.count % world == 0
        assert shape.count * tokens <= budget < (shape.count + world) * tokens


def test_a_budget_that_holds_nothing_says_what_it_needs():
    with pytest.raises(ConfigError, match=r"holds no crop of 64 pixels, of 176 tokens.*needs 352"):
        shapes_of(with_changes(STAGE, token_budget=300), NANO, world=2)


def test_a_batch_that_cannot_be_divided_says_so():
    with pytest.raises(ConfigError, match="cannot be divided among 4"):
        shapes_of(STAGE, NANO, world=4)


def test_draws_have_the_shapes_and_meet_them_all(pair_cache: PairCache, nano: Pretrained):
    some = with_changes(STAGE, token_budget=1000, sides=(32, 64), generated=0.0)
    texts, sampler = PairTexts(pair_cache, nano.tokenizer), BatchSampler(pair_cache, token_pixels=NANO.token_pixels)
    builder = BatchBuilder(texts, some, NANO, sampler, {})
    baseline = BaselineBatchBuilder(replace(some, objective="baseline", trainable=("baseline",)), sampler)
    for one in (builder, baseline):
        found = set()
        for seed in range(12):
            batch = one.build(seed)
            found.add(Shape(batch.crops.degraded.shape[-1], len(batch.crops.index)))
        assert found == set(one.shapes)


def test_a_run_with_a_budget_resumes_to_the_same_weights(tmp_path: Path, train: Callable[..., Trained]):
    changes = {"steps": 8, "token_budget": 40, "sides": (32, 64), "losses": LossWeights(l2=1.0)}
    recipe = baseline_recipe(NAFNET, baseline_stage(**changes))
    whole = train(recipe, tmp_path / "whole").model
    assert not train(recipe, tmp_path / "pieces", max_minutes=0).is_finished
    pieces = train(recipe, tmp_path / "pieces", resume=True).model
    for name, value in whole.state_dict().items():
        assert torch.equal(value, pieces.state_dict()[name]), name
    lines = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert any(line["event"] == "memory" and line["activations_gib"] > 0 for line in lines)
