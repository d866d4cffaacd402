"""What goes into a pass over a packed stream, and what comes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from medq_uni.model.grid import Offset


@dataclass(frozen=True, eq=False, kw_only=True)
class StreamInputs:
    """The images behind the image blocks of a stream, each kind in the order of its blocks."""

    clean: Sequence[Float[Tensor, "B c h w"]] = ()
    """Latents of the CLEAN blocks."""
    images: Sequence[Float[Tensor, "B C H W"]] = ()
    """Images of the VISION blocks, in [-1, 1]; their size need not be that of the latents."""
    noised: Sequence[Float[Tensor, "B c h w"]] = ()
    """x_t of the NOISED blocks."""
    t: Float[Tensor, " B"] | None = None
    """Flow time of the NOISED blocks."""
    latent_offset: Offset = (0, 0)
    """Row and column of the first latent token in a larger image."""
    vision_offset: Offset = (0, 0)
    """Row and column of the first vision patch in a larger image."""


@dataclass(frozen=True, eq=False)
class StreamOutputs:
    """What training needs of a pass."""

    velocity: Float[Tensor, "B L_target token"]
    """Predicted velocity at the tokens of the NOISED blocks."""
    hidden_states: Float[Tensor, "B L_target E"]
    """Final states of the restoration expert there."""
    logits: Float[Tensor, "N V"]
    """Logits at the label positions of the stream."""


@dataclass(frozen=True, eq=False)
class Sampled:
    """What sampling ends with."""

    latent: Float[Tensor, "S B c h w"]
    """Restored latents."""
    hidden_states: Float[Tensor, "S B E r k"]
    """Final states of the restoration expert in its last pass, on the grid of latent tokens."""
