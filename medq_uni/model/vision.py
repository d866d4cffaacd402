"""The understanding encoder: a vision transformer over patches, with absolute positions.

Layout of SigLIP without its pooling head: pre-norm blocks, tanh GELU, a norm at the end. The patch
embedding is linear over (row, column, channel), or a small convolutional stem.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from medq_uni.config import VisionConfig
from medq_uni.model.attention import attention
from medq_uni.model.dct import BlockTransform, log_magnitudes
from medq_uni.model.grid import Offset, SizeError, grid_ids, patchify


class VisionEncoder(nn.Module):
    """Image to patch features."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        patch = config.in_channels * config.patch_size**2
        if config.stem_channels:
            self.embed: nn.Module = ConvStem(config)
        else:
            self.embed = nn.Linear(patch, config.hidden_size)
        self.spectrum = SpectrumStem(config) if config.spectrum_block else None
        self.position = nn.Embedding(config.max_patches_per_side**2, config.hidden_size)
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, image: Float[Tensor, "B C H W"], offset: Offset = (0, 0)) -> Float[Tensor, "B P E"]:
        """Return the features of each patch, row by row.

        Args:
            image: Values in [-1, 1]; sides are multiples of the patch size.
            offset: Row and column of the first patch in a larger image.

        Raises:
            SizeError: If the image does not fit the patches or the position table.
        """
        size, side = self.config.patch_size, self.config.max_patches_per_side
        if image.shape[-2] % size or image.shape[-1] % size:
            raise SizeError(
                f"the encoder needs sides that are multiples of {size}, got {tuple(image.shape[-2:])}. "
                "Pad or resize the image."
            )
        ids = grid_ids(image.shape[-2] // size, image.shape[-1] // size, side, offset, image.device)
        x = self.embed(image if self.config.stem_channels else patchify(image, size))
        if self.spectrum is not None:
            x = x + self.spectrum(image)
        x = x + self.position(ids)
        for block in self.blocks:
            x = block(x)
        output: Tensor = self.norm(x)
        return output


def summary(features: Float[Tensor, "B P E"]) -> Float[Tensor, "B F"]:
    """Return mean and standard deviation of every feature over the patches of each image, in float32; F = 2 E."""
    features = features.float()
    return torch.cat([features.mean(1), features.std(1, correction=0)], dim=1)


class ConvStem(nn.Module):
    """Stride-2 convolutions down to one position per patch, then a projection.

    Overlapping kernels see structure across patch borders, which a linear embedding has to learn later.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        width = config.in_channels
        for channels in config.stem_channels:
            stages += [
                nn.Conv2d(width, channels, 3, stride=2, padding=1),
                nn.GroupNorm(1, channels),
                nn.GELU(),
            ]
            width = channels
        self.stages = nn.Sequential(*stages)
        self.project = nn.Conv2d(width, config.hidden_size, 1)

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B P E"]:
        """Return one token per patch, row by row."""
        output: Tensor = rearrange(self.project(self.stages(image)), "b e h w -> b (h w) e")
        return output


class SpectrumStem(nn.Module):
    """Log-magnitudes of the block cosine transform, averaged over each patch and mixed with its neighbors.

    A sum over pixels cannot tell noise from structure before much training; the energy in each frequency can.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.transform = BlockTransform(config.in_channels, config.spectrum_block)
        self.blocks_per_side = config.patch_size // config.spectrum_block
        self.enter = nn.Conv2d(config.in_channels * config.spectrum_block**2, width, 1)
        self.mix = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B P E"]:
        """Return one token per patch, row by row."""
        energy = F.avg_pool2d(log_magnitudes(self.transform(image)), self.blocks_per_side)
        energy = energy.to(self.enter.weight.dtype)  # the transform itself is always exact
        output: Tensor = rearrange(self.mix(F.gelu(self.enter(energy))), "b e h w -> b (h w) e")
        return output


class VisionBlock(nn.Module):
    """Pre-norm block with full attention inside the image."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_heads
        self.norm1 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.o = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(width, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, width)

    def forward(self, x: Float[Tensor, "B P E"]) -> Float[Tensor, "B P E"]:
        """Return the tokens after this block."""
        h = self.norm1(x)
        q, k, v = (rearrange(p(h), "b l (a k) -> b a l k", a=self.num_heads) for p in (self.q, self.k, self.v))
        x = x + self.o(rearrange(attention(q, k, v), "b a l k -> b l (a k)"))
        output: Tensor = x + self.fc2(F.gelu(self.fc1(self.norm2(x)), approximate="tanh"))
        return output


class Connector(nn.Module):
    """Two-layer MLP from the encoder's width to the transformer's."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width_in, width_out)
        self.fc2 = nn.Linear(width_out, width_out)

    def forward(self, x: Float[Tensor, "B P F"]) -> Float[Tensor, "B P E"]:
        """Return the projected tokens."""
        output: Tensor = self.fc2(F.gelu(self.fc1(x), approximate="tanh"))
        return output
