"""What the baselines share: norm over channels, resampling by pixel shuffle, and the U-Net that holds their blocks.

Tensors run in the channels-last memory format, in which a CPU is faster at depthwise convolutions and at norms.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medq_uni.baselines.network import BaselineConfig
from medq_uni.config import ConfigError
from medq_uni.model.zero_init import zero_init

Stage = Callable[[int, int, int], nn.Module]
"""Makes the blocks of one level from (channels, level, number of blocks); level 0 is full resolution."""


def downsample(channels: int) -> nn.Module:
    """Return a layer (B, C, H, W) -> (B, 2C, H/2, W/2): a convolution, then pixel unshuffle."""
    return nn.Sequential(nn.Conv2d(channels, channels // 2, 3, padding=1, bias=False), nn.PixelUnshuffle(2))


def upsample(channels: int) -> nn.Module:
    """Return a layer (B, C, H, W) -> (B, C/2, 2H, 2W): a convolution, then pixel shuffle."""
    return nn.Sequential(nn.Conv2d(channels, 2 * channels, 3, padding=1, bias=False), nn.PixelShuffle(2))


class UNet(nn.Module):
    """Encoder and decoder with concatenated skips (Zamir et al. 2022, figure 2); its blocks are the caller's.

    The last convolution starts at zero, so an untrained network returns zeros.

    Args:
        config: Width, blocks of each level, and channels in and out.
        stage: Makes the blocks of a level.

    Raises:
        ConfigError: If the width is odd.
    """

    def __init__(self, config: BaselineConfig, stage: Stage) -> None:
        super().__init__()
        *depths, middle = config.blocks
        widths = [config.width * 2**level for level in range(len(config.blocks))]
        if config.width % 2:
            raise ConfigError(f"baseline {config.kind!r}: width must be even, got {config.width}.")
        top = 2 * config.width
        self.config = config
        self.embed = nn.Conv2d(config.in_channels, config.width, 3, padding=1, bias=False)
        self.encoders = nn.ModuleList(stage(widths[level], level, depth) for level, depth in enumerate(depths))
        self.downs = nn.ModuleList(downsample(width) for width in widths[:-1])
        self.middle = stage(widths[-1], len(depths), middle)
        self.ups = nn.ModuleList(upsample(width) for width in widths[1:])
        exits = [top, *widths[1:-1]]
        self.merges = nn.ModuleList(
            nn.Identity() if out == 2 * width else nn.Conv2d(2 * width, out, 1, bias=False)
            for width, out in zip(widths[:-1], exits, strict=True)
        )
        self.decoders = nn.ModuleList(
            stage(out, level, depth) for level, (out, depth) in enumerate(zip(exits, depths, strict=True))
        )
        self.refinement = stage(top, 0, depths[0])
        self.head = zero_init(nn.Conv2d(top, config.in_channels, 3, padding=1))

    def forward(self, x: Float[Tensor, "B C H W"], *context: Any) -> Float[Tensor, "B C H W"]:
        """Return the correction of an image.

        Args:
            x: Image.
            context: Given to every stage after its features.

        Raises:
            MedQError: If a side is not a multiple of ``config.multiple``.
        """
        self.config.check_fits(x)
        x = self.embed(x.contiguous(memory_format=torch.channels_last))
        skips = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            skips.append(encoder(x, *context))
            x = down(skips[-1])
        x = self.middle(x, *context)
        for level in reversed(range(len(skips))):
            x = torch.cat([self.ups[level](x), skips[level]], dim=1)
            x = self.decoders[level](self.merges[level](x), *context)
        correction: Tensor = self.head(self.refinement(x, *context))
        return correction
