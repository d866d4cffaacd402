"""NAFNet (Chen, Chu, Zhang, Sun: Simple baselines for image restoration, ECCV 2022).

A U-Net of blocks without nonlinear activations: the product of two halves of the channels takes their place.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medq_uni.baselines.network import Baseline, BaselineConfig
from medq_uni.model.nafblock import NAFBlock
from medq_uni.model.zero_init import zero_init


class GatedUNet(nn.Module):
    """As many blocks on the way up as on the way down, skips that are added.

    The last convolution begins at 0: a new network returns zeros.

    Args:
        config: Width and blocks of each level.
        in_channels: Channels that are read.
        out_channels: Channels that are written.
    """

    def __init__(self, config: BaselineConfig, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.config = config
        widths = [config.width * 2**level for level in range(len(config.blocks))]
        *outer, middle = config.blocks
        self.intro = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.encoders = nn.ModuleList(_blocks(w, n) for w, n in zip(widths, outer, strict=False))
        self.downs = nn.ModuleList(nn.Conv2d(w, 2 * w, 2, stride=2) for w in widths[:-1])
        self.middle = _blocks(widths[-1], middle)
        self.ups = nn.ModuleList(
            nn.Sequential(nn.Conv2d(2 * w, 4 * w, 1, bias=False), nn.PixelShuffle(2)) for w in widths[:-1]
        )
        self.decoders = nn.ModuleList(_blocks(w, n) for w, n in zip(widths, outer, strict=False))
        self.ending = zero_init(nn.Conv2d(widths[0], out_channels, 3, padding=1))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # convolutions are faster so

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C2 H W"]:
        """Return an image.

        Raises:
            MedQError: If a side is not a multiple of ``config.multiple``.
        """
        self.config.check_fits(x)
        x, skips = self.intro(x), []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            x = encoder(x)
            skips.append(x)
            x = down(x)
        x = self.middle(x)
        for skip, up, decoder in zip(*(reversed(parts) for parts in (skips, self.ups, self.decoders)), strict=True):
            x = decoder(up(x) + skip)
        image: Tensor = self.ending(x)
        return image


class Network(Baseline):
    """The U-Net, which corrects its input.

    Args:
        config: Its size.
    """

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__(config)
        self.unet = GatedUNet(config, config.in_channels, config.in_channels)

    def forward(self, degraded: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Return the input plus a correction; sides must be multiples of ``config.multiple``."""
        correction: Tensor = self.unet(degraded)
        return degraded + correction


def _blocks(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(NAFBlock(width) for _ in range(count)))
