"""Losses: rectified flow, L1 and SSIM through the decoder, quantile regression of the error, description tokens.

Pixel errors are divided by the error of the degraded input, sample by sample: a sample counts by how much
of its degradation is left, whatever its modality, task and severity.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from medq_uni.metrics import ssim

CLEAN_ERROR = 2e-2
"""What the pixel losses of an undegraded input are divided by, in network units. With a much smaller number its
gradient outweighs all others, and the network learns to do nothing."""
KEPT_RESPONSE = 0.9
"""Share of a lesion that must be left of it; a restoration that keeps more is not asked for more."""
ERROR_FLOOR = 4e-3
"""Smallest error of a degraded input that a pixel loss is divided by: about what mild PET and motion leave."""
FLOW_FLOOR = 1e-2
"""Smallest mean squared velocity that the flow loss of a bridge is divided by."""
COVERAGE = 0.683
"""Share of errors that one predicted spread covers: one standard deviation of a Gaussian."""
SMALLEST_ERROR = 1e-4
"""Added to absolute errors before their logarithm, in network units."""


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Weight of each term; 0 leaves it out."""

    flow: float = 0.0
    """Rectified flow in the latent space (Eq. 4)."""
    l1: float = 0.0
    """L1 through the decoder (Eq. 5)."""
    l2: float = 0.0
    """Squared error through the decoder, relative to that of the input: smooth where L1 has its kink, at doing
    nothing, and what PSNR measures."""
    ssim: float = 0.0
    """1 - SSIM through the decoder (Eq. 5)."""
    spread: float = 0.0
    """Quantile regression of the absolute error; the error carries no gradient."""
    text: float = 0.0
    """Cross-entropy on the description tokens (Eq. 7)."""
    slots: float = 0.0
    """Cross-entropy on those of modality, anatomy, degradation and verdict alone: a few tokens among many."""
    quantities: float = 0.0
    """Negative log-likelihood of the quantities that the assessment reads."""
    lesions: float = 0.0
    """Lost response to lesions that the degraded image shows (:mod:`medq_uni.train.shown_lesions`)."""


def flow_loss(velocity: Float[Tensor, "B L C"], target: Float[Tensor, "B L C"]) -> Float[Tensor, ""]:
    """Return the squared velocity error relative to the size of the target velocity.

    Args:
        velocity: Predicted velocity per latent token.
        target: noise - x0, or degraded - x0 for a bridge.
    """
    scale = target.square().mean(dim=(1, 2)).clamp(min=FLOW_FLOOR)
    return ((velocity.float() - target).square().mean(dim=(1, 2)) / scale).mean()


def pixel_losses(
    image: Float[Tensor, "B C H W"],
    target: Float[Tensor, "B C H W"],
    degraded: Float[Tensor, "B C H W"],
    valid: Bool[Tensor, "B 1 H W"],
    reference: Float[Tensor, "B C H W"] | None = None,
) -> dict[str, Float[Tensor, ""]]:
    """Return the relative L1 and squared errors and the mean 1 - SSIM, over the valid pixels.

    Args:
        image: Decoded restoration, both views in [-1, 1].
        target: What it should be.
        degraded: Input; its own error per view scales that of the restoration.
        valid: False where the crop holds no image.
        reference: True image, by default the target. An edited target may equal the input; the input's error
            against the truth still is the scale.
    """
    truth = target if reference is None else reference
    count = valid.sum(dim=(2, 3)).clamp(min=1)

    def mean(x: Tensor) -> Tensor:
        return (x * valid).sum(dim=(2, 3)) / count

    with torch.no_grad():
        scale, square = mean((degraded - truth).abs()), mean((degraded - truth).square())
        is_clean = scale == 0
        scale = scale.clamp(min=ERROR_FLOOR).masked_fill(is_clean, CLEAN_ERROR)
        square = square.clamp(min=ERROR_FLOOR**2).masked_fill(is_clean, CLEAN_ERROR**2)
    error = image - target
    return {
        "l1": (mean(error.abs()) / scale).mean(),
        "l2": (mean(error.square()) / square).mean(),
        "ssim": 1 - ssim(image * valid, target * valid, data_range=2.0).mean(),
    }


def spread_loss(
    image: Float[Tensor, "B C H W"],
    log_variance: Float[Tensor, "B C H W"],
    target: Float[Tensor, "B C H W"],
    valid: Bool[Tensor, "B 1 H W"],
) -> Float[Tensor, ""]:
    """Return the pinball loss of the logarithm of the absolute error against that of the predicted spread.

        d = log |error| - log_variance / 2,   max(q d, (q - 1) d),   q = 0.683

    It is least where the spread is the 68.3 % quantile of the absolute error (quantile regression, Koenker and
    Bassett 1978): one standard deviation of a Gaussian. In the logarithm every pixel counts alike, from air to
    bone, and gradients are bounded; a Gaussian likelihood has neither property. The error is detached: the spread
    learns from the restoration and not the other way round.
    """
    size = (image - target).detach().float().abs() + SMALLEST_ERROR
    difference = size.log() - 0.5 * log_variance
    loss = torch.maximum(COVERAGE * difference, (COVERAGE - 1) * difference)
    return (loss * valid).sum() / (valid.sum() * image.shape[1]).clamp(min=1)


def lesion_loss(change: Float[Tensor, "n 2 H W"], response: Float[Tensor, "n 2 H W"]) -> Float[Tensor, ""]:
    """Return the mean squared shortfall of the response to lesions below :data:`KEPT_RESPONSE`; 0 without lesions.

    Args:
        change: What lesions add to both views of the truth.
        response: What they add to both views of the restoration.
    """
    size = change.square().sum(dim=(2, 3))
    has = size > 1e-8  # in a window that ends below the tissue a lesion changes nothing
    if not has.any():
        return response.sum() * 0.0
    kept = (response * change).sum(dim=(2, 3))[has] / size[has]
    return F.relu(KEPT_RESPONSE - kept).square().mean()


def text_loss(logits: Float[Tensor, "N V"], labels: Int[Tensor, " N"]) -> Float[Tensor, ""]:
    """Return the mean cross-entropy of the description tokens."""
    if labels.numel() == 0:
        return logits.sum() * 0.0
    return F.cross_entropy(logits.float(), labels)
