"""Frozen configuration: model sizes and sampling. Their JSON form is in :mod:`medq_uni.config_json`.

Every size in the package comes from here; no code asks which preset it is running.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from medq_uni.errors import MedQError

Precision = Literal["float32", "bfloat16", "int8", "nf4"]


class ConfigError(MedQError):
    """A configuration that cannot be used; the message names the key and what it needs."""


@dataclass(frozen=True, kw_only=True)
class SharingConfig:
    """Which weights the two experts share. All false is the released form (one set per expert)."""

    qkv: bool = False
    """Query, key and value projections."""
    o: bool = False
    """Output projection of the attention."""
    qk_norm: bool = False
    """RMS norms of queries and keys."""
    block_norms: bool = False
    """The two RMS norms of a block."""
    ffn: bool = False
    """Feed-forward network."""
    final_norm: bool = False
    """Norm after the last block."""


PER_EXPERT = SharingConfig()
SHARED_ATTENTION = SharingConfig(qkv=True, o=True, qk_norm=True, block_norms=True)


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Sizes of the dual-expert transformer."""

    vocab_size: int
    """Number of text tokens, special tokens included."""
    hidden_size: int
    """Width of a token; divisible by 4 and by num_heads."""
    intermediate_size: int
    """Width of the SwiGLU feed-forward networks."""
    num_layers: int
    """Number of blocks."""
    num_heads: int
    """Query heads."""
    num_kv_heads: int
    """Key and value heads (grouped-query attention); divides num_heads."""
    rope_theta: float = 1e6
    """Base of the rotary position angles."""
    rms_norm_eps: float = 1e-6
    """Epsilon of the RMS norms."""
    sharing: SharingConfig = PER_EXPERT
    """Which weights the two experts share."""

    def __post_init__(self) -> None:
        """Check divisibility."""
        if self.hidden_size % self.num_heads or self.hidden_size % 4:
            raise ConfigError(
                f"hidden_size must be divisible by 4 and by num_heads={self.num_heads}, got {self.hidden_size}."
            )
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(f"num_kv_heads={self.num_kv_heads} must divide num_heads={self.num_heads}.")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """Sizes of the understanding encoder (a vision transformer over flattened patches)."""

    in_channels: int = 3
    """Channels of the image."""
    patch_size: int = 14
    """Side of a patch in pixels."""
    hidden_size: int = 1152
    """Width of a patch token."""
    intermediate_size: int = 4304
    """Width of the MLP."""
    num_layers: int = 26
    """Number of blocks that are built."""
    num_heads: int = 16
    """Attention heads."""
    max_patches_per_side: int = 70
    """Side of the position tables, in patches."""
    layer_norm_eps: float = 1e-6
    """Epsilon of the layer norms."""
    stem_channels: tuple[int, ...] = ()
    """Widths of a convolutional stem that replaces the linear patch embedding; each stage halves
    the resolution, so 2 ** len must equal patch_size. Empty is the linear embedding of the base model."""

    spectrum_block: int = 0
    """Side of the blocks whose log-spectrum is added to the patch embedding; divides patch_size, 0 is off."""
    view_sides: tuple[int, int] | None = None
    """Smallest short and largest long side, in pixels, to which an image is resized for the encoder, as the base
    model was trained; None shows it at native resolution."""

    def __post_init__(self) -> None:
        """Check the stem and the spectrum against the patch."""
        if self.spectrum_block and self.patch_size % self.spectrum_block:
            raise ConfigError(f"spectrum_block={self.spectrum_block} must divide patch_size={self.patch_size}.")
        if self.stem_channels and 2 ** len(self.stem_channels) != self.patch_size:
            raise ConfigError(
                f"stem_channels has {len(self.stem_channels)} stages, which gives patches of "
                f"{2 ** len(self.stem_channels)} pixels, but patch_size is {self.patch_size}."
            )


