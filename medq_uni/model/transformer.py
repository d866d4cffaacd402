"""The dual-expert transformer: two sets of weights, one attention.

Every token is projected, normalized and fed forward by its own expert; the softmax runs over the tokens
of both, so the restoration expert reads the words of the assessment expert. Which weights the experts
share is a configuration. The layer is the one of Qwen2 with a norm of queries and keys: RMS norms before
attention and before SwiGLU, grouped queries, rotary positions after the norms.

Tokens travel as a pair (iqa part, ir part), so no layer gathers or scatters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from medq_uni.config import TransformerConfig
from medq_uni.model.attention import attention, rotary_angles, rotate
from medq_uni.stream import TokenStream


class ExpertPair(NamedTuple):
    """Tokens of the two experts, (B, L, E) or cut into heads (B, L, A, K); either part may be of length 0."""

    iqa: Float[Tensor, "B L_iqa *E"]
    ir: Float[Tensor, "B L_ir *E"]

    def __add__(self, other: tuple[Tensor, ...]) -> ExpertPair:  # type: ignore[override]
        """Return the sum of both parts."""
        return ExpertPair(self.iqa + other[0], self.ir + other[1])

    def joined(self) -> Float[Tensor, "B L *E"]:
        """Return the tokens in sorted order: iqa, then ir."""
        if not self.iqa.shape[1]:
            return self.ir
        return torch.cat([self.iqa, self.ir], dim=1) if self.ir.shape[1] else self.iqa


class PerExpert(nn.Module):
    """A module for each expert, or one that both share.

    Args:
        make: Makes the module.
        is_shared: Whether the ir expert uses the module of the iqa expert.
    """

    def __init__(self, make: Callable[[], nn.Module], is_shared: bool) -> None:
        super().__init__()
        self.iqa = make()
        self.ir = None if is_shared else make()

    def forward(self, x: ExpertPair) -> ExpertPair:
        """Return the outputs; a part without tokens costs nothing and gets a part without tokens."""
        ir_module = self.iqa if self.ir is None else self.ir
        if not x.ir.shape[1]:
            iqa = self.iqa(x.iqa)
            return ExpertPair(iqa, iqa[:, :0])
        if not x.iqa.shape[1]:
            ir = ir_module(x.ir)
            return ExpertPair(ir[:, :0], ir)
        return ExpertPair(self.iqa(x.iqa), ir_module(x.ir))


class RMSNorm(nn.Module):
    """Division by the root mean square over the last axis, then a learned scale.

    The mean is taken in float32 whatever the input is.
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Float[Tensor, "... E"]) -> Float[Tensor, "... E"]:
        """Return the normalized tensor, same type as ``x``."""
        normalized = F.rms_norm(x.float(), self.weight.shape, None, self.eps).to(x.dtype)
        return normalized * self.weight.to(x.dtype)


