"""pix2pix (Isola, Zhu, Zhou, Efros: Image-to-image translation with conditional adversarial networks, CVPR 2017).

A U-Net generator and a discriminator of patches that sees the input beside the output. Four things differ from the
paper. Both are updated at once, by one optimizer from one backward pass: the generator meets the discriminator with
its weights held fixed, the discriminator meets the generator's image held fixed. The generator predicts a correction
of its input, and has convolutions at full resolution, where the paper begins with a stride of 2: noise lives in single
pixels. It has no dropout, so that a restoration is the same every time; the paper reports that its dropout hardly made
outputs vary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from medq_uni.baselines.network import Baseline, BaselineConfig, Terms
from medq_uni.config import ConfigError
from medq_uni.errors import MedQError
from medq_uni.model.zero_init import zero_init

ADVERSARIAL_WEIGHT = 0.01
"""Weight of the adversarial term where the pixel losses weigh about 1: the paper's L1 to GAN of 100 to 1 (Sec. 3.1)."""
DISCRIMINATOR_WEIGHT = 0.5
"""The discriminator learns at half the speed of the generator (Sec. 3.3)."""
LARGEST_WIDTH = 8
"""No level has more than this many times the channels of the first."""
SLOPE = 0.2
"""Of the leaky ReLU."""
SMALLEST_CROP = 32
"""Crops that the discriminator can judge, in pixels."""


class Down(nn.Module):
    """A convolution with a 4 x 4 kernel, instance norm, leaky ReLU.

    Args:
        given: Channels of the input.
        width: Channels of the output.
        stride: 2 halves the sides; 1 takes one pixel off them.
        is_normed: Whether the features are normed: the first are not, and a single pixel cannot be.
    """

    def __init__(self, given: int, width: int, *, stride: int = 2, is_normed: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(given, width, 4, stride=stride, padding=1)
        self.norm = nn.InstanceNorm2d(width, affine=True) if is_normed else nn.Identity()

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """Return features."""
        return F.leaky_relu(self.norm(self.conv(x)), SLOPE)


class Up(nn.Module):
    """A transposed convolution that doubles the sides, instance norm, ReLU.

    Args:
        given: Channels of the input.
        width: Channels of the output.
    """

    def __init__(self, given: int, width: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(given, width, 4, stride=2, padding=1)
        self.norm = nn.InstanceNorm2d(width, affine=True)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B D H W"]:
        """Return features at twice the sides."""
        return F.relu(self.norm(self.conv(x)))


class Discriminator(nn.Sequential):
    """Says of every patch of 70 x 70 pixels whether it is true (PatchGAN, Sec. 3.2.2).

    Args:
        channels: Of input and output of the generator together.
        width: Channels of the first layer.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__(
            Down(channels, width, is_normed=False),
            Down(width, 2 * width),
            Down(2 * width, 4 * width),
            Down(4 * width, 8 * width, stride=1),
            nn.Conv2d(8 * width, 1, 4, padding=1),
        )


class Network(Baseline):
    """Generator and discriminator.

    The last layer of the generator begins at 0: a new network returns its input.

    Args:
        config: Its size. The first entry of ``blocks`` counts the convolutions at full resolution on either way, every
            other level has one; so the other entries say how many levels there are.

    Raises:
        ConfigError: If an entry of ``blocks`` after the first is not 1.
    """

    training_only = ("discriminator",)

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__(config)
        count, *rest = config.blocks
        if set(rest) != {1}:
            raise ConfigError(
                f"pix2pix has one layer at every lower level: blocks {list(config.blocks)} must end in 1."
            )
        depth, channels = len(rest), config.in_channels
        widths = [config.width * min(2**level, LARGEST_WIDTH) for level in range(depth + 1)]
        self.head = _convolutions(channels, widths[0], count)
        self.downs = nn.ModuleList(
            Down(widths[level], widths[level + 1], is_normed=level < depth - 1) for level in range(depth)
        )
        # every level but the lowest gets the features of the way down beside those from below
        self.ups = nn.ModuleList(
            Up(widths[level] * (1 if level == depth else 2), widths[level - 1]) for level in range(depth, 0, -1)
        )
        self.tail = _convolutions(2 * widths[0], widths[0], count)
        self.last = zero_init(nn.Conv2d(widths[0], channels, 3, padding=1))
        self.discriminator = Discriminator(2 * channels, config.width)

    def forward(self, degraded: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Return the input plus a correction; sides must be multiples of ``config.multiple``."""
        x, skips = self.head(degraded), []
        for down in self.downs:
            skips.append(x)
            x = down(x)
        for up, skip in zip(self.ups, reversed(skips), strict=True):
            x = torch.cat([up(x), skip], dim=1)
        output: Tensor = degraded + self.last(self.tail(x))
        return output

    def learn(
        self, degraded: Float[Tensor, "B C H W"], reference: Float[Tensor, "B C H W"], t: Float[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B C H W"], Terms]:
        """Return the generator's image, its adversarial term, and the loss of the discriminator.

        The discriminator alone learns from ``discriminator``, the generator alone from ``adversarial``; the two are
        updated simultaneously.

        Raises:
            MedQError: If the crops are smaller than the discriminator can judge.
        """
        if min(degraded.shape[-2:]) < SMALLEST_CROP:
            raise MedQError(f"pix2pix: crops must have {SMALLEST_CROP} pixels a side at least. Raise crop_size.")
        image = self(degraded)
        fixed = {name: weight.detach() for name, weight in self.discriminator.named_parameters()}
        judged = functional_call(self.discriminator, fixed, (torch.cat([degraded, image], dim=1),))
        true = self.discriminator(torch.cat([degraded, reference], dim=1))
        fake = self.discriminator(torch.cat([degraded, image.detach()], dim=1))
        return image, {
            "adversarial": ADVERSARIAL_WEIGHT * F.softplus(-judged.float()).mean(),
            "discriminator": DISCRIMINATOR_WEIGHT
            * (F.softplus(-true.float()).mean() + F.softplus(fake.float()).mean()),
        }


def _convolutions(given: int, width: int, count: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for number in range(count):
        layers += [nn.Conv2d(width if number else given, width, 3, padding=1), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*layers)
