"""A block without nonlinear activations, in which the product of two halves of the channels takes their place.

NAFBlock of Chen, Chu, Zhang, Sun: Simple baselines for image restoration, ECCV 2022; equations and figures are theirs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

EXPANSION = 2
"""Channels inside a block, before a gate halves them, per channel outside."""
NORM_EPS = 1e-6


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of every pixel, with learned scale and shift."""

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
        output: Tensor = x + self.gamma * self.feed_out(simple_gate(self.feed_in(self.norm2(x))))
        return output
