"""MedQ: one network that describes an image and restores it.

Two ways to run it, one set of layers. :meth:`MedQ.forward` reads whole packed streams, for training.
:meth:`MedQ.start` and the ``append`` methods read block by block into a context, from which
:meth:`MedQ.generate` writes text and :meth:`MedQ.sample` draws a latent. Both give the same numbers.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medq_uni.config import ModelConfig, SamplerConfig
from medq_uni.errors import MedQError
from medq_uni.model.codec import build_codec
from medq_uni.model.flow import Generators, TimeEmbedder, Velocity, draw_noise, euler, guided_velocity, is_guided, times
from medq_uni.model.generation import Constraint, Context, GuidanceContexts, write_text
from medq_uni.model.grid import Offset, SizeError, grid_ids, grid_of, patchify, sincos_table, unpatchify
from medq_uni.model.inputs import Sampled, StreamInputs, StreamOutputs
from medq_uni.model.quantity_head import QuantityHead
from medq_uni.model.transformer import DualExpertTransformer, ExpertPair, KVCache, PerExpert
from medq_uni.model.vision import Connector, VisionEncoder
from medq_uni.model.zero_init import zero_init
from medq_uni.stream import BlockKind, ImageBlock, Past, TextBlock, TokenStream, pack

__all__ = ["MedQ", "Sampled", "StreamInputs", "StreamOutputs", "codec_module"]


class MedQ(nn.Module):
    """Codec, vision encoder, text embedding and the dual-expert transformer between them."""

    latent_table: Tensor
    vision_table: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width, vocabulary = config.transformer.hidden_size, config.transformer.vocab_size
        self.codec = build_codec(config.codec)
        self.vision = VisionEncoder(config.vision)
        self.connector = Connector(config.vision.hidden_size, width)
        self.text_embedding = nn.Embedding(vocabulary, width)
        self.transformer = DualExpertTransformer(config.transformer)
        self.lm_head = nn.Linear(width, vocabulary, bias=False)
        self.time_embedder = TimeEmbedder(width)
        self.vae2llm = nn.Linear(config.token_channels, width)
        self.llm2vae = nn.Linear(width, config.token_channels)
        self.shrinkage = nn.Linear(width, config.token_channels) if config.shrinkage else None
        seen, inner = config.vision.hidden_size, config.quantity_width
        self.quantity_head = QuantityHead(seen, inner) if inner else None
        self.reset_tables()
        self.initialize()

    def reset_tables(self, device: torch.device | str | None = None) -> None:
        """Compute the two position tables, which are not part of the weights."""
        width = self.config.transformer.hidden_size
        sides = self.config.max_latent_size, self.config.vision.max_patches_per_side
        for name, side in zip(("latent_table", "vision_table"), sides, strict=True):
            self.register_buffer(name, sincos_table(side, width).to(device), persistent=False)

    @torch.no_grad()
    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Draw new weights: N(0, 0.02), vision by fan-in, ir experts equal to iqa experts, zero velocity.

        Norms and convolutions keep their own initialization, and so does the codec.
        """
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding) and not name.startswith("codec."):
                # beside a position table of unit size, image features must not start out invisible
                sees = name.startswith(("vision.", "connector.", "quantity_head."))
                std = module.in_features**-0.5 if isinstance(module, nn.Linear) and sees else 0.02
                module.weight.normal_(0, std, generator=generator)
                if isinstance(module, nn.Linear) and module.bias is not None:
                    module.bias.zero_()
        for module in self.modules():
            if isinstance(module, PerExpert) and module.ir is not None:
                module.ir.load_state_dict(module.iqa.state_dict())
        for head in (self.llm2vae, self.shrinkage, self.quantity_head.out if self.quantity_head else None):
            if head is not None:
                zero_init(head)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.vae2llm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights, and of the token stream between layers."""
        return self.vae2llm.weight.dtype

    # Embedding

    def latent_tokens(self, latent: Float[Tensor, "B c h w"]) -> Float[Tensor, "B P N"]:
        """Return the latent cut into tokens, in the order (row, column, channel)."""
        return patchify(latent, self.config.latent_patch_size)

    def latent_image(self, tokens: Float[Tensor, "B P N"], h: int, w: int) -> Float[Tensor, "B c h w"]:
        """Return the latent of ``h`` x ``w`` positions; the inverse of :meth:`latent_tokens`."""
        size = self.config.latent_patch_size
        return unpatchify(tokens, size, h // size, w // size)

    def state_image(self, hidden_states: Float[Tensor, "B P E"], h: int, w: int) -> Float[Tensor, "B E r k"]:
        """Return the states of the tokens of a latent of ``h`` x ``w`` positions where they lie."""
        size = self.config.latent_patch_size
        return unpatchify(hidden_states, 1, h // size, w // size)

    def embed_latent(
        self, latent: Float[Tensor, "B c h w"], t: Float[Tensor, " B"], offset: Offset = (0, 0)
    ) -> Float[Tensor, "B P E"]:
        """Return the embedded tokens of a latent at flow time ``t``; a clean latent has t = 0."""
        rows, cols = grid_of(latent, self.config.latent_patch_size)
        tokens = self.vae2llm(self.latent_tokens(latent).to(self.dtype))
        ids = grid_ids(rows, cols, self.config.max_latent_size, offset, latent.device)
        output: Tensor = tokens + self.time_embedder(t)[:, None] + self.latent_table[ids].to(self.dtype)
        return output

    def embed_image(self, image: Float[Tensor, "B C H W"], offset: Offset = (0, 0)) -> Float[Tensor, "B P E"]:
        """Return the embedded vision tokens of an image in [-1, 1]."""
        rows, cols = grid_of(image, self.config.vision.patch_size)
        ids = grid_ids(rows, cols, self.config.vision.max_patches_per_side, offset, image.device)
        features = self.vision(image.to(self.dtype), offset)
        output: Tensor = self.connector(features) + self.vision_table[ids].to(self.dtype)
        return output

    def embed(self, stream: TokenStream, inputs: StreamInputs) -> ExpertPair:
        """Return the embedded tokens of a stream.

        Raises:
            SizeError: If the images are not those of the stream's blocks.
        """
        clean, images, noised = iter(inputs.clean), iter(inputs.images), iter(inputs.noised)
        text = self.text_embedding(stream.text_ids)
        vision: list[Tensor] = []
        latents: list[Tensor] = []
        for span in stream.spans:
            if span.kind is BlockKind.TEXT:
                continue
            source = {BlockKind.CLEAN: clean, BlockKind.VISION: images, BlockKind.NOISED: noised}[span.kind]
            image = next(source, None)
            if image is None:
                raise SizeError(f"the stream has more {span.kind.value} blocks than images were given.")
            if span.kind is BlockKind.VISION:
                grid = grid_of(image, self.config.vision.patch_size)
                vision.append(self.embed_image(image, inputs.vision_offset))
            else:
                grid = grid_of(image, self.config.latent_patch_size)
                t = inputs.t if span.kind is BlockKind.NOISED else None
                t = image.new_zeros(len(image)) if t is None else t
                latents.append(self.embed_latent(image, t, inputs.latent_offset))
            if grid != (span.rows, span.cols):
                raise SizeError(f"a block of {span.rows} x {span.cols} tokens got an image of {grid}.")
        iqa = text if stream.iqa_assembly is None else torch.cat([text, *vision], 1)[:, stream.iqa_assembly]
        ir = torch.cat(latents, 1) if latents else text[:, :0]
        return ExpertPair(iqa, ir)

    # Whole streams

    def hidden(self, stream: TokenStream, inputs: StreamInputs) -> ExpertPair:
        """Return the final hidden states of a packed stream."""
        output: ExpertPair = self.transformer(self.embed(stream, inputs), stream)
        return output

    def forward(self, stream: TokenStream, inputs: StreamInputs) -> StreamOutputs:
        """Return velocities of the noised images and logits of the labels, from one pass."""
        hidden = self.hidden(stream, inputs)
        hidden_states = hidden.ir[:, stream.target_places]
        velocity = self._head(hidden_states, inputs.noised)
        return StreamOutputs(
            velocity, hidden_states, self.lm_head(hidden.iqa.flatten(0, 1)[stream.label_iqa_positions])
        )

    # Block by block

    def start(
        self,
        batch_size: int = 1,
        *,
        capacity: int = 1024,
        latent_offset: Offset = (0, 0),
        vision_offset: Offset = (0, 0),
    ) -> Context:
        """Return an empty context.

        Args:
            batch_size: Samples that are read side by side.
            capacity: Tokens to make room for; it grows when needed.
            latent_offset: Row and column, in tokens, of this crop in the whole latent.
            vision_offset: The same for the vision image, in patches.
        """
        kind = self.device.type
        is_autocast = torch.is_autocast_enabled(kind)
        dtype = torch.get_autocast_dtype(kind) if is_autocast else self.dtype
        cache = KVCache(self.config.transformer, batch_size, capacity, device=self.device, dtype=dtype)
        return Context(cache, Past.empty(batch_size), latent_offset, vision_offset)

    def append_latent(self, context: Context, latent: Float[Tensor, "B c h w"]) -> None:
        """Let the context read a clean latent."""
        rows, cols = grid_of(latent, self.config.latent_patch_size)
        block = ImageBlock(kind=BlockKind.CLEAN, rows=rows, cols=cols)
        self._append(context, block, StreamInputs(clean=(latent,), latent_offset=context.latent_offset))

    def append_vision(self, context: Context, image: Float[Tensor, "B C H W"]) -> None:
        """Let the context read an image through the vision encoder."""
        rows, cols = grid_of(image, self.config.vision.patch_size)
        block = ImageBlock(kind=BlockKind.VISION, rows=rows, cols=cols)
        self._append(context, block, StreamInputs(images=(image,), vision_offset=context.vision_offset))

    def append_text(self, context: Context, ids: Sequence[Sequence[int]]) -> None:
        """Let the context read one text per sample, framed by bos and eos."""
        if context.before_text is None:
            context.before_text, context.instruction = context.past, [list(row) for row in ids]
        self.extend_text(context, ids)

    @torch.no_grad()
    def extend_text(
        self, context: Context, ids: Sequence[Sequence[int]], opens: bool = True, closes: bool = True
    ) -> Float[Tensor, "B V"]:
        """Let the context read a piece of text and return the logits after the last token of each sample.

        Args:
            context: What was read before.
            ids: Token ids of each sample; a sample with none is left as it is.
            opens: Whether bos comes first.
            closes: Whether eos comes last.
        """
        block = TextBlock(ids=ids, opens=opens, closes=closes)
        stream, hidden = self._append(context, block, StreamInputs())
        last = hidden.iqa[torch.arange(context.batch_size, device=self.device), stream.last_valid_iqa()]
        output: Tensor = self.lm_head(last)
        return output

    @torch.no_grad()
    def _append(
        self, context: Context, block: TextBlock | ImageBlock, inputs: StreamInputs
    ) -> tuple[TokenStream, ExpertPair]:
        stream = pack([block], self.config.tokens, past=context.past, device=self.device)
        hidden = self.transformer(self.embed(stream, inputs), stream, context.cache)
        assert stream.after is not None, "only blocks that stay are appended"
        context.past = stream.after
        return stream, hidden

    def generate(
        self,
        context: Context,
        *,
        constraint: Constraint | Sequence[Constraint | None] | None = None,
        max_tokens: int = 256,
        generator: torch.Generator | None = None,
        temperature: float = 0.0,
    ) -> list[list[int]]:
        """Write one text per sample and return its ids; the context then holds it as a text block.

        Args:
            context: What was read before.
            constraint: What may be written: one for all samples, or one for each.
            max_tokens: Longest text; a longer one is cut.
            generator: Source of the draws at a temperature above 0.
            temperature: 0 takes the most likely token.
        """
        if context.before_text is None:
            context.before_text = context.past
        size = context.batch_size
        each = constraint if isinstance(constraint, Sequence) else [constraint] * size
        return write_text(
            lambda ids, opens, closes: self.extend_text(context, ids, opens, closes),
            size,
            self.config.tokens.eos,
            constraints=each,
            max_tokens=max_tokens,
            temperature=temperature,
            generator=generator,
        )

    def velocity(
        self, context: Context, x_t: Float[Tensor, "B c h w"], t: float | Float[Tensor, " B"]
    ) -> Float[Tensor, "B c h w"]:
        """Return the predicted velocity of ``x_t`` at time ``t``; the context is only read."""
        shape = (x_t.shape[-2], x_t.shape[-1])
        return self._velocity(context, self._target_stream(context, shape), x_t, t)[0]

    def _target_stream(self, context: Context, shape: tuple[int, int]) -> TokenStream:
        size = self.config.latent_patch_size
        block = ImageBlock(kind=BlockKind.NOISED, rows=shape[0] // size, cols=shape[1] // size)
        return pack([block], self.config.tokens, past=context.past, device=self.device)

    @torch.no_grad()
    def _velocity(
        self, context: Context, stream: TokenStream, x_t: Tensor, t: float | Tensor
    ) -> tuple[Float[Tensor, "B c h w"], Float[Tensor, "B P E"]]:
        at = t if isinstance(t, Tensor) else torch.full((len(x_t),), t, device=x_t.device)
        inputs = StreamInputs(noised=(x_t,), t=at, latent_offset=context.latent_offset)
        hidden = self.transformer(self.embed(stream, inputs), stream, context.cache, update=False)
        return self.latent_image(self._head(hidden.ir, (x_t,)).float(), *x_t.shape[-2:]), hidden.ir

    def _head(self, hidden: Float[Tensor, "B L E"], noised: Sequence[Tensor]) -> Float[Tensor, "B L N"]:
        """Return the velocity tokens: b(h), and where the model has it the share A(h) of the latents x_t."""
        velocity: Tensor = self.llm2vae(hidden)
        if self.shrinkage is None or not noised:
            return velocity
        share: Tensor = self.shrinkage(hidden)
        return velocity + share * torch.cat([self.latent_tokens(x_t) for x_t in noised], 1)

    def sample(
        self,
        context: Context,
        shape: tuple[int, int],
        sampler: SamplerConfig,
        *,
        start_latent: Float[Tensor, "B c h w"] | None = None,
        noise: Float[Tensor, "N P token"] | None = None,
        generator: Generators = None,
        guidance: GuidanceContexts | None = None,
    ) -> Sampled:
        """Return ``sampler.num_samples`` restored latents of each sample of the context.

        Args:
            context: The degraded image, the instruction and usually the description.
            shape: Height and width of the latent.
            sampler: Start, steps, guidance.
            start_latent: The degraded latent; needed for a degraded start, unused for a noise start.
            noise: Tokens that a noise start begins from, num_samples for each sample in a row; None draws
                them.
            generator: Source of the noise, on the CPU: one, or one per sample of the context, which
                makes the result independent of how samples are batched.
            guidance: Contexts to guide away from; None takes the images alone, and the first text alone.

        Raises:
            MedQError: If the start needs a latent, or guidance a text, and there is none.
        """
        context = context.fork(sampler.num_samples) if sampler.num_samples > 1 else context
        at = times(sampler.num_steps, sampler.time_shift)
        hidden_states: list[Tensor] = []
        field = self._field(context, shape, hidden_states)
        if any(is_guided(sampler, t) for t in at[:-1].tolist()):
            contexts = self._guided_away(context, sampler, guidance)
            field = guided_velocity([field, *(self._field(c, shape) for c in contexts)], sampler)
        if sampler.text_guidance <= 1 < sampler.image_guidance:
            warnings.warn("image_guidance has no effect unless text_guidance is above 1.", stacklevel=2)
        if sampler.start == "noise":
            num_tokens = shape[0] * shape[1] // self.config.latent_patch_size**2
            size = (num_tokens, self.config.token_channels)
            count = context.batch_size // sampler.num_samples
            start = draw_noise(count, sampler.num_samples, size, generator) if noise is None else noise
        elif start_latent is None:
            raise MedQError("start='degraded' needs start_latent, the latent of the degraded image.")
        else:
            start = self.latent_tokens(start_latent)
        end = self.latent_image(euler(field, start.float().to(self.device), at), *shape)
        parts = (end, self.state_image(hidden_states[-1], *shape))
        return Sampled(*(part.unflatten(0, (-1, sampler.num_samples)).transpose(0, 1) for part in parts))

    def _field(self, context: Context, shape: tuple[int, int], hidden_states: list[Tensor] | None = None) -> Velocity:
        """Return the velocity under a context; ``states`` gets those of its last pass."""
        stream = self._target_stream(context, shape)

        def velocity(tokens: Tensor, t: float) -> Tensor:
            found, last = self._velocity(context, stream, self.latent_image(tokens, *shape), t)
            if hidden_states is not None:
                hidden_states[:] = [last]
            return self.latent_tokens(found)

        return velocity

    def _guided_away(
        self, context: Context, sampler: SamplerConfig, guidance: GuidanceContexts | None
    ) -> list[Context]:
        if guidance is None:
            guidance = self.guidance_contexts(context, sampler)
        elif sampler.num_samples > 1:
            guidance = guidance.fork(sampler.num_samples)
        without_images = [guidance.without_images] if sampler.image_guidance > 1 else []
        if None in without_images:
            raise MedQError("image_guidance needs a context without images.")
        return [guidance.without_text, *(c for c in without_images if c is not None)]

    def guidance_contexts(self, context: Context, sampler: SamplerConfig) -> GuidanceContexts:
        """Return the usual contexts to guide away from: before the first text, and the first text alone.

        Raises:
            MedQError: If the context has no text.
        """
        if context.before_text is None:
            raise MedQError("text_guidance needs a context with text; append one, or set it to 1.")
        without_images = None
        if sampler.image_guidance > 1:
            without_images = self.start(context.batch_size, latent_offset=context.latent_offset)
            if context.instruction:
                self.append_text(without_images, context.instruction)
        return GuidanceContexts(context.without_text(), without_images)


def codec_module(model: MedQ) -> nn.Module:
    """Return the codec as a module, for freezing it or reading its weights."""
    return cast(nn.Module, model.codec)
