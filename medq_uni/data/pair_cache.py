"""Pairs kept on disk as memory-mapped arrays, cropped to one size, for training."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from medq_uni.config_json import chosen
from medq_uni.data.pairs import PairsConfig, draw_pair
from medq_uni.distribute import map_items
from medq_uni.files import write_text
from medq_uni.image import MedicalImage
from medq_uni.json_text import parse_json
from medq_uni.scaling import PERCENTILE, Scaling, scaling_of
from medq_uni.seeding import generator_of, randint
from medq_uni.taxonomy import Anatomy, Modality, Severity, Task

CACHED_SIDE = 256
"""Side of the square that is kept of every slice, in pixels."""
_ARRAYS, _INDEX = "pairs.npy", "pairs.jsonl"


@dataclass(frozen=True)
class PairItem:
    """What is known about one training pair without its pixels."""

    task: Task
    """The task that the pair was made for; a mixed degradation has another one beside it."""
    severity: Severity
    """The worst grade that was measured."""
    anatomy: Anatomy
    subject: str
    source: str
    records: str
    """JSON of the degradation records."""
    height: int
    width: int
    description: str = ""
    """What a dataset says about the pair; empty where it follows from the records."""
    reference_peak: float | None = None
    """99.9th percentile of the volume that the reference is a slice of, or of the whole slice where there is none: the
    range on which MR and PET are scored. None where nobody noted it: that of what is kept of the slice stands in."""

    @property
    def num_degradations(self) -> int:
        """How many kinds of degradation the pair has."""
        return len(parse_json(self.records))


@runtime_checkable
class TrainingPairs(Protocol):
    """Pairs of slices, cropped to at most 256 x 256 pixels, by index."""

    @property
    def items(self) -> Sequence[PairItem]:
        """One entry per pair."""

    def __len__(self) -> int: ...

    def views(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the degraded and reference views, each (2, 256, 256) in [-1, 1]; the edge is repeated."""

    def values(self, index: int) -> torch.Tensor:
        """Return the degraded and the reference slice (2, 256, 256) in physical units; the edge is repeated."""

    def scaling(self, index: int) -> Scaling:
        """Return the network range of a pair."""


def pair_images(pairs: TrainingPairs, index: int) -> tuple[MedicalImage, MedicalImage]:
    """Return what is kept of the degraded and the reference slice of a pair, without repeated edges."""
    item = pairs.items[index]
    kept = pairs.values(index)[:, : item.height, : item.width].numpy()
    degraded, reference = (MedicalImage(one, modality=item.task.modality) for one in kept)
    return degraded, reference


class PairCache:
    """Pairs kept on disk as memory-mapped arrays, cropped to at most 256 x 256 pixels.

    Attributes:
        items: One entry per pair.
        arrays: float32 (N, 2, 256, 256), degraded then reference, in physical units; beyond height and
            width the edge is repeated.
    """

    def __init__(self, folder: Path) -> None:
        """Open a cache that :func:`build_pair_cache` wrote."""
        self.folder = Path(folder)
        lines = [parse_json(line) for line in (Path(folder) / _INDEX).read_text().splitlines()]
        self.items = [_item_from_json(line) for line in lines]
        self._scalings = [Scaling(*line["scaling"]) for line in lines]
        self.arrays = np.load(Path(folder) / _ARRAYS, mmap_mode="r")

    def __len__(self) -> int:
        return len(self.items)

    def __reduce__(self) -> tuple[type[PairCache], tuple[Path]]:
        """Let another process open the same files."""
        return PairCache, (self.folder,)

    def views(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the degraded and reference views, each (2, 256, 256) in [-1, 1]."""
        views = self._scalings[index].to_views(self.values(index))
        return views[0], views[1]

    def values(self, index: int) -> torch.Tensor:
        """Return the degraded and the reference slice (2, 256, 256) in physical units."""
        return torch.from_numpy(np.array(self.arrays[index]))

    def scaling(self, index: int) -> Scaling:
        """Return the network range of a pair."""
        return self._scalings[index]


def build_pair_cache(
    config: PairsConfig,
    folder: Path,
    *,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> PairCache:
    """Draw all pairs of ``config`` into ``folder`` and open them; use what is there where it is of the same config.

    Args:
        config: What to draw.
        folder: Where the arrays and their index go.
        workers: Processes; the pairs do not depend on their number.
        progress: Called with the number of pairs done and the total.
    """
    folder = Path(folder)
    stamp = json.dumps(chosen(config), sort_keys=True)  # a later version's keys do not make it another cache
    stamp_path = folder / "config.json"
    if stamp_path.is_file() and stamp_path.read_text() == stamp:
        return PairCache(folder)
    folder.mkdir(parents=True, exist_ok=True)
    stamp_path.unlink(missing_ok=True)
    shape = (config.count, 2, CACHED_SIDE, CACHED_SIDE)
    arrays = np.lib.format.open_memmap(folder / _ARRAYS, mode="w+", dtype=np.float32, shape=shape)
    draw = functools.partial(_draw_item, config)
    with (folder / _INDEX).open("w") as index_file:
        drawn = map_items(draw, range(config.count), workers=workers)
        for index, (values, item, scaling) in enumerate(drawn):
            arrays[index] = values
            index_file.write(json.dumps({**asdict(item), "scaling": astuple(scaling)}) + "\n")
            if progress is not None:
                progress(index + 1, config.count)
    arrays.flush()
    del arrays
    write_text(stamp_path, stamp)
    return PairCache(folder)


def cropped(degraded: np.ndarray, reference: np.ndarray, generator: torch.Generator) -> np.ndarray:
    """Return both slices (H, W) of a pair as (2, 256, 256): a random window of larger ones, smaller ones padded."""
    height, width = (min(side, CACHED_SIDE) for side in reference.shape)
    top = randint(reference.shape[0] - height + 1, generator)
    left = randint(reference.shape[1] - width + 1, generator)
    window = slice(top, top + height), slice(left, left + width)
    pad = ((0, 0), (0, CACHED_SIDE - height), (0, CACHED_SIDE - width))
    return np.pad(np.stack([degraded[window], reference[window]]), pad, mode="edge")


def _draw_item(config: PairsConfig, index: int) -> tuple[np.ndarray, PairItem, Scaling]:
    pair = draw_pair(config, index)
    height, width = (min(side, CACHED_SIDE) for side in pair.reference.shape[1:])
    both = cropped(pair.degraded.voxels[0], pair.reference.voxels[0], generator_of(config.seed, index, 1))
    peak = pair.volume_peak
    if peak is None and pair.task.modality is not Modality.CT:
        peak = float(np.percentile(pair.reference.voxels, PERCENTILE))
    item = PairItem(
        task=pair.task,
        severity=pair.severity,
        anatomy=pair.anatomy,
        subject=pair.subject,
        source=pair.source,
        records=json.dumps([asdict(record) for record in pair.records]),
        height=height,
        width=width,
        reference_peak=peak,
    )
    return both, item, scaling_of(pair.degraded)


def _item_from_json(values: dict[str, Any]) -> PairItem:
    known = {field.name: values[field.name] for field in fields(PairItem) if field.name in values}
    task, severity, anatomy = Task(values["task"]), Severity(values["severity"]), Anatomy(values["anatomy"])
    return PairItem(**{**known, "task": task, "severity": severity, "anatomy": anatomy})
