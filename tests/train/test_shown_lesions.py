"""Lesions that are put into crops: seen, the same in both images, and only where the degradation is noise."""

from dataclasses import replace

import pytest
import torch

from medq_uni.data.batches import Batch, BatchSampler
from medq_uni.data.pair_cache import PairCache
from medq_uni.physics.tasks import SPECS
from medq_uni.pretrained.load import Pretrained
from medq_uni.seeding import generator_of
from medq_uni.taxonomy import Modality
from medq_uni.train.conditioning import PairTexts
from medq_uni.train.losses import KEPT_RESPONSE, lesion_loss
from medq_uni.train.objective import Objective
from medq_uni.train.sampling import BatchBuilder
from medq_uni.train.shown_lesions import VISIBLE, draw_shown_lesions
from tests.train.tiny import ALL, stage


@pytest.fixture(scope="module")
def sampler(pair_cache: PairCache, nano: Pretrained) -> BatchSampler:
    return BatchSampler(pair_cache, token_pixels=nano.config.token_pixels)


@pytest.fixture(scope="module")
def drawn(pair_cache: PairCache, sampler: BatchSampler) -> list[tuple[Batch, torch.Tensor]]:
    """Twelve batches with their lesions."""
    crops = [sampler.draw(5, crop=64, generator=generator_of(seed)) for seed in range(12)]
    return [(one, draw_shown_lesions(one, pair_cache, generator_of(seed))) for seed, one in enumerate(crops)]


def with_lesion(drawn: list[tuple[Batch, torch.Tensor]]) -> list[tuple[Batch, int, torch.Tensor]]:
    rows = [(crops, row, change) for crops, each in drawn for row, change in enumerate(each) if change.any()]
    assert len(rows) >= 5
    return rows


def test_only_noise_alone_gets_lesions(drawn: list[tuple[Batch, torch.Tensor]], pair_cache: PairCache) -> None:
    found = {pair_cache.items[crops.index[row]].task for crops, row, _ in with_lesion(drawn)}
    assert all(SPECS[task].is_noise for task in found)
    assert {task.modality for task in found} == set(Modality)


def test_a_lesion_is_the_same_with_and_without_noise_and_is_seen(
    drawn: list[tuple[Batch, torch.Tensor]],
) -> None:
    for crops, row, change in with_lesion(drawn):
        degraded, reference = crops.degraded[row], crops.reference[row]
        unclipped = (degraded + change[0]).abs().lt(1)[0] & (reference + change[1]).abs().lt(1)[0]
        torch.testing.assert_close(change[0, 0][unclipped], change[1, 0][unclipped], atol=1e-5, rtol=0)
        assert (degraded + change[0]).abs().max() <= 1 + 1e-6
        noise = (degraded[0] - reference[0]).square().mean().sqrt()
        assert float(change[1, 0].square().sum().sqrt()) >= 0.6 * VISIBLE * float(noise), "but for clipping and blur"


def test_lesions_in_pet_are_hot(drawn: list[tuple[Batch, torch.Tensor]], pair_cache: PairCache) -> None:
    for crops, row, change in with_lesion(drawn):
        if pair_cache.items[crops.index[row]].task.modality is Modality.PET:
            assert change.min() >= -1e-5


def test_the_loss_asks_for_nine_tenths_of_every_lesion_and_for_no_more() -> None:
    change = torch.zeros(2, 2, 8, 8)
    change[:, :, 2:5, 2:5] = 0.3
    for kept, expected in [(1.5, 0.0), (0.95, 0.0), (0.9, 0.0), (0.5, 0.4**2), (0.0, KEPT_RESPONSE**2)]:
        assert float(lesion_loss(change, kept * change)) == pytest.approx(expected, abs=1e-6)
    change[0, 1] = 0  # clipped away in one view: it says nothing there
    assert float(lesion_loss(change, 0.5 * change)) == pytest.approx(0.16)
    assert float(lesion_loss(torch.zeros_like(change), change)) == 0


def test_a_step_has_the_loss_where_the_stage_weighs_it(
    nano: Pretrained, sampler: BatchSampler, pair_cache: PairCache
) -> None:
    texts = PairTexts(pair_cache, nano.tokenizer)
    for objective in ("codec", "restore"):
        without = stage(objective, steps=1, batch_size=5, noise_share=0.0)
        builder = BatchBuilder(texts, without, nano.config, sampler, {})
        weighed = replace(builder, stage=replace(without, losses=replace(ALL, lesions=0.5)))
        seed = next(seed for seed in range(20) if weighed.build(seed).lesions.any())
        assert builder.build(seed).lesions is None
        assert torch.equal(builder.build(seed).crops.degraded, weighed.build(seed).crops.degraded)
        with torch.no_grad():
            before = Objective(nano.model).losses(builder.build(seed))
            after = Objective(nano.model).losses(weighed.build(seed))
        assert set(after) - set(before) == {"lesions"}
        assert all(torch.equal(after[name], value) for name, value in before.items())
        assert 0 <= float(after["lesions"]) < 1.5


def test_the_loss_lets_a_decoder_keep_more_of_a_lesion(nano: Pretrained, sampler: BatchSampler) -> None:
    """One step along the gradient raises the response."""
    texts = PairTexts(sampler.pairs, nano.tokenizer)
    plain = stage("codec", steps=1, batch_size=5)
    builder = BatchBuilder(texts, replace(plain, losses=replace(ALL, lesions=1.0)), nano.config, sampler, {})
    objective = Objective(nano.model)
    batch = next(one for one in map(builder.build, range(40)) if objective.losses(one)["lesions"].detach() > 1e-3)
    weight = nano.model.codec.out.weight
    loss = objective.losses(batch)["lesions"]
    (gradient,) = torch.autograd.grad(loss, weight)
    step = 1e-3 * gradient / gradient.norm()
    with torch.no_grad():
        weight.sub_(step)
        after = float(objective.losses(batch)["lesions"])
        weight.add_(step)
    assert after < float(loss.detach())
