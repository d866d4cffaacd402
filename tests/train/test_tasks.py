"""What a training begins with: a new network, a pretrained one, or one that has grown."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from medq_uni.config import ConfigError
from medq_uni.model.medq import MedQ
from medq_uni.pretrained.load import load_pretrained
from medq_uni.quantities import TOLD_NUMBERS
from medq_uni.train.export import publish
from medq_uni.train.recipe import TrainConfig
from medq_uni.train.tasks import take_weights
from medq_uni.train.trainer import Trained
from tests.train.tiny import stage, tiny_recipe


def with_decoder(recipe: TrainConfig, initial: Path, **codec: object) -> TrainConfig:
    """Return a recipe that goes on from a model with another decoder."""
    assert recipe.model is not None
    model = replace(recipe.model, codec=replace(recipe.model.codec, **codec))
    return replace(recipe, initial=str(initial), model=model)


def test_a_new_decoder_begins_with_everything_else_of_the_old_model(
    tmp_path: Path, train: Callable[..., Trained], pairs_of: Callable[[TrainConfig], Path]
):
    recipe = tiny_recipe(stage("assess", steps=1))
    publish(train(recipe, tmp_path / "old"), recipe, pairs_of(recipe), tmp_path / "model")
    old = load_pretrained(tmp_path / "model").model.state_dict()
    grown = with_decoder(tiny_recipe(stage("codec", steps=1)), tmp_path / "model", block="gated", widths=(8, 8, 8, 8))
    new = train(grown, tmp_path / "new").model
    assert new.config.codec.block == "gated"
    for name, value in new.state_dict().items():
        if not name.startswith("codec.") or name in ("codec.latent_mean", "codec.latent_scale"):
            assert torch.equal(value, old[name].float()), name
    again = train(grown, tmp_path / "new", resume=True).model
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in new.state_dict().items())


def test_a_decoder_with_refining_blocks_begins_as_the_old_one(
    tmp_path: Path, train: Callable[..., Trained], pairs_of: Callable[[TrainConfig], Path]
):
    recipe = tiny_recipe(stage("codec", steps=3))
    publish(train(recipe, tmp_path / "old"), recipe, pairs_of(recipe), tmp_path / "model")
    old = load_pretrained(tmp_path / "model").model
    grown = with_decoder(recipe, tmp_path / "model", refinement=(1, 0, 1, 2))
    assert grown.model is not None
    new = MedQ(grown.model)
    new.codec.to(memory_format=torch.channels_last)  # as a loaded one, so that both compute alike
    take_weights(new, old)
    image = torch.randn(1, 2, 32, 32, generator=torch.Generator().manual_seed(0))
    one, other = (m.codec.decode(m.codec.encode(image), m.codec.features(image)).image for m in (old, new))
    assert torch.equal(one, other)
    assert sum(p.numel() for p in new.codec.parameters()) > sum(p.numel() for p in old.codec.parameters())
    assert not torch.equal(one, image)


def test_a_decoder_that_can_be_told_quantities_begins_as_the_old_one(
    tmp_path: Path, train: Callable[..., Trained], pairs_of: Callable[[TrainConfig], Path]
):
    recipe = tiny_recipe(stage("codec", steps=3))
    publish(train(recipe, tmp_path / "old"), recipe, pairs_of(recipe), tmp_path / "model")
    old = load_pretrained(tmp_path / "model").model
    grown = with_decoder(recipe, tmp_path / "model", told_width=8)
    assert grown.model is not None
    new = MedQ(grown.model)
    new.codec.to(memory_format=torch.channels_last)  # as a loaded one, so that both compute alike
    take_weights(new, old)
    image = torch.randn(1, 2, 32, 32, generator=torch.Generator().manual_seed(0))
    told = torch.randn(1, TOLD_NUMBERS, generator=torch.Generator().manual_seed(1))
    one = old.codec.decode(old.codec.encode(image), old.codec.features(image)).image
    other = new.codec.decode(new.codec.encode(image), new.codec.features(image, told)).image
    assert torch.equal(one, other)
    assert not torch.equal(one, image)


def test_a_model_that_is_not_its_initial_one_is_refused(tmp_path: Path, train: Callable[..., Trained]):
    recipe = tiny_recipe(stage("codec", steps=1))
    assert recipe.model is not None
    other = replace(recipe, initial="nano", model=recipe.model)
    with pytest.raises(ConfigError, match="differ in more than the decoder"):
        train(other, tmp_path)


def test_a_model_that_was_trained_on_is_not_called_like_the_one_before(
    tmp_path: Path, train: Callable[..., Trained], pairs_of: Callable[[TrainConfig], Path]
):
    recipe = tiny_recipe(stage("codec", steps=1))
    publish(train(recipe, tmp_path / "old"), recipe, pairs_of(recipe), tmp_path / "tiny")
    assert load_pretrained(tmp_path / "tiny").config.name == "tiny"
    tuning = replace(recipe, model=None, tokenizer=None, initial=str(tmp_path / "tiny"))
    publish(train(tuning, tmp_path / "new"), tuning, pairs_of(tuning), tmp_path / "tuned")
    assert load_pretrained(tmp_path / "tuned").config.name == "tiny-tuned"
    again = replace(tuning, initial=str(tmp_path / "tuned"))
    assert train(again, tmp_path / "again").model.config.name == "tiny-tuned"
    assert train(replace(again, name="ours"), tmp_path / "named").model.config.name == "ours"
    assert train(replace(recipe, name="ours"), tmp_path / "first").model.config.name == "ours"


@pytest.mark.parametrize("name", ["", "a/b", "x" * 41, "Müller"])
def test_a_name_that_no_record_could_hold_is_refused(name: str):
    with pytest.raises(ConfigError, match="name: 1 to 40 letters"):
        replace(tiny_recipe(stage("codec")), name=name)
