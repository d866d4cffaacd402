"""The pairs of a run: drawn into a cache before the first step, or read from a built dataset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medq_uni.data.dataset_pairs import DatasetPairs
from medq_uni.data.pair_cache import TrainingPairs, build_pair_cache
from medq_uni.data.pairs import PairsConfig
from medq_uni.files import write_text
from medq_uni.train.checkpoint import CheckpointError
from medq_uni.train.parallel import DistContext
from medq_uni.train.recipe import TrainConfig
from medq_uni.train.run_log import Report

DATASET = "dataset.sha256"
"""Hash of the built dataset that a run is trained on, in its folder."""


@dataclass(frozen=True, eq=False)
class RunPairs:
    """What a run is trained and validated on."""

    train: TrainingPairs
    val: TrainingPairs

    @classmethod
    def drawn(cls, config: TrainConfig, folder: Path, *, workers: int, report: Report) -> RunPairs:
        """Return the pairs of a recipe; those that are drawn are kept in a folder and drawn once.

        Args:
            config: The recipe.
            folder: Where caches are, or go.
            workers: Processes that draw.
            report: Called with the progress.
        """

        def cache(name: str, pairs: PairsConfig) -> TrainingPairs:
            def progress(done: int, total: int) -> None:
                report({"event": name, "step": done, "steps": total})

            return build_pair_cache(pairs, folder / name, workers=workers, progress=progress)

        if config.pairs is not None:
            train = cache("train_pairs", config.pairs)
        else:
            assert config.dataset is not None, "checked by the recipe"
            train = DatasetPairs(config.dataset, "train")
        return cls(train, cache("val_pairs", config.val_pairs))


def check_dataset(config: TrainConfig, pairs: RunPairs, folder: Path, dist: DistContext, *, goes_on: bool) -> None:
    """Note which built dataset a run is trained on, and refuse to go on with a later build at the same path.

    Args:
        config: The recipe.
        pairs: Of the run.
        folder: Of the run.
        dist: The processes that train together.
        goes_on: Whether the run goes on from a checkpoint.

    Raises:
        CheckpointError: If the run began with another dataset.
    """
    if not isinstance(pairs.train, DatasetPairs):
        return
    path, sha256 = folder / DATASET, pairs.train.content_sha256
    before = path.read_text(encoding="utf-8").strip() if goes_on and path.is_file() else sha256
    if before != sha256:
        raise CheckpointError(
            f"{config.dataset} is another dataset than the run in {folder} began with (content sha256 "
            f"{sha256[:12]}, not {before[:12]}). Give that one with --dataset, or train in another folder."
        )
    if dist.is_first:
        write_text(path, sha256 + "\n")
