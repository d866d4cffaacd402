"""The block cosine transform, and the logarithm of its magnitudes: what noise, blur and ghosts change first."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

SMALLEST = 1e-3
"""Magnitude below which a coefficient counts as zero, in network units."""
CENTER, SPREAD = -4.0, 2.0
"""Rough mean and standard deviation of the log-magnitudes, which are brought near 0 and 1."""


def block_cosine_basis(size: int) -> Float[Tensor, "K size size"]:
    """Return the ``size * size`` orthonormal basis images of the type-II discrete cosine transform."""
    n = torch.arange(size, dtype=torch.float64)
    rows = torch.cos(math.pi / size * (n[None] + 0.5) * n[:, None]) * math.sqrt(2 / size)
    rows[0] /= math.sqrt(2)
    return torch.einsum("ui,vj->uvij", rows, rows).reshape(size * size, size, size).float()


class BlockTransform(nn.Module):
    """Orthonormal cosine transform of every ``size`` x ``size`` block of every channel.

    Args:
        channels: Channels of the image.
        size: Side of a block in pixels.
    """

    basis: Tensor

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.channels, self.size = channels, size
        basis = block_cosine_basis(size)[:, None].repeat(channels, 1, 1, 1)  # (C K, 1, size, size)
        self.register_buffer("basis", basis, persistent=False)

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B c h w"]:
        """Return the coefficients, channel by channel, in float32."""
        with torch.autocast(image.device.type, enabled=False):
            return F.conv2d(image.float(), self.basis, stride=self.size, groups=self.channels)

    def inverse(self, coefficients: Float[Tensor, "B c h w"]) -> Float[Tensor, "B C H W"]:
        """Return the image of the coefficients: inverse and adjoint of :meth:`forward`."""
        with torch.autocast(coefficients.device.type, enabled=False):
            return F.conv_transpose2d(coefficients.float(), self.basis, stride=self.size, groups=self.channels)


def log_magnitudes(coefficients: Float[Tensor, "B c h w"]) -> Float[Tensor, "B c h w"]:
    """Return the logarithm of the magnitudes, brought near zero mean and unit spread."""
    return ((coefficients.abs() + SMALLEST).log() - CENTER) / SPREAD
