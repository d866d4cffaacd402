"""NAFNet (Chen, Chu, Zhang, Sun: Simple baselines for image restoration, ECCV 2022).

A U-Net of blocks without nonlinear activations: the product of two halves of the channels takes their place.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from medq_uni.peers.network import Peer, PeerConfig

EXPANSION = 2
"""Channels inside a block, before a gate halves them, per channel outside."""
NORM_EPS = 1e-6


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of every pixel."""

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Return x with mean 0 and variance 1 at every pixel, then scaled and shifted by channel."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def simple_gate(x: Float[Tensor, "B C2 H W"]) -> Float[Tensor, "B C H W"]:
    """Return the product of the two halves of the channels (Eq. 4)."""
    first, second = x.chunk(2, dim=1)
    return first * second


class NAFBlock(nn.Module):
    """Spatial mixing with simplified channel attention, then channel mixing, both gated and residual (Fig. 3c).

    The scales of both branches begin at 0, so that a new block passes its input on.

    Args:
        width: Channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = EXPANSION * width
        self.norm1 = ChannelNorm(width, eps=NORM_EPS)
        self.expand = nn.Conv2d(width, inner, 1)
        self.depthwise = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.attention = nn.Conv2d(inner // 2, inner // 2, 1)
        self.project = nn.Conv2d(inner // 2, width, 1)
        self.norm2 = ChannelNorm(width, eps=NORM_EPS)
        self.feed_in = nn.Conv2d(width, inner, 1)
        self.feed_out = nn.Conv2d(inner // 2, width, 1)
        self.beta = nn.Parameter(torch.zeros(1, width, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, width, 1, 1))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Return x plus the two corrections, same shape."""
        y = simple_gate(self.depthwise(self.expand(self.norm1(x))))
        y = y * self.attention(F.adaptive_avg_pool2d(y, 1))  # simplified channel attention (Eq. 6)
        x = x + self.beta * self.project(y)
        return x + self.gamma * self.feed_out(simple_gate(self.feed_in(self.norm2(x))))


class Network(Peer):
    """The U-Net: as many blocks on the way up as on the way down, skips that are added, the input added at the end.

    The last convolution begins at 0: a new network returns its input.

    Args:
        config: Its size.
    """

    def __init__(self, config: PeerConfig) -> None:
        super().__init__(config)
        widths = [config.width * 2**level for level in range(len(config.blocks))]
        *outer, middle = config.blocks
        self.intro = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.encoders = nn.ModuleList(_blocks(w, n) for w, n in zip(widths, outer, strict=False))
        self.downs = nn.ModuleList(nn.Conv2d(w, 2 * w, 2, stride=2) for w in widths[:-1])
        self.middle = _blocks(widths[-1], middle)
        self.ups = nn.ModuleList(
            nn.Sequential(nn.Conv2d(2 * w, 4 * w, 1, bias=False), nn.PixelShuffle(2)) for w in widths[:-1]
        )
        self.decoders = nn.ModuleList(_blocks(w, n) for w, n in zip(widths, outer, strict=False))
        self.ending = nn.Conv2d(widths[0], config.in_channels, 3, padding=1)
        nn.init.zeros_(self.ending.weight)
        nn.init.zeros_(self.ending.bias)  # type: ignore[arg-type]
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # convolutions are faster so

    def forward(self, degraded: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Return the input plus a correction; sides must be multiples of ``config.multiple``."""
        x, skips = self.intro(degraded), []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            x = encoder(x)
            skips.append(x)
            x = down(x)
        x = self.middle(x)
        for skip, up, decoder in zip(*(reversed(parts) for parts in (skips, self.ups, self.decoders)), strict=True):
            x = decoder(up(x) + skip)
        return degraded + self.ending(x)


def _blocks(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(NAFBlock(width) for _ in range(count)))
