"""Image <-> latent: what every codec offers, and the convolutional autoencoder of the base model.

The autoencoder has the layout of FLUX.1: residual blocks with group norms, one attention in the middle,
a diagonal Gaussian latent. Encoding takes the mean, never a sample: a restoration must not add noise.
Everything stays in floats; module names are those of the released file.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from medq_uni.config import FluxCodecConfig
from medq_uni.model.grid import SizeError


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """What a codec makes of a latent."""

    image: Float[Tensor, "B C H W"]
    """Network range, not clamped."""
    log_variance: Float[Tensor, "B C H W"] | None = None
    """Predicted logarithm of the squared error per pixel, or None if the codec does not predict it."""


@runtime_checkable
class Codec(Protocol):
    """Turns images in network range into latents and back."""

    def encode(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B c h w"]:
        """Return the latent; the same image always gives the same latent."""
        ...

    def decode(
        self,
        latent: Float[Tensor, "B c h w"],
        fidelity: Any = None,
        hidden_states: Float[Tensor, "B E r k"] | None = None,
    ) -> DecodedImage:
        """Return the image; a codec that takes them is helped by :meth:`features` and by hidden states."""
        ...

    def features(self, image: Float[Tensor, "B C H W"], told: Float[Tensor, "B n"] | None = None) -> Any:
        """Return full-resolution features for :meth:`decode`, or None if the codec has no such path.

        A codec that can be told quantities of the degradation (:mod:`medq_uni.quantities`) uses them.
        """
        ...


class FluxCodec(nn.Module):
    """Convolutional autoencoder in the FLUX.1 layout."""

    def __init__(self, config: FluxCodecConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def encode(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B c h w"]:
        """Return scale_factor * (mean - shift_factor) of an image in [-1, 1].

        Raises:
            SizeError: If a side is not a multiple of the downsampling factor.
        """
        factor = self.config.downsample
        if image.shape[-2] % factor or image.shape[-1] % factor:
            raise SizeError(
                f"the codec needs sides that are multiples of {factor}, got {tuple(image.shape[-2:])}. Pad the image."
            )
        mean: Tensor = self.encoder(image)[:, : self.config.latent_channels]
        return self.config.scale_factor * (mean - self.config.shift_factor)

    def decode(
        self,
        latent: Float[Tensor, "B c h w"],
        fidelity: None = None,
        hidden_states: Float[Tensor, "B E r k"] | None = None,
    ) -> DecodedImage:
        """Return the decoded image; this codec has no fidelity path, reads no states and predicts no variance."""
        assert fidelity is None, "the FLUX codec has no fidelity path"
        return DecodedImage(self.decoder(latent / self.config.scale_factor + self.config.shift_factor))

    def features(self, image: Float[Tensor, "B C H W"], told: Float[Tensor, "B n"] | None = None) -> None:
        """Return None: there is no fidelity path."""


class ResnetBlock(nn.Module):
    """x + conv(swish(norm(conv(swish(norm(x)))))), with a 1x1 shortcut where the width changes."""

    def __init__(self, width_in: int, width: int, groups: int) -> None:
        super().__init__()
        self.norm1 = _group_norm(width_in, groups)
        self.conv1 = nn.Conv2d(width_in, width, 3, padding=1)
        self.norm2 = _group_norm(width, groups)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.nin_shortcut = nn.Identity() if width_in == width else nn.Conv2d(width_in, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the new width and the same size."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        output: Tensor = self.nin_shortcut(x) + h
        return output


class AttentionBlock(nn.Module):
    """Single-head attention over all positions, with a residual."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm = _group_norm(width, groups)
        self.q = nn.Conv2d(width, width, 1)
        self.k = nn.Conv2d(width, width, 1)
        self.v = nn.Conv2d(width, width, 1)
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the same shape."""
        h = self.norm(x)
        q, k, v = (rearrange(p(h), "b c h w -> b 1 (h w) c") for p in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v)
        output: Tensor = x + self.proj_out(rearrange(y, "b 1 (h w) c -> b c h w", h=x.shape[-2]))
        return output


class Middle(nn.Module):
    """Residual block, attention, residual block."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(width, width, groups)
        self.attn_1 = AttentionBlock(width, groups)
        self.block_2 = ResnetBlock(width, width, groups)

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the same shape."""
        output: Tensor = self.block_2(self.attn_1(self.block_1(x)))
        return output


class Downsample(nn.Module):
    """Stride-2 convolution, padded by one on the right and at the bottom only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of half the size."""
        output: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return output


class Upsample(nn.Module):
    """Nearest neighbor, then a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of twice the size."""
        output: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return output


class Level(nn.Module):
    """Residual blocks of one resolution, and the change to the next."""

    def __init__(self, widths: list[int], groups: int) -> None:
        super().__init__()
        self.block = nn.ModuleList(ResnetBlock(a, b, groups) for a, b in pairwise(widths))
        self.downsample: nn.Module = nn.Identity()
        self.upsample: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return the features at the next resolution."""
        for block in self.block:
            x = block(x)
        output: Tensor = self.upsample(self.downsample(x))
        return output


class Encoder(nn.Module):
    """Image to [mean, log-variance] of the latent."""

    def __init__(self, config: FluxCodecConfig) -> None:
        super().__init__()
        groups, widths = config.norm_groups, [config.channels * m for m in config.channel_multipliers]
        self.conv_in = nn.Conv2d(config.in_channels, config.channels, 3, padding=1)
        self.down = nn.ModuleList()
        width = config.channels
        for i, new_width in enumerate(widths):
            level = Level([width] + [new_width] * config.num_res_blocks, groups)
            if i + 1 < len(widths):
                level.downsample = Downsample(new_width)
            self.down.append(level)
            width = new_width
        self.mid = Middle(width, groups)
        self.norm_out = _group_norm(width, groups)
        self.conv_out = nn.Conv2d(width, 2 * config.latent_channels, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """Return (B, 2 c, h, w): mean, then log-variance, before scale and shift."""
        x = self.conv_in(image)
        for level in self.down:
            x = level(x)
        output: Tensor = self.conv_out(F.silu(self.norm_out(self.mid(x))))
        return output


class Decoder(nn.Module):
    """Unscaled latent to image; ``up`` is stored from high to low resolution and runs backwards."""

    def __init__(self, config: FluxCodecConfig) -> None:
        super().__init__()
        groups, widths = config.norm_groups, [config.channels * m for m in config.channel_multipliers]
        width = widths[-1]
        self.conv_in = nn.Conv2d(config.latent_channels, width, 3, padding=1)
        self.mid = Middle(width, groups)
        levels: list[Level] = []
        for i, new_width in reversed(list(enumerate(widths))):
            level = Level([width] + [new_width] * (config.num_res_blocks + 1), groups)
            if i:
                level.upsample = Upsample(new_width)
            levels.append(level)
            width = new_width
        self.up = nn.ModuleList(reversed(levels))
        self.norm_out = _group_norm(width, groups)
        self.conv_out = nn.Conv2d(width, config.in_channels, 3, padding=1)

    def forward(self, latent: Tensor) -> Tensor:
        """Return the image, not clamped."""
        x = self.mid(self.conv_in(latent))
        for level in reversed(self.up):
            x = level(x)
        output: Tensor = self.conv_out(F.silu(self.norm_out(x)))
        return output


def _group_norm(width: int, groups: int) -> nn.GroupNorm:
    return nn.GroupNorm(groups, width, eps=1e-6)
