"""InDI (Delbracio & Milanfar 2023, "Inversion by Direct Iteration: An Alternative to Denoising Diffusion").

Written from the paper. Between a true image x and its degraded form y lie x_t = (1 - t) x + t y, and a network F learns
x from x_t and t; restoring walks from t = 1 to 0 in small steps. With a squared error one step gives the posterior
mean; more steps trade its low error for texture. What the paper leaves to the task and is chosen here: no noise is
added to x_t (a degraded image has its own), half of the samples are drawn at t = 1 and the rest uniformly, F adds its
output to x_t, and its U-Net has NAFNet's blocks, told t, as in Refusion (Luo et al. 2023), a restorer by diffusion.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medq_uni.model.gated import GatedBlock
from medq_uni.peers.layers import UNet
from medq_uni.peers.network import Peer, PeerConfig, Terms

FREQUENCIES = 8
"""Octaves of the sines and cosines that tell the network t."""
CODE = 64
"""Channels of the embedding of t."""
SHARE_AT_START = 0.5
"""Share of training samples with t = 1, where a restoration in one step looks."""


class TimeCode(nn.Module):
    """Embedding of t: sines and cosines of pi t in octaves, then two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2 * FREQUENCIES, CODE), nn.SiLU(), nn.Linear(CODE, CODE), nn.SiLU())

    def forward(self, t: Float[Tensor, " B"]) -> Float[Tensor, "B E"]:
        """Return the embedding of each time in [0, 1]."""
        angle = math.pi * t[:, None] * 2.0 ** torch.arange(FREQUENCIES, device=t.device)
        code: Tensor = self.layers(torch.cat([angle.sin(), angle.cos()], dim=1))
        return code


class TimedBlock(nn.Module):
    """A block of NAFNet; before it, t scales and shifts every channel (FiLM, Perez et al. 2018).

    Args:
        channels: Channels in and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.film = nn.Linear(CODE, 2 * channels)
        nn.init.zeros_(self.film.weight)  # a new block is the identity, whatever t
        nn.init.zeros_(self.film.bias)
        self.block = GatedBlock(channels)

    def forward(self, x: Float[Tensor, "B C H W"], code: Float[Tensor, "B E"]) -> Float[Tensor, "B C H W"]:
        """Return features of the same shape."""
        scale, shift = self.film(code)[:, :, None, None].chunk(2, dim=1)
        changed: Tensor = self.block(x * (1 + scale) + shift)
        return changed


class TimedStage(nn.ModuleList):
    """Blocks of one level, all told the same t."""

    def forward(self, x: Float[Tensor, "B C H W"], code: Float[Tensor, "B E"]) -> Float[Tensor, "B C H W"]:
        """Return features of the same shape."""
        for block in self:
            x = block(x, code)
        return x


def timed_stage(channels: int, _: int, depth: int) -> TimedStage:
    """Return ``depth`` blocks."""
    return TimedStage(TimedBlock(channels) for _ in range(depth))


class Network(Peer):
    """Restores in ``config.steps`` steps.

    Args:
        config: Its size.
    """

    def __init__(self, config: PeerConfig) -> None:
        super().__init__(config)
        self.time = TimeCode()
        self.unet = UNet(config, timed_stage, refine=False)

    def predict(self, x_t: Float[Tensor, "B C H W"], t: Float[Tensor, " B"]) -> Float[Tensor, "B C H W"]:
        """Return F(x_t, t): the true image as expected from the one at time t."""
        correction: Tensor = self.unet(x_t, self.time(t))
        return x_t + correction

    def restore(self, degraded: Float[Tensor, "B C H W"], steps: int) -> Float[Tensor, "B C H W"]:
        """Return the image at t = 0 after ``steps`` equal steps d = 1 / steps (algorithm of the paper).

        A step is x_(t-d) = (d / t) F(x_t, t) + (1 - d / t) x_t; the last, where d = t, is F alone.

        Raises:
            ValueError: If ``steps`` is less than one.
        """
        if steps < 1:
            raise ValueError(f"restoring takes at least one step, got {steps}.")
        x = degraded
        for left in range(steps, 0, -1):
            t = torch.full((len(x),), left / steps, dtype=x.dtype, device=x.device)
            x = x + (self.predict(x, t) - x) / left  # d / t = 1 / left
        return x

    def forward(self, degraded: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Return the restoration; sides must be multiples of ``config.multiple``."""
        return self.restore(degraded, self.config.steps)

    def learn(
        self, degraded: Float[Tensor, "B C H W"], reference: Float[Tensor, "B C H W"], t: Float[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B C H W"], Terms]:
        """Return F(x_t, t), which the pixel losses compare with the true image.

        Uniform draws above ``1 - SHARE_AT_START`` become t = 1; the rest are spread over [0, 1] again.
        """
        t = (t / (1 - SHARE_AT_START)).clamp_max(1)
        part = t[:, None, None, None]
        return self.predict((1 - part) * reference + part * degraded, t), {}
