"""Rectified flow: the path, its velocity, time, the Euler sampler and guidance.

Conventions of the whole package: t = 0 is data and t = 1 is the start,

    x_t = (1 - t) x0 + t x1,   v = x1 - x0,   x0_hat = x_t - t v,

where x1 is Gaussian noise, or the latent of the degraded image (a bridge from it). ``num_steps`` counts
evaluations of the network. The base model counts time points instead: its "50 timesteps" are 49 steps.
One step from t = 1 returns x0_hat, the posterior mean if the network was trained with squared error.

Sources: Liu et al. 2022 (rectified flow), Esser et al. 2024 (logit-normal times and their shift),
Ho and Salimans 2022 (classifier-free guidance).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medq_uni.config import SamplerConfig


def shift_times(t: Float[Tensor, " S"], shift: float) -> Float[Tensor, " S"]:
    """Return s t / (1 + (s - 1) t), which moves times toward 1 for s > 1 and keeps 0 and 1."""
    return shift * t / (shift * t + (1 - t))  # this form is exact at 1


def times(num_steps: int, shift: float = 1.0) -> Float[Tensor, " S"]:
    """Return the ``num_steps`` + 1 times of a sampler run, from 1 down to 0."""
    return shift_times(torch.linspace(1, 0, num_steps + 1), shift)


Velocity = Callable[[Tensor, float], Tensor]
"""velocity(x_t, t)"""
Generators = torch.Generator | Sequence[torch.Generator] | None
"""One source of randomness, or one per sample, so that a draw does not depend on batch mates."""


def draw_noise(
    batch_size: int, num_samples: int, shape: Sequence[int], generator: Generators
) -> Float[Tensor, "N ..."]:
    """Draw standard normal tensors of ``shape``, on the CPU: ``num_samples`` in a row for each sample."""
    if isinstance(generator, Sequence):
        assert len(generator) == batch_size, "one generator per sample"
        return torch.cat([torch.randn(num_samples, *shape, generator=g) for g in generator])
    return torch.randn(batch_size * num_samples, *shape, generator=generator)


def interpolate(x0: Tensor, x1: Tensor, t: Tensor | float) -> Tensor:
    """Return x_t between data ``x0`` and start ``x1`` at time ``t``, a number or one per sample (B,)."""
    t = _per_sample(t, x0)
    return (1 - t) * x0 + t * x1


def target_velocity(x0: Tensor, x1: Tensor) -> Tensor:
    """Return v = x1 - x0, which does not depend on the time."""
    return x1 - x0


def predicted_data(x_t: Tensor, velocity: Tensor, t: Tensor | float) -> Tensor:
    """Return x0_hat = x_t - t v at time ``t``, a number or one per sample (B,)."""
    return x_t - _per_sample(t, x_t) * velocity


def euler(velocity: Velocity, start: Tensor, at: Tensor) -> Tensor:
    """Return the end of the path that begins at ``start`` and follows ``velocity``.

    Args:
        velocity: Called as velocity(x_t, t), once per interval of ``at``.
        start: x at time ``at[0]``; noise or the degraded latent.
        at: Falling times, from :func:`times`.
    """
    x = start
    for now, then in zip(at[:-1].tolist(), at[1:].tolist(), strict=True):
        x = x - (now - then) * velocity(x, now)
    return x


def _per_sample(t: Tensor | float, like: Tensor) -> Tensor | float:
    if not isinstance(t, Tensor) or not t.ndim:
        return t
    return t.reshape(-1, *[1] * (like.ndim - 1)).to(like.dtype)


class TimeEmbedder(nn.Module):
    """A time in [0, 1] as a token-wide vector: 128 cosines, 128 sines, two layers.

    The time is not multiplied by 1000, as other models do; the frequencies are 10000 ** (-i / 128).
    """

    num_frequencies = 128

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2 * self.num_frequencies, width), nn.SiLU(), nn.Linear(width, width))

    @classmethod
    def sinusoid(cls, t: Float[Tensor, " B"]) -> Float[Tensor, "B 256"]:
        """Return [cos(t f), sin(t f)] in float32."""
        i = torch.arange(cls.num_frequencies, device=t.device, dtype=torch.float32)
        angle = t.float()[:, None] * torch.exp(-math.log(10000) * i / cls.num_frequencies)
        return torch.cat([angle.cos(), angle.sin()], dim=-1)

    def forward(self, t: Float[Tensor, " B"]) -> Float[Tensor, "B E"]:
        """Return the embedding of each time."""
        output: Tensor = self.mlp(self.sinusoid(t).to(next(self.mlp.parameters()).dtype))
        return output


def is_guided(sampler: SamplerConfig, t: float) -> bool:
    """Return whether guidance is active at time ``t``: text guidance above 1 and lo < t <= hi.

    Without text guidance the base model ignores image guidance too, and so does this.
    """
    low, high = sampler.guidance_interval
    return sampler.text_guidance > 1 and low < t <= high


def guide(
    velocity: Float[Tensor, "B P N"],
    without_text: Float[Tensor, "B P N"],
    without_images: Float[Tensor, "B P N"] | None,
    sampler: SamplerConfig,
) -> Float[Tensor, "B P N"]:
    """Return the velocity under two nested guidances, in token space.

        v1 = v_without_text + s_text (v - v_without_text)
        v2 = v_without_images + s_image (v1 - v_without_images)   (only if s_image > 1)

    A factor clamp(|v| / |v'|, renorm_min, 1) keeps its length: ``global`` takes the norms over all tokens
    of a sample and ``channel`` over each token, both of the final velocity; ``text_channel`` scales v1
    per token before the image guidance, and nothing after it.
    """
    guided = without_text + sampler.text_guidance * (velocity - without_text)
    if sampler.guidance_renorm == "text_channel":
        guided = _renormed(guided, velocity, (-1,), sampler.guidance_renorm_min)
    if without_images is not None and sampler.image_guidance > 1:
        guided = without_images + sampler.image_guidance * (guided - without_images)
    if sampler.guidance_renorm == "text_channel":
        return guided
    axes = (-2, -1) if sampler.guidance_renorm == "global" else (-1,)
    return _renormed(guided, velocity, axes, sampler.guidance_renorm_min)


def guided_velocity(fields: Sequence[Velocity], sampler: SamplerConfig) -> Velocity:
    """Return the guided field of (full context, without text[, without images]), in token space."""
    full, without_text, *without_images = fields

    def velocity(x: Tensor, t: float) -> Tensor:
        v = full(x, t)
        if not is_guided(sampler, t):
            return v
        v_without_text = without_text(x, t)
        v_without_images = without_images[0](x, t) if without_images else None
        return guide(v, v_without_text, v_without_images, sampler)

    return velocity


def _renormed(guided: Tensor, velocity: Tensor, axes: tuple[int, ...], lowest: float) -> Tensor:
    wanted = torch.linalg.vector_norm(velocity, dim=axes, keepdim=True)
    got = torch.linalg.vector_norm(guided, dim=axes, keepdim=True)
    output: Tensor = guided * (wanted / (got + 1e-8)).clamp(lowest, 1.0)
    return output