@dataclass(frozen=True, kw_only=True)
class FluxCodecConfig:
    """Sizes of the convolutional autoencoder of the base model (FLUX layout)."""

    kind: Literal["flux"] = "flux"
    """Tag that tells the codecs apart in JSON."""
    in_channels: int = 3
    """Channels of the image."""
    channels: int = 128
    """Width at full resolution."""
    channel_multipliers: tuple[int, ...] = (1, 2, 4, 4)
    """Width of each level, as a multiple of channels; each level after the first halves the resolution."""
    num_res_blocks: int = 2
    """Residual blocks per level of the encoder; the decoder has one more."""
    latent_channels: int = 16
    """Channels of the latent."""
    scale_factor: float = 0.3611
    """Latent = scale_factor * (mean - shift_factor)."""
    shift_factor: float = 0.1159
    """See scale_factor."""
    norm_groups: int = 32
    """Groups of the group norms."""

    @property
    def downsample(self) -> int:
        """Pixels per latent position along one side."""
        return int(2 ** (len(self.channel_multipliers) - 1))


@dataclass(frozen=True, kw_only=True)
class FidelityCodecConfig:
    """Sizes of the codec with a fidelity path.

    A block transform, and a decoder that also sees features of the degraded image at full resolution.
    """

    kind: Literal["fidelity"] = "fidelity"
    """Tag that tells the codecs apart in JSON."""
    in_channels: int = 2
    """Channels of the image: the wide and the windowed view."""
    block_size: int = 8
    """Side of a transform block, that is pixels per latent position."""
    widths: tuple[int, ...] = (32, 64, 96, 128)
    """Widths of the decoder from full resolution down to the latent grid; 2 ** (len - 1) is block_size."""
    fidelity_path: bool = True
    """Whether the decoder may see the degraded image's own features."""
    predict_variance: bool = True
    """Whether the decoder also predicts a log-variance per pixel."""
    block: Literal["residual", "gated"] = "residual"
    """What the decoder is made of: two convolutions around a GELU, or blocks of NAFNet (Chen et al. 2022)."""
    blocks: tuple[int, ...] = (1, 1, 1, 3)
    """Blocks of every level on the way down and again on the way up; the last level is on the latent grid and has its
    blocks on the way up, after one on the way down."""
    refinement: tuple[int, ...] = (0, 0, 0, 0)
    """Blocks of NAFNet after those of every level on the way up. A new one passes its input on."""
    spectrum: bool = True
    """Whether the decoder sees, on the latent grid, how much there is of every frequency."""
    latent_change: bool = True
    """Whether the decoder sees the restored latent and its change there, beside what the change does to the image."""
    film_width: int = 0
    """Width of the hidden states of the restoration expert that modulate the features of the decoder (FiLM), the
    hidden_size of the transformer; 0 shows it none. A new modulation changes nothing."""
    unshuffle: int = 1
    """Side of the squares of pixels that the decoder turns into channels before its first level and back after its last
    (pixel-unshuffle): a power of two; most of the work is done on that coarser grid."""
    told_width: int = 0
    """Width of the embedding of the modality and of quantities of the degradation, which scales and shifts the
    features of every residual block (FiLM); 0 tells the decoder none."""

    def __post_init__(self) -> None:
        """Check the levels against the block."""
        if len(self.refinement) != len(self.widths) or min(self.refinement) < 0:
            raise ConfigError(
                f"refinement needs one number for each of the {len(self.widths)} widths, got {list(self.refinement)}."
            )
        if len(self.blocks) != len(self.widths) or min(self.blocks) < 1:
            raise ConfigError(
                f"blocks needs one positive number for each of the {len(self.widths)} widths, got {list(self.blocks)}."
            )
        if self.unshuffle < 1 or self.unshuffle * 2 ** (len(self.widths) - 1) != self.block_size:
            raise ConfigError(
                f"widths has {len(self.widths)} levels, which with unshuffle {self.unshuffle} needs block_size "
                f"{self.unshuffle * 2 ** (len(self.widths) - 1)}, got {self.block_size}."
            )
        if self.told_width and self.block != "residual":
            raise ConfigError(f"told_width {self.told_width} needs blocks of the kind residual, got {self.block!r}.")

    @property
    def latent_channels(self) -> int:
        """Channels of the latent: every coefficient of a block is kept."""
        return int(self.in_channels * self.block_size**2)

    @property
    def downsample(self) -> int:
        """Pixels per latent position along one side."""
        return self.block_size


CodecConfig = FluxCodecConfig | FidelityCodecConfig


