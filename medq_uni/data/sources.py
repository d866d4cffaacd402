"""Real reference slices: volumes with modality, anatomy, subject and split, and the manifest that lists them.

A manifest is ``MANIFEST.csv`` in the data folder with at least the columns ``path`` (relative to the folder),
``modality`` (ct, mr, pet), ``anatomy`` (free text), ``subject``, ``split`` (train, val, test) and ``units``.
"""

from __future__ import annotations

import csv
import functools
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medq_uni.errors import MedQError
from medq_uni.image import MedicalImage, Units
from medq_uni.io.discover import ImageItem
from medq_uni.io.read_write import read_image
from medq_uni.physics.effect import foreground
from medq_uni.scaling import PERCENTILE
from medq_uni.seeding import seed_of
from medq_uni.taxonomy import Anatomy, Modality

MANIFEST_NAME = "MANIFEST.csv"
COLUMNS = ("path", "modality", "anatomy", "subject", "split", "units")
SPLIT_ENDS = {"train": 0.8, "val": 0.9, "test": 1.0}
MIN_FOREGROUND = 0.08
"""Slices with a smaller share of foreground are not used as references."""
_UNITS = {"hu": Units.HU, "suv": Units.SUV, "bq/ml": Units.BQML}
_ANATOMY_WORDS = (
    ("brain", Anatomy.BRAIN),
    ("head-neck", Anatomy.HEAD_NECK),
    ("neck", Anatomy.HEAD_NECK),
    ("head", Anatomy.BRAIN),
    ("chest", Anatomy.CHEST),
    ("abdomen", Anatomy.ABDOMEN),
    ("pelvis", Anatomy.PELVIS),
    ("torso", Anatomy.TORSO),
    ("extremity", Anatomy.EXTREMITY),
)


class ManifestError(MedQError):
    """A manifest that cannot be used; the message names the row and what it needs."""


@dataclass(frozen=True)
class LowerDose:
    """The same scan at a lower dose, measured, not simulated."""

    path: Path | ImageItem
    reduction: float
    """Full dose over this dose."""


@dataclass(frozen=True)
class Volume:
    """One volume that can serve as reference."""

    path: Path | ImageItem
    modality: Modality
    anatomy: Anatomy
    subject: str
    split: str
    units: Units | None = None
    """What the values are; None believes the header."""
    group: str = ""
    """Volumes of one group are drawn with equal chance, and so are the groups."""
    name: str = ""
    """What an index calls the volume: a hash, for a path may name a patient; of a manifest, the path that it lists."""
    lower: tuple[LowerDose, ...] = ()


def split_of(subject: str) -> str:
    """Return train, val or test for a subject: the same on every machine, 80, 10 and 10 % of many subjects."""
    place = seed_of(f"split/{subject}", num_bytes=4) / 2**32
    return next(name for name, end in SPLIT_ENDS.items() if place < end)


def anatomy_of(words: str) -> Anatomy:
    """Return the body region that free text names, ``body`` where it names none that we know."""
    words = words.lower()
    return next((anatomy for key, anatomy in _ANATOMY_WORDS if key in words), Anatomy.BODY)


def read_manifest(folder: Path) -> list[Volume]:
    """Return the volumes that the manifest of a folder lists, in its order.

    Raises:
        ManifestError: If the manifest or one of its files is missing, or a row cannot be used.
    """
    path = Path(folder) / MANIFEST_NAME
    if not path.is_file():
        raise ManifestError(f"{path}: no manifest. It needs the columns {', '.join(COLUMNS)}.")
    volumes = []
    with path.open(newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            missing = [column for column in COLUMNS if not row.get(column)]
            if missing:
                raise ManifestError(f"{MANIFEST_NAME} line {number}: no value for {', '.join(missing)}.")
            if row["modality"] not in list(Modality):
                raise ManifestError(
                    f"{MANIFEST_NAME} line {number}: modality must be one of {', '.join(Modality)}, "
                    f"got {row['modality']!r}."
                )
            file_path = Path(folder) / row["path"]
            if not file_path.exists():
                raise ManifestError(f"{MANIFEST_NAME} line {number}: {row['path']} does not exist.")
            volumes.append(
                Volume(
                    path=file_path,
                    modality=Modality(row["modality"]),
                    anatomy=anatomy_of(row["anatomy"]),
                    subject=row["subject"],
                    split=row["split"],
                    units=_UNITS.get(row["units"].lower(), Units.ARBITRARY),
                    group=str(file_path.parent),
                    name=row["path"],
                )
            )
    return volumes


@functools.lru_cache(maxsize=4)
def load(path: Path | ImageItem, modality: Modality, units: Units | None) -> MedicalImage:
    """Return the voxels of an image with the modality and units that are stated, within their physical range."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the source, not the header, says what the values are
        image = read_image(path, modality=modality)
    voxels = image.voxels
    if modality is Modality.CT:
        voxels = np.clip(voxels, -1024, 3071)
    else:
        voxels = np.maximum(voxels, 0)
    return replace(image.with_voxels(voxels), units=units or image.units)


def load_reference(volume: Volume) -> MedicalImage:
    """Return the voxels of a reference volume."""
    return load(volume.path, volume.modality, volume.units)


@functools.lru_cache(maxsize=256)
def volume_peak(volume: Volume) -> float | None:
    """Return the 99.9th percentile of an MR or PET volume, the upper end of its data range.

    None for CT, whose range is its window, and for a volume that is empty but for a few voxels.
    """
    if volume.modality is Modality.CT:
        return None
    peak = float(np.percentile(load_reference(volume).voxels, PERCENTILE))
    return peak if peak > 0 else None


@functools.lru_cache(maxsize=4)
def load_lower(volume: Volume, lower: LowerDose) -> MedicalImage:
    """Return the voxels of a volume at a lower dose, checked once against the full dose.

    Raises:
        ManifestError: If it is not the same scan: other shape, other place, or the very same voxels.
    """
    reference, image = load_reference(volume), load(lower.path, volume.modality, volume.units)
    what = f"{volume.subject}: the scan at 1/{lower.reduction:g} of the dose"
    if image.shape != reference.shape or not np.allclose(image.affine, reference.affine, atol=0.1):
        raise ManifestError(f"{what} has shape {image.shape} or another place than the full dose {reference.shape}.")
    if np.array_equal(image.voxels, reference.voxels):
        raise ManifestError(f"{what} equals the full dose voxel by voxel; the wrong files are paired.")
    return image


def foreground_fraction(image: MedicalImage) -> float:
    """Return the share of voxels inside the body."""
    return float(foreground(image).mean())


def usable_slices(volume: Volume) -> list[int]:
    """Return the indices of the slices that hold enough of the body to serve as references."""
    image = load_reference(volume)
    return [z for z in range(image.shape[0]) if foreground_fraction(image.slice_at(z)) >= MIN_FOREGROUND]
