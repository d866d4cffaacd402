"""Validation during training: PSNR gain per task, and how often the assessment is right."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from medq_uni.baselines.network import Baseline, restore_image
from medq_uni.config import SamplerConfig
from medq_uni.data.pair_cache import CACHED_SIDE, TrainingPairs, pair_images
from medq_uni.description import DEFAULT_RESTORE, QualityDescription
from medq_uni.image import MedicalImage
from medq_uni.inference import EXPERTS_BYPASSED, WHOLE, Condition, Inference
from medq_uni.measurement import Quantity
from medq_uni.model.flow import draw_noise
from medq_uni.model.medq import MedQ
from medq_uni.physics.effect import foreground
from medq_uni.preprocess import Inverse, Preprocessor
from medq_uni.quantities import encoded
from medq_uni.scoring import psnr_gain
from medq_uni.seeding import generator_of
from medq_uni.taxonomy import Modality, Severity
from medq_uni.tokenizer import Tokenizer
from medq_uni.train.conditioning import PairTexts
from medq_uni.train.losses import COVERAGE
from medq_uni.train.pair_quantities import PairQuantities
from medq_uni.train.stage import ObjectiveName

MAX_PAIRS = 150
"""Pairs that are validated on, the first of their cache."""
DESCRIBED_AT_ONCE = 16
SPREAD_STRIDE = 7
"""Of the pixels of bodies every seventh calibrates the uncertainty."""
RestorePair = Callable[[int], MedicalImage]
"""From the place of a pair to its degraded slice restored."""


def inference_of(model: MedQ, tokenizer: Tokenizer) -> Inference:
    """Return the way through a network in training, which is shown as much of a slice as a pair cache keeps."""
    return Inference(model, tokenizer, Preprocessor(model.config, CACHED_SIDE))


def degraded_views(
    preprocessor: Preprocessor, pairs: TrainingPairs, index: int
) -> tuple[Float[Tensor, "1 2 H W"], Inverse]:
    """Return both views of the degraded slice of a pair, padded to the token grid, and the way back."""
    return preprocessor.views(pair_images(pairs, index)[0], scaling=pairs.scaling(index))


@dataclass(frozen=True, eq=False)
class PairRestorer:
    """MedQ-UNI at work on degraded slices, as the objective of a stage restores them.

    Attributes:
        inference: The network, in evaluation mode.
        texts: The pairs, and what is said about them.
        objective: What is read before the restoration; ``codec`` decodes the degraded latent and samples nothing.
        sampler: How the others sample.
    """

    inference: Inference
    texts: PairTexts
    objective: ObjectiveName
    sampler: SamplerConfig

    def restore(self, index: int, told: Sequence[int] | None = None) -> tuple[MedicalImage, MedicalImage | None]:
        """Return the restored slice of a pair, and its predicted standard deviation where there is one.

        Args:
            index: Place of the pair, and seed of the noise.
            told: Text tokens that a joint objective reads instead of the true label; none at all where it is empty.
        """
        inference, is_joint = self.inference, self.objective == "joint"
        views, inverse = degraded_views(inference.preprocessor, self.texts.pairs, index)
        texts = [[inference.tokenizer.encode(DEFAULT_RESTORE)]]
        if is_joint:
            told = self.texts.tokens(index, generator_of(index)) if told is None else told
            texts += [[list(told)]] if told else []
        size = inference.noise_shape(views.shape[-2], views.shape[-1])
        noise = draw_noise(1, self.sampler.num_samples, size, generator_of(index))
        restored = inference.restore(
            views,
            Condition(texts, views if is_joint else None, self._quantities(index)),
            sampler=self.sampler,
            noise=lambda numbers: noise[numbers.start : numbers.stop],
            parts=EXPERTS_BYPASSED if self.objective == "codec" else WHOLE,
        )
        image, mean = inference.preprocessor.image(restored.image, inverse)
        if restored.deviation is None:
            return image, None
        return image, inference.preprocessor.deviation(restored.deviation, mean, inverse)

    def _quantities(self, index: int) -> Float[Tensor, "1 n"] | None:
        """Return the true quantities of a pair, where the decoder is told any."""
        if not self.inference.model.config.told_width:
            return None
        return PairQuantities(self.texts.pairs).of(index).told()[None]


def validate(
    inference: Inference, texts: PairTexts, objective: ObjectiveName, sampler: SamplerConfig
) -> dict[str, float]:
    """Return ``gain_<task>`` in dB and, where the objective assesses, shares of right verdicts and types.

    Args:
        inference: The network in evaluation mode, with the weights to judge.
        texts: Validation pairs and what is said about them; the first 150 are used.
        objective: What the stage trains: ``codec`` decodes the degraded latent, the other restoring objectives
            sample, ``joint`` with the true description.
        sampler: How they sample.
    """
    scores: dict[str, float] = {}
    if objective != "assess":
        scores |= restoration_gains(inference, texts, objective, sampler)
    if objective in ("assess", "joint"):
        scores |= right_shares(texts, described(inference, texts.pairs, MAX_PAIRS))
        scores |= reading_errors(inference, texts.pairs)
    return scores


def restoration_gains(
    inference: Inference, texts: PairTexts, objective: ObjectiveName, sampler: SamplerConfig
) -> dict[str, float]:
    """Return the gains of MedQ-UNI; see :func:`mean_gains`."""
    restorer = PairRestorer(inference, texts, objective, sampler)
    return mean_gains(texts.pairs, lambda index: restorer.restore(index)[0])


def baseline_gains(baseline: Baseline, pairs: TrainingPairs) -> dict[str, float]:
    """Return the gains of a baseline, which must be in evaluation mode; see :func:`mean_gains`."""
    return mean_gains(pairs, lambda index: restored_by(baseline, pairs, index))


def restored_by(baseline: Baseline, pairs: TrainingPairs, index: int) -> MedicalImage:
    """Return the degraded slice of a pair restored by a baseline."""
    return restore_image(baseline, pair_images(pairs, index)[0], scaling=pairs.scaling(index))


def mean_gains(pairs: TrainingPairs, restore: RestorePair) -> dict[str, float]:
    """Return the mean PSNR gain over the degraded input per task in dB, degraded pairs among the first 150 only."""
    gains: dict[str, list[float]] = defaultdict(list)
    for index in degraded_indices(pairs, MAX_PAIRS):
        item, (degraded, reference) = pairs.items[index], pair_images(pairs, index)
        gain = psnr_gain(degraded, restore(index), reference, item.reference_peak)
        gains[f"gain_{item.task.value}"].append(gain)
    return {name: sum(values) / len(values) for name, values in sorted(gains.items())}


def degraded_indices(pairs: TrainingPairs, count: int | None = None) -> list[int]:
    """Return the places of the pairs, or of the first of them, that are degraded at all."""
    return [index for index, item in enumerate(pairs.items[:count]) if item.severity is not Severity.NONE]


def described(inference: Inference, pairs: TrainingPairs, count: int) -> dict[int, list[int]]:
    """Return the description tokens that a network writes about the first pairs, by index.

    It is told the modality, as a file's header tells it, and asked about slices of one size at once.

    Args:
        inference: The network, in evaluation mode.
        pairs: Degraded slices; the assessor sees all that is kept of each.
        count: How many pairs, at most all.
    """
    by_size: dict[tuple[int, int], list[int]] = {}
    for index, item in enumerate(pairs.items[:count]):
        by_size.setdefault(inference.preprocessor.padded_shape(item.height, item.width), []).append(index)
    texts: dict[int, list[int]] = {}
    for alike in by_size.values():
        for first in range(0, len(alike), DESCRIBED_AT_ONCE):
            chunk = alike[first : first + DESCRIBED_AT_ONCE]
            views = torch.cat([degraded_views(inference.preprocessor, pairs, index)[0] for index in chunk])
            written = inference.describe(views, [pairs.items[index].task.modality for index in chunk])
            texts |= {index: one.ids for index, one in zip(chunk, written, strict=True)}
    return texts


def reading_errors(inference: Inference, pairs: TrainingPairs) -> dict[str, float]:
    """Return the median absolute error of every quantity that the network reads, on the scale on which it is told.

    That is ``error_<quantity>``: of standard deviations and doses about the relative error. It is empty where the
    network reads none.
    """
    errors: dict[str, list[float]] = defaultdict(list)
    true = PairQuantities(pairs)
    for index, item in enumerate(pairs.items[:MAX_PAIRS]):
        views, _ = degraded_views(inference.preprocessor, pairs, index)
        reading = inference.read_quantities(views, item.task.modality)
        if reading is None:
            return {}
        found = dict(zip(Quantity, reading.value[0].tolist(), strict=True))
        for quantity, value in true.of(index).values.items():
            errors[f"error_{quantity.value}"].append(abs(found[quantity] - encoded(quantity, value)))
    return {name: float(np.median(each)) for name, each in sorted(errors.items())}


def uncertainty_scale(inference: Inference, texts: PairTexts, sampler: SamplerConfig) -> dict[str, float]:
    """Return, per modality, the factor that makes the predicted standard deviation honest.

    It is the 68.3 % quantile of |error| / predicted over the pixels of bodies in the degraded validation pairs (split
    conformal prediction): that share of errors lies within one scaled standard deviation. Air around a body is easy to
    predict, and would make the map too sure of the body.
    """
    restorer, ratios = PairRestorer(inference, texts, "joint", sampler), defaultdict(list)
    for index in degraded_indices(texts.pairs, MAX_PAIRS):
        image, deviation = restorer.restore(index)
        if deviation is None:
            return {}
        reference = pair_images(texts.pairs, index)[1]
        counts = foreground(reference) & (deviation.voxels > 0)  # what passes through is not restored
        error = np.abs(image.voxels - reference.voxels)[counts]
        ratios[texts.pairs.items[index].task.modality.value].append((error / deviation.voxels[counts])[::SPREAD_STRIDE])
    quantiles = {name: float(np.quantile(np.concatenate(found), COVERAGE)) for name, found in sorted(ratios.items())}
    return {name: round(scale, 4) for name, scale in quantiles.items()}


def right_shares(texts: PairTexts, written: Mapping[int, list[int]]) -> dict[str, float]:
    """Return the shares of right verdicts, severities and, in MR, degradation types: ``right_<what>`` in [0, 1].

    Args:
        texts: Pairs and what is true of them.
        written: Description tokens of pairs, by index.
    """
    right: dict[str, list[bool]] = defaultdict(list)
    for index, ids in written.items():
        item, true = texts.pairs.items[index], texts.truth(index, generator_of(0))
        found = QualityDescription.from_text(texts.tokenizer.decode(ids))
        right["verdict"].append(found.verdict is true.verdict)
        right["severity"].append(found.worst is item.severity)
        if item.task.modality is Modality.MR:
            tasks = [[d.task for d in description.degradations] for description in (found, true)]
            right["mr_type"].append(tasks[0] == tasks[1])
    return {f"right_{name}": sum(values) / len(values) for name, values in right.items()}