@dataclass(frozen=True, kw_only=True)
class SpecialTokens:
    """Ids of the four tokens that frame text and images."""

    bos: int
    """Begin of a text block."""
    eos: int
    """End of a text block."""
    start_of_image: int
    """Before the patches or latents of an image."""
    end_of_image: int
    """After them."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The whole network."""

    name: str
    """Name of the preset or checkpoint, for people."""
    transformer: TransformerConfig
    """The two experts."""
    vision: VisionConfig
    """Understanding encoder."""
    codec: CodecConfig = field(default_factory=FluxCodecConfig)
    """Image <-> latent."""
    tokens: SpecialTokens
    """Special token ids."""
    latent_patch_size: int = 2
    """Side of the square of latent positions that makes one token."""
    max_latent_size: int = 64
    """Side of the latent position table, in tokens."""
    shrinkage: bool = False
    """Whether the velocity also holds a predicted share of every coefficient of x_t: v = A(h) x_t + b(h). The base
    model has b alone, which cannot pass more coefficients than the hidden width."""
    quantity_width: int = 0
    """Inner width of the head that reads quantities of the degradation from the vision encoder, which a decoder with a
    ``told_width`` is told; 0 reads none."""

    def __post_init__(self) -> None:
        """Check that the modulation of the decoder fits the expert."""
        width, wanted = self.transformer.hidden_size, getattr(self.codec, "film_width", 0)
        if wanted not in (0, width):
            raise ConfigError(
                f"codec.film_width must be 0 or the hidden_size of the transformer, {width}, got {wanted}."
            )

    @property
    def told_width(self) -> int:
        """Width of the embedding of what the decoder is told; 0 where it is told nothing."""
        return int(getattr(self.codec, "told_width", 0))

    @property
    def token_pixels(self) -> int:
        """Side of the image square behind one latent token, in pixels."""
        return self.latent_patch_size * self.codec.downsample

    @property
    def token_channels(self) -> int:
        """Numbers in one latent token."""
        return self.latent_patch_size**2 * self.codec.latent_channels


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a network is run: in which numbers, and where its weights wait."""

    precision: Precision | None = None
    """Numbers of the weights; None is float32 for our models and bfloat16 for released checkpoints. int8 and nf4 hold
    the linear layers of the transformer's blocks in 8 or 4 bits and compute in bfloat16; the codec stays in float32."""
    offload: bool = False
    """Whether blocks wait in host memory and visit the device one at a time."""
    compile: bool = False
    """Whether blocks are compiled at their first run."""


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """How the restored latent is sampled."""

    start: Literal["degraded", "noise"] = "degraded"
    """degraded: a bridge from the degraded latent. noise: from Gaussian noise, as in the paper."""
    num_steps: int = 1
    """Evaluations of the network from t=1 to t=0."""
    time_shift: float = 1.0
    """Above 1 spends more steps near t=1: t <- s t / (1 + (s - 1) t)."""
    num_samples: int = 1
    """Samples that are averaged (noise start only); their spread adds to the uncertainty."""
    text_guidance: float = 1.0
    """Classifier-free guidance against the context before its first text, images alone; 1 is off."""
    image_guidance: float = 1.0
    """Classifier-free guidance against the first text alone, without images; 1 is off. Needs text_guidance above 1."""
    guidance_renorm: Literal["global", "channel", "text_channel"] = "text_channel"
    """How a guided velocity is scaled back to the length of the unguided one."""
    guidance_renorm_min: float = 0.0
    """Lower bound of that scale."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Guidance is active for lo < t <= hi."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SamplerConfig:
        """Return the configuration of plain JSON types, in which a tuple is a list; what is missing has its default."""
        given = dict(values)
        if "guidance_interval" in given:
            low, high = given["guidance_interval"]
            given["guidance_interval"] = (float(low), float(high))
        return cls(**given)

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.num_steps < 1 or self.num_samples < 1:
            raise ConfigError(
                f"num_steps and num_samples must be at least 1, got {self.num_steps} and {self.num_samples}."
            )
        if self.start == "degraded" and self.num_samples > 1:
            raise ConfigError(
                f"num_samples={self.num_samples} needs start='noise': "
                "from the degraded latent every sample is the same."
            )
