import torch
from hypothesis import given, settings

from medq_uni.peers.network import PeerConfig
from medq_uni.peers.restormer import ChannelAttention, GatedFeedForward
from tests.peers import contract

CONFIG = PeerConfig(kind="restormer", width=4, blocks=(1, 1, 2))


@settings(max_examples=8, deadline=None)
@given(shape=contract.SHAPES)
def test_images_keep_their_shape(shape: tuple[int, int, int]) -> None:
    contract.assert_shapes(CONFIG, shape)


def test_an_untrained_network_is_the_identity() -> None:
    contract.assert_untrained_is_identity(CONFIG)


def test_sides_that_do_not_fit_are_refused() -> None:
    contract.assert_misfit_is_refused(CONFIG)


def test_gradients_reach_every_parameter() -> None:
    contract.assert_gradients_reach_all(CONFIG)


def test_a_few_steps_learn_one_batch() -> None:
    assert contract.training_ratio(CONFIG, steps=40) < 0.25


def test_refinement_counts_the_blocks_of_the_first_level() -> None:
    network = contract.build(PeerConfig(kind="restormer", width=4, blocks=(3, 1)))
    assert [len(network.unet.encoders[0]), len(network.unet.decoders[0]), len(network.unet.refinement)] == [3, 3, 3]


def test_attention_is_the_softmax_of_cosines_between_channels_of_a_head() -> None:
    torch.manual_seed(0)
    attention = ChannelAttention(6, heads=2)
    torch.nn.init.uniform_(attention.temperature, 0.5, 3)
    x = torch.randn(1, 6, 4, 5)
    q, k, v = attention.qkv(x).flatten(2)[0].chunk(3)
    rows = []
    for c in range(6):
        peers = range(3) if c < 3 else range(3, 6)
        scores = torch.stack([torch.cosine_similarity(q[c], k[p], dim=0) for p in peers])
        weights = (scores * attention.temperature[c // 3].squeeze()).softmax(0)
        rows.append(sum(w * v[p] for w, p in zip(weights, peers, strict=True)))
    expected = attention.project(torch.stack(rows).view(1, 6, 4, 5))
    torch.testing.assert_close(attention(x), expected)


def test_attention_of_a_black_image_is_finite_in_its_gradient() -> None:
    attention = ChannelAttention(4, heads=1)
    x = torch.zeros(1, 4, 4, 4, requires_grad=True)
    attention(x).sum().backward()
    assert torch.isfinite(x.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in attention.parameters())


def test_a_closed_gate_lets_nothing_through() -> None:
    layer = GatedFeedForward(4)
    hidden = layer.project.in_channels
    with torch.no_grad():
        layer.expand[1].weight[:hidden] = 0
    assert torch.equal(layer(torch.randn(1, 4, 4, 4)), torch.zeros(1, 4, 4, 4))
