"""What every baseline offers to the training loop and to the comparison, and how one is built by name."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from medq_uni.config import ConfigError
from medq_uni.errors import MedQError
from medq_uni.image import MedicalImage
from medq_uni.preprocess import as_channels, as_views, to_image, to_tensor
from medq_uni.scaling import Scaling

Kind = Literal["nafnet", "pix2pix", "restormer", "amir", "restore-rwkv", "indi"]


@dataclass(frozen=True, kw_only=True)
class BaselineConfig:
    """Size of a baseline."""

    kind: Kind
    """Which network."""
    width: int = 16
    """Channels at full resolution; every level below has twice as many."""
    blocks: tuple[int, ...] = (1, 1, 2)
    """Blocks of each level, from full resolution down; the last is the middle."""
    in_channels: int = 2
    """Views of a slice that are read and written."""
    steps: int = 4
    """Steps from the degraded to the restored image, for baselines that restore in steps."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.width < 1 or len(self.blocks) < 2 or min(self.blocks) < 1:
            raise ConfigError(
                f"baseline {self.kind!r}: width and every entry of blocks must be positive, two levels at least."
            )
        if self.steps < 1:
            raise ConfigError(f"baseline {self.kind!r}: steps must be at least 1, got {self.steps}.")

    @property
    def multiple(self) -> int:
        """Sides of an image must be multiples of this number of pixels."""
        return int(2 ** (len(self.blocks) - 1))

    def check_fits(self, image: Float[Tensor, "B C H W"]) -> None:
        """Refuse an image with a side, in pixels, that halves to no whole number at some level.

        Raises:
            MedQError: If a side is not a multiple of :attr:`multiple`.
        """
        height, width = image.shape[-2:]
        if height % self.multiple or width % self.multiple:
            raise MedQError(
                f"an image of {height} x {width} does not fit this network. "
                f"Pad its sides to multiples of {self.multiple}."
            )


Terms = dict[str, Float[Tensor, ""]]


class Baseline(nn.Module):
    """A network from degraded to restored views.

    Args:
        config: Its size.
    """

    training_only: tuple[str, ...] = ()
    """Parts that :meth:`learn` uses and :meth:`forward` does not."""

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, degraded: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Return the restoration as it is used, in the range [-1, 1] of the input."""
        raise NotImplementedError

    def learn(
        self, degraded: Float[Tensor, "B C H W"], reference: Float[Tensor, "B C H W"], t: Float[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B C H W"], Terms]:
        """Return the image that the pixel losses judge in training, and the baseline's own loss terms, weighted.

        Args:
            degraded: Input.
            reference: True image; only baselines whose training needs it look at it.
            t: Uniform in [0, 1], for baselines that learn to restore in steps.
        """
        return self(degraded), {}


def build_baseline(config: BaselineConfig) -> Baseline:
    """Return a baseline with random weights."""
    module = importlib.import_module(f"medq_uni.baselines.{config.kind.replace('-', '_')}")
    network: Baseline = module.Network(config)
    return network


def count_parameters(baseline: Baseline) -> int:
    """Return how many numbers a restoration depends on; parts that only training uses are left out."""
    names = {name: x.numel() for name, x in baseline.named_parameters()}
    return sum(count for name, count in names.items() if name.partition(".")[0] not in baseline.training_only)


def restore_image(baseline: Baseline, degraded: MedicalImage, *, scaling: Scaling | None = None) -> MedicalImage:
    """Return an image restored slice by slice, whole, in the units of the input.

    Args:
        baseline: In evaluation mode.
        degraded: 2-D slice or volume of any size, with a modality.
        scaling: Network range; by default that of the image.

    Raises:
        MedQError: If the image has no range; see :func:`medq_uni.preprocess.to_tensor`.
    """
    views, inverse = to_tensor(degraded, multiple=baseline.config.multiple, scaling=scaling)
    return to_image(restore_views(baseline, views, inverse.scaling), inverse)


@torch.no_grad()
def restore_views(baseline: Baseline, views: Float[Tensor, "B 2 H W"], scaling: Scaling) -> Float[Tensor, "B 2 H W"]:
    """Return restored views, on the CPU.

    Args:
        baseline: In evaluation mode.
        views: Degraded views of any height and width; the edge is repeated up to the next multiple that the baseline
            needs, and cut off again.
        scaling: Their network range.
    """
    height, width = views.shape[-2:]
    multiple, device = baseline.config.multiple, next(baseline.parameters()).device
    channels = as_channels(views, channels=baseline.config.in_channels).to(device)
    padded = F.pad(channels, (0, -width % multiple, 0, -height % multiple), mode="replicate")
    return as_views(baseline(padded)[..., :height, :width].float().cpu(), scaling)
