"""One training step of each layout: batch -> token stream -> network -> losses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from medq_uni import physics
from medq_uni.data.batches import Batch, BatchSampler, edited_target
from medq_uni.data.describe import describe, instruction
from medq_uni.data.pairs import randint
from medq_uni.data.pool import PoolItem
from medq_uni.description import DEFAULT_RESTORE, FOLLOW_REPORT, QualityDescription
from medq_uni.model.flow import interpolate, predicted_data, target_velocity
from medq_uni.model.medq import MedQ, StreamInputs
from medq_uni.stream import Block, BlockKind, ImageBlock, TextBlock, TokenStream, pack
from medq_uni.taxonomy import Severity
from medq_uni.tokenizer import Tokenizer
from medq_uni.train.losses import flow_loss, pixel_losses, spread_loss, text_loss
from medq_uni.train.recipe import StageConfig

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


class Stepper:
    """Computes the losses of one step of a stage.

    Args:
        model: Network; its image has two channels.
        tokenizer: Text to tokens.
        stage: What to train.
        sampler: Where batches come from.
        generated: Description tokens that the model wrote about pairs of the pool, by index.
    """

    def __init__(
        self,
        model: MedQ,
        tokenizer: Tokenizer,
        stage: StageConfig,
        sampler: BatchSampler,
        generated: dict[int, list[int]],
    ) -> None:
        self.model, self.tokenizer, self.stage = model, tokenizer, stage
        self.sampler, self.generated = sampler, generated

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
            return self._codec(batch)
        if layout == "assess":
            return self._assess(batch, generator)
        return self._restore(batch, generator, is_joint=layout == "joint")

    def _codec(self, batch: Batch) -> Losses:
        fidelity = self.model.codec.features(_fast(batch.degraded))
        latent = self.model.codec.encode(batch.degraded)
        return self._pixels(latent, fidelity, batch, batch.reference)

    def _assess(self, batch: Batch, generator: torch.Generator) -> Losses:
        coded = [self.tokenizer.encode_slots(self._reference(i, generator)) for i in batch.index]
        texts = [[token for token, _ in text] for text in coded]
        words = [self.tokenizer.encode(instruction("assess", generator)) for _ in batch.index]
        blocks: list[Block] = [
            self._vision_block(batch.vision),
            TextBlock(ids=words),
            TextBlock(ids=texts, labels=True),
        ]
        stream = pack(blocks, self.model.config.tokens)
        outputs = self.model(stream, StreamInputs(images=(batch.vision,)))
        # one label for every token and one for the end of each text, sample by sample
        in_slot = torch.tensor([is_slot for text in coded for is_slot in (*(s for _, s in text), False)])
        return {
            "text": text_loss(outputs.logits, stream.labels),
            "slots": text_loss(outputs.logits[in_slot], stream.labels[in_slot]),
        }

    def _restore(self, batch: Batch, generator: torch.Generator, *, is_joint: bool) -> Losses:
        model, stage = self.model, self.stage
        told = self._told(batch, generator) if is_joint else self._untold(batch, generator)
        degraded = model.codec.encode(batch.degraded)
        x0 = model.codec.encode(told.target)
        from_noise = float(torch.rand(1, generator=generator)) < stage.noise_start
        x1 = torch.randn(x0.shape, generator=generator) if from_noise else degraded
        t = torch.rand(len(x0), generator=generator)
        t[torch.rand(len(x0), generator=generator) < stage.final_time] = 1.0
        x_t = interpolate(x0, x1, t)
        blocks = self._blocks(batch, x0, told, is_joint)
        stream = pack(blocks, model.config.tokens)
        images = (batch.vision,) if is_joint else ()
        inputs = StreamInputs(clean=(degraded,), images=images, noised=(x_t,), t=t, latent_offset=batch.offset)
        outputs = model(stream, inputs)
        velocity = outputs.velocity.float()
        losses = {"flow": flow_loss(velocity, model.latent_tokens(target_velocity(x0, x1)))}
        if is_joint:
            losses["text"] = self._text(outputs.logits, stream, told.is_reference)
        if from_noise:
            # an early guess from pure noise is garbage; through the decoder it would undo what that has learned
            return losses
        x0_hat = predicted_data(x_t, model.latent_image(velocity, *x0.shape[-2:]), t)
        fidelity = model.codec.features(_fast(batch.degraded))
        return losses | self._pixels(x0_hat, fidelity, batch, told.target)

    def _blocks(self, batch: Batch, x0: Tensor, told: Told, is_joint: bool) -> list[Block]:
        size = self.model.config.latent_patch_size
        rows, cols = x0.shape[-2] // size, x0.shape[-1] // size
        clean = ImageBlock(kind=BlockKind.CLEAN, rows=rows, cols=cols)
        noised = ImageBlock(kind=BlockKind.NOISED, rows=rows, cols=cols)
        if not is_joint:
            return [clean, TextBlock(ids=told.instructions), noised]
        description = TextBlock(ids=told.descriptions, labels=True, dropped=[not has for has in told.has_description])
        vision = self._vision_block(batch.vision)
        return [clean, vision, TextBlock(ids=told.instructions), description, noised]

    def _vision_block(self, vision: Tensor) -> ImageBlock:
        patch = self.model.config.vision.patch_size
        rows, cols = vision.shape[-2] // patch, vision.shape[-1] // patch
        return ImageBlock(kind=BlockKind.VISION, rows=rows, cols=cols)

    def _pixels(self, latent: Tensor, fidelity: object, batch: Batch, target: Tensor) -> Losses:
        decoded = self.model.codec.decode(latent, fidelity)
        losses = pixel_losses(decoded.image, target, batch.degraded, batch.valid, batch.reference)
        if decoded.log_variance is not None:
            losses["spread"] = spread_loss(decoded.image, decoded.log_variance, target, batch.valid)
        return losses

    def _text(self, logits: Tensor, stream: TokenStream, is_reference: list[bool]) -> Tensor:
        wanted = torch.tensor(is_reference)[stream.label_positions // stream.length]
        return text_loss(logits[wanted], stream.labels[wanted])

    def _untold(self, batch: Batch, generator: torch.Generator) -> Told:
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
                text, is_reference = self._encoded(index, generator), True
                words = instruction("restore", generator)
            elif draw < mix.reference + mix.generated:
                text = self.generated[index]
            elif draw < mix.reference + mix.generated + mix.edited:
                stated = Severity.from_level(randint(4, generator))
                text, words = self._edited(index, item, stated, generator), FOLLOW_REPORT
                told.target[place] = edited_target(
                    batch.degraded[place], batch.reference[place], true=item.severity, stated=stated
                )
            told.instructions.append(self.tokenizer.encode(words))
            told.descriptions.append(text or [])
            told.has_description.append(text is not None)
            told.is_reference.append(is_reference)
        return told

    def _reference(self, index: int, generator: torch.Generator) -> QualityDescription:
        item = self.sampler.pool.items[index]
        return describe(item.task.modality, item.anatomy, physics.read_records(item.records), generator)

    def _encoded(self, index: int, generator: torch.Generator) -> list[int]:
        return self.tokenizer.encode_description(self._reference(index, generator))

    def _edited(self, index: int, item: PoolItem, stated: Severity, generator: torch.Generator) -> list[int]:
        return self.tokenizer.encode_description(self._reference(index, generator).with_severity(stated))


def _fast(image: Tensor) -> Tensor:
    """Return the image in the memory layout in which convolutions are fastest."""
    return image.contiguous(memory_format=torch.channels_last)
