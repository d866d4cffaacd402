"""From a finished run to a folder that :func:`medq_uni.pretrained.load_pretrained` reads, or that of a baseline."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from medq_uni import __version__
from medq_uni.baselines.network import Baseline
from medq_uni.config import FluxCodecConfig, SamplerConfig
from medq_uni.data.dataset_pairs import DatasetPairs
from medq_uni.data.pair_cache import PairCache, TrainingPairs
from medq_uni.inference import Inference
from medq_uni.notice import SHORT_NOTICE
from medq_uni.preprocess import TILE_SIZE
from medq_uni.pretrained.baselines import save_baseline
from medq_uni.pretrained.load import save_pretrained
from medq_uni.pretrained.released_export import export_released
from medq_uni.train.conditioning import PairTexts
from medq_uni.train.ood_fit import ood_detector_of
from medq_uni.train.recipe import TrainConfig
from medq_uni.train.stage import StageConfig
from medq_uni.train.trainer import Trained
from medq_uni.train.validate import baseline_gains, inference_of, restoration_gains, uncertainty_scale


def publish(trained: Trained, config: TrainConfig, run: Path, target: Path) -> str:
    """Write the averaged weights of a run as a model folder, and return the hash of all its files.

    The gains on the validation pairs are noted in the card.

    Args:
        trained: What :func:`medq_uni.train.trainer.train` returned.
        config: Recipe of the run.
        run: Its folder, which holds the pairs.
        target: Folder to write.
    """
    val_pairs = PairCache(run / "val_pairs")
    card = {
        "software": f"medq-uni {__version__}",
        "about": list(config.about),
        "stages": [f"{s.name}: {s.steps} steps of {_size(s)}" for s in config.stages],
        "training_pairs": Path(config.dataset or "").name if config.pairs is None else config.pairs.count,
        "notice": SHORT_NOTICE,
    }
    if isinstance(trained.model, Baseline):
        return save_baseline(
            target, trained.model, card={**card, "validation": baseline_gains(trained.model, val_pairs)}
        )
    assert trained.tokenizer is not None, "only a baseline has none"
    train_pairs = PairCache(run / "train_pairs") if config.dataset is None else DatasetPairs(config.dataset, "train")
    texts = PairTexts(val_pairs, trained.tokenizer, config.labels.form)
    inference = inference_of(trained.model, trained.tokenizer)
    return _publish_medq(inference, train_pairs, texts, config.sampler, card, target)


def _size(stage: StageConfig) -> str:
    crops = stage.crops
    sides = " or ".join(map(str, crops.sides))
    return f"{crops.token_budget} tokens, {sides} px" if crops.token_budget else f"{crops.batch_size} x {sides} px"


def _publish_medq(
    inference: Inference,
    train_pairs: TrainingPairs,
    texts: PairTexts,
    sampler: SamplerConfig,
    card: dict[str, Any],
    target: Path,
) -> str:
    """Write MedQ-UNI; its uncertainty is calibrated on the validation pairs, and what it has seen is noted.

    A model of the released architecture is written in the released layout, which the original code reads too.
    """
    model, tokenizer = inference.model, inference.tokenizer
    is_released = isinstance(model.config.codec, FluxCodecConfig)
    card |= {
        "tile_size": model.config.max_latent_size * model.config.token_pixels if is_released else TILE_SIZE,
        "sampler": asdict(sampler),
        "uncertainty_scale": uncertainty_scale(inference, texts, sampler),
        "validation": restoration_gains(inference, texts, "joint", sampler),
    }
    if is_released:
        return export_released(model, tokenizer, target, card=card)
    seen = ood_detector_of(inference, train_pairs, texts.pairs)
    return save_pretrained(target, model, tokenizer, card=card, ood_detector=seen)
