"""One training step of each layout: batch -> token stream -> network -> losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from medq_uni.data.batches import Batch, BatchSampler, edited_target
from medq_uni.data.describe import instruction
from medq_uni.data.pairs import randint
from medq_uni.data.pool import POOL_SIZE
from medq_uni.description import DEFAULT_RESTORE, FOLLOW_REPORT
from medq_uni.model.flow import interpolate, predicted_data, target_velocity
from medq_uni.model.medq import MedQ, StreamInputs
from medq_uni.preprocess import as_channels, as_views, vision_input
from medq_uni.stream import Block, BlockKind, ImageBlock, TextBlock, pack
from medq_uni.taxonomy import Severity
from medq_uni.train.losses import flow_loss, pixel_losses, spread_loss, text_loss
from medq_uni.train.parallel import Ranks
from medq_uni.train.recipe import StageConfig
from medq_uni.train.words import Words

Losses = dict[str, Float[Tensor, ""]]


@dataclass(frozen=True, eq=False)
class Told:
    """What each sample of a batch is told, and what it should become."""

    instructions: list[list[int]]
    descriptions: list[list[int]]
    has_description: list[bool]
    is_reference: list[bool]
    """Samples whose description tokens are trained."""
    target: Float[Tensor, "B 2 H W"]

    def part(self, rows: slice, device: torch.device) -> Told:
        """Return what some of the samples are told."""
        return Told(
            self.instructions[rows],
            self.descriptions[rows],
            self.has_description[rows],
            self.is_reference[rows],
            self.target[rows].to(device),
        )


@dataclass(frozen=True, eq=False)
class Bridge:
    """Between what a restoration of a batch starts from, and when."""

    x1: Float[Tensor, "B c h w"] | None
    """Noise; None starts from the degraded latent."""
    t: Float[Tensor, " B"]
    is_decoded: Bool[Tensor, " B"]
    """Samples whose pixel losses count."""
    num_decoded: int
    """Their number in the batch of all processes."""


class Stepper:
    """Computes the losses of one step of a stage.

    Every process draws the whole batch, from the same random numbers, and computes its own samples: the sum over the
    processes does not depend on their number.

    Args:
        model: Network.
        words: What is said about the pairs.
        stage: What to train.
        sampler: Where batches come from.
        generated: Description tokens that the model wrote about pairs of the pool, by index.
        ranks: The processes that train together.
        recompute: Whether the codec's activations are computed again in the backward pass.
    """

    def __init__(
        self,
        model: MedQ,
        words: Words,
        stage: StageConfig,
        sampler: BatchSampler,
        generated: dict[int, list[int]],
        ranks: Ranks | None = None,
        recompute: bool = False,
    ) -> None:
        self.model, self.words, self.stage = model, words, stage
        self.tokenizer = words.tokenizer
        self.sampler, self.generated = sampler, generated
        self.ranks, self.recompute = ranks or Ranks(), recompute
        self.rows = slice(self.ranks.rank, None, self.ranks.world)
        self.device = model.device

    def losses(self, generator: torch.Generator) -> Losses:
        """Draw a batch and return every loss term, unweighted."""
        stage = self.stage
        layout = stage.layout
        if layout == "joint" and float(torch.rand(1, generator=generator)) < stage.assess_share:
            layout = "assess"
        batch = self.sampler.draw(
            stage.batch_size,
            crop=stage.crop_size,
            generator=generator,
            with_vision=layout in ("assess", "joint"),
        )
        if layout == "codec":
            return self._codec(batch.part(self.rows, self.device))
        if layout == "assess":
            return self._assess(batch, generator)
        told = self._told(batch, generator) if layout == "joint" else self._untold(batch)
        bridge = self._bridge(batch, generator)
        mine = batch.part(self.rows, self.device), told.part(self.rows, self.device), self._part(bridge)
        wanted = sum(len(ids) + 1 for ids, has in zip(told.descriptions, told.is_reference, strict=True) if has)
        return self._restore(*mine, labels=wanted if layout == "joint" else None)

    def _codec(self, batch: Batch) -> Losses:
        degraded = self._channels(batch.degraded)
        fidelity = self.model.codec.features(_fast(degraded))
        return self._pixels(self.model.codec.encode(degraded), fidelity, batch, batch.reference)

    def _assess(self, whole: Batch, generator: torch.Generator) -> Losses:
        coded = [self.words.slots(index, generator) for index in whole.index]
        words = [self.tokenizer.encode(instruction("assess", generator)) for _ in whole.index]
        # one label for every token and one for the end of each text, sample by sample
        slots = [[*(is_slot for _, is_slot in text), False] for text in coded]
        vision = self._vision(whole.part(self.rows, self.device))
        blocks: list[Block] = [
            self._vision_block(vision),
            TextBlock(ids=words[self.rows]),
            TextBlock(ids=[[token for token, _ in text] for text in coded[self.rows]], labels=True),
        ]
        stream = pack(blocks, self.model.config.tokens).to(self.device)
        outputs = self.model(stream, StreamInputs(images=(vision,)))
        in_slot = torch.tensor([is_slot for text in slots[self.rows] for is_slot in text], device=self.device)
        return {
            "text": self._mean_text(outputs.logits, stream.labels, sum(len(text) for text in slots)),
            "slots": self._mean_text(outputs.logits[in_slot], stream.labels[in_slot], sum(map(sum, slots))),
        }

    def _bridge(self, batch: Batch, generator: torch.Generator) -> Bridge:
        """Draw the start and the time of every sample of the whole batch."""
        stage, codec = self.stage, self.model.config.codec
        count, _, height, width = batch.degraded.shape
        from_noise = float(torch.rand(1, generator=generator)) < stage.noise_start
        shape = (count, codec.latent_channels, height // codec.downsample, width // codec.downsample)
        x1 = torch.randn(shape, generator=generator) if from_noise else None
        t = torch.rand(count, generator=generator)
        t[torch.rand(count, generator=generator) < stage.final_time] = 1.0
        is_decoded = t <= (stage.noise_pixel_time if from_noise else 1.0)
        return Bridge(x1, t, is_decoded, int(is_decoded.sum()))

    def _part(self, bridge: Bridge) -> Bridge:
        x1 = None if bridge.x1 is None else bridge.x1[self.rows].to(self.device)
        t, is_decoded = (x[self.rows].to(self.device) for x in (bridge.t, bridge.is_decoded))
        return Bridge(x1, t, is_decoded, bridge.num_decoded)

    def _restore(self, batch: Batch, told: Told, bridge: Bridge, *, labels: int | None) -> Losses:
        """Return the losses of a restoration; ``labels`` counts those of the whole batch, None is without text."""
        model, t, is_joint = self.model, bridge.t, labels is not None
        image = self._channels(batch.degraded)
        with torch.no_grad():
            degraded, x0 = model.codec.encode(image), model.codec.encode(self._channels(told.target))
        x1 = degraded if bridge.x1 is None else bridge.x1
        x_t = interpolate(x0, x1, t)
        images = (self._vision(batch),) if is_joint else ()
        stream = pack(self._blocks(images, x0, told), model.config.tokens).to(self.device)
        inputs = StreamInputs(clean=(degraded,), images=images, noised=(x_t,), t=t, latent_offset=batch.offset)
        outputs = model(stream, inputs)
        velocity = outputs.velocity.float()
        losses = {"flow": flow_loss(velocity, model.latent_tokens(target_velocity(x0, x1)))}
        if labels is not None:
            wanted = torch.tensor(told.is_reference, device=self.device)[stream.label_positions // stream.length]
            losses["text"] = self._mean_text(outputs.logits[wanted], stream.labels[wanted], labels)
        if not bridge.num_decoded:
            return losses
        rows = bridge.is_decoded.nonzero()[:, 0]
        share = len(rows) * self.ranks.world / bridge.num_decoded
        if not len(rows):  # others decode theirs: the codec needs a gradient here too, if only of zeros
            rows = rows.new_zeros(1)
        x0_hat = predicted_data(x_t, model.latent_image(velocity, *x0.shape[-2:]), t)[rows]
        fidelity = model.codec.features(_fast(image[rows]))
        pixels = self._pixels(x0_hat, fidelity, batch.chosen(rows), told.target[rows])
        return losses | {name: value if share == 1 else value * share for name, value in pixels.items()}

    def _channels(self, views: Tensor) -> Tensor:
        return as_channels(views, channels=self.model.config.codec.in_channels)

    def _vision(self, batch: Batch) -> Tensor:
        return vision_input(batch.vision, self.model.config.vision, size=POOL_SIZE)

    def _mean_text(self, logits: Tensor, labels: Tensor, count: int) -> Tensor:
        """Return the cross-entropy as this process's part of the mean over the labels of the whole batch."""
        share = labels.numel() * self.ranks.world / max(count, 1)
        return text_loss(logits, labels) if share == 1 else text_loss(logits, labels) * share

    def _blocks(self, images: Sequence[Tensor], x0: Tensor, told: Told) -> list[Block]:
        size = self.model.config.latent_patch_size
        rows, cols = x0.shape[-2] // size, x0.shape[-1] // size
        clean = ImageBlock(kind=BlockKind.CLEAN, rows=rows, cols=cols)
        noised = ImageBlock(kind=BlockKind.NOISED, rows=rows, cols=cols)
        if not images:
            return [clean, TextBlock(ids=told.instructions), noised]
        description = TextBlock(ids=told.descriptions, labels=True, dropped=[not has for has in told.has_description])
        return [clean, self._vision_block(images[0]), TextBlock(ids=told.instructions), description, noised]

    def _vision_block(self, vision: Tensor) -> ImageBlock:
        patch = self.model.config.vision.patch_size
        rows, cols = vision.shape[-2] // patch, vision.shape[-1] // patch
        return ImageBlock(kind=BlockKind.VISION, rows=rows, cols=cols)

    def _pixels(self, latent: Tensor, fidelity: object, batch: Batch, target: Tensor) -> Losses:
        if self.recompute:
            decoded = checkpoint(self.model.codec.decode, latent, fidelity, use_reentrant=False)
        else:
            decoded = self.model.codec.decode(latent, fidelity)
        image = as_views(decoded.image, batch.scaling)
        losses = pixel_losses(image, target, batch.degraded, batch.valid, batch.reference)
        if decoded.log_variance is not None:
            losses["spread"] = spread_loss(image, decoded.log_variance, target, batch.valid)
        return losses

    def _untold(self, batch: Batch) -> Told:
        words = self.tokenizer.encode(DEFAULT_RESTORE)
        none = [False] * len(batch.index)
        return Told([words] * len(none), [[]] * len(none), none, none, batch.reference)

    def _told(self, batch: Batch, generator: torch.Generator) -> Told:
        """Draw, for each sample, whether it meets the true report, its own, an edited one, or none."""
        mix = self.stage.text
        told = Told([], [], [], [], batch.reference.clone())
        for place, index in enumerate(batch.index):
            item = self.sampler.pool.items[index]
            draw = float(torch.rand(1, generator=generator))
            words, text, is_reference = DEFAULT_RESTORE, None, False
            if draw < mix.reference or (draw < mix.reference + mix.generated and index not in self.generated):
                text, is_reference = self.words.tokens(index, generator), True
                words = instruction("restore", generator)
            elif draw < mix.reference + mix.generated:
                text = self.generated[index]
            elif draw < mix.reference + mix.generated + mix.edited:
                stated = Severity.from_level(randint(4, generator))
                text, words = self.words.tokens(index, generator, stated), FOLLOW_REPORT
                told.target[place] = edited_target(
                    batch.degraded[place], batch.reference[place], true=item.severity, stated=stated
                )
            told.instructions.append(self.tokenizer.encode(words))
            told.descriptions.append(text or [])
            told.has_description.append(text is not None)
            told.is_reference.append(is_reference)
        return told


def _fast(image: Tensor) -> Tensor:
    """Return the image in the memory layout in which convolutions are fastest."""
    return image.contiguous(memory_format=torch.channels_last)
