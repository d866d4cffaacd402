"""Real reference slices: volumes that a manifest lists, with modality, anatomy, subject and split.

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

from medq_uni.image import MedicalImage, Units
from medq_uni.io import read_image
from medq_uni.taxonomy import Anatomy, Modality

MANIFEST_NAME = "MANIFEST.csv"
COLUMNS = ("path", "modality", "anatomy", "subject", "split", "units")
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


class ManifestError(ValueError):
    """A manifest that cannot be used; the message names the row and what it needs."""


@dataclass(frozen=True)
class Volume:
    """One row of a manifest."""

    path: Path
    modality: Modality
    anatomy: Anatomy
    subject: str
    split: str
    units: Units


def anatomy_of(words: str) -> Anatomy:
    """Return the body region that free text names, ``body`` where it names none that we know."""
    words = words.lower()
    return next((anatomy for key, anatomy in _ANATOMY_WORDS if key in words), Anatomy.BODY)


def read_manifest(folder: Path, *, split: str | None = None) -> list[Volume]:
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
            if split is not None and row["split"] != split:
                continue
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
                )
            )
    return volumes


@functools.lru_cache(maxsize=6)
def load(volume: Volume) -> MedicalImage:
    """Return the voxels of a volume with the modality and units that its manifest states."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the manifest, not the header, says what the values are
        image = read_image(volume.path, modality=volume.modality)
    voxels = image.voxels
    if volume.modality is Modality.CT:
        voxels = np.clip(voxels, -1024, 3071)
    else:
        voxels = np.maximum(voxels, 0)
    return replace(image.with_voxels(voxels), units=volume.units)


def foreground_fraction(image: MedicalImage) -> float:
    """Return the share of voxels inside the body: above -500 HU, or above 5 % of the 99.9th percentile."""
    if image.modality is Modality.CT:
        return float((image.voxels > -500).mean())
    return float((image.voxels > 0.05 * np.percentile(image.voxels, 99.9)).mean())


def usable_slices(volume: Volume) -> list[int]:
    """Return the indices of the slices that hold enough of the body to serve as references."""
    image = load(volume)
    return [z for z in range(image.shape[0]) if foreground_fraction(image.slice_at(z)) >= MIN_FOREGROUND]
