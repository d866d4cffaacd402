"""The one way through the network: encode, see, describe, condition, sample, decode.

Everything here is tensors in, tensors or words out. Assessment, restoration, training validation, evaluation and the
measuring programs all call this module; no other knows the order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from medq_uni.config import SamplerConfig
from medq_uni.description import DEFAULT_ASSESS, QualityDescription
from medq_uni.model.generation import Context
from medq_uni.model.grid import Offset
from medq_uni.model.medq import MedQ
from medq_uni.model.vae import DecodedImage
from medq_uni.model.vision import summary
from medq_uni.preprocess import Preprocessor
from medq_uni.pretrained.load import Pretrained
from medq_uni.quantities import Reading, one_hot
from medq_uni.taxonomy import Modality
from medq_uni.tokenizer import DescriptionConstraint, Tokenizer

MAX_DESCRIPTION_TOKENS = 160
"""Longest description that is written."""
Texts = Sequence[Sequence[Sequence[int]]]
"""Blocks of text, each with the token ids of every sample."""
Noise = Callable[[range], Float[Tensor, "N P token"]]
"""From numbers of samples to the tokens that a noise start begins from, those samples of every slice in a row."""


@dataclass(frozen=True)
class Parts:
    """Which parts of the network take part in a restoration."""

    experts: bool = True
    """The restoration expert changes the latent; without it the decoder gets that of the degraded image."""
    skip: bool = True
    """The decoder sees features of the degraded image at full resolution."""


@dataclass(frozen=True, eq=False)
class Condition:
    """What a restoration is told about slices, and what it sees of them."""

    texts: Texts = ()
    """What the restoration expert reads: usually an instruction, then a description."""
    seen: Float[Tensor, "B 2 h w"] | None = None
    """Views that the vision encoder sees, usually of the whole slices; None shows it nothing."""
    quantities: Float[Tensor, "B n"] | None = None
    """What the decoder is told (:mod:`medq_uni.quantities`); None tells nothing."""


WHOLE, EXPERTS_BYPASSED, NO_SKIP, CODEC_ONLY = Parts(), Parts(experts=False), Parts(skip=False), Parts(False, False)


@dataclass(frozen=True, eq=False)
class Written:
    """What the network wrote about a slice."""

    ids: list[int]
    """Tokens of the description."""
    description: QualityDescription
    """What they spell."""
    looks_like: Modality | None
    """The modality that it would have written, had it not been told; None where nobody asked."""
    log_odds: float
    """What the network makes of some degradation against none."""


@dataclass(frozen=True, eq=False)
class Restored:
    """Restored slices, in the channels of the codec."""

    image: Float[Tensor, "B C H W"]
    """Mean over samples."""
    deviation: Float[Tensor, "B C H W"] | None
    """Standard deviation: what the decoder predicts, and the spread of the samples; None where there is neither."""


@dataclass(frozen=True, eq=False)
class Inference:
    """A network with the tokenizer and the preprocessing that belong to it, in evaluation mode."""

    model: MedQ
    tokenizer: Tokenizer
    preprocessor: Preprocessor

    @classmethod
    def of(cls, pretrained: Pretrained) -> Inference:
        """Return the way through a pretrained model."""
        return cls(pretrained.model, pretrained.tokenizer, pretrained.preprocessor)

    @torch.no_grad()
    def vision_features(self, views: Float[Tensor, "B 2 H W"]) -> Float[Tensor, "B F"]:
        """Return a summary of what the vision encoder makes of every slice, on the CPU."""
        return summary(self.model.vision(self._seen(views).to(self.model.dtype))).float().cpu()

    @torch.no_grad()
    def read_quantities(self, views: Float[Tensor, "B 2 H W"], modality: Modality | None) -> Reading | None:
        """Return what the network reads of the quantities of slices; None where it has no head for them.

        Args:
            views: Both views of slices, or of windows of them, of one size.
            modality: Of all of them.
        """
        head = self.model.quantity_head
        if head is None:
            return None
        told = one_hot(modality).to(self.model.device).expand(len(views), -1)
        value, log_variance = head(self.model.vision(self._seen(views).to(self.model.dtype)), told)
        return Reading(value.cpu(), (0.5 * log_variance).exp().cpu())

    @torch.no_grad()
    def describe(
        self,
        views: Float[Tensor, "B 2 H W"],
        modalities: Sequence[Modality | None],
        *,
        question: str = DEFAULT_ASSESS,
        looks: bool = False,
        cuts: Sequence[float | None] | None = None,
    ) -> list[Written]:
        """Return what the network writes about slices of one size: see, ask, write.

        Args:
            views: Both views of every slice.
            modalities: What the network is told about each, as the header of a file tells it; None lets it choose.
            question: Instruction of the user, or the standing one.
            looks: Also ask for the modality that it would write untold, which costs a few tokens more.
            cuts: Log-odds of a degradation from which on one is written, for each; None leaves it to the network.
        """
        model, count = self.model, len(views)
        context = model.start(count)
        model.append_vision(context, self._seen(views))
        model.append_text(context, [self.tokenizer.encode(question)] * count)
        untold = self._looks(context) if looks else [None] * count
        told = [
            DescriptionConstraint(self.tokenizer, modality=modality, cut=cut)
            for modality, cut in zip(modalities, cuts or [None] * count, strict=True)
        ]
        texts = model.generate(context, constraint=told, max_tokens=MAX_DESCRIPTION_TOKENS)
        found = []
        for ids, look, constraint in zip(texts, untold, told, strict=True):
            assert constraint.log_odds is not None, "every description comes to its degradations"
            found.append(Written(ids, self.parsed(ids), look, constraint.log_odds))
        return found

    def parsed(self, ids: Sequence[int]) -> QualityDescription:
        """Return the description that tokens spell."""
        return QualityDescription.from_text(self.tokenizer.decode(list(ids)))

    def _looks(self, context: Context) -> list[Modality | None]:
        constraints = [DescriptionConstraint(self.tokenizer) for _ in range(context.batch_size)]
        most = len(constraints[0].literals[0]) + 4
        texts = self.model.generate(context.fork(), constraint=constraints, max_tokens=most)
        return [one.chosen_modality(ids) for one, ids in zip(constraints, texts, strict=True)]

    @torch.no_grad()
    def restore(
        self,
        degraded: Float[Tensor, "B 2 H W"],
        condition: Condition,
        *,
        sampler: SamplerConfig,
        noise: Noise | None = None,
        offset: Offset = (0, 0),
        parts: Parts = WHOLE,
        samples_at_once: int = 1,
    ) -> Restored:
        """Return slices restored: encode, see, condition, sample, decode.

        Args:
            degraded: Both views of slices or tiles, of one size, on the token grid.
            condition: What it is told about them.
            sampler: Start, steps, samples and guidance.
            noise: Source of what a noise start begins from; unused for a degraded start.
            offset: Row and column of the first token in a larger slice; one, or one for each sample (B, 2).
            parts: Which parts of the network take part.
            samples_at_once: Samples of every slice that are drawn in one pass.
        """
        model = self.model
        image = self.preprocessor.codec_input(degraded).to(model.device)
        told = None if condition.quantities is None else condition.quantities.to(model.device)
        features = model.codec.features(image, told) if parts.skip else None
        latent = model.codec.encode(image)
        if not parts.experts:
            return _mean([model.codec.decode(latent, features, None)])
        context = self._context(latent, condition, offset)
        decoded = []
        for first in range(0, sampler.num_samples, samples_at_once):
            numbers = range(first, min(first + samples_at_once, sampler.num_samples))
            some = replace(sampler, num_samples=len(numbers))
            begin = noise(numbers) if noise is not None and sampler.start == "noise" else None
            shape = (latent.shape[-2], latent.shape[-1])
            sampled = model.sample(context, shape, some, start_latent=latent, noise=begin)
            for restored, hidden in zip(sampled.latent, sampled.hidden_states, strict=True):
                decoded.append(model.codec.decode(restored, features, hidden))
        return _mean(decoded)

    def noise_shape(self, height: int, width: int) -> tuple[int, int]:
        """Return tokens and numbers per token of the noise behind slices of this many pixels."""
        side = self.model.config.token_pixels
        return (height // side) * (width // side), self.model.config.token_channels

    def _context(self, latent: Tensor, condition: Condition, offset: Offset) -> Context:
        context = self.model.start(len(latent), latent_offset=offset)
        self.model.append_latent(context, latent)
        if condition.seen is not None:
            self.model.append_vision(context, self._seen(condition.seen))
        for text in condition.texts:
            self.model.append_text(context, text)
        return context

    def _seen(self, views: Tensor) -> Tensor:
        return self.preprocessor.vision_input(views.to(self.model.device))


def _mean(decoded: Sequence[DecodedImage]) -> Restored:
    images = torch.stack([one.image for one in decoded])
    predicted = [one.log_variance.exp() for one in decoded if one.log_variance is not None]
    variance = torch.stack(predicted).mean(0) if predicted else None
    if len(images) > 1:
        variance = images.var(0) + (variance if variance is not None else 0)
    return Restored(images.mean(0).float(), None if variance is None else variance.float().sqrt())