class KVCache:
    """Keys and values of every block of layers, preallocated; for inference.

    New keys are always written behind the kept ones; :meth:`keep` decides whether they stay. So a
    read-only pass over [cache, target] costs no copy of the cache.
    """

    def __init__(
        self,
        config: TransformerConfig,
        batch_size: int,
        capacity: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        shape = (batch_size, config.num_kv_heads, capacity, config.head_dim)
        self.length = 0
        self.keys = [torch.empty(shape, device=device, dtype=dtype) for _ in range(config.num_layers)]
        self.values = [torch.empty(shape, device=device, dtype=dtype) for _ in range(config.num_layers)]

    @property
    def capacity(self) -> int:
        """Tokens per sample there is room for."""
        return self.keys[0].shape[2]

    def reserve(self, length: int) -> None:
        """Make room for ``length`` more tokens; what is kept stays."""
        if (needed := self.length + length) <= self.capacity:
            return
        capacity = max(needed, self.capacity + self.capacity // 2)
        self._rebuild(lambda x: _grown(x[:, :, : self.length], capacity))

    def write(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write (B, A, L, K) behind what is kept and return all keys and values up to there."""
        stop = self.length + k.shape[2]
        assert stop <= self.capacity, "reserve() comes first"
        self.keys[layer][:, :, self.length : stop] = k
        self.values[layer][:, :, self.length : stop] = v
        return self.keys[layer][:, :, :stop], self.values[layer][:, :, :stop]

    def keep(self, length: int) -> None:
        """Keep the last ``length`` tokens that were written."""
        self.length += length

    def select(self, rows: Int[Tensor, " N"], length: int | None = None) -> KVCache:
        """Return a copy for the samples ``rows``, which may repeat, cut to the first ``length`` tokens."""
        copy, rows = object.__new__(KVCache), rows.to(self.keys[0].device)
        copy.length = self.length if length is None else length
        capacity = self.capacity
        copy.keys = [_grown(x[rows, :, : copy.length], capacity) for x in self.keys]
        copy.values = [_grown(x[rows, :, : copy.length], capacity) for x in self.values]
        return copy

    def _rebuild(self, change: Callable[[Tensor], Tensor]) -> None:
        self.keys = [change(x) for x in self.keys]
        self.values = [change(x) for x in self.values]


def _grown(x: Tensor, capacity: int) -> Tensor:
    grown = x.new_empty(x.shape[0], x.shape[1], capacity, x.shape[3])
    grown[:, :, : x.shape[2]] = x
    return grown


class Visibility(NamedTuple):
    """What attention needs to know about a stream; made once per pass."""

    cos: Tensor
    sin: Tensor
    bias: Tensor | None
    num_iqa: int


class JointAttention(nn.Module):
    """Self-attention over all tokens, with each expert's own projections."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        share, width, head = config.sharing, config.hidden_size, config.head_dim
        kv_width = config.num_kv_heads * head
        self.head_dim = head
        self.q = PerExpert(lambda: nn.Linear(width, width), share.qkv)
        self.k = PerExpert(lambda: nn.Linear(width, kv_width), share.qkv)
        self.v = PerExpert(lambda: nn.Linear(width, kv_width), share.qkv)
        self.q_norm = PerExpert(lambda: RMSNorm(head, config.rms_norm_eps), share.qk_norm)
        self.k_norm = PerExpert(lambda: RMSNorm(head, config.rms_norm_eps), share.qk_norm)
        self.o = PerExpert(lambda: nn.Linear(width, width, bias=False), share.o)

    def forward(self, x: ExpertPair, see: Visibility, cache: KVCache | None, layer: int) -> ExpertPair:
        """Return the attention output of both parts; ``layer`` is the place in the cache."""
        q = self._heads(self.q_norm(self._split(self.q(x))))
        k = self._heads(self.k_norm(self._split(self.k(x))))
        v = self._heads(self._split(self.v(x)))
        q, k = rotate(q, see.cos, see.sin).to(v.dtype), rotate(k, see.cos, see.sin).to(v.dtype)
        if cache is not None:
            k, v = cache.write(layer, k, v)
            q = q.to(v.dtype)
        bias = None if see.bias is None else see.bias.to(q.dtype)
        y = rearrange(attention(q, k, v, bias), "b a l k -> b l (a k)")
        output: ExpertPair = self.o(ExpertPair(y[:, : see.num_iqa], y[:, see.num_iqa :]))
        return output

    def _split(self, x: ExpertPair) -> ExpertPair:
        return ExpertPair(*(part.unflatten(-1, (-1, self.head_dim)) for part in x))

    def _heads(self, x: ExpertPair) -> Float[Tensor, "B A L K"]:
        return rearrange(x.joined(), "b l a k -> b a l k")


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)), without biases."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, inner, bias=False)
        self.up = nn.Linear(width, inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: Float[Tensor, "B L E"]) -> Float[Tensor, "B L E"]:
        """Return the transformed tokens."""
        output: Tensor = self.down(F.silu(self.gate(x)) * self.up(x))
        return output


class DualExpertBlock(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x)), each with the weights of the token's expert."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        share, width = config.sharing, config.hidden_size
        self.attention_norm = PerExpert(lambda: RMSNorm(width, config.rms_norm_eps), share.block_norms)
        self.attention = JointAttention(config)
        self.ffn_norm = PerExpert(lambda: RMSNorm(width, config.rms_norm_eps), share.block_norms)
        self.ffn = PerExpert(lambda: SwiGLU(width, config.intermediate_size), share.ffn)

    def forward(self, x: ExpertPair, see: Visibility, cache: KVCache | None, layer: int) -> ExpertPair:
        """Return the tokens after this block."""
        x = x + self.attention(self.attention_norm(x), see, cache, layer)
        output: ExpertPair = x + self.ffn(self.ffn_norm(x))
        return output


class DualExpertTransformer(nn.Module):
    """A stack of dual-expert blocks and a final norm per expert.

    Attributes:
        recompute: Whether the activations of blocks are computed again in the backward pass instead of kept.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.recompute = False
        self.blocks = nn.ModuleList(DualExpertBlock(config) for _ in range(config.num_layers))
        self.norm = PerExpert(lambda: RMSNorm(config.hidden_size, config.rms_norm_eps), config.sharing.final_norm)

    def forward(
        self, x: ExpertPair, stream: TokenStream, cache: KVCache | None = None, *, update: bool = True
    ) -> ExpertPair:
        """Return the final hidden states of both parts.

        Args:
            x: Embedded tokens of ``stream``.
            stream: Positions, mask and routing; its past must be what ``cache`` holds.
            cache: Keys and values of earlier tokens (under ``torch.no_grad``).
            update: Whether the tokens of ``stream`` stay in the cache.
        """
        assert (cache.length if cache else 0) == stream.past.length, "stream and cache disagree"
        if cache is not None:
            cache.reserve(stream.length)
        see = self.visibility(x, stream)
        for layer, block in enumerate(self.blocks):
            if self.recompute and torch.is_grad_enabled() and cache is None:
                x = checkpoint(block, x, see, None, layer, use_reentrant=False)
            else:
                x = block(x, see, cache, layer)
        if cache is not None and update:
            cache.keep(stream.length)
        output: ExpertPair = self.norm(x)
        return output

    def visibility(self, x: ExpertPair, stream: TokenStream) -> Visibility:
        """Return rotary angles and additive mask of a stream, in the type of ``x``."""
        dtype = x.iqa.dtype
        cos, sin = rotary_angles(stream.sorted_position, self.config.head_dim, self.config.rope_theta)
        bias = None
        if stream.sorted_mask is not None:
            autocast = torch.is_autocast_enabled(x.iqa.device.type)
            bias_dtype = torch.get_autocast_dtype(x.iqa.device.type) if autocast else dtype
            bias = torch.zeros(stream.sorted_mask.shape, dtype=bias_dtype, device=x.iqa.device)
            bias.masked_fill_(~stream.sorted_mask, float("-inf"))
        return Visibility(cos.to(dtype), sin.to(dtype), bias, stream.num_iqa)
