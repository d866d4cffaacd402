"""Where the images that are annotated come from: a finished dataset, or a folder of the user's own files."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from medq_uni.annotate.records import ImageRecord, UnknownRecord
from medq_uni.data.dataset import MANIFEST, RECIPE, Dataset
from medq_uni.data.shards import DatasetError, ShardReader, StoredPair
from medq_uni.errors import UnreadableImage
from medq_uni.image import MedicalImage
from medq_uni.io.discover import ImageItem, find_images, identify
from medq_uni.io.read_write import read_image
from medq_uni.preprocess import guess_modality
from medq_uni.taxonomy import Modality

KEPT_PAIRS, KEPT_VOLUMES = 64, 4
"""Decoded images that are kept in memory, the latest used."""
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_FOLDER_KEY = re.compile(r"([0-9a-f]{16})-(\d+)of(\d+)")


class ImageSource(Protocol):
    """Gives slices by key."""

    def records(self) -> Iterator[ImageRecord]:
        """Yield what is known about every image without reading its voxels."""

    def problems(self) -> list[str]:
        """Return why files that look like images give none, one sentence each."""

    def image(self, key: str) -> MedicalImage:
        """Return the slice that is judged, with its modality where it is known.

        Raises:
            UnknownRecord: If the source has no such image.
            MedQError: If it cannot be read.
        """

    def reference(self, key: str) -> MedicalImage | None:
        """Return the clean slice beside it; None where there is none."""


def open_source(path: str | Path, *, modality: Modality | None = None, slices: int = 1) -> ImageSource:
    """Return the images of a dataset, or of a folder of DICOM, NIfTI, PNG and TIFF files.

    Args:
        path: Folder.
        modality: Of the files in a folder that do not say it.
        slices: Slices of every volume of a folder, spread evenly over it; one is the middle one.

    Raises:
        DatasetError: If it is a dataset that is not finished.
        UnreadableImage: If there is no such folder.
    """
    path = Path(path)
    if (path / MANIFEST).is_file() or (path / RECIPE).is_file():
        return DatasetImages(path)
    return FolderImages(path, modality=modality, slices=slices)


class DatasetImages:
    """The pairs of a dataset, by random access into its shards; safe to use from several threads."""

    def __init__(self, folder: Path) -> None:
        """Read the index; the places of pairs in a shard are found when one of them is asked for.

        Raises:
            DatasetError: If there is no finished dataset, or its index cannot be trusted.
        """
        dataset = Dataset(folder)
        self._shards = ShardReader(dataset.folder)
        self._known: dict[str, tuple[str, Modality]] = {}
        for meta in dataset.index():
            key, shard = str(meta["key"]), str(meta["shard"])
            if not _PLAIN_NAME.fullmatch(key) or not _PLAIN_NAME.fullmatch(shard):  # both become names of files
                raise DatasetError(
                    f"{folder.name}: its index holds a key or shard that is no plain name. Do not use it."
                )
            self._known[key] = (shard, Modality(meta["modality"]))
        self._pair = functools.lru_cache(KEPT_PAIRS)(self._read_pair)

    def records(self) -> Iterator[ImageRecord]:
        """Yield what is known about every pair."""
        for key, (_, modality) in self._known.items():
            yield ImageRecord(key, modality, True)

    def problems(self) -> list[str]:
        """Return none: a dataset is whole, or it is not opened."""
        return []

    def meta(self, key: str) -> dict[str, Any]:
        """Return what the dataset says about a pair: records, anatomy, description, ...

        Raises:
            UnknownRecord: If there is none of this key.
        """
        return self._pair(key).meta

    def image(self, key: str) -> MedicalImage:
        """Return the degraded slice; see :class:`ImageSource`."""
        pair = self._pair(key)
        return pair.image(pair.degraded)

    def reference(self, key: str) -> MedicalImage | None:
        """Return the clean slice; see :class:`ImageSource`."""
        pair = self._pair(key)
        return pair.image(pair.reference)

    def _read_pair(self, key: str) -> StoredPair:
        if key not in self._known:
            raise UnknownRecord("the dataset has no such image. Is it the one that the store was begun with?")
        shard = self._known[key][0]
        if key not in self._shards.places(shard):
            raise UnknownRecord(f"{shard}: does not hold this image. Check it: medq dataset verify")
        return self._shards.read(shard, key)


class FolderImages:
    """Slices of image files; a key is a hash of the place in the folder, so that no file name leaves it."""

    def __init__(self, folder: Path, *, modality: Modality | None = None, slices: int = 1) -> None:
        """List the files.

        Raises:
            UnreadableImage: If there is no such folder, or no image in it.
        """
        found = find_images(folder)
        if not found:
            raise UnreadableImage(f"{folder.name}: no image in this folder. Pass DICOM, NIfTI, PNG or TIFF files.")
        self._modality, self._slices = modality, slices
        self._items = {_hash_of(item): item for item in found}
        self._problems = [reason for _, reason in found.broken]
        self._volume = functools.lru_cache(KEPT_VOLUMES)(self._read_volume)

    def records(self) -> Iterator[ImageRecord]:
        """Yield what the headers say; a file whose header cannot be read is left out, see :meth:`problems`."""
        yield from self._records

    def problems(self) -> list[str]:
        """Return why broken files give no image, one sentence each."""
        list(self._records)
        return self._problems

    @functools.cached_property
    def _records(self) -> list[ImageRecord]:
        found: list[ImageRecord] = []
        for name, item in self._items.items():
            try:
                modality = self._modality or identify(item)[0]
            except UnreadableImage as error:
                self._problems.append(str(error))
                continue
            numbers = range(1, self._slices + 1)
            found += [ImageRecord(f"{name}-{number}of{self._slices}", modality, False) for number in numbers]
        return found

    def place(self, key: str) -> Path:
        """Return where an image lies, relative to the folder.

        Raises:
            UnknownRecord: If there is none of this key.
        """
        return self._find(key)[0].relative

    def image(self, key: str) -> MedicalImage:
        """Return the slice; see :class:`ImageSource`. A modality that nothing states is guessed, with a warning."""
        _, number, total = self._find(key)
        volume = self._volume(key.partition("-")[0])
        z = int((number - 0.5) / total * volume.shape[0])
        return volume.slice_at(z)

    def _read_volume(self, name: str) -> MedicalImage:
        item = self._items[name]
        read = read_image(item, modality=self._modality)
        return read if read.modality is not None else read_image(item, modality=guess_modality(read))

    def reference(self, key: str) -> MedicalImage | None:
        """Return None: a folder has no clean images."""
        self._find(key)
        return None

    def _find(self, key: str) -> tuple[ImageItem, int, int]:
        match = _FOLDER_KEY.fullmatch(key)
        if match is None or match[1] not in self._items or not 1 <= int(match[2]) <= int(match[3]):
            raise UnknownRecord("the folder has no such image. Is it the one that the store was begun with?")
        return self._items[match[1]], int(match[2]), int(match[3])


def _hash_of(item: ImageItem) -> str:
    return hashlib.sha256(item.relative.as_posix().encode("utf-8", "surrogateescape")).hexdigest()[:16]
