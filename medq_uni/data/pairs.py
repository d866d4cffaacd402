"""Degraded and reference slices with their record: drawn one by one, kept as a pool for training."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from medq_uni import physics
from medq_uni.data import sources
from medq_uni.data.phantoms import draw_phantom
from medq_uni.data.vary import vary
from medq_uni.distribute import map_items
from medq_uni.image import MedicalImage
from medq_uni.preprocess import Scaling, scaling_of
from medq_uni.taxonomy import Anatomy, Modality, Severity, Task

POOL_SIZE = 256
"""Side of the square that a pool keeps of every slice, in pixels."""
_ARRAYS, _INDEX = "pairs.npy", "pairs.jsonl"


@dataclass(frozen=True, eq=False)
class Pair:
    """A reference slice, the same slice degraded, and how."""

    degraded: MedicalImage
    reference: MedicalImage
    record: physics.DegradationRecord
    anatomy: Anatomy
    subject: str
    source: str
    """``phantom`` or ``real``."""


@dataclass(frozen=True, kw_only=True)
class PairsConfig:
    """What a pool of pairs holds."""

    count: int
    """Number of pairs."""
    seed: int
    """Seed of everything that is drawn."""
    data: str | None = None
    """Folder of real volumes with a manifest; None uses phantoms alone."""
    split: str = "train"
    """Split of the real volumes."""
    real_fraction: float = 0.45
    """Share of pairs made from real volumes, where there are any."""
    phantom_sizes: tuple[int, ...] = (192, 224, 256, 256, 320)
    """Sides of the phantoms in pixels, drawn with equal chance."""
    none_fraction: float = 0.15
    """Share of pairs that are not degraded at all."""
    vary_real: bool = False
    """Whether real slices are varied in matrix size, contrast and reference noise before they are degraded."""


def generator_of(*numbers: int) -> torch.Generator:
    """Return a generator whose seed is a hash of the numbers, so that near numbers give far streams."""
    digest = hashlib.sha256(",".join(str(number) for number in numbers).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def randint(high: int, generator: torch.Generator) -> int:
    """Return an integer drawn uniformly from 0 to ``high - 1``."""
    return int(torch.randint(high, (1,), generator=generator))


def degrade(
    image: MedicalImage, task: Task, severity: Severity, generator: torch.Generator
) -> tuple[MedicalImage, physics.DegradationRecord]:
    """Return the image degraded by a freshly drawn record, and the record."""
    record = physics.draw(task, severity, generator)
    return physics.apply(image, record), record


def draw_pair(config: PairsConfig, index: int) -> Pair:
    """Return pair number ``index`` of a pool: the same for any number of workers and any order."""
    generator = generator_of(config.seed, index)
    task = list(Task)[index % len(Task)]
    if float(torch.rand(1, generator=generator)) < config.none_fraction:
        severity = Severity.NONE
    else:
        severity = Severity.from_level(1 + randint(3, generator))
    use_real = config.data is not None and float(torch.rand(1, generator=generator)) < config.real_fraction
    if use_real:
        image, anatomy, subject = _real_slice(str(config.data), config.split, task.modality, generator)
        if config.vary_real:
            image = vary(image, generator)
    else:
        side = config.phantom_sizes[randint(len(config.phantom_sizes), generator)]
        drawn = draw_phantom(task.modality, generator, size=side)
        image, anatomy, subject = drawn.image, drawn.anatomy, f"phantom-{config.seed}-{index}"
    degraded, record = degrade(image, task, severity, generator)
    return Pair(degraded, image, record, anatomy, subject, "real" if use_real else "phantom")


def _real_slice(
    folder: str, split: str, modality: Modality, generator: torch.Generator
) -> tuple[MedicalImage, Anatomy, str]:
    groups = _groups(folder, split, modality)
    if not groups:
        raise sources.ManifestError(f"{folder}: no {modality.value} volume in split {split!r}.")
    group = groups[randint(len(groups), generator)]
    volume = group[randint(len(group), generator)]
    candidates = _slices(volume)
    z = candidates[randint(len(candidates), generator)]
    return sources.load(volume).slice_at(z), volume.anatomy, volume.subject


@functools.lru_cache(maxsize=16)
def _groups(folder: str, split: str, modality: Modality) -> list[list[sources.Volume]]:
    # volumes of one collection (folder) count as one group, so that many small crops do not outweigh
    # a few whole scans
    groups: dict[Path, list[sources.Volume]] = {}
    for volume in sources.read_manifest(Path(folder), split=split):
        if volume.modality is modality and _slices(volume):
            groups.setdefault(volume.path.parent, []).append(volume)
    return list(groups.values())


@functools.lru_cache(maxsize=512)
def _slices(volume: sources.Volume) -> tuple[int, ...]:
    return tuple(sources.usable_slices(volume))


@dataclass(frozen=True)
class PoolItem:
    """What the index of a pool says about one pair."""

    task: Task
    severity: Severity
    anatomy: Anatomy
    subject: str
    source: str
    record: str
    """JSON of the degradation record."""
    height: int
    width: int
    scaling: tuple[float, float, float, float]


class PairPool:
    """Pairs kept on disk as memory-mapped arrays, cropped to at most 256 x 256 pixels.

    Attributes:
        items: One entry per pair.
        arrays: float32 (N, 2, 256, 256), degraded then reference, in physical units; beyond height and
            width the edge is repeated.
    """

    def __init__(self, folder: Path) -> None:
        """Open a pool that :func:`build_pool` wrote."""
        lines = (Path(folder) / _INDEX).read_text().splitlines()
        self.items = [_item_from_json(line) for line in lines]
        self.arrays = np.load(Path(folder) / _ARRAYS, mmap_mode="r")

    def __len__(self) -> int:
        return len(self.items)

    def views(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the degraded and reference views, each (2, 256, 256) in [-1, 1]."""
        values = torch.from_numpy(np.array(self.arrays[index]))
        views = Scaling(*self.items[index].scaling).to_views(values)
        return views[0], views[1]


