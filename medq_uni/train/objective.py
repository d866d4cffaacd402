"""The losses of a batch by objective: crops -> token stream -> network -> losses; or a baseline's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from medq_uni.baselines.network import Baseline
from medq_uni.data.batches import Batch
from medq_uni.data.pair_cache import CACHED_SIDE
from medq_uni.model.flow import interpolate, predicted_data, target_velocity
from medq_uni.model.medq import MedQ, StreamInputs
from medq_uni.model.quantity_head import reading_loss
from medq_uni.model.vae import DecodedImage
from medq_uni.preprocess import Preprocessor, as_channels, as_views
from medq_uni.stream import Block, BlockKind, ImageBlock, TextBlock, pack
from medq_uni.taxonomy import Modality
from medq_uni.train.losses import flow_loss, lesion_loss, pixel_losses, spread_loss, text_loss
from medq_uni.train.pace import layout_of
from medq_uni.train.parallel import DistContext
from medq_uni.train.sampling import Answers, Conditioning, FlowTargets, TrainBatch

Losses = dict[str, Float[Tensor, ""]]


class Objective:
    """Computes the losses of a batch.

    Every process gets the whole batch and computes its own samples: the sum over the processes does not depend on their
    number.

    Args:
        model: Network.
        dist: The processes that train together.
        recompute: Whether the codec's activations are computed again in the backward pass.
    """

    def __init__(self, model: MedQ, dist: DistContext | None = None, recompute: bool = False) -> None:
        self.model, self.dist, self.recompute = model, dist or DistContext(), recompute
        self.preprocessor = Preprocessor(model.config, CACHED_SIDE)
        self.rows = self.dist.rows
        self.device = model.device

    def losses(self, batch: TrainBatch) -> Losses:
        """Return every loss term of a batch, unweighted."""
        crops = batch.crops.part(self.rows, self.device)
        quantities = None if batch.told is None else self._part(batch.told)
        lesions = None if batch.lesions is None else self._part(batch.lesions)
        if batch.objective == "codec":
            return self._codec(crops, quantities, lesions)
        assessed = {}
        if batch.questions is not None:
            assert batch.answers is not None, "drawn with every question"
            assessed = self._assess(crops, batch.questions[self.rows], batch.answers)
            if self.model.quantity_head is not None and batch.measured is not None:
                assessed["quantities"] = self._read(crops, self._part(batch.measured))
        if batch.objective == "assess":
            return assessed
        assert batch.conditioning is not None, "drawn for every restoration"
        assert batch.flow is not None, "drawn for every restoration"
        told, flow = batch.conditioning.part(self.rows, self.device), batch.flow.part(self.rows, self.device)
        labels = batch.conditioning.num_labels if batch.objective == "joint" else None
        return self._restore(crops, told, flow, (quantities, lesions), labels=labels) | assessed

    def _fast(self, image: Tensor) -> Tensor:
        """Return an image in the memory format of the decoder."""
        return image.contiguous(memory_format=layout_of(self.model))

    def _part(self, of_samples: Tensor) -> Tensor:
        return of_samples[self.rows].to(self.device)

    def _codec(self, crops: Batch, quantities: Tensor | None, lesions: Tensor | None) -> Losses:
        latent = self.model.codec.encode(self.preprocessor.codec_input(crops.degraded))
        image, losses = self._pixels(latent, quantities, crops, crops.reference)
        return losses | self._lesions(image, latent, quantities, crops, lesions)

    def _assess(self, crops: Batch, questions: list[list[int]], answers: Answers) -> Losses:
        """Return the losses of an assessment; ``answers`` are those of the whole batch."""
        # one label for every token and one for the end of each text, sample by sample
        slots = [[*(is_slot for _, is_slot in text), False] for text in answers]
        vision = self.preprocessor.vision_input(crops.vision)
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

    def _read(self, crops: Batch, measured: Tensor) -> Tensor:
        head = self.model.quantity_head
        assert head is not None, "asked before"
        seen = self.model.vision(self.preprocessor.vision_input(crops.vision))
        value, log_variance = head(seen, measured[:, : len(Modality)])
        return reading_loss(value, log_variance, measured)

    def _restore(
        self,
        crops: Batch,
        told: Conditioning,
        flow: FlowTargets,
        decoder: tuple[Tensor | None, Tensor | None],
        *,
        labels: int | None,
    ) -> Losses:
        """Return the losses of a restoration.

        Args:
            crops: Of this process.
            told: What the restoration is told in words, and its targets.
            flow: Starts and times.
            decoder: Quantities that the decoder is told, and lesions that it must keep.
            labels: Text labels of the whole batch; None is without text.
        """
        model, t, is_joint = self.model, flow.t, labels is not None
        image = self.preprocessor.codec_input(crops.degraded)
        with torch.no_grad():
            degraded = model.codec.encode(image)
            x0 = model.codec.encode(self.preprocessor.codec_input(told.target))
        x1 = degraded if flow.x1 is None else flow.x1
        x_t = interpolate(x0, x1, t)
        images = (self.preprocessor.vision_input(crops.vision),) if is_joint else ()
        stream = pack(self._blocks(images, x0, told), model.config.tokens, device=self.device)
        inputs = StreamInputs(clean=(degraded,), images=images, noised=(x_t,), t=t, latent_offset=crops.offset)
        outputs = model(stream, inputs)
        velocity = outputs.velocity.float()
        losses = {"flow": flow_loss(velocity, model.latent_tokens(target_velocity(x0, x1)))}
        if labels is not None:
            wanted = torch.tensor(told.is_reference, device=self.device)[stream.label_positions // stream.length]
            losses["text"] = self._mean_text(outputs.logits[wanted], stream.labels[wanted], labels)
        if not flow.num_decoded:
            return losses
        rows = flow.is_decoded.nonzero()[:, 0].to(self.device)
        share = len(rows) * self.dist.world / flow.num_decoded
        if not len(rows):  # others decode theirs: the codec needs a gradient here too, if only of zeros
            rows = rows.new_zeros(1)
        x0_hat = predicted_data(x_t, model.latent_image(velocity, *x0.shape[-2:]), t)[rows]
        quantities, lesions = (None if one is None else one[rows] for one in decoder)
        hidden = model.state_image(outputs.hidden_states, *x0.shape[-2:])[rows]
        chosen = crops.chosen(rows)
        restored, pixels = self._pixels(x0_hat, quantities, chosen, told.target[rows], hidden)
        pixels |= self._lesions(restored, x0_hat, quantities, chosen, lesions, hidden)
        return losses | {name: value if share == 1 else value * share for name, value in pixels.items()}

    def _mean_text(self, logits: Tensor, labels: Tensor, count: int) -> Tensor:
        """Return the cross-entropy as this process's part of the mean over the labels of the whole batch."""
        share = labels.numel() * self.dist.world / max(count, 1)
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
        self, latent: Tensor, quantities: Tensor | None, crops: Batch, target: Tensor, hidden: Tensor | None = None
    ) -> tuple[Tensor, Losses]:
        """Return both views of the decoded crops, and their losses."""
        decoded = self._decoded(latent, crops.degraded, quantities, hidden)
        image = as_views(decoded.image.float(), crops.scaling)
        losses = pixel_losses(image, target, crops.degraded, crops.valid, crops.reference)
        if decoded.log_variance is not None:
            losses["spread"] = spread_loss(image, decoded.log_variance, target, crops.valid)
        return image, losses

    def _lesions(
        self,
        image: Tensor,
        latent: Tensor,
        quantities: Tensor | None,
        crops: Batch,
        lesions: Tensor | None,
        hidden: Tensor | None = None,
    ) -> Losses:
        """Return what is lost of lesions: crops with them are decoded too, the latent being moved by as much.

        Args:
            image: Decoded crops, both views.
            latent: From which they were decoded.
            quantities: That the decoder was told.
            crops: Without lesions.
            lesions: What lesions add to both views of degraded crops and references; None leaves the loss out.
            hidden: Of the restoration expert.
        """
        if lesions is None:
            return {}
        rows = lesions.flatten(1).any(dim=1).nonzero()[:, 0]
        if not len(rows):
            return {"lesions": image.sum() * 0.0}
        altered, before = crops.degraded[rows] + lesions[rows, 0], crops.degraded[rows]
        encoded = [self.model.codec.encode(self.preprocessor.codec_input(one)) for one in (altered, before)]
        told, seen = (None if one is None else one[rows] for one in (quantities, hidden))
        decoded = self._decoded(latent[rows] + encoded[0] - encoded[1], altered, told, seen)
        response = as_views(decoded.image.float(), crops.chosen(rows).scaling) - image[rows]
        return {"lesions": lesion_loss(lesions[rows, 1], response)}

    def _decoded(
        self, latent: Tensor, degraded: Tensor, quantities: Tensor | None, hidden: Tensor | None
    ) -> DecodedImage:
        codec = self.model.codec
        features = codec.features(self._fast(self.preprocessor.codec_input(degraded)), quantities)
        if self.recompute:
            return checkpoint(codec.decode, latent, features, hidden, use_reentrant=False)  # type: ignore[no-any-return]
        return codec.decode(latent, features, hidden)


class BaselineObjective:
    """Computes the losses of a baseline: pixel losses as our codec stage has them, and the baseline's own terms.

    Args:
        model: Baseline.
        device: Where it is.
        dist: The processes that train together.
    """

    def __init__(self, model: Baseline, device: torch.device, dist: DistContext) -> None:
        self.model, self.device, self.rows = model, device, dist.rows

    def losses(self, batch: TrainBatch) -> Losses:
        """Return every loss term of a batch; the baseline's own are weighted already."""
        assert batch.t is not None, "drawn for every step of a baseline"
        crops = batch.crops.part(self.rows, self.device)
        channels = self.model.config.in_channels
        degraded, reference = (as_channels(x, channels=channels) for x in (crops.degraded, crops.reference))
        image, own = self.model.learn(degraded, reference, batch.t[self.rows].to(self.device))
        views = as_views(image.float(), crops.scaling)
        pixels = pixel_losses(views, crops.reference, crops.degraded, crops.valid)
        assert not own.keys() & pixels.keys(), "a baseline's own terms have names of their own"
        return pixels | own
