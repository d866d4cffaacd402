import pytest
import torch

from medq_uni.model.nafblock import ChannelNorm, NAFBlock, simple_gate


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_channel_norm_is_over_the_channels_of_a_pixel(layout: torch.memory_format) -> None:
    x = (torch.randn(2, 5, 3, 4) * 7 + 2).to(memory_format=layout)
    norm = ChannelNorm(5)
    expected = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(norm(x), expected)


def test_a_gate_is_the_product_of_the_halves() -> None:
    x = torch.tensor([2.0, 3.0, 5.0, 7.0]).view(1, 4, 1, 1)
    assert simple_gate(x).flatten().tolist() == [10.0, 21.0]


def test_channel_attention_weighs_by_the_mean_of_the_whole_image() -> None:
    torch.manual_seed(0)
    block = NAFBlock(4)
    with torch.no_grad():
        block.beta.fill_(1)
    x = torch.rand(1, 4, 24, 24)
    changed = x.clone()
    changed[:, 0, -1, -1] += 1  # all channels alike would leave nothing of it after the norm
    difference = (block(changed) - block(x)).abs().sum(1)[0]
    assert difference[0, 0] > 0  # far beyond the 3 x 3 convolution
    assert difference[-1, -1] > 10 * difference[0, 0]
