"""What a restorer takes for an image: a path, an array, or an image of another library."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from einops import rearrange

from medq_uni.errors import MedQError
from medq_uni.image import MedicalImage, Units, axial_affine, modality_named, units_named
from medq_uni.io.discover import ImageItem
from medq_uni.io.geometry import LPS_TO_RAS, spacing_of
from medq_uni.io.read_write import read_image
from medq_uni.taxonomy import Modality

ImageLike = Any
"""See :data:`ACCEPTED`; the libraries need not be installed, so there is no stricter type."""
ACCEPTED = (
    "a path, a MedicalImage, a numpy array or torch tensor of shape (Z, Y, X) or (Y, X) with modality= and spacing=, "
    "a nibabel image, or a SimpleITK image"
)


class Stated(TypedDict, total=False):
    """What the caller says of an image that does not say it itself."""

    modality: Modality | str | None
    """CT, MR or PET; overrides what the image says."""
    units: Units | str | None
    """Of the values: HU, SUV, BQML or a.u. By default HU for CT, arbitrary for the rest."""
    spacing: float | Sequence[float] | None
    """Voxel size (z, y, x) in millimetres, or (y, x) of a slice, or one number; of arrays alone."""
    frame: int | None
    """Which volume of a 4-D file or image, from 0."""


def as_image(given: Any, **stated: Any) -> MedicalImage:
    """Return what was given as an image in physical units.

    Args:
        given: A path, a :class:`MedicalImage`, a numpy array or torch tensor of shape (Z, Y, X) or (Y, X), or an image
            of nibabel or SimpleITK. Arrays without ``spacing`` have voxels of 1 mm and lie axially.
        **stated: See :class:`Stated`.

    Raises:
        MedQError: If it is of another type or shape, or what is stated does not fit it; see also
            :func:`medq_uni.io.read_write.read_image`.
    """
    unknown = sorted(set(stated) - set(Stated.__annotations__))
    if unknown:
        raise TypeError(
            f"unexpected keyword argument {unknown[0]!r}; an image takes {', '.join(Stated.__annotations__)}"
        )
    modality, units = modality_named(stated.get("modality")), stated.get("units")
    units = None if units is None else units_named(units)
    spacing, frame = stated.get("spacing"), stated.get("frame")
    is_array = isinstance(given, np.ndarray) or _is_of(given, "torch", "Tensor")
    if spacing is not None and not is_array:
        raise MedQError("spacing= is for arrays; this image has a spacing of its own. Leave it out.")
    if isinstance(given, str | Path | ImageItem):
        return read_image(given, modality=modality, units=units, frame=frame)
    if isinstance(given, MedicalImage):
        _no_frame(frame)
        is_same = modality in (None, given.modality) and units in (None, given.units)
        return given if is_same else replace(given, modality=modality or given.modality, units=units or given.units)
    if is_array:
        _no_frame(frame)
        return _of_array(given, modality, units, spacing)
    if _is_of(given, "nibabel", "SpatialImage"):
        voxels, affine = _of_nibabel(given, frame)
    elif _is_of(given, "SimpleITK", "Image"):
        voxels, affine = _of_simpleitk(given, frame)
    else:
        raise MedQError(f"an image must be {ACCEPTED}; got {type(given).__name__}.")
    units = units or _usual_units(modality)
    return MedicalImage(voxels, spacing_of(affine), affine, modality, units)


def _is_of(given: Any, library: str, name: str) -> bool:
    """Return whether an object is of a class of a library, or of one that derives from it, without loading it."""
    if library not in sys.modules:
        return False
    return any(kind.__name__ == name and kind.__module__.split(".")[0] == library for kind in type(given).__mro__)


def _no_frame(frame: int | None) -> None:
    if frame is not None:
        raise MedQError("frame= is for 4-D files and images. Pass the one volume of this array instead.")


def _usual_units(modality: Modality | None) -> Units:
    return Units.HU if modality is Modality.CT else Units.ARBITRARY


def _of_array(given: Any, modality: Modality | None, units: Units | None, spacing: Any) -> MedicalImage:
    array = given if isinstance(given, np.ndarray) else given.detach().cpu().to(dtype=_float32_of(given)).numpy()
    voxels = _real(array)
    if voxels.ndim not in (2, 3) or 0 in voxels.shape:
        raise MedQError(f"an array must have shape (Z, Y, X) or (Y, X), no axis empty; got {voxels.shape}.")
    steps = _spacing_of(spacing)
    return MedicalImage(voxels, steps, axial_affine(steps), modality, units or _usual_units(modality))


def _float32_of(tensor: Any) -> Any:
    """Return float32 for what numpy has no type of, the tensor's own type otherwise."""
    import torch

    return torch.float32 if tensor.dtype.is_floating_point else tensor.dtype


