"""Restormer (Zamir et al. 2022, "Restormer: Efficient Transformer for High-Resolution Image Restoration").

Written from the paper. Attention runs between channels, so its cost grows with the number of pixels and not with its
square. The paper leaves open how queries and keys are scaled; here each channel has unit length over the pixels, as in
the cross-covariance attention of El-Nouby et al. (2021), which makes the scores cosines at any image size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from medq_uni.baselines.layers import UNet
from medq_uni.baselines.network import Baseline, BaselineConfig
from medq_uni.model.nafblock import ChannelNorm

EXPANSION = 2.66
"""Hidden channels of the feed-forward network per channel (section 4 of the paper)."""


class ChannelAttention(nn.Module):
    """Multi-Dconv head transposed attention (MDTA, equation 1): softmax over channels with a learned temperature.

    Args:
        channels: Channels in and out; a multiple of ``heads``.
        heads: Groups of channels that attend among themselves.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Sequential(
            nn.Conv2d(channels, 3 * channels, 1, bias=False),
            nn.Conv2d(3 * channels, 3 * channels, 3, padding=1, groups=3 * channels, bias=False),
        )
        self.project = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Return attended features."""
        q, k, v = rearrange(self.qkv(x), "b (n h c) y x -> n b h c (y x)", n=3, h=self.heads)
        lengths = q.norm(dim=-1)[..., :, None] * k.norm(dim=-1)[..., None, :]
        cosines = q @ k.transpose(-1, -2) / lengths.clamp_min(1e-12)  # (B, heads, c, c)
        mixed = (cosines * self.temperature).softmax(dim=-1) @ v
        attended: Tensor = self.project(
            rearrange(mixed, "b h c (y x) -> b (h c) y x", y=x.shape[-2]).contiguous(memory_format=torch.channels_last)
        )
        return attended


class GatedFeedForward(nn.Module):
    """Gated-Dconv feed-forward network (GDFN, equation 2): one half of the hidden channels gates the other.

    Args:
        channels: Channels in and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = int(EXPANSION * channels)
        self.expand = nn.Sequential(
            nn.Conv2d(channels, 2 * hidden, 1, bias=False),
            nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=False),
        )
        self.project = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Return mixed features."""
        gate, value = self.expand(x).chunk(2, dim=1)
        mixed: Tensor = self.project(F.gelu(gate) * value)
        return mixed


class TransformerBlock(nn.Module):
    """MDTA, then GDFN, each behind a norm and with a residual.

    Args:
        channels: Channels in and out.
        heads: Heads of the attention.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(ChannelNorm(channels), ChannelAttention(channels, heads))
        self.feed_forward = nn.Sequential(ChannelNorm(channels), GatedFeedForward(channels))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Return features of the same shape."""
        x = x + self.attention(x)
        x = x + self.feed_forward(x)
        return x


def transformer_stage(channels: int, level: int, depth: int) -> nn.Sequential:
    """Return ``depth`` blocks with 2 ** level heads, the paper's 1, 2, 4, 8."""
    return nn.Sequential(*(TransformerBlock(channels, 2**level) for _ in range(depth)))


class Network(Baseline):
    """U-Net of transformer blocks whose output is added to the input.

    Args:
        config: Its size; the paper's is width 48 and blocks (4, 6, 6, 8), with four blocks of refinement.
    """

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__(config)
        self.unet = UNet(config, transformer_stage)

    def forward(self, degraded: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Return the restoration; sides must be multiples of ``config.multiple``."""
        correction: Tensor = self.unet(degraded)
        return degraded + correction
