"""Bidirectional WKV attention with exponential decay, exact and linear in memory, in plain PyTorch.

For T tokens, keys k, values v, a decay w and a bonus u of each channel (Vision-RWKV, Duan et al. 2024; Restore-RWKV)::

    wkv_t = ( sum_(i != t) exp(-(|t - i| - 1) w / T + k_i) v_i + exp(u + k_t) v_t ) / ( the same without v )

The sequence is cut into chunks. Inside a chunk the weights are one small matrix per channel; what lies before and after
a chunk is first summed within each chunk, then over chunks, again by one matrix per channel. With chunks of about
sqrt(T) tokens that is O(T sqrt(T)) work in matrix products, and no matrix of T x T.

Stability: only powers exp(x), x <= 0, of decays are taken, and keys are relative to the largest of their channel. With
w <= :data:`MAX_DECAY` that largest key reaches every token with a weight of at least exp(-MAX_DECAY), a normal float32,
so the denominator never vanishes, and what underflows is below rounding, whatever the keys are.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

MAX_DECAY = 64.0
"""Largest decay over the whole sequence for which the sums keep their digits in float32."""


def _powers(rate: Float[Tensor, " C"], distance: Float[Tensor, "..."]) -> Float[Tensor, "C ..."]:
    """Return exp(-rate * distance) for each channel, and 0 where the distance is negative (no weight at all)."""
    log = -rate.view(-1, *[1] * distance.dim()) * distance
    return log.masked_fill(distance < 0, -torch.inf).exp()


def wkv(
    k: Float[Tensor, "B C T"], v: Float[Tensor, "B C T"], decay: Float[Tensor, " C"], bonus: Float[Tensor, " C"]
) -> Float[Tensor, "B C T"]:
    """Return the attention of every token to all tokens, in float32.

    Args:
        k: Logarithm of the weight of every token.
        v: Values.
        decay: w, in [0, MAX_DECAY]: the loss of weight in log units over the length of the sequence.
        bonus: u, added to the key of the token itself; below 80.
    """
    with torch.autocast(k.device.type, enabled=False):
        decay, bonus = decay.float(), bonus.float()
        k, v = k.float().transpose(0, 1), v.float().transpose(0, 1)  # (C, B, T): each channel has its own matrices
        channels, batch, tokens = k.shape
        length = math.isqrt(tokens - 1) + 1
        chunks = -(-tokens // length)
        weight = (k - k.detach().amax(dim=-1, keepdim=True)).exp()
        terms = torch.stack([weight * v, weight], dim=1)
        if tokens % length:
            terms = F.pad(terms, (0, chunks * length - tokens))
        terms = terms.view(channels, -1, length)  # rows: numerator and denominator, image, chunk
        sums = terms @ _within(decay / tokens, bonus, length) + _across(terms, decay / tokens, chunks)
        numerator, denominator = sums.view(channels, 2, batch, -1)[..., :tokens].unbind(dim=1)
        return (numerator / denominator).transpose(0, 1)


def _within(rate: Float[Tensor, " C"], bonus: Float[Tensor, " C"], length: int) -> Float[Tensor, "C L L"]:
    """Return the weights between the tokens of one chunk."""
    place = torch.arange(length, device=rate.device, dtype=rate.dtype)
    distance = (place[:, None] - place[None, :]).abs() - 1  # -1 on the diagonal, which the bonus fills
    return _powers(rate, distance) + torch.diag_embed(bonus.exp()[:, None].expand(-1, length))


def _across(terms: Float[Tensor, "C N L"], rate: Float[Tensor, " C"], chunks: int) -> Float[Tensor, "C N L"]:
    """Return what the tokens of all other chunks give to each token.

    Args:
        terms: Weighted terms; N counts rows of ``chunks`` consecutive chunks.
        rate: Decay from one token to the next.
        chunks: Chunks of a sequence.
    """
    channels, _, length = terms.shape
    place = torch.arange(length, device=rate.device, dtype=rate.dtype)
    order = torch.arange(chunks, device=rate.device, dtype=rate.dtype)
    to_end, to_start = _powers(rate, length - 1 - place), _powers(rate, place)  # (C, L)
    ends = torch.stack([to_end, to_start], dim=-1)
    totals = (terms @ ends).view(channels, -1, chunks, 2)  # seen from just after, and from just before
    gap = (order[None, :] - order[:, None] - 1) * length  # [from, to]: tokens between, negative if not before
    passed = _powers(rate, gap)  # (C, chunks, chunks)
    before = totals[..., 0] @ passed
    after = totals[..., 1] @ passed.transpose(1, 2)
    entering = torch.stack([before, after], dim=-1).flatten(1, 2)  # (C, N, 2)
    return entering @ torch.stack([to_start, to_end], dim=1)