def _real(array: np.ndarray) -> np.ndarray:
    """Return the values as float32.

    Raises:
        MedQError: If they are no real numbers, or none that float32 holds.
    """
    if array.dtype.kind == "b":
        raise MedQError("values are true or false: this is a mask. Pass the image itself.")
    if array.dtype.kind not in "iuf":
        raise MedQError(f"values must be real numbers, got {array.dtype}. Of complex values pass the magnitude.")
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(np.float32)


def _spacing_of(spacing: Any) -> tuple[float, float, float]:
    try:
        steps = [float(step) for step in np.atleast_1d(np.asarray(1.0 if spacing is None else spacing, np.float64))]
    except (TypeError, ValueError):
        steps = []
    steps = steps * 3 if len(steps) == 1 else [1.0, *steps] if len(steps) == 2 else steps
    if len(steps) != 3 or not all(np.isfinite(steps)) or min(steps) <= 0:
        raise MedQError("spacing must be positive millimetres: (z, y, x), (y, x) of a slice, or one number.")
    return steps[0], steps[1], steps[2]


def _of_nibabel(given: Any, frame: int | None) -> tuple[np.ndarray, np.ndarray]:
    affine = np.array(given.affine if given.affine is not None else np.eye(4), dtype=np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise MedQError("the affine of the nibabel image is not invertible. Correct sform and qform.")
    shape = tuple(given.shape)
    data = np.asanyarray(given.dataobj)
    data = data.reshape(*shape[:3], -1) if len(shape) > 3 else data.reshape(*shape, *[1] * (4 - len(shape)))
    return rearrange(_real(_chosen(data, frame)), "x y z -> z y x"), affine


def _of_simpleitk(given: Any, frame: int | None) -> tuple[np.ndarray, np.ndarray]:
    library = sys.modules["SimpleITK"]
    if given.GetNumberOfComponentsPerPixel() != 1:
        raise MedQError("the SimpleITK image has several values per voxel. Pass one of them, or the magnitude.")
    dimension = given.GetDimension()
    if dimension not in (2, 3, 4):
        raise MedQError(f"the SimpleITK image has {dimension} axes; a slice has 2, a volume 3.")
    data = library.GetArrayFromImage(given).T  # x y z t
    affine = np.eye(4)
    side = min(dimension, 3)
    turn = np.array(given.GetDirection(), dtype=np.float64).reshape(dimension, dimension)[:side, :side]
    affine[:side, :side] = turn * np.array(given.GetSpacing(), dtype=np.float64)[:side]
    affine[:side, 3] = given.GetOrigin()[:side]
    chosen = _chosen(data.reshape(*data.shape, *[1] * (4 - data.ndim)), frame)
    return rearrange(_real(chosen), "x y z -> z y x"), LPS_TO_RAS @ affine


def _chosen(data: np.ndarray, frame: int | None) -> np.ndarray:
    """Return one volume (X, Y, Z) of several (X, Y, Z, T)."""
    count = data.shape[3]
    if frame is None and count != 1:
        raise MedQError(f"the image holds {count} volumes. Choose one: frame=0 to {count - 1}.")
    if not 0 <= (frame or 0) < count:
        raise MedQError(f"the image has no frame {frame}; its last one is {count - 1}, counted from 0.")
    return data[..., frame or 0]
