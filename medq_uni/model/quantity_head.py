"""Reads quantities of a degradation from what the vision encoder sees."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from medq_uni.measurement import Quantity
from medq_uni.model.zero_init import zero_init
from medq_uni.taxonomy import Modality

POOLS = 4
"""Weighted means over the patches, each with weights of its own: one may look at the body, another at the air."""
LOG_VARIANCE_RANGE = (-6.0, 3.0)


class QuantityHead(nn.Module):
    """A few weighted means over the patches, and a small network behind them.

    Args:
        features: Width of a patch token.
        width: Inner width.
    """

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.enter = nn.Linear(features, width)
        self.score = nn.Linear(width, POOLS)
        self.mix = nn.Linear(POOLS * width + len(Modality), width)
        self.out = zero_init(nn.Linear(width, 2 * len(Quantity)))

    def forward(
        self, features: Float[Tensor, "B P F"], modality: Float[Tensor, "B 3"]
    ) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B K"]]:
        """Return the most likely value of every quantity and the log-variance of its error.

        Both are on the scale of :func:`medq_uni.quantities.encoded`.

        Args:
            features: Tokens of the vision encoder.
            modality: 1 at the modality of every image, else 0; all 0 where it is not known.
        """
        inner = F.gelu(self.enter(features))
        weights = self.score(inner).softmax(dim=1)
        pooled = torch.einsum("bpk,bpf->bkf", weights, inner).flatten(1)
        found = self.out(F.gelu(self.mix(torch.cat([pooled, modality.to(pooled.dtype)], dim=1)))).float()
        value, log_variance = found.chunk(2, dim=1)
        return value, log_variance.clamp(*LOG_VARIANCE_RANGE)


def reading_loss(
    value: Float[Tensor, "B K"], log_variance: Float[Tensor, "B K"], truth: Float[Tensor, "B n"]
) -> Float[Tensor, ""]:
    """Return the mean negative log-likelihood of the known quantities under Gaussian errors.

    Args:
        value: As read.
        log_variance: Of the error of the reading.
        truth: Numbers of :meth:`medq_uni.quantities.Quantities.told`.
    """
    numbers = truth[:, len(Modality) :].unflatten(1, (-1, 2))
    true, known = numbers[..., 0], numbers[..., 1]
    error = (value - true).square() * (-log_variance).exp() + log_variance
    loss: Tensor = 0.5 * (error * known).sum() / known.sum().clamp(min=1)
    return loss
