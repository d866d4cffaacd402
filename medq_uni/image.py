"""The image that every part passes on: voxels in physical units, with their geometry."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import numpy as np

from medq_uni.errors import MedQError
from medq_uni.taxonomy import Modality


class Units(StrEnum):
    """Physical meaning of a voxel value."""

    HU = "HU"
    SUV = "SUV"
    BQML = "BQML"
    ARBITRARY = "a.u."


UNITS_WORDS = {
    "hu": Units.HU,
    "hounsfield": Units.HU,
    "suv": Units.SUV,
    "g/ml": Units.SUV,
    "gml": Units.SUV,
    "bq/ml": Units.BQML,
    "bqml": Units.BQML,
    "a.u.": Units.ARBITRARY,
    "arbitrary": Units.ARBITRARY,
}
"""What people and sidecars call the units, in lower case."""


def modality_named(word: Modality | str | None) -> Modality | None:
    """Return the modality that a word names: ct, mr or pet, in any case, or MRI and PT.

    Raises:
        MedQError: If it names none.
    """
    if word is None or isinstance(word, Modality):
        return word
    plain = str(word).strip().lower()
    try:
        return Modality({"mri": "mr", "pt": "pet"}.get(plain, plain))
    except ValueError:
        raise MedQError(f"modality must be {', '.join(Modality)}, got {str(word)[:40]!r}.") from None


def units_named(word: Units | str) -> Units:
    """Return the units that a word names: HU, SUV (g/mL), BQML (Bq/mL) or a.u., in any case.

    Raises:
        MedQError: If it names none.
    """
    if isinstance(word, Units):
        return word
    found = UNITS_WORDS.get(str(word).strip().lower())
    if found is None:
        raise MedQError(f"units must be {', '.join(Units)}, got {str(word)[:40]!r}.")
    return found


@dataclass(frozen=True, eq=False)
class MedicalImage:
    """A 2-D slice or a volume in physical units, with the header that it came with.

    Attributes:
        voxels: float32, shape (Z, Y, X); a single slice has Z = 1.
        spacing_mm: voxel size (z, y, x) in millimetres, all positive.
        affine: 4x4 float64; maps the index (i, j, k) = (x, y, z) to RAS+ millimetres, as nibabel.
        modality: CT, MR or PET, or a word for it (see :func:`modality_named`); None where nothing says so.
        units: meaning of the voxel values, or a word for it (see :func:`units_named`).
        padding: bool (Z, Y, X), True where the scanner stored "no data" (DICOM
            PixelPaddingValue, outside the reconstructed field); None where there is none.
            Those voxels pass through restoration bit-identical.
        source: header of the file that it was read from, opaque outside :mod:`medq_uni.io`.
    """

    voxels: np.ndarray
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    affine: np.ndarray = field(default_factory=lambda: np.eye(4))
    modality: Modality | None = None
    units: Units = Units.ARBITRARY
    padding: np.ndarray | None = None
    source: Any = None

    def __post_init__(self) -> None:
        """Check shapes and types once, at the border."""
        voxels = np.asarray(self.voxels, dtype=np.float32)
        if voxels.ndim == 2:
            voxels = voxels[None]
        if voxels.ndim != 3 or 0 in voxels.shape:
            raise MedQError(
                f"voxels must have shape (Z, Y, X) with no empty axis, got {voxels.shape}. "
                "Split a 4-D series into volumes first."
            )
        affine = np.asarray(self.affine, dtype=np.float64)
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise MedQError(f"affine must be a finite 4x4 matrix, got shape {affine.shape}.")
        if len(self.spacing_mm) != 3 or min(self.spacing_mm) <= 0:
            raise MedQError(f"spacing_mm must be three positive numbers (z, y, x), got {self.spacing_mm}.")
        if self.padding is not None and self.padding.shape != voxels.shape:
            raise MedQError(f"padding must match voxels {voxels.shape}, got {self.padding.shape}.")
        object.__setattr__(self, "voxels", voxels)
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "modality", modality_named(self.modality))
        object.__setattr__(self, "units", units_named(self.units))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of slices, rows and columns (Z, Y, X)."""
        z, y, x = self.voxels.shape
        return z, y, x

    def with_voxels(self, voxels: np.ndarray) -> MedicalImage:
        """Return the same image with other values of the same shape.

        Raises:
            MedQError: If the shape differs.
        """
        voxels = np.asarray(voxels, dtype=np.float32).reshape(np.shape(voxels))
        if voxels.shape != self.voxels.shape:
            raise MedQError(f"voxels must keep the shape {self.voxels.shape}, got {voxels.shape}.")
        return replace(self, voxels=voxels)

    def slice_at(self, z: int) -> MedicalImage:
        """Return slice ``z`` as an image of its own, with its own place in space."""
        affine = self.affine.copy()
        affine[:3, 3] = self.affine[:3, :3] @ (0, 0, z) + self.affine[:3, 3]
        padding = None if self.padding is None else self.padding[z : z + 1]
        return replace(self, voxels=self.voxels[z : z + 1], affine=affine, padding=padding)


def axial_affine(spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Return the RAS+ affine of a supine axial image with the origin at its first voxel.

    Columns run to the patient's left and rows to the back, as a DICOM axial slice is stored,
    so both in-plane axes are negative in RAS+.
    """
    z, y, x = spacing_mm
    return np.diag([-x, -y, z, 1.0])
