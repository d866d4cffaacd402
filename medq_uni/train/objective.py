"""One training step of each objective: draw -> token stream -> network -> losses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from medq_uni.data.batches import Batch
from medq_uni.data.pair_cache import CACHED_SIDE
from medq_uni.model.flow import interpolate, predicted_data, target_velocity
from medq_uni.model.medq import MedQ, StreamInputs
from medq_uni.preprocess import as_channels, as_views, vision_input
from medq_uni.stream import Block, BlockKind, ImageBlock, TextBlock, pack
from medq_uni.train.losses import flow_loss, pixel_losses, spread_loss, text_loss
from medq_uni.train.parallel import DistContext
from medq_uni.train.sampling import Conditioning, FlowTargets, TrainBatch

Losses = dict[str, Float[Tensor, ""]]


class Objective:
    """Computes the losses of one step of a stage.

    Every process gets the whole batch and computes its own samples: the sum over the processes does not depend on their
    number.

    Args:
        model: Network.
        ranks: The processes that train together.
        recompute: Whether the codec's activations are computed again in the backward pass.
    """

    def __init__(self, model: MedQ, dist_context: DistContext | None = None, recompute: bool = False) -> None:
        self.model, self.dist_context, self.recompute = model, dist_context or DistContext(), recompute
        self.rows = slice(self.dist_context.rank, None, self.dist_context.world)
        self.device = model.device

    def losses(self, draw: TrainBatch) -> Losses:
        """Return every loss term of a step, unweighted."""
        batch = draw.batch.part(self.rows, self.device)
        if draw.objective == "codec":
            return self._codec(batch)
        assessed = {}
        if draw.questions is not None:
            assert draw.answers is not None, "drawn with every question"
            assessed = self._assess(batch, draw.questions[self.rows], draw.answers)
        if draw.objective == "assess":
            return assessed
        assert draw.told is not None, "drawn for every restoration"
        assert draw.bridge is not None, "drawn for every restoration"
        told, bridge = draw.told.part(self.rows, self.device), draw.bridge.part(self.rows, self.device)
        labels = draw.told.num_labels if draw.objective == "joint" else None
        return self._restore(batch, told, bridge, labels=labels) | assessed

    def _codec(self, batch: Batch) -> Losses:
        degraded = self._channels(batch.degraded)
        fidelity = self.model.codec.features(_fast(degraded))
        return self._pixels(self.model.codec.encode(degraded), fidelity, batch, batch.reference)

    def _assess(self, batch: Batch, questions: list[list[int]], answers: list[list[tuple[int, bool]]]) -> Losses:
        """Return the losses of an assessment; ``answers`` are those of the whole batch."""
        # one label for every token and one for the end of each text, sample by sample
        slots = [[*(is_slot for _, is_slot in text), False] for text in answers]
        vision = self._vision(batch)
        blocks: list[Block] = [
            self._vision_block(vision),
            TextBlock(ids=questions),
            TextBlock(ids=[[token for token, _ in text] for text in answers[self.rows]], labels=True),
        ]
        stream = pack(blocks, self.model.config.tokens, device=self.device)
        outputs = self.model(stream, StreamInputs(images=(vision,)))
        in_slot = torch.tensor([is_slot for text in slots[self.rows] for is_slot in text], device=self.device)
        return {
            "text": self._mean_text(outputs.logits, stream.labels, sum(len(text) for text in slots)),
            "slots": self._mean_text(outputs.logits[in_slot], stream.labels[in_slot], sum(map(sum, slots))),
        }

    def _restore(self, batch: Batch, told: Conditioning, bridge: FlowTargets, *, labels: int | None) -> Losses:
        """Return the losses of a restoration; ``labels`` counts those of the whole batch, None is without text."""
        model, t, is_joint = self.model, bridge.t, labels is not None
        image = self._channels(batch.degraded)
        with torch.no_grad():
            degraded, x0 = model.codec.encode(image), model.codec.encode(self._channels(told.target))
        x1 = degraded if bridge.x1 is None else bridge.x1
        x_t = interpolate(x0, x1, t)
        images = (self._vision(batch),) if is_joint else ()
        stream = pack(self._blocks(images, x0, told), model.config.tokens, device=self.device)
        inputs = StreamInputs(clean=(degraded,), images=images, noised=(x_t,), t=t, latent_offset=batch.offset)
        outputs = model(stream, inputs)
        velocity = outputs.velocity.float()
        losses = {"flow": flow_loss(velocity, model.latent_tokens(target_velocity(x0, x1)))}
        if labels is not None:
            wanted = torch.tensor(told.is_reference, device=self.device)[stream.label_positions // stream.length]
            losses["text"] = self._mean_text(outputs.logits[wanted], stream.labels[wanted], labels)
        if not bridge.num_decoded:
            return losses
        rows = bridge.is_decoded.nonzero()[:, 0].to(self.device)
        share = len(rows) * self.dist_context.world / bridge.num_decoded
        if not len(rows):  # others decode theirs: the codec needs a gradient here too, if only of zeros
            rows = rows.new_zeros(1)
        x0_hat = predicted_data(x_t, model.latent_image(velocity, *x0.shape[-2:]), t)[rows]
        fidelity = model.codec.features(_fast(image[rows]))
        states = model.state_image(outputs.states, *x0.shape[-2:])[rows]
        pixels = self._pixels(x0_hat, fidelity, batch.chosen(rows), told.target[rows], states)
        return losses | {name: value if share == 1 else value * share for name, value in pixels.items()}

    def _channels(self, views: Tensor) -> Tensor:
        return as_channels(views, channels=self.model.config.codec.in_channels)

    def _vision(self, batch: Batch) -> Tensor:
        return vision_input(batch.vision, self.model.config.vision, size=CACHED_SIDE)

    def _mean_text(self, logits: Tensor, labels: Tensor, count: int) -> Tensor:
        """Return the cross-entropy as this process's part of the mean over the labels of the whole batch."""
        share = labels.numel() * self.dist_context.world / max(count, 1)
        return text_loss(logits, labels) if share == 1 else text_loss(logits, labels) * share

    def _blocks(self, images: Sequence[Tensor], x0: Tensor, told: Conditioning) -> list[Block]:
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

    def _pixels(
        self, latent: Tensor, fidelity: object, batch: Batch, target: Tensor, states: Tensor | None = None
    ) -> Losses:
        if self.recompute:
            decoded = checkpoint(self.model.codec.decode, latent, fidelity, states, use_reentrant=False)
        else:
            decoded = self.model.codec.decode(latent, fidelity, states)
        image = as_views(decoded.image.float(), batch.scaling)
        losses = pixel_losses(image, target, batch.degraded, batch.valid, batch.reference)
        if decoded.log_variance is not None:
            losses["spread"] = spread_loss(image, decoded.log_variance, target, batch.valid)
        return losses


def _fast(image: Tensor) -> Tensor:
    """Return the image in the memory objective in which convolutions are fastest."""
    return image.contiguous(memory_format=torch.channels_last)
