"""DICOM -> MedicalImage: one file (single- or multi-frame) or the files of one series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydicom import Dataset

from medq_uni.errors import UnreadableImage
from medq_uni.image import MedicalImage, Units, axial_affine
from medq_uni.io.dicom_alike import check_alike
from medq_uni.io.dicom_headers import Headers, RawHeader
from medq_uni.io.dicom_pixels import check_pixels, decode, parsing, read_elements, transfer_syntax
from medq_uni.io.frames import functional_group, stacks_of
from medq_uni.io.geometry import Plane, spacing_of, stack
from medq_uni.io.guard import guarded
from medq_uni.io.image_kind import check_kind, modality_of
from medq_uni.io.limits import begin, check_bytes, check_finite, is_worker, not_done, warn
from medq_uni.io.mosaic import is_mosaic, split
from medq_uni.io.rescale import Rescale, physical
from medq_uni.io.spool import Spool
from medq_uni.io.suv import MIN_JUDGED_VOXELS, check_suv, pet_scale
from medq_uni.taxonomy import Modality

LEAST_HU = -200.0
"""Where stored values are said to be HU as they are, some must be lower than this, as air and fat are."""
LOSSY_SYNTAXES = {
    "1.2.840.10008.1.2.4.50",  # JPEG baseline
    "1.2.840.10008.1.2.4.51",  # JPEG extended
    "1.2.840.10008.1.2.4.81",  # JPEG-LS near-lossless
}
UNKNOWN_LOSS_SYNTAXES = {"1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.203"}
"""JPEG 2000 and HTJ2K may be either; without a statement they are taken for lossy."""


class FrameRef(NamedTuple):
    """Where one slice came from: which header, which frame of it (from 0), with which rescale."""

    header: int
    number: int
    rescale: Rescale
    has_rescale: bool


@dataclass(frozen=True, eq=False)
class DicomSource:
    """What is needed to write an image back as DICOM.

    Attributes:
        headers: One per file, without pixels.
        paths: The files, never to be written to.
        frames: One per slice, in slice order.
        stored: Integers as read (Z, Y, X).
        affine: Affine of the whole stack.
        is_lossy: Whether it, or an ancestor, was compressed with loss.
        is_uneven: Whether the slices lie on no regular grid, so that the affine holds for none but the first.
    """

    headers: Sequence[Dataset]
    paths: tuple[Path, ...]
    frames: tuple[FrameRef, ...]
    stored: np.ndarray
    affine: np.ndarray
    is_lossy: bool
    is_uneven: bool = False


class Parsed(NamedTuple):
    """What the files of one image hold, decoded, without meaning yet."""

    headers: Headers
    frames: tuple[FrameRef, ...]
    """In slice order."""
    order: list[int]
    """Of the slices among the pixels."""
    pixels: Spool
    affine: np.ndarray
    is_lossy: bool
    is_uneven: bool
    notes: list[str]


def read_dicom(
    paths: list[Path], *, name: str, modality: Modality | None = None, frame: int | None = None
) -> MedicalImage:
    """Read one DICOM image: the files of one series, or one file with any number of frames.

    MONOCHROME1 says how the image is shown, dark for high values; the values are those of MONOCHROME2.

    Args:
        paths: Files, in any order.
        name: What messages call it.
        modality: Overrides the header.
        frame: Which stack of a multi-frame object, from 0.

    Raises:
        UnreadableImage: If it cannot be read as one volume.
    """
    try:
        parsed = guarded(paths, parse_files, paths, name, modality, frame)
    except UnreadableImage as error:
        culprits = [path for path in paths if str(error).startswith(f"{path.name}: ")]
        raise UnreadableImage(f"{error}{not_done(paths, culprits)}" if culprits else str(error)) from None
    with parsing(name):
        stored = parsed.pixels.array()
        stored = stored if parsed.order == list(range(len(stored))) else stored[parsed.order]
        source = DicomSource(
            headers=parsed.headers.raw(),
            paths=tuple(paths),
            frames=parsed.frames,
            stored=stored,
            affine=parsed.affine,
            is_lossy=parsed.is_lossy,
            is_uneven=parsed.is_uneven,
        )
        image, more = _assemble(name, source, modality)
        image = replace(image, source=_replace(image.source, headers=parsed.headers))
    for note in [*parsed.notes, *more]:
        warn(f"{name}: {note}")
    return image


def parse_files(paths: list[Path], name: str, modality: Modality | None, frame: int | None) -> Parsed:
    """Return what the files of one image hold; see :func:`read_dicom`."""
    with parsing(name):
        headers: list[Dataset] = []
        passed_on: list[RawHeader | Dataset] = []
        sizes: list[tuple[int, ...]] = []
        kinds: list[np.dtype] = []
        owners: list[str] = []
        planes: list[Plane] = []
        refs: list[FrameRef] = []
        pixels: Spool | None = None
        is_lossy = False
        for number, path in enumerate(paths):
            begin(number)
            dataset, elements = read_elements(path)
            check_pixels(path.name, dataset)
            check_kind(path.name, dataset, stated=modality)
            frames = decode(path.name, dataset)
            is_lossy |= _is_lossy(dataset)
            del dataset.PixelData
            dataset.buffer = None
            found: list[Dataset] = [dataset]
            if is_mosaic(dataset):
                found, frames = split(path.name, dataset, frames)
            pixels = _put(pixels, len(planes), frames, len(paths), len(found))
            per_header = (len(frames) // len(found), *frames.shape[1:])
            for header in found:
                for index in range(per_header[0]):
                    planes.append(plane_of(path.name, header, index))
                    refs.append(frame_ref(path.name, header, len(headers), index))
                headers.append(header)
                sizes.append(per_header)
                kinds.append(frames.dtype)
                owners.append(path.name)
            passed_on += [RawHeader(dataset, elements, one) for one in found] if is_worker() else found
            check_bytes(name, (len(planes), *frames.shape[1:]), frames.itemsize)
        check_alike(name, owners, headers, sizes, kinds)
        chosen = _stack(name, headers, len(planes), frame)
        order, affine, is_uneven, notes = _arrange(name, [planes[k] for k in chosen], headers)
        order = [chosen[k] for k in order]
        assert pixels is not None
        return Parsed(
            Headers(passed_on), tuple(refs[k] for k in order), order, pixels, affine, is_lossy, is_uneven, notes
        )


def _put(pixels: Spool | None, at: int, frames: np.ndarray, num_files: int, num_headers: int) -> Spool:
    """Store the slices of a file behind those before; what is not like the first is refused later."""
    if pixels is None:
        is_object = num_headers == 1 and len(frames) > 1  # which is an image of its own
        pixels = Spool((len(frames) * (1 if is_object else num_files), *frames.shape[1:]), frames.dtype)
    is_alike = (frames.shape[1:], frames.dtype) == (pixels.shape[1:], pixels.dtype)
    if is_alike and at + len(frames) <= len(pixels):
        pixels.put(at, frames)
    return pixels


def _assemble(name: str, source: DicomSource, modality: Modality | None) -> tuple[MedicalImage, list[str]]:
    """Return the image in physical units, and what has to be said about it."""
    header = source.headers[0]
    padding = _padding(header, source.stored)
    modality = modality or modality_of(header)
    units, source, voxels, notes = _scaled(source, modality, padding)
    check_finite(name, voxels)
    image = MedicalImage(
        voxels=voxels,
        spacing_mm=spacing_of(source.affine),
        affine=source.affine,
        modality=modality,
        units=units,
        padding=padding,
        source=source,
    )
    return image, notes


def _replace(source: DicomSource, **changes: object) -> DicomSource:
    return DicomSource(**{**vars(source), **changes})


def _numbers(name: str, dataset: Dataset | None, keyword: str, count: int) -> tuple[float, ...] | None:
    """Return the numbers of a tag, None where it is absent or empty."""
    value = None if dataset is None else dataset.get(keyword)
    if value is None or value == "":
        return None
    try:
        values = np.atleast_1d(np.asarray(value, dtype=np.float64))
    except (TypeError, ValueError):
        values = np.array([np.nan])
    if values.shape != (count,) or not np.isfinite(values).all():
        raise UnreadableImage(f"{name}: {keyword} needs {count} finite number(s). Correct the header.")
    return tuple(float(v) for v in values)


def plane_of(name: str, dataset: Dataset, index: int) -> Plane:
    """Return where the header says that a frame lies.

    Raises:
        UnreadableImage: If a tag does not hold the numbers that it should.
    """
    place = functional_group(dataset, index, "PlanePositionSequence") or dataset
    turn = functional_group(dataset, index, "PlaneOrientationSequence") or dataset
    measures = functional_group(dataset, index, "PixelMeasuresSequence") or dataset
    spacing = _numbers(name, measures, "PixelSpacing", 2)
    if spacing is not None and min(spacing) <= 0:
        raise UnreadableImage(f"{name}: PixelSpacing must be positive. Correct the header.")
    step = None
    for keyword in ("SpacingBetweenSlices", "SliceThickness"):
        stated = _numbers(name, measures, keyword, 1)
        step = step or (abs(stated[0]) if stated else None)
    return Plane(
        position=_numbers(name, place, "ImagePositionPatient", 3),
        orientation=_numbers(name, turn, "ImageOrientationPatient", 6),
        spacing=(spacing[0], spacing[1]) if spacing else None,
        step_mm=step or None,
    )


def frame_ref(name: str, dataset: Dataset, header: int, index: int) -> FrameRef:
    """Return where a slice comes from and how its values are scaled, of a frame of the header of this number.

    Raises:
        UnreadableImage: If the scaling is not one that is understood.
    """
    if dataset.get("ModalityLUTSequence"):
        raise UnreadableImage(f"{name}: a ModalityLUTSequence is not supported. Export with RescaleSlope.")
    where = functional_group(dataset, index, "PixelValueTransformationSequence") or dataset
    slope = _numbers(name, where, "RescaleSlope", 1)
    intercept = _numbers(name, where, "RescaleIntercept", 1)
    if slope == (0.0,):
        raise UnreadableImage(f"{name}: RescaleSlope is 0, so every voxel is the same. Correct the header.")
    rescale = Rescale(slope[0] if slope else 1.0, intercept[0] if intercept else 0.0)
    return FrameRef(header, index, rescale, slope is not None)


def _stack(name: str, headers: list[Dataset], count: int, frame: int | None) -> tuple[int, ...]:
    """Return the frames of the stack that is read."""
    stacks = stacks_of(headers[0]) if len(headers) == 1 else ((),)
    if frame is None and len(stacks) > 1:
        raise UnreadableImage(
            f"{name}: holds {len(stacks)} stacks (orientations, echoes or time points). Choose one (frame=0 to "
            f"{len(stacks) - 1}, --frame on the command line), or pass its folder: each is an image of its own."
        )
    if not 0 <= (frame or 0) < len(stacks):
        raise UnreadableImage(f"{name}: has no frame {frame}; its last one is {len(stacks) - 1}, counted from 0.")
    return stacks[frame or 0] or tuple(range(count))


def _arrange(name: str, planes: list[Plane], headers: list[Dataset]) -> tuple[list[int], np.ndarray, bool, list[str]]:
    """Return order and affine (RAS+) of the slices, whether they lie on no regular grid, and notes."""
    notes = [] if planes[0].spacing else ["PixelSpacing is missing; 1 mm was assumed."]
    # a classic multi-frame object has one place for all of its frames, in the order of a stack
    is_classic = len(headers) == 1 and not headers[0].get("PerFrameFunctionalGroupsSequence")
    if all(plane.is_placed for plane in planes) and not (is_classic and len(planes) > 1):
        order, affine, doubt = stack(name, planes)
        if doubt is not None:
            notes.append(f"{doubt} Each slice keeps its place in DICOM output; NIfTI cannot hold it.")
        return order, affine, doubt is not None, notes
    if len(headers) > 1:
        num_lost = sum(not plane.is_placed for plane in planes)
        raise UnreadableImage(
            f"{name}: {num_lost} of {len(planes)} slices have no ImagePositionPatient or "
            "ImageOrientationPatient, so their order is unknown. Read them one by one."
        )
    order = list(range(len(planes)))
    if planes[0].is_placed:
        notes.append("frames have no position of their own; a straight stack in stored order was assumed.")
        return order, stack(name, planes[:1])[1], False, notes
    notes.append("the position in the patient is missing; an axial stack in stored order was assumed.")
    return order, _assumed_affine(planes[0]), False, notes


def _assumed_affine(plane: Plane) -> np.ndarray:
    rows, columns = plane.spacing or (1.0, 1.0)
    return axial_affine((plane.step_mm or 1.0, rows, columns))


def _padding(header: Dataset, stored: np.ndarray) -> np.ndarray | None:
    """Return where the stored value is PixelPaddingValue, or in the range up to its limit."""
    if header.get("PixelPaddingValue") in (None, ""):
        return None
    bits = stored.dtype.itemsize * 8

    def as_stored(keyword: str) -> int:
        value = int(header[keyword].value) % (1 << bits)  # sometimes written with the other signedness
        return value - (1 << bits) if stored.dtype.kind == "i" and value >= 1 << (bits - 1) else value

    low = high = as_stored("PixelPaddingValue")
    if header.get("PixelPaddingRangeLimit") not in (None, ""):
        low, high = sorted((low, as_stored("PixelPaddingRangeLimit")))
    padding = (stored >= low) & (stored <= high)
    return padding if padding.any() else None


def _scaled(
    source: DicomSource, modality: Modality | None, padding: np.ndarray | None
) -> tuple[Units, DicomSource, np.ndarray, list[str]]:
    """Return the units, the source with the factors that make them, the values (Z, Y, X), and notes."""
    if modality is not Modality.PET:
        voxels = _values(source)
        units, notes = _units(source, modality, voxels if padding is None else voxels[~padding])
        return units, source, voxels, notes
    scale = pet_scale(source.headers)
    source = _with_factors(source, scale.factors)
    voxels = _values(source)
    if scale.units is not Units.SUV or str(source.headers[0].get("Units", "")) == "GML":
        return scale.units, source, voxels, scale.notes
    doubt = check_suv(voxels if padding is None else voxels[~padding])
    if doubt is None:
        return scale.units, source, voxels, scale.notes
    if scale.activity is None:
        source = _with_factors(source, [1.0] * len(source.headers))
        return Units.ARBITRARY, source, _values(source), [f"no SUV, values are arbitrary: {doubt}."]
    source = _with_factors(source, scale.activity)
    return Units.BQML, source, _values(source), [f"no SUV, values stay Bq/ml: {doubt}."]


def _with_factors(source: DicomSource, factors: list[float]) -> DicomSource:
    frames = (f._replace(rescale=f.rescale._replace(factor=factors[f.header])) for f in source.frames)
    return _replace(source, frames=tuple(frames))


def _values(source: DicomSource) -> np.ndarray:
    voxels = np.empty(source.stored.shape, np.float32)
    for z, frame in enumerate(source.frames):
        physical(source.stored[z], frame.rescale, out=voxels[z])
    return voxels


def _units(source: DicomSource, modality: Modality | None, values: np.ndarray) -> tuple[Units, list[str]]:
    """Return the units of the rescaled values of CT and MR, and notes."""
    header = source.headers[0]
    if modality is not Modality.CT:
        return Units.ARBITRARY, []
    where = functional_group(header, 0, "PixelValueTransformationSequence") or header
    if not source.frames[0].has_rescale or str(where.get("RescaleType", "HU") or "HU") != "HU":
        return Units.ARBITRARY, ["the rescale does not say Hounsfield units; values are arbitrary."]
    has_shift = any(frame.rescale.intercept != 0 for frame in source.frames)
    if not has_shift and values.size >= MIN_JUDGED_VOXELS and float(values.min()) > LEAST_HU:
        reason = "RescaleIntercept is 0 and no value is near that of air (-1000 HU), so these are no Hounsfield units"
        return Units.ARBITRARY, [f"{reason}; values are arbitrary."]
    return Units.HU, []


def _is_lossy(dataset: Dataset) -> bool:
    stated = str(dataset.get("LossyImageCompression", "") or "")
    syntax = str(transfer_syntax(dataset))
    return stated == "01" or syntax in LOSSY_SYNTAXES or (syntax in UNKNOWN_LOSS_SYNTAXES and stated != "00")
