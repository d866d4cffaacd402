from dataclasses import replace
from pathlib import Path

import pytest
import torch

from medq_uni.config import ConfigError
from medq_uni.data.batches import BatchSampler
from medq_uni.data.pairs import PairsConfig, generator_of
from medq_uni.data.pool import build_pool
from medq_uni.pretrained import load_pretrained
from medq_uni.taxonomy import NOISES
from medq_uni.train.draws import Draw, Drawer, Feed, PeerDrawer
from medq_uni.train.recipe import StageConfig, TextMix
from medq_uni.train.words import Words


@pytest.fixture(scope="module")
def drawer(tmp_path_factory: pytest.TempPathFactory) -> Drawer:
    pool = build_pool(PairsConfig(count=15, seed=4, phantom_sizes=(64,)), tmp_path_factory.mktemp("pool"))
    nano = load_pretrained("nano")
    stage = StageConfig(name="joint", layout="joint", trainable=("ir",), steps=1, batch_size=5, crop_size=64)
    sampler = BatchSampler(pool, token_pixels=nano.config.token_pixels)
    return Drawer(Words(pool, nano.tokenizer), stage, nano.config, sampler, {})


def summary(draw: Draw) -> tuple:
    return draw.layout, draw.batch.index, draw.questions, draw.told and draw.told.descriptions


def test_drawing_ahead_gives_the_steps_that_drawing_in_turn_gives(drawer: Drawer) -> None:
    generator = generator_of(7)
    feed = Feed(drawer, generator.get_state())
    for _ in range(6):
        assert summary(feed.take()) == summary(drawer.draw(generator))
        assert torch.equal(feed.state, generator.get_state())
    feed.close()


def test_a_feed_goes_on_from_its_state_as_if_nothing_had_been_drawn_ahead(drawer: Drawer) -> None:
    first = Feed(drawer, generator_of(7).get_state())
    first.take()
    second = Feed(drawer, first.state)
    assert summary(first.take()) == summary(second.take())
    first.close()
    second.close()


def test_a_codec_and_a_peer_meet_the_same_crops_in_the_same_order(drawer: Drawer) -> None:
    codec = replace(drawer, stage=replace(drawer.stage, layout="codec", trainable=("decoder",)))
    peer = PeerDrawer(replace(drawer.stage, layout="peer", trainable=("peer",)), drawer.sampler)
    one, other = generator_of(3), generator_of(3)
    for _ in range(3):
        first, second = codec.draw(one), peer.draw(other)
        assert first.batch.index == second.batch.index
        assert torch.equal(first.batch.degraded, second.batch.degraded)


def test_an_instruction_has_a_target_to_match(drawer: Drawer) -> None:
    mix = TextMix(reference=0.0, generated=0.0, edited=0.0, instructed=1.0)
    drawer = replace(drawer, stage=replace(drawer.stage, text=mix, assess_share=0.0))
    decode, seen = drawer.words.tokenizer.decode, set()
    for seed in range(8):
        draw = drawer.draw(generator_of(seed))
        assert draw.told is not None
        assert not any(draw.told.has_description)
        for place, index in enumerate(draw.batch.index):
            degraded, reference = draw.batch.degraded[place], draw.batch.reference[place]
            words, way = decode(draw.told.instructions[place]).lower(), reference - degraded
            if "noise" in words or "denoise" in words:
                share, kind = float(drawer.words.pool.items[index].task in NOISES), "denoise"
            else:
                share, kind = (0.5, "less") if any(w in words for w in ("gently", "part", "little")) else (1.25, "more")
            seen.add(kind)
            torch.testing.assert_close(draw.told.target[place], degraded + share * way)
    assert seen == {"denoise", "less", "more"}


def test_an_error_while_drawing_ahead_reaches_the_step_that_takes_it(drawer: Drawer, tmp_path: Path) -> None:
    broken = replace(drawer, stage=replace(drawer.stage, token_budget=1))
    feed = Feed(broken, generator_of(7).get_state())
    with pytest.raises(ConfigError, match="holds no crop"):
        feed.take()
    feed.close()
