"""From a finished run to a folder that :func:`medq_uni.pretrained.load_pretrained` reads."""

from __future__ import annotations

from pathlib import Path

from medq_uni import __version__
from medq_uni.data.pool import PairPool
from medq_uni.pretrained import save_pretrained
from medq_uni.train.loop import Trained
from medq_uni.train.recipe import TrainConfig
from medq_uni.train.validate import restoration_gains, uncertainty_scale


def publish(trained: Trained, config: TrainConfig, run: Path, target: Path) -> str:
    """Write the averaged weights of a run as a model folder, and return the hash of all its files.

    The uncertainty is calibrated on the validation pairs, and their gains are noted in the card.

    Args:
        trained: What :func:`medq_uni.train.loop.train` returned.
        config: Recipe of the run.
        run: Its folder, which holds the validation pairs.
        target: Folder to write.
    """
    pool = PairPool(run / "val_pairs")
    card = {
        "software": f"medq-uni {__version__}",
        "about": list(config.about),
        "stages": [f"{s.name}: {s.steps} steps of {s.batch_size} x {s.crop_size} px" for s in config.stages],
        "training_pairs": config.pairs.count,
        "tile_size": 256,
        "uncertainty_scale": uncertainty_scale(trained.model, trained.tokenizer, pool),
        "validation": restoration_gains(trained.model, trained.tokenizer, pool, "joint"),
        "notice": "Research use only. Not for diagnostic use.",
    }
    return save_pretrained(target, trained.model, trained.tokenizer, card=card)
