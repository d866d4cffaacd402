import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medq_uni.baselines.amir import (
    BALANCE,
    CHOSEN,
    CODE,
    EXPERTS,
    ChannelRouting,
    Route,
    SpatialRouting,
    choose,
    imbalance,
)
from medq_uni.baselines.network import BaselineConfig
from tests.baselines import contract

CONFIG = BaselineConfig(kind="amir", width=4, blocks=(1, 1, 1))


@given(seed=st.integers(0, 99), places=st.integers(1, 5))
def test_gates_keep_the_likeliest_experts_and_sum_to_one(seed: int, places: int) -> None:
    wanted = torch.randn(places, EXPERTS, generator=torch.Generator().manual_seed(seed)).softmax(-1)
    gates = choose(wanted)
    torch.testing.assert_close(gates.sum(-1), torch.ones(places))
    assert ((gates > 0).sum(-1) == CHOSEN).all()
    assert (wanted.masked_fill(gates == 0, 2).amin(-1) >= wanted.masked_fill(gates > 0, 0).amax(-1)).all()


def test_all_routing_weights_sum_to_one() -> None:
    network = contract.build(CONFIG)
    x = contract.images(3, 2, 16, 16)
    with torch.no_grad():
        shares = network.instruction.weights(x)
        instruction = network.instruction(x)
        torch.testing.assert_close(shares.sum(1), torch.ones(3))
        stage = network.unet.encoders[0]
        by_pixel = stage.spatial.wanted(network.unet.embed(x), instruction)
        torch.testing.assert_close(by_pixel.sum(-1), torch.ones(3, 16, 16))
        torch.testing.assert_close(stage.channel.wanted(instruction).sum(-1), torch.ones(3, 4))


def test_the_balance_loss_is_least_when_balanced() -> None:
    equal = torch.full((5, EXPERTS), 1 / EXPERTS)
    torch.testing.assert_close(imbalance(equal), torch.tensor(0.0))
    taking_turns = torch.eye(EXPERTS)
    torch.testing.assert_close(imbalance(taking_turns), torch.tensor(0.0))
    torch.testing.assert_close(imbalance(taking_turns[[0, 0]]), torch.tensor(EXPERTS - 1.0))
    mild, strong = (torch.tensor([[tilt, 0, 0, 0]]).softmax(-1) for tilt in (0.5, 1.0))
    assert 0 < imbalance(mild) < imbalance(strong)
    importance = strong[0]
    torch.testing.assert_close(imbalance(strong), importance.var(correction=0) / importance.mean() ** 2)


def test_the_balance_loss_calls_back_an_expert_out_of_use() -> None:
    logits = torch.tensor([[3.0, 2.5, -2.0, -4.0]], requires_grad=True)
    imbalance(logits.softmax(-1)).backward()
    assert logits.grad is not None
    assert (logits.grad[0, 2:] < 0).all()


def test_learning_returns_the_weighted_balance_of_all_routers() -> None:
    network = contract.build(CONFIG, awake=True)
    x = contract.images(2, 2, 8, 8)
    with torch.no_grad():
        judged, terms = network.learn(x, x, torch.zeros(2))
        restored, route = network.route(x)
    assert torch.equal(judged, restored)
    assert len(route.imbalances) == 2 * 6  # two encoders, the middle, two decoders, refinement
    assert set(terms) == {"balance"}
    assert float(terms["balance"]) == pytest.approx(BALANCE * sum(float(term) for term in route.imbalances))


def test_spatial_routing_is_the_gated_sum_of_its_experts() -> None:
    torch.manual_seed(0)
    layer = SpatialRouting(6)
    x, instruction = torch.randn(2, 6, 3, 5), torch.randn(2, CODE)
    normed = layer.norm(x)
    gates = choose(layer.wanted(normed, instruction))
    expected = x + layer.second.bias[:, None, None]
    for expert in range(EXPERTS):
        part = slice(3 * expert, 3 * expert + 3)
        hidden = torch.nn.functional.conv2d(normed, layer.first.weight[part], layer.first.bias[part])
        out = torch.nn.functional.conv2d(torch.nn.functional.gelu(hidden), layer.second.weight[:, part])
        expected = expected + gates[..., expert][:, None] * out
    torch.testing.assert_close(layer(x, Route(instruction)), expected)


def test_channel_routing_is_the_gated_sum_of_its_experts() -> None:
    torch.manual_seed(0)
    layer = ChannelRouting(6)
    x, instruction = torch.randn(2, 6, 3, 5), torch.randn(2, CODE)
    gates = choose(layer.wanted(instruction))
    expected = x
    for expert in range(EXPERTS):
        out = torch.nn.functional.conv2d(layer.norm(x), layer.experts[expert][:, :, None, None])
        expected = expected + gates[..., expert][:, :, None, None] * out
    torch.testing.assert_close(layer(x, Route(instruction)), expected)


def test_different_images_get_different_paths() -> None:
    network = contract.build(CONFIG)
    noise, flat = contract.images(1, 2, 16, 16), torch.full((1, 2, 16, 16), 0.9)
    with torch.no_grad():
        first, second = network.instruction(noise), network.instruction(flat)
    assert not torch.allclose(first, second, atol=1e-4)
