"""Validation during training: PSNR gain per task, and how often the assessment is right."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from medq_uni.baselines.network import Baseline, restore_views
from medq_uni.config import SamplerConfig
from medq_uni.data.pair_cache import CACHED_SIDE, TrainingPairs
from medq_uni.description import DEFAULT_RESTORE
from medq_uni.image import MedicalImage
from medq_uni.model.medq import MedQ
from medq_uni.model.vae import DecodedImage
from medq_uni.physics.effect import foreground
from medq_uni.preprocess import as_channels, as_views, padded_side, vision_input
from medq_uni.seeding import generator_of
from medq_uni.taxonomy import Modality, Severity
from medq_uni.train.conditioning import PairTexts
from medq_uni.train.generated import GRID, describe_pairs, parsed
from medq_uni.train.losses import COVERAGE
from medq_uni.train.recipe import ObjectiveName

MAX_PAIRS = 150
Restore = Callable[[int, Tensor], Tensor]
"""From the place of a pair in its pool and its degraded views (1, 2, H, W) to the restored ones."""


def validate(model: MedQ, words: PairTexts, objective: ObjectiveName, sampler: SamplerConfig) -> dict[str, float]:
    """Return ``gain_<task>`` in dB and, where the objective assesses, shares of right verdicts and types.

    Args:
        model: In evaluation mode, with the weights to judge.
        words: Validation pairs and what is said about them; the first 150 are used.
        objective: What the stage trains: ``codec`` decodes the degraded latent, the other restoring objectives
            sample, ``joint`` with the true description.
        sampler: How they sample.
    """
    scores: dict[str, float] = {}
    if objective != "assess":
        scores |= restoration_gains(model, words, objective, sampler)
    if objective in ("assess", "joint"):
        scores |= right_shares(words, describe_pairs(model, words.tokenizer, words.pool, MAX_PAIRS))
    return scores


@torch.no_grad()
def restoration_gains(
    model: MedQ, words: PairTexts, objective: ObjectiveName, sampler: SamplerConfig
) -> dict[str, float]:
    """Return the gains of MedQ-UNI; see :func:`mean_gains`."""
    return mean_gains(words.pool, lambda i, degraded: decode_one(model, words, i, degraded, objective, sampler).image)


def baseline_gains(baseline: Baseline, pool: TrainingPairs) -> dict[str, float]:
    """Return the gains of a baseline, which must be in evaluation mode; see :func:`mean_gains`."""
    return mean_gains(pool, lambda index, degraded: restore_views(baseline, degraded, pool.scaling(index)))


def mean_gains(pool: TrainingPairs, restore: Restore) -> dict[str, float]:
    """Return the mean PSNR gain over the degraded input per task in dB, degraded pairs among the first 150 only."""
    gains: dict[str, list[float]] = defaultdict(list)
    for index, item in enumerate(pool.items[:MAX_PAIRS]):
        if item.severity is Severity.NONE:
            continue
        degraded, reference = native(pool, index)
        image = restore(index, degraded)
        gains[f"gain_{item.task.value}"].append(gain_db(pool, index, degraded, image, reference))
    return {name: sum(values) / len(values) for name, values in sorted(gains.items())}


@torch.no_grad()
def uncertainty_scale(model: MedQ, words: PairTexts, sampler: SamplerConfig) -> dict[str, float]:
    """Return, per modality, the factor that makes the predicted standard deviation honest.

    It is the 68.3 % quantile of |error| / predicted over the pixels of bodies in the degraded validation pairs (split
    conformal prediction): that share of errors lies within one scaled standard deviation. Air around a body is easy to
    predict, and would make the map too sure of the body.
    """
    ratios: dict[str, list[Tensor]] = defaultdict(list)
    for index, item in enumerate(words.pool.items[:MAX_PAIRS]):
        if item.severity is Severity.NONE:
            continue
        degraded, reference = native(words.pool, index)
        decoded = decode_one(model, words, index, degraded, "joint", sampler)
        if decoded.log_variance is None:
            return {}
        scaling = words.pool.scaling(index)
        truth = scaling.from_views(reference)
        spread = scaling.spread_from_views((0.5 * decoded.log_variance).exp(), decoded.image)
        ratio = ((scaling.from_views(decoded.image) - truth).abs() / spread)[:, : item.height, : item.width]
        body = MedicalImage(truth[0, : item.height, : item.width].numpy(), modality=item.task.modality)
        inside = torch.from_numpy(foreground(body))
        ratios[item.task.modality.value].append(ratio[inside][::7])
    return {name: round(float(torch.cat(r).quantile(COVERAGE)), 4) for name, r in sorted(ratios.items())}


def native(pool: TrainingPairs, index: int) -> tuple[Tensor, Tensor]:
    """Return degraded and reference views at their own size, rounded up to the token grid."""
    item = pool.items[index]
    height, width = (padded_side(side, GRID) for side in (item.height, item.width))
    degraded, reference = (view[None, :, :height, :width] for view in pool.views(index))
    return degraded, reference


def decode_one(
    model: MedQ,
    words: PairTexts,
    index: int,
    degraded: Tensor,
    objective: ObjectiveName,
    sampler: SamplerConfig,
    told: Sequence[int] | None = None,
) -> DecodedImage:
    """Return the restored views of one degraded slice, as the objective restores it.

    Args:
        model: In evaluation mode.
        words: What is said about the pairs.
        index: Place of the pair in its pool, and seed of the noise.
        degraded: Its degraded views.
        objective: What is read before the restoration.
        sampler: How it samples.
        told: Text tokens that a joint objective reads instead of the true label; none at all where it is empty.
    """
    scaling = words.pool.scaling(index)
    degraded = degraded.to(model.device)
    image = as_channels(degraded, channels=model.config.codec.in_channels)
    fidelity, latent, states = model.codec.features(image), model.codec.encode(image), None
    if objective != "codec":
        context = model.start(1)
        model.append_latent(context, latent)
        if objective == "joint":
            model.append_vision(context, vision_input(degraded, model.config.vision, size=CACHED_SIDE))
        model.append_text(context, [words.tokenizer.encode(DEFAULT_RESTORE)])
        if objective == "joint":
            told = words.tokens(index, generator_of(index)) if told is None else told
            if told:
                model.append_text(context, [list(told)])
        shape = (latent.shape[-2], latent.shape[-1])
        sampled = model.sample(context, shape, sampler, start_latent=latent, generator=generator_of(index))
        latent, states = sampled.latent.mean(dim=0), sampled.states.mean(dim=0)
    decoded = model.codec.decode(latent, fidelity, states)
    log_variance = None if decoded.log_variance is None else decoded.log_variance.cpu()
    return DecodedImage(as_views(decoded.image.float().cpu(), scaling), log_variance)


def gain_db(pool: TrainingPairs, index: int, degraded: Tensor, restored: Tensor, reference: Tensor) -> float:
    """Return 10 log10 of the ratio of squared errors before and after, on the scoring range."""
    values = [scoring_values(pool, index, views)[0] for views in (degraded, restored, reference)]
    before, after = ((x - values[2]).square().mean() for x in values[:2])
    return float(10 * torch.log10(before / after))


def scoring_values(
    pool: TrainingPairs, index: int, views: Float[Tensor, "B 2 H W"]
) -> tuple[Float[Tensor, "B h w"], float]:
    """Return the physical values on the scoring range, without padding, and the width of that range."""
    item, scaling = pool.items[index], pool.scaling(index)
    is_ct = item.task.modality is Modality.CT
    low, high = (scaling.window_low, scaling.window_high) if is_ct else (scaling.low, scaling.high)
    return scaling.from_views(views)[:, : item.height, : item.width].clamp(low, high), high - low


def right_shares(words: PairTexts, texts: Mapping[int, list[int]]) -> dict[str, float]:
    """Return the shares of right verdicts, severities and, in MR, degradation types: ``right_<what>`` in [0, 1].

    Args:
        words: Pairs and what is true of them.
        texts: Description tokens of pairs, by index.
    """
    right: dict[str, list[bool]] = defaultdict(list)
    for index, ids in texts.items():
        item, found, true = words.pool.items[index], parsed(words.tokenizer, ids), words.truth(index, generator_of(0))
        right["verdict"].append(found.verdict is true.verdict)
        right["severity"].append(found.worst is item.severity)
        if item.task.modality is Modality.MR:
            tasks = [[d.task for d in description.degradations] for description in (found, true)]
            right["mr_type"].append(tasks[0] == tasks[1])
    return {f"right_{name}": sum(values) / len(values) for name, values in right.items()}
