"""Pairs in WebDataset shards: tar files whose bytes depend on the recipe alone."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from medq_uni.data.pairs import Pair
from medq_uni.data.reference_text import NoisyLabel, describe, noisy_label
from medq_uni.errors import MedQError
from medq_uni.files import atomic_file
from medq_uni.image import MedicalImage, Units, axial_affine
from medq_uni.json_text import parse_json
from medq_uni.physics.record import DegradationRecord
from medq_uni.seeding import generator_of
from medq_uni.taxonomy import Modality, Severity, Task

THUMBNAIL = 16
"""Side of the small picture by which near-duplicates are found."""
DIGITS = 6
"""Significant digits of measured numbers in an index."""


class DatasetError(MedQError):
    """A dataset that cannot be built, read or trusted; the message says what to do."""


@dataclass(frozen=True, eq=False)
class StoredPair:
    """A pair as a shard holds it.

    Attributes:
        meta: What the index says: key, split, task, severity, records, effects, description, subject, hashes, ...
        degraded: (H, W) float32 in physical units.
        reference: (H, W) float32 in physical units.
    """

    meta: dict[str, Any]
    degraded: np.ndarray
    reference: np.ndarray

    @property
    def task(self) -> Task:
        """The task that the pair was made for."""
        return Task(self.meta["task"])

    @property
    def severity(self) -> Severity:
        """The worst grade."""
        return Severity(self.meta["severity"])

    def image(self, voxels: np.ndarray) -> MedicalImage:
        """Return one of the two slices with the modality, units and spacing of the pair."""
        row, column = self.meta["spacing_mm"]
        spacing = (1.0, row, column)
        modality, units = Modality(self.meta["modality"]), Units(self.meta["units"])
        return MedicalImage(voxels[None], spacing, axial_affine(spacing), modality, units)


def store(pair: Pair, *, split: str, index: int, seed: int, wrong_labels: float = 0.0) -> StoredPair:
    """Return a pair with everything that is known about it, ready for a shard.

    Args:
        pair: The pair.
        split: Side of the dataset that it goes to.
        index: Number of the pair in its split.
        seed: Of the phrasing of its description.
        wrong_labels: Probability with which every slot of the description is made wrong; recorded.
    """
    generator = generator_of(seed, index, 2)
    modality = pair.task.modality
    right = describe(modality, pair.anatomy, pair.records, generator)
    label = noisy_label(right, wrong_labels, generator) if wrong_labels else NoisyLabel(right, ())
    degraded, reference = (np.ascontiguousarray(image.voxels[0]) for image in (pair.degraded, pair.reference))
    meta = {
        "key": f"{split}-{index:08d}",
        "split": split,
        "task": pair.task.value,
        "severity": pair.severity.value,
        "modality": modality.value,
        "units": pair.reference.units.value,
        "anatomy": pair.anatomy.value,
        "subject": pair.subject,
        "source": pair.source,
        "volume": pair.volume,
        "slice": pair.z,
        "shape": list(reference.shape),
        "spacing_mm": [_rounded(value) for value in pair.reference.spacing_mm[1:]],
        "records": [asdict(record) for record in pair.records],
        "effects": [_rounded(value) for value in pair.effects],
        "own_noise": _rounded(pair.own_noise),
        "description": label.description.to_text(),
        "wrong_slots": list(label.wrong),
        "sha256": {"degraded": digest_of(degraded), "reference": digest_of(reference)},
        "thumbnail": _thumbnail(reference),
    }
    if pair.volume_peak is not None:
        meta["volume_peak"] = _rounded(pair.volume_peak)
    return StoredPair(meta, degraded, reference)


def write_shard(path: Path, pairs: Iterable[StoredPair]) -> None:
    """Write pairs to a tar file that appears whole or not at all; the same pairs give the same bytes."""
    from webdataset import TarWriter

    with (
        atomic_file(path) as temporary,
        temporary.open("wb") as file,
        TarWriter(file, encoder=False, mtime=0.0, compress=False, format=tarfile.USTAR_FORMAT) as writer,
    ):
        for pair in pairs:
            files = {
                "degraded.npy": _npy(pair.degraded),
                "json": json.dumps(pair.meta, sort_keys=True).encode(),
                "reference.npy": _npy(pair.reference),
            }
            writer.write({"__key__": pair.meta["key"], **files})


def read_shard(path: Path) -> Iterator[StoredPair]:
    """Yield the pairs of a shard in order.

    Raises:
        DatasetError: If it is not a whole shard.
    """
    files: dict[str, bytes] = {}
    try:
        for suffix, content in _contents(path):
            files[suffix] = content
            if len(files) == 3:
                meta = parse_json(files["json"])
                yield StoredPair(meta, _array(files["degraded.npy"]), _array(files["reference.npy"]))
                files = {}
    except DatasetError:
        raise
    except (tarfile.TarError, KeyError, ValueError, EOFError) as error:
        raise DatasetError(f"{path.name}: not a whole shard ({type(error).__name__}). Build it again.") from error
    if files:
        raise DatasetError(f"{path.name}: the last pair is not whole. Build it again.")


def _contents(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield suffix and bytes of every file of a shard; refuse one that comes twice."""
    seen = set()
    with tarfile.open(path) as tar:
        for member in tar:
            content = tar.extractfile(member)
            if content is None:
                raise DatasetError(f"{path.name}: {member.name} is not a file. Build the dataset again.")
            if member.name in seen:
                raise DatasetError(f"{path.name}: {member.name} comes twice. Build the dataset again.")
            seen.add(member.name)
            yield member.name.partition(".")[2], content.read()


