"""Restore-RWKV (Yang et al. 2024, "Restore-RWKV: Efficient and Effective Medical Image Restoration with RWKV").

Written from the paper: a U-Net of four levels whose blocks are a spatial mix and a channel mix. The spatial mix is
Re-WKV attention, which applies bidirectional WKV attention to the pixels in row order, and to its result in column
order; both mixes first shift tokens by a sum of depthwise convolutions (Omni-Shift).

Chosen here: the decay is bounded to [0, 64] over an image and starts spread over its channels, which keeps the sums
exact in float32 (see :mod:`medq_uni.baselines.wkv`); the kernels of Omni-Shift are summed into one before they are
applied, in training as in use, which is the same function and gradient as the paper's separate branches.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from medq_uni.baselines.layers import UNet
from medq_uni.baselines.network import Baseline, BaselineConfig
from medq_uni.baselines.wkv import MAX_DECAY, wkv
from medq_uni.model.nafblock import ChannelNorm

SCANS = ("y x", "x y")
"""Orders in which attention passes over the pixels, one after the other: along rows, along columns."""
EXPANSION = 4
"""Hidden channels of the channel mix per channel."""
SLOWEST, FASTEST = 0.25, 32.0
"""Decays over an image that the channels start with, and all between on a logarithmic scale."""


class OmniShift(nn.Module):
    """Shift from all directions: the token itself plus depthwise 1x1, 3x3 and 5x5 convolutions, each with a factor.

    Args:
        channels: Channels in and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.tensor([1.0, 0.3, 0.3, 0.3]))
        self.kernels = nn.ParameterList(
            nn.Parameter(torch.empty(channels, 1, side, side).uniform_(-1, 1) / side) for side in (1, 3, 5)
        )

    def kernel(self) -> Float[Tensor, "C 1 5 5"]:
        """Return the one kernel that does the work of all branches."""
        own, *factors = self.factors
        total: Tensor = own * F.pad(torch.ones_like(self.kernels[0]), (2, 2, 2, 2))
        for factor, kernel in zip(factors, self.kernels, strict=True):
            margin = (5 - kernel.shape[-1]) // 2
            total = total + factor * F.pad(kernel, (margin, margin, margin, margin))
        return total

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Return features of the same shape."""
        return F.conv2d(x, self.kernel(), padding=2, groups=x.shape[1])


class SpatialMix(nn.Module):
    """Re-WKV attention over all pixels, let through by the receptance of each.

    Args:
        channels: Channels in and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = OmniShift(channels)
        self.receptance_key_value = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.project = nn.Conv2d(channels, channels, 1, bias=False)
        start = torch.logspace(0, 1, channels, base=FASTEST / SLOWEST) * SLOWEST / MAX_DECAY
        self.decay = nn.Parameter(start.logit().repeat(len(SCANS), 1))
        self.bonus = nn.Parameter(torch.zeros(len(SCANS), channels))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Return mixed features."""
        height, width = x.shape[-2:]
        receptance, key, value = self.receptance_key_value(self.shift(x)).chunk(3, dim=1)
        for order, decay, bonus in zip(SCANS, self.decay, self.bonus, strict=True):
            k, v = (rearrange(part, f"b c y x -> b c ({order})") for part in (key, value))
            attended = wkv(k, v, MAX_DECAY * decay.sigmoid(), bonus)
            value = rearrange(attended, f"b c ({order}) -> b c y x", y=height, x=width)
        gated = receptance.sigmoid() * value.to(receptance.dtype)
        mixed: Tensor = self.project(gated.contiguous(memory_format=torch.channels_last))
        return mixed


class ChannelMix(nn.Module):
    """Feed-forward over channels: squared ReLU, let through by the receptance.

    Args:
        channels: Channels in and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = OmniShift(channels)
        self.receptance = nn.Conv2d(channels, channels, 1, bias=False)
        self.key = nn.Conv2d(channels, EXPANSION * channels, 1, bias=False)
        self.value = nn.Conv2d(EXPANSION * channels, channels, 1, bias=False)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Return mixed features."""
        shifted = self.shift(x)
        mixed: Tensor = self.receptance(shifted).sigmoid() * self.value(F.relu(self.key(shifted)).square())
        return mixed


class RwkvBlock(nn.Module):
    """Spatial mix, then channel mix, each behind a norm and with a residual scaled per channel.

    Args:
        channels: Channels in and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.spatial = nn.Sequential(ChannelNorm(channels), SpatialMix(channels))
        self.channel = nn.Sequential(ChannelNorm(channels), ChannelMix(channels))
        self.scales = nn.Parameter(torch.ones(2, channels, 1, 1))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Return features of the same shape."""
        x = x + self.scales[0] * self.spatial(x)
        x = x + self.scales[1] * self.channel(x)
        return x


def rwkv_stage(channels: int, _: int, depth: int) -> nn.Sequential:
    """Return ``depth`` blocks."""
    return nn.Sequential(*(RwkvBlock(channels) for _ in range(depth)))


class Network(Baseline):
    """U-Net of RWKV blocks whose output is added to the input.

    Args:
        config: Its size; the paper's U-Net has four levels.
    """

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__(config)
        self.unet = UNet(config, rwkv_stage)

    def forward(self, degraded: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Return the restoration; sides must be multiples of ``config.multiple``."""
        correction: Tensor = self.unet(degraded)
        return degraded + correction
