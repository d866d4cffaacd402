import torch

from medq_uni.baselines.network import BaselineConfig
from medq_uni.baselines.restormer import ChannelAttention, GatedFeedForward
from tests.baselines import contract


def test_refinement_counts_the_blocks_of_the_first_level() -> None:
    network = contract.build(BaselineConfig(kind="restormer", width=4, blocks=(3, 1)))
    assert [len(network.unet.encoders[0]), len(network.unet.decoders[0]), len(network.unet.refinement)] == [3, 3, 3]


def test_attention_is_the_softmax_of_cosines_between_channels_of_a_head() -> None:
    torch.manual_seed(0)
    attention = ChannelAttention(6, heads=2)
    torch.nn.init.uniform_(attention.temperature, 0.5, 3)
    x = torch.randn(1, 6, 4, 5)
    q, k, v = attention.qkv(x).flatten(2)[0].chunk(3)
    rows = []
    for c in range(6):
        baselines = range(3) if c < 3 else range(3, 6)
        scores = torch.stack([torch.cosine_similarity(q[c], k[p], dim=0) for p in baselines])
        weights = (scores * attention.temperature[c // 3].squeeze()).softmax(0)
        rows.append(sum(w * v[p] for w, p in zip(weights, baselines, strict=True)))
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