def build_pool(
    config: PairsConfig,
    folder: Path,
    *,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> PairPool:
    """Draw all pairs of ``config`` into ``folder`` and open them; reuse what is there for the same config.

    Args:
        config: What to draw.
        folder: Where the arrays and their index go.
        workers: Processes; the pool does not depend on their number.
        progress: Called with the number of pairs done and the total.
    """
    folder = Path(folder)
    stamp = json.dumps(asdict(config), sort_keys=True)
    stamp_path = folder / "config.json"
    if stamp_path.is_file() and stamp_path.read_text() == stamp:
        return PairPool(folder)
    folder.mkdir(parents=True, exist_ok=True)
    stamp_path.unlink(missing_ok=True)
    shape = (config.count, 2, POOL_SIZE, POOL_SIZE)
    arrays = np.lib.format.open_memmap(folder / _ARRAYS, mode="w+", dtype=np.float32, shape=shape)
    draw = functools.partial(_draw_item, config)
    with (folder / _INDEX).open("w") as index_file:
        for index, (values, item) in enumerate(map_items(draw, range(config.count), workers=workers)):
            arrays[index] = values
            index_file.write(json.dumps(asdict(item)) + "\n")
            if progress is not None:
                progress(index + 1, config.count)
    arrays.flush()
    del arrays
    partial = stamp_path.with_suffix(".part")
    partial.write_text(stamp)
    os.replace(partial, stamp_path)
    return PairPool(folder)


def _draw_item(config: PairsConfig, index: int) -> tuple[np.ndarray, PoolItem]:
    pair = draw_pair(config, index)
    generator = generator_of(config.seed, index, 1)
    height, width = (min(side, POOL_SIZE) for side in pair.reference.shape[1:])
    top = randint(pair.reference.shape[1] - height + 1, generator)
    left = randint(pair.reference.shape[2] - width + 1, generator)
    window = (0, slice(top, top + height), slice(left, left + width))
    both = np.stack([pair.degraded.voxels[window], pair.reference.voxels[window]])
    pad = ((0, 0), (0, POOL_SIZE - height), (0, POOL_SIZE - width))
    scaling = scaling_of(pair.degraded)
    item = PoolItem(
        task=pair.record.task,
        severity=pair.record.severity,
        anatomy=pair.anatomy,
        subject=pair.subject,
        source=pair.source,
        record=pair.record.to_json(),
        height=height,
        width=width,
        scaling=(scaling.low, scaling.high, scaling.window_low, scaling.window_high),
    )
    return np.pad(both, pad, mode="edge"), item


def _item_from_json(line: str) -> PoolItem:
    values = json.loads(line)
    return PoolItem(
        **{
            **values,
            "task": Task(values["task"]),
            "severity": Severity(values["severity"]),
            "anatomy": Anatomy(values["anatomy"]),
            "scaling": tuple(values["scaling"]),
        }
    )
