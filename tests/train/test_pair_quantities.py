import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from medq_uni.config import FidelityCodecConfig
from medq_uni.data.pair_cache import PairCache
from medq_uni.measurement import Quantity
from medq_uni.model.quantity_head import QuantityHead, reading_loss
from medq_uni.pretrained.load import load_pretrained
from medq_uni.quantities import OF_TASK, TOLD_NUMBERS, Quantities, encoded
from medq_uni.restorer import Restorer
from medq_uni.taxonomy import Modality, Severity
from medq_uni.train.export import publish
from medq_uni.train.pair_quantities import PairQuantities
from medq_uni.train.recipe import TrainConfig
from medq_uni.train.run_log import read_log
from medq_uni.train.trainer import Trained
from tests.train.tiny import ALL, BESIDE, stage, tiny_recipe

TOLD = FidelityCodecConfig(widths=(8, 8, 8), blocks=(1, 1, 1), refinement=(0, 0, 0), unshuffle=2, told_width=8)


def telling(*stages) -> TrainConfig:
    recipe = tiny_recipe(*stages)
    assert recipe.model is not None
    return replace(recipe, model=replace(recipe.model, codec=TOLD, quantity_width=8), log_interval=1)


def test_pairs_have_the_quantities_of_their_tasks(pair_cache: PairCache):
    quantities = PairQuantities(pair_cache)
    for index, item in enumerate(pair_cache.items):
        found = quantities.of(index)
        assert found is quantities.of(index)
        assert found.modality is item.task.modality
        if item.severity is not Severity.NONE:
            assert set(found.values) == OF_TASK[item.task]
    numbers = quantities.told([0, 1, 2], torch.Generator().manual_seed(0))
    assert numbers.shape == quantities.true([0, 1, 2]).shape == (3, TOLD_NUMBERS)


def test_the_head_learns_what_can_be_seen_and_how_far_to_trust_it():
    torch.manual_seed(0)
    head = QuantityHead(6, 16)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.01)
    for _ in range(300):
        sd = torch.rand(32) * 0.05 + 0.005
        features = torch.randn(32, 9, 6)
        features[..., 0] = (sd[:, None] * 20).log() + 0.1 * torch.randn(32, 9)
        truth = torch.stack([Quantities(Modality.CT, {Quantity.NOISE_SD: float(one)}).told() for one in sd])
        value, log_variance = head(features, truth[:, :3])
        loss = reading_loss(value, log_variance, truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    true = torch.tensor([encoded(Quantity.NOISE_SD, float(one)) for one in sd])
    error = (value.detach()[:, 0] - true).numpy()
    expected = float((0.5 * log_variance.detach()[:, 0]).exp().mean())
    assert np.abs(error).max() < 0.6
    assert 0.4 * error.std() < expected < 2.5 * error.std()


def test_a_network_learns_to_read_and_is_told_what_it_reads(
    tmp_path: Path, train: Callable[..., Trained], pairs_of: Callable[[TrainConfig], Path]
):
    losses = replace(ALL, quantities=1.0)
    recipe = telling(
        stage("codec", steps=2),
        stage("assess", steps=3, losses=losses),
        stage("joint", steps=3, losses=losses, **BESIDE),
    )
    trained = train(recipe, tmp_path / "run")
    lines = read_log(tmp_path / "run" / "log.jsonl")
    assert any("quantities" in line for line in lines if line["stage"] == "assess")
    checked = [line for line in lines if line["event"] == "validation" and line["stage"] == "joint"]
    assert checked[-1]["error_noise_sd"] > 0
    publish(trained, recipe, pairs_of(recipe), tmp_path / "model")
    pretrained = load_pretrained(tmp_path / "model")
    assert pretrained.model.quantity_head is not None
    films = [p for name, p in pretrained.model.codec.named_parameters() if ".film." in name]
    assert films
    assert any(p.abs().max() > 0 for p in films)
    restorer = Restorer(pretrained)
    views = torch.rand(2, 2, 64, 64) * 2 - 1
    reading = restorer.inference.read_quantities(views, Modality.MR)
    assert reading is not None
    assert reading.value.shape == reading.deviation.shape == (2, len(Quantity))
    assert (reading.deviation > 0).all()


def test_a_network_without_a_head_reads_nothing(nano):
    model = copy.copy(nano.model)
    model._modules = {**nano.model._modules, "quantity_head": None}
    assert (
        Restorer(replace(nano, model=model)).inference.read_quantities(torch.zeros(1, 2, 64, 64), Modality.MR) is None
    )
