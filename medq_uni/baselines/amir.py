"""AMIR (Yang et al. 2024, MICCAI, "All-In-One Medical Image Restoration via Task-Adaptive Routing").

Written from the paper's idea: one network for several tasks lets images of different tasks take different paths, so
that their gradients disturb each other less. A small network looks at the degraded image and mixes an instruction from
a learned dictionary; in a U-Net of Restormer blocks, the instruction steers a choice of experts for each pixel and for
each channel. A loss keeps the experts in equal use; its factor 0.001 is the authors'.

This is a reading, not a port; chosen here and free to differ from the authors' network are: 16 instructions of 32
channels; one spatial, then one channel router after the blocks of every level; four experts, two in use at a time;
spatial experts that are two-layer perceptrons of half the width, channel experts that are linear maps; gates without
noise (the noise of Shazeer et al. 2017 would need random numbers in the network), balanced by the importance loss
alone, taken over the gates before the choice, so that an expert out of use is still called back; routers that add
nothing at first.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from medq_uni.baselines.layers import UNet
from medq_uni.baselines.network import Baseline, BaselineConfig, Terms
from medq_uni.baselines.restormer import transformer_stage
from medq_uni.model.nafblock import ChannelNorm
from medq_uni.model.zero_init import zero_init

ENTRIES = 16
"""Instructions in the dictionary."""
CODE = 32
"""Channels of an instruction."""
EXPERTS = 4
"""Experts of a router."""
CHOSEN = 2
"""Experts in use at one place."""
BALANCE = 0.001
"""Factor of the load-balance loss."""


@dataclass
class Route:
    """What the routers of one forward pass are told, and what they report."""

    instruction: Float[Tensor, "B E"]
    """The instruction of each image."""
    imbalances: list[Float[Tensor, ""]] = field(default_factory=list)
    """Of each router passed, how unequally its experts were wanted."""


def imbalance(wanted: Float[Tensor, "... N"]) -> Float[Tensor, ""]:
    """Return the squared coefficient of variation of the experts' importance (Shazeer et al. 2017, equation 7).

    Args:
        wanted: Probabilities over experts, which sum to one.

    Returns:
        0 where all experts are wanted equally over all places, N - 1 where it is always the same one.
    """
    importance = wanted.flatten(0, -2).mean(dim=0)
    return importance.numel() * importance.square().sum() - 1


def choose(wanted: Float[Tensor, "... N"]) -> Float[Tensor, "... N"]:
    """Return the gates: the ``CHOSEN`` largest probabilities, scaled to sum to one, and zeros."""
    largest = wanted.topk(CHOSEN, dim=-1)
    kept = torch.zeros_like(wanted).scatter(-1, largest.indices, largest.values)
    return kept / kept.sum(dim=-1, keepdim=True)


class RoutingInstruction(nn.Module):
    """Routing instruction network: what is averaged over the image decides how the dictionary is mixed.

    Args:
        in_channels: Views of the image.
        width: Channels after the first convolution.
    """

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1),
            nn.GELU(),
        )
        self.mix = nn.Linear(4 * width, ENTRIES)
        self.dictionary = nn.Parameter(torch.randn(ENTRIES, CODE))

    def weights(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B N"]:
        """Return the share of every entry of the dictionary; they sum to one."""
        logits: Tensor = self.mix(self.features(image).mean(dim=(2, 3)))
        return logits.softmax(dim=1)

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B E"]:
        """Return the instruction of each image."""
        return self.weights(image) @ self.dictionary


class SpatialRouting(nn.Module):
    """Every pixel takes ``CHOSEN`` of ``EXPERTS`` perceptrons, by its features and the instruction.

    All experts are computed and the gates set the others to zero: at these sizes that is faster than gathering pixels.

    Args:
        channels: Channels in and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = EXPERTS * (channels // 2)
        self.norm = ChannelNorm(channels)
        self.by_pixel = nn.Conv2d(channels, EXPERTS, 1, bias=False)
        self.by_instruction = nn.Linear(CODE, EXPERTS)
        self.first = nn.Conv2d(channels, hidden, 1)
        self.second = zero_init(nn.Conv2d(hidden, channels, 1))

    def wanted(self, normed: Float[Tensor, "B C H W"], instruction: Float[Tensor, "B E"]) -> Float[Tensor, "B H W N"]:
        """Return the probability of every expert at every pixel."""
        logits: Tensor = self.by_pixel(normed) + self.by_instruction(instruction)[:, :, None, None]
        return logits.permute(0, 2, 3, 1).softmax(dim=-1)

    def forward(self, x: Float[Tensor, "B C H W"], route: Route) -> Float[Tensor, "B C H W"]:
        """Return features of the same shape, and report to the route."""
        normed = self.norm(x)
        wanted = self.wanted(normed, route.instruction)
        route.imbalances.append(imbalance(wanted))
        gates = choose(wanted).permute(0, 3, 1, 2)
        hidden = F.gelu(self.first(normed)).unflatten(1, (EXPERTS, -1)) * gates[:, :, None]
        routed: Tensor = self.second(hidden.flatten(1, 2))
        return x + routed


class ChannelRouting(nn.Module):
    """Every channel takes ``CHOSEN`` of ``EXPERTS`` linear maps, by the instruction.

    Linear maps can be mixed before they are applied, so an image costs one map whatever the number of experts.

    Args:
        channels: Channels in and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.by_instruction = nn.Linear(CODE, channels * EXPERTS)
        self.experts = nn.Parameter(torch.zeros(EXPERTS, channels, channels))

    def wanted(self, instruction: Float[Tensor, "B E"]) -> Float[Tensor, "B C N"]:
        """Return the probability of every expert for every channel that is written."""
        logits: Tensor = self.by_instruction(instruction).unflatten(1, (-1, EXPERTS))
        return logits.softmax(dim=-1)

    def forward(self, x: Float[Tensor, "B C H W"], route: Route) -> Float[Tensor, "B C H W"]:
        """Return features of the same shape, and report to the route."""
        wanted = self.wanted(route.instruction)
        route.imbalances.append(imbalance(wanted))
        maps = torch.einsum("bcn,ncd->bcd", choose(wanted), self.experts)
        pixels = self.norm(x).permute(0, 2, 3, 1).flatten(1, 2)  # (B, H W, C)
        routed: Tensor = pixels @ maps.transpose(1, 2)
        correction: Tensor = routed.unflatten(1, x.shape[-2:]).permute(0, 3, 1, 2)
        return x + correction


class RoutedStage(nn.Module):
    """Transformer blocks of one level, then routing by pixel and by channel.

    Args:
        channels: Channels in and out.
        level: 0 at full resolution.
        depth: Number of transformer blocks.
    """

    def __init__(self, channels: int, level: int, depth: int) -> None:
        super().__init__()
        self.blocks = transformer_stage(channels, level, depth)
        self.spatial = SpatialRouting(channels)
        self.channel = ChannelRouting(channels)

    def forward(self, x: Float[Tensor, "B C H W"], route: Route) -> Float[Tensor, "B C H W"]:
        """Return features of the same shape."""
        routed: Tensor = self.channel(self.spatial(self.blocks(x), route), route)
        return routed


class Network(Baseline):
    """Restormer-like U-Net with routers.

    Args:
        config: Its size; the paper's is width 42.
    """

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__(config)
        self.instruction = RoutingInstruction(config.in_channels, config.width)
        self.unet = UNet(config, RoutedStage)

    def route(self, degraded: Float[Tensor, "B C H W"]) -> tuple[Float[Tensor, "B C H W"], Route]:
        """Return the restoration and what the routers reported."""
        route = Route(self.instruction(degraded))
        return degraded + self.unet(degraded, route), route

    def forward(self, degraded: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Return the restoration; sides must be multiples of ``config.multiple``."""
        return self.route(degraded)[0]

    def learn(
        self, degraded: Float[Tensor, "B C H W"], reference: Float[Tensor, "B C H W"], t: Float[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B C H W"], Terms]:
        """Return the restoration and the load-balance loss over all routers, named ``balance``."""
        restored, route = self.route(degraded)
        return restored, {"balance": BALANCE * torch.stack(route.imbalances).sum()}
