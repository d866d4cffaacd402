"""Checks and pictures of a finished dataset."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from medq_uni.data.dataset import INDEX, Dataset, content_hash, leaks_between_splits
from medq_uni.data.shards import DatasetError, StoredPair, digest_of, read_shard
from medq_uni.description import DescriptionError, QualityDescription
from medq_uni.files import atomic_file, file_digest
from medq_uni.scaling import CT_WINDOW_HU
from medq_uni.taxonomy import Modality, Severity, Task

CELL_INCHES = 1.5


def verify_dataset(folder: str | Path, *, progress: Callable[[int, int], None] | None = None) -> list[str]:
    """Return everything that is wrong with a dataset, one line each; an empty list means that it is whole.

    Every byte of every shard and of the index is hashed, every pair is decoded and compared with the index,
    descriptions are parsed, and no subject or scan may be on two sides.

    Args:
        folder: The dataset.
        progress: Called with the number of shards checked and the total.

    Raises:
        DatasetError: If there is no finished dataset.
    """
    dataset = Dataset(folder)
    problems = []
    if file_digest(dataset.folder / INDEX) != dataset.manifest["index_sha256"]:
        problems.append(f"{INDEX}: its bytes have changed since it was built.")
        return problems
    metas = list(dataset.index())
    if content_hash(metas) != dataset.manifest["content_sha256"]:
        problems.append(f"{INDEX}: does not hold what the manifest says.")
    by_shard: dict[str, list[dict[str, Any]]] = {}
    for meta in metas:
        by_shard.setdefault(meta.pop("shard"), []).append(meta)
    shards = dataset.manifest["shards"]
    for number, shard in enumerate(shards, start=1):
        problems += _shard_problems(dataset.folder / shard["name"], shard, by_shard.get(shard["name"], []))
        if progress is not None:
            progress(number, len(shards))
    known = {shard["name"] for shard in shards}
    problems += [
        f"{path.name}: not part of the dataset."
        for path in sorted(dataset.folder.glob("*.tar"))
        if path.name not in known
    ]
    return problems + leaks_between_splits(metas)


def _shard_problems(path: Path, shard: dict[str, Any], metas: list[dict[str, Any]]) -> list[str]:
    if not path.is_file():
        return [f"{path.name}: the shard is missing."]
    if file_digest(path) != shard["sha256"]:
        return [f"{path.name}: its bytes have changed since it was built.", *_changed_pairs(path, metas)]
    return _changed_pairs(path, metas)


def _changed_pairs(path: Path, metas: list[dict[str, Any]]) -> list[str]:
    """Return which pairs of a shard differ from the index."""
    problems = []
    try:
        pairs = list(read_shard(path))
    except DatasetError as error:
        return [str(error)]
    if len(pairs) != len(metas):
        problems.append(f"{path.name}: holds {len(pairs)} pairs, the index {len(metas)}.")
    for pair, meta in zip(pairs, metas, strict=False):
        key = meta["key"]
        if pair.meta != meta:
            problems.append(f"{key}: its record differs from the index.")
        for name, array in (("degraded", pair.degraded), ("reference", pair.reference)):
            if digest_of(array) != meta["sha256"][name]:
                problems.append(f"{key}: the {name} slice has changed.")
        try:
            QualityDescription.from_text(meta["description"], strict=not meta["wrong_slots"])
        except DescriptionError as error:
            problems.append(f"{key}: its description cannot be read: {error}")
    return problems


def contact_sheet(folder: str | Path, path: Path, *, columns: int = 4) -> None:
    """Write a picture with pairs of every task and grade, degraded beside reference.

    Args:
        folder: The dataset.
        path: PNG to write.
        columns: Most pairs of one task and grade.

    Raises:
        DatasetError: If there is no finished dataset, or one of its shards is damaged.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    chosen: dict[tuple[Task, Severity], list[StoredPair]] = {}
    for pair in Dataset(folder).pairs():
        row = chosen.setdefault((pair.task, pair.severity), [])
        if len(row) < columns:
            row.append(pair)
    rows = [(task, severity) for task in Task for severity in Severity if (task, severity) in chosen]
    width = max(len(pairs) for pairs in chosen.values())
    figure, axes = plt.subplots(
        len(rows), 2 * width, figsize=(2 * width * CELL_INCHES, len(rows) * CELL_INCHES * 1.15), squeeze=False
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for line, key in zip(axes, rows, strict=True):
        line[0].set_title(f"{key[0].value}, {key[1].value}", fontsize=8, loc="left")
        for number, pair in enumerate(chosen[key]):
            low, high = _window(pair)
            for axis, voxels in zip(line[2 * number :], (pair.degraded, pair.reference), strict=False):
                axis.imshow(voxels, cmap="gray", vmin=low, vmax=high)
    figure.tight_layout(pad=0.3)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=80, format="png")
    plt.close(figure)


def _window(pair: StoredPair) -> tuple[float, float]:
    if Modality(pair.meta["modality"]) is Modality.CT:
        return CT_WINDOW_HU
    return 0.0, max(float(np.percentile(pair.reference, 99.7)), 1e-6)
