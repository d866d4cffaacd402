"""The codec of the nano model: a lossless block transform, and a decoder with a fidelity path.

The latent is the orthonormal block cosine transform of the image, each coefficient scaled to about unit
variance: nothing is lost, so the codec is no ceiling. The decoder starts from the inverse transform of the
restored latent and adds a correction computed by a small U-Net, which sees features of the degraded image
at full resolution *and* what the restoration expert changed: in the image, and in the latent where the
configuration says so (``latent_change``). Without the fidelity path
(``fidelity=None``) the decoder is the inverse transform alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from medq_uni.config import CodecConfig, FidelityCodecConfig, FluxCodecConfig
from medq_uni.model.dct import BlockTransform, log_magnitudes
from medq_uni.model.nafblock import NAFBlock
from medq_uni.model.vae import Codec, DecodedImage, FluxCodec
from medq_uni.model.zero_init import zero_init
from medq_uni.quantities import TOLD_NUMBERS

LOG_VARIANCE_RANGE = (-14.0, 2.0)
SPREAD_WIDTH = 16


@dataclass(frozen=True)
class Fidelity:
    """What the decoder may see of the degraded image."""

    image: Tensor
    """(B, C, H, W)"""
    latent: Tensor
    """(B, c, h, w)"""
    levels: tuple[Tensor, ...]
    """Features from the highest resolution down to the latent grid."""
    told: Tensor | None = None
    """(B, F) what the blocks make of the quantities that the decoder is told; None where it is told none."""


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a GELU, added to the input.

    Args:
        width: Channels.
        told: Numbers of an embedding that scales and shifts the channels between the two (FiLM, Perez et al. 2018);
            0 has none.
    """

    def __init__(self, width: int, told: int = 0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = zero_init(nn.Conv2d(width, width, 3, padding=1))
        self.film = zero_init(nn.Linear(told, 2 * width)) if told else None

    def forward(self, x: Float[Tensor, "B C H W"], told: Float[Tensor, "B F"] | None = None) -> Tensor:
        """Return x plus its correction, same shape."""
        inner = self.conv1(x)
        if self.film is not None and told is not None:
            gain, shift = self.film(told)[:, :, None, None].chunk(2, dim=1)
            inner = torch.addcmul(shift, inner, 1 + gain)
        output: Tensor = x + self.conv2(F.gelu(inner))
        return output


class Blocks(nn.Sequential):
    """Blocks one after the other, all told the same."""

    def forward(self, x: Float[Tensor, "B C H W"], told: Float[Tensor, "B F"] | None = None) -> Tensor:
        """Return x after all blocks, same shape."""
        for block in self:
            x = block(x, told) if isinstance(block, ResidualBlock) else block(x)
        return x


class FiLM(nn.Module):
    """What the restoration expert has understood, the words included, as the decoder can use it; nothing at first.

    Features that are added on the latent grid, and a factor for every channel of the levels above.

    Args:
        width: Of the expert's hidden states.
        widths: Of the decoder.
    """

    def __init__(self, width: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        *self.outer, middle = widths
        self.local = zero_init(nn.Conv2d(width, middle, 1))
        self.gains = zero_init(nn.Linear(width, sum(self.outer)))

    def forward(
        self, hidden_states: Float[Tensor, "B E r k"], grid: tuple[int, int]
    ) -> tuple[Float[Tensor, "B C h w"], list[Tensor]]:
        """Return features on the latent grid, and factors (B, C, 1, 1) by level, full resolution first."""
        local = F.interpolate(self.local(hidden_states), size=grid, mode="nearest")
        gains = 1 + self.gains(hidden_states.mean(dim=(2, 3)))
        return local, [gain[:, :, None, None] for gain in gains.split(self.outer, dim=1)]


class FidelityCodec(nn.Module):
    """Image <-> latent with a lossless transform and an optional fidelity path.

    Args:
        config: Sizes; the image has ``config.in_channels`` channels in [-1, 1] and a height and width
            that are multiples of ``config.block_size``.
    """

    latent_mean: Tensor
    latent_scale: Tensor

    def __init__(self, config: FidelityCodecConfig) -> None:
        super().__init__()
        self.config = config
        channels, latent, widths = config.in_channels, config.latent_channels, config.widths
        self.transform = BlockTransform(channels, config.block_size)
        self.register_buffer("latent_mean", torch.zeros(latent))
        self.register_buffer("latent_scale", torch.ones(latent))
        inner = channels * config.unshuffle**2
        self.stem = nn.Conv2d(inner, widths[0], 3, padding=1)
        *outer, middle = config.blocks
        told = config.told_width
        self.told = nn.Sequential(nn.Linear(TOLD_NUMBERS, told), nn.GELU(), nn.Linear(told, told)) if told else None

        def blocks(width: int, count: int) -> nn.Module:
            each = [NAFBlock(width) if config.block == "gated" else ResidualBlock(width, told) for _ in range(count)]
            return each[0] if count == 1 else Blocks(*each)

        self.down_blocks = nn.ModuleList(blocks(*level) for level in zip(widths, (*outer, 1), strict=True))
        self.downs = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in zip(widths, widths[1:], strict=False))
        self.spectrum = None
        if config.spectrum:
            mix = nn.Conv2d(widths[-1], widths[-1], 3, padding=1)
            nn.init.zeros_(mix.weight)
            self.spectrum = nn.Sequential(nn.Conv2d(latent, widths[-1], 1), nn.GELU(), mix)
        # silent, because a few coefficients are large and would drown the features at first
        self.change = zero_init(nn.Conv2d(2 * latent, widths[-1], 1)) if config.latent_change else None
        self.bottleneck = blocks(widths[-1], middle)
        self.ups = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for a, b in zip(widths, widths[1:], strict=False))
        self.up_blocks = nn.ModuleList(blocks(*level) for level in zip(widths[:-1], outer, strict=True))
        self.refining = nn.ModuleList(  # this name and that of the guide are in every file of weights
            nn.Sequential(*(NAFBlock(width) for _ in range(count)))
            for width, count in zip(widths, config.refinement, strict=True)
        )
        self.guide = FiLM(config.film_width, widths) if config.film_width else None
        self.base = nn.Conv2d(inner, widths[0], 3, padding=1)
        self.out = zero_init(nn.Conv2d(widths[0], inner, 3, padding=1))
        self.spread = None
        if config.predict_variance:
            self.spread = nn.Sequential(
                nn.Conv2d(widths[0], SPREAD_WIDTH, 3, padding=1),
                nn.GELU(),
                nn.Conv2d(SPREAD_WIDTH, inner, 3, padding=1),
            )

    def encode(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B c h w"]:
        """Return the normalized block cosine coefficients of the image."""
        raw: Tensor = self.transform(image)
        return (raw - self.latent_mean.view(1, -1, 1, 1)) / self.latent_scale.view(1, -1, 1, 1)

    def inverse_transform(self, latent: Float[Tensor, "B c h w"]) -> Float[Tensor, "B C H W"]:
        """Return the image whose coefficients these are: the exact inverse of :meth:`encode`."""
        raw = latent * self.latent_scale.view(1, -1, 1, 1) + self.latent_mean.view(1, -1, 1, 1)
        return self.transform.inverse(raw)

    def features(self, image: Float[Tensor, "B C H W"], told: Float[Tensor, "B n"] | None = None) -> Fidelity | None:
        """Return what the decoder may see of the degraded image; None where the path is off.

        Args:
            image: Degraded image.
            told: Quantities of every image (:meth:`medq_uni.quantities.Quantities.told`), read where the decoder has a
                ``told_width``; None tells nothing.
        """
        if not self.config.fidelity_path:
            return None
        embedded = None
        if self.told is not None:
            embedded = self.told(image.new_zeros(len(image), TOLD_NUMBERS) if told is None else told)
        levels, x = [], self.stem(self._unshuffled(image))
        for level, block in enumerate(self.down_blocks):
            x = _through(block, self.downs[level - 1](x) if level else x, embedded)
            levels.append(x)
        if self.spectrum is not None:  # how much there is of every frequency tells kind and amount of degradation
            levels[-1] = x + self.spectrum(log_magnitudes(self.transform(image)))
        return Fidelity(image=image, latent=self.encode(image), levels=tuple(levels), told=embedded)

    def _unshuffled(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        return F.pixel_unshuffle(image, self.config.unshuffle) if self.config.unshuffle > 1 else image

    def _shuffled(self, image: Float[Tensor, "B D h w"]) -> Float[Tensor, "B C H W"]:
        return F.pixel_shuffle(image, self.config.unshuffle) if self.config.unshuffle > 1 else image

    def decode(
        self,
        latent: Float[Tensor, "B c h w"],
        fidelity: Fidelity | None = None,
        hidden_states: Float[Tensor, "B E r k"] | None = None,
    ) -> DecodedImage:
        """Return the image of a latent, and where it is predicted the log-variance of its error.

        That is the logarithm of the squared spread which covers 68.3 % of the absolute errors.

        Args:
            latent: Restored latent.
            fidelity: Features of the degraded image from :meth:`features`; None decodes the latent alone.
            hidden_states: Of the restoration expert, on the grid of latent tokens; read where the decoder has a FiLM.
        """
        base = self.inverse_transform(latent)
        if fidelity is None:
            return DecodedImage(image=base, log_variance=None)
        bottom = fidelity.levels[-1]
        if self.change is None:
            x = torch.zeros_like(bottom)
        else:
            x = self.change(torch.cat([latent, latent - fidelity.latent], dim=1))
        gains: list[Tensor] = []
        if self.guide is not None and hidden_states is not None:
            local, gains = self.guide(hidden_states, (x.shape[-2], x.shape[-1]))
            x = x + local
        x = self.refining[-1](_through(self.bottleneck, x + bottom, fidelity.told))
        for level in range(len(self.ups) - 1, -1, -1):
            x = F.pixel_shuffle(self.ups[level](x), 2) + fidelity.levels[level]
            if level == 0:
                x = x + self.base(self._unshuffled(base - fidelity.image))
            x = x * gains[level] if gains else x
            x = self.refining[level](_through(self.up_blocks[level], x, fidelity.told))
        image = base + self._shuffled(self.out(x).float())
        if self.spread is None:
            return DecodedImage(image=image, log_variance=None)
        # the spread reads the features and does not shape them
        log_variance = self._shuffled(self.spread(x.detach()).float()).clamp(*LOG_VARIANCE_RANGE)
        return DecodedImage(image=image, log_variance=log_variance)

    @torch.no_grad()
    def calibrate(self, images: Float[Tensor, "B C H W"]) -> None:
        """Set mean and scale of every coefficient from a sample of training images."""
        self.latent_mean.zero_()
        self.latent_scale.fill_(1)
        raw = self.encode(images)
        mean, std = raw.mean(dim=(0, 2, 3)), raw.std(dim=(0, 2, 3))
        self.latent_mean.copy_(mean)
        self.latent_scale.copy_(std.clamp(min=1e-3))


def _through(block: nn.Module, x: Tensor, told: Tensor | None) -> Tensor:
    """Return x after a block, which is told the quantities where it can be told any."""
    output: Tensor = block(x, told) if isinstance(block, (Blocks, ResidualBlock)) else block(x)
    return output


def build_codec(config: CodecConfig) -> Codec:
    """Return the codec that ``config`` describes."""
    return FluxCodec(config) if isinstance(config, FluxCodecConfig) else FidelityCodec(config)