@dataclass(frozen=True)
class PairPlace:
    """Where the files of one pair lie in a shard: (first byte, number of bytes) by suffix."""

    spans: dict[str, tuple[int, int]]


def pair_places(path: Path) -> dict[str, PairPlace]:
    """Return where every pair of a shard lies, by key; only the headers are read.

    Raises:
        DatasetError: If it is not a whole shard.
    """
    places: dict[str, PairPlace] = {}
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, suffix = member.name.partition(".")
                spans = places.setdefault(key, PairPlace({})).spans
                if suffix in spans:
                    raise DatasetError(f"{path.name}: {member.name} comes twice. Build the dataset again.")
                spans[suffix] = (member.offset_data, member.size)
    except (tarfile.TarError, EOFError) as error:
        raise DatasetError(f"{path.name}: not a whole shard ({type(error).__name__}). Build it again.") from error
    return places


def read_pair(path: Path, place: PairPlace) -> StoredPair:
    """Return one pair of a shard without reading the others.

    Raises:
        DatasetError: If it is damaged.
    """
    try:
        files = {}
        with path.open("rb") as file:
            for suffix, (start, size) in place.spans.items():
                file.seek(start)
                files[suffix] = file.read(size)
        pair = StoredPair(parse_json(files["json"]), _array(files["degraded.npy"]), _array(files["reference.npy"]))
        hashes = {"degraded": digest_of(pair.degraded), "reference": digest_of(pair.reference)}
        is_whole = hashes == pair.meta["sha256"]
    except (KeyError, ValueError, EOFError) as error:
        raise DatasetError(f"{path.name}: not a whole shard ({type(error).__name__}). Build it again.") from error
    if not is_whole:
        raise DatasetError(f"{path.name}: the bytes of a pair have changed. Check it: medq dataset verify")
    return pair


class ShardReader:
    """Reads pairs of a folder's shards by key, in any order; the headers of a shard are read once, when it is wanted.

    Safe to use from several threads.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._places: dict[str, dict[str, PairPlace]] = {}

    def places(self, shard: str) -> dict[str, PairPlace]:
        """Return where every pair of a shard lies; see :func:`pair_places`."""
        if shard not in self._places:
            self._places[shard] = pair_places(self._folder / shard)
        return self._places[shard]

    def read(self, shard: str, key: str) -> StoredPair:
        """Return a pair.

        Raises:
            DatasetError: If the shard does not hold it, or it is damaged.
        """
        place = self.places(shard).get(key)
        if place is None:
            raise DatasetError(f"{shard}: does not hold {key}. Check it: medq dataset verify")
        return read_pair(self._folder / shard, place)


def digest_of(array: np.ndarray) -> str:
    """Return the sha256 of the shape and bytes of an array."""
    return hashlib.sha256(str(array.shape).encode() + array.tobytes()).hexdigest()


def records_of(meta: dict[str, Any]) -> tuple[DegradationRecord, ...]:
    """Return the degradation records of a line of the index."""
    return tuple(DegradationRecord.from_fields(fields) for fields in meta["records"])


def _thumbnail(reference: np.ndarray) -> str:
    """Return a small picture of the slice, 8 bits of its own range, as hexadecimal text."""
    small = F.interpolate(torch.from_numpy(reference)[None, None], (THUMBNAIL, THUMBNAIL), mode="area")[0, 0]
    low, high = float(small.min()), float(small.max())
    scaled = ((small - low) * (255 / max(high - low, 1e-6))).round().clamp(0, 255)
    return scaled.to(torch.uint8).numpy().tobytes().hex()


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _array(content: bytes) -> np.ndarray:
    return np.asarray(np.load(io.BytesIO(content), allow_pickle=False))


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
