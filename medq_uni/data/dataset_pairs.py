"""Training pairs of a built dataset, read from their shards when they are wanted; nothing is copied."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medq_uni.data.dataset import Dataset
from medq_uni.data.pair_cache import CACHED_SIDE, PairItem, cropped
from medq_uni.data.shards import DatasetError, ShardReader
from medq_uni.scaling import Scaling, scaling_of
from medq_uni.seeding import generator_of
from medq_uni.taxonomy import Anatomy, Severity, Task

KEPT_PAIRS = 64
"""Pairs that stay in memory after they were read."""


class DatasetPairs:
    """The pairs of one split of a dataset.

    Which pair is read next follows from the random numbers of a run alone, so a run that goes on from a checkpoint goes
    on at the same pair. Every pair is compared with its hash when it is read.

    Attributes:
        items: One entry per pair, from the dataset's index.
        content_sha256: Hash of the whole dataset, by its manifest.
    """

    def __init__(self, folder: str | Path, split: str) -> None:
        """Open a split.

        Raises:
            DatasetError: If the dataset is missing, unfinished, of another format, or has no such split.
        """
        self._opened = folder, split
        dataset = Dataset(folder)
        metas = [meta for meta in dataset.index() if meta["split"] == split]
        if not metas:
            splits = ", ".join(sorted({shard["split"] for shard in dataset.manifest["shards"]}))
            raise DatasetError(f"{dataset.folder.name}: has no split {split!r}, only {splits}.")
        self.items = [_item(meta) for meta in metas]
        self.content_sha256: str = dataset.manifest["content_sha256"]
        self._homes = [(meta["shard"], meta["key"]) for meta in metas]
        self._shards = ShardReader(dataset.folder)
        self._read = lru_cache(maxsize=KEPT_PAIRS)(self._read_anew)

    def __len__(self) -> int:
        return len(self.items)

    def __reduce__(self) -> tuple[type[DatasetPairs], tuple[str | Path, str]]:
        """Let another process open the same split."""
        return DatasetPairs, self._opened

    def views(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the degraded and reference views, each (2, 256, 256) in [-1, 1].

        Raises:
            DatasetError: If the pair is damaged.
        """
        views = self.scaling(index).to_views(self.values(index))
        return views[0], views[1]

    def values(self, index: int) -> torch.Tensor:
        """Return the degraded and the reference slice (2, 256, 256) in physical units.

        Raises:
            DatasetError: If the pair is damaged.
        """
        return torch.from_numpy(self._read(index)[0])

    def scaling(self, index: int) -> Scaling:
        """Return the network range of a pair."""
        return self._read(index)[1]

    def _read_anew(self, index: int) -> tuple[np.ndarray, Scaling]:
        pair = self._shards.read(*self._homes[index])
        values = cropped(pair.degraded, pair.reference, generator_of(index, 4))
        return values, scaling_of(pair.image(pair.degraded))


def _item(meta: dict[str, Any]) -> PairItem:
    height, width = (min(side, CACHED_SIDE) for side in meta["shape"])
    return PairItem(
        task=Task(meta["task"]),
        severity=Severity(meta["severity"]),
        anatomy=Anatomy(meta["anatomy"]),
        subject=meta["subject"],
        source=meta["source"],
        records=json.dumps(meta["records"]),
        height=height,
        width=width,
        description=meta["description"],
        reference_peak=meta.get("volume_peak"),
    )
