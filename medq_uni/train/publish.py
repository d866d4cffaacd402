"""From a finished run to a folder that :func:`medq_uni.pretrained.load_pretrained` reads."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from medq_uni import __version__
from medq_uni.config import FluxCodecConfig
from medq_uni.data.pool import PairPool
from medq_uni.pretrained import save_pretrained
from medq_uni.pretrained.export import export_released
from medq_uni.train.loop import Trained
from medq_uni.train.recipe import TrainConfig
from medq_uni.train.validate import restoration_gains, uncertainty_scale
from medq_uni.train.words import Words


def publish(trained: Trained, config: TrainConfig, run: Path, target: Path) -> str:
    """Write the averaged weights of a run as a model folder, and return the hash of all its files.

    A model of the released architecture is written in the released layout, which the original code reads too. The
    uncertainty is calibrated on the validation pairs, and their gains are noted in the card.

    Args:
        trained: What :func:`medq_uni.train.loop.train` returned.
        config: Recipe of the run.
        run: Its folder, which holds the validation pairs.
        target: Folder to write.
    """
    is_released = isinstance(trained.model.config.codec, FluxCodecConfig)
    judged = trained.model, Words(PairPool(run / "val_pairs"), trained.tokenizer, config.label)
    card = {
        "software": f"medq-uni {__version__}",
        "about": list(config.about),
        "stages": [f"{s.name}: {s.steps} steps of {s.batch_size} x {s.crop_size} px" for s in config.stages],
        "training_pairs": Path(config.dataset or "").name if config.pairs is None else config.pairs.count,
        "tile_size": trained.model.config.max_latent_size * trained.model.config.token_pixels if is_released else 256,
        "sampler": asdict(config.sampler),
        "uncertainty_scale": uncertainty_scale(*judged, config.sampler),
        "validation": restoration_gains(*judged, "joint", config.sampler),
        "notice": "Research use only. Not for diagnostic use.",
    }
    if is_released:
        return export_released(trained.model, trained.tokenizer, target, card=card)
    return save_pretrained(target, trained.model, trained.tokenizer, card=card)
