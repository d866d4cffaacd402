"""MedicalImage -> derived DICOM: the source's objects again, with new pixels and new identity."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydicom import Dataset

from medq_uni.errors import UnwritableImage
from medq_uni.files import atomic_file, atomic_folder
from medq_uni.image import MedicalImage, Units
from medq_uni.io.dicom import DicomSource, FrameRef
from medq_uni.io.dicom_derive import Lineage, derive_frames, derived_header
from medq_uni.io.dicom_pixels import is_uid, parsing
from medq_uni.io.dicom_scale import keep_true
from medq_uni.io.frames import functional_group
from medq_uni.io.geometry import slice_offset
from medq_uni.io.limits import check_finite, third_party
from medq_uni.io.provenance import Derivation
from medq_uni.io.rescale import Stored, decimal_string, quantize

MAX_HU_STEP = 1.0
"""Largest step of a written CT, so that rounding is at most 0.5 HU."""


def write_dicom(
    image: MedicalImage, path: Path, *, derivation: Derivation | None = None, series_number_offset: int = 1
) -> None:
    """Write an image that was read from DICOM as a derived series of the same SOP class.

    Args:
        image: With the source that it was read with; the same grid, or a run of its slices.
        path: A ``.dcm`` file for one object, or a folder for any number of them.
        derivation: How it was derived; None for one that is told apart by its pixels alone.
        series_number_offset: SeriesNumber = original * 100 + this.

    Raises:
        UnwritableImage: If the image did not come from DICOM, its geometry was changed, or one file
            is asked for where several objects are needed.
    """
    source, frames, stored_source = own_frames(image, path)
    check_finite(path.name, image.voxels)
    encoded = _encode(image, source, frames, stored_source)
    pixels = b"" if derivation else b"".join(part.values.tobytes() for part in encoded)
    lineage = Lineage(
        derivation or Derivation(), series_number_offset, source.is_lossy, hashlib.sha256(pixels).hexdigest()
    )
    objects: dict[int, list[int]] = {}  # header -> its slices, in slice order
    for k, frame in enumerate(frames):
        objects.setdefault(frame.header, []).append(k)
    with parsing(path.name), third_party(path.name, kind="DICOM", error=UnwritableImage):
        datasets = (_dataset(source, header, slices, frames, encoded, lineage) for header, slices in objects.items())
        if path.suffix:
            with atomic_file(path) as temporary:
                _save(next(datasets), temporary)
        else:
            with atomic_folder(path) as temporary:
                for number, dataset in enumerate(datasets, start=1):
                    _save(dataset, temporary / f"{number:04d}.dcm")


def own_frames(image: MedicalImage, path: Path) -> tuple[DicomSource, tuple[FrameRef, ...], np.ndarray]:
    """Return the source of an image, and those of its frames and stored integers that the image's slices are.

    Raises:
        UnwritableImage: If the image did not come from DICOM, its geometry was changed, or one file
            is asked for where several objects are needed.
    """
    source, num_slices = image.source, image.shape[0]
    if not isinstance(source, DicomSource):
        raise UnwritableImage(
            f"{path.name}: this image was not read from DICOM, so it has no patient and study to belong "
            "to. Write it as .nii.gz."
        )
    offset = None
    if image.shape[1:] == source.stored.shape[1:]:
        offset = slice_offset(source.affine, image.affine, num_slices, len(source.frames))
    if offset is None:
        raise UnwritableImage(
            f"{path.name}: the image no longer lies on the grid of its DICOM source (cropped or resampled). "
            "Write it as .nii.gz."
        )
    frames = source.frames[offset : offset + num_slices]
    if any(not is_uid(source.headers[frame.header].get("SOPClassUID")) for frame in frames):
        raise UnwritableImage(
            f"{path.name}: the source has no SOPClassUID, so it is not known what kind of DICOM object to write. "
            "Write it as .nii.gz."
        )
    num_objects = len({frame.header for frame in frames})
    if path.suffix and num_objects > 1:
        raise UnwritableImage(
            f"{path.name}: the series has {num_objects} slices, one object each. "
            f"Give the name of a folder: {path.stem}."
        )
    return source, frames, source.stored[offset : offset + num_slices]


def _encode(image: MedicalImage, source: DicomSource, frames: tuple[FrameRef, ...], stored: np.ndarray) -> list[Stored]:
    """Return integers and rescale per slice, in slice order."""
    max_step = MAX_HU_STEP if image.units is Units.HU else None
    header = source.headers[frames[0].header]
    is_classic = len(source.headers) == 1 and not header.get("PerFrameFunctionalGroupsSequence")
    # a classic multi-frame object has one place for the rescale, so all frames are encoded together
    runs = [slice(0, len(frames))] if is_classic else [slice(z, z + 1) for z in range(len(frames))]
    result: list[Stored] = []
    for run in runs:
        frame = frames[run.start]
        part = quantize(
            image.voxels[run],
            Stored(stored[run], frame.rescale),
            padding=None if image.padding is None else image.padding[run],
            max_step=max_step,
            is_fixed=not frame.has_rescale,
        )
        result += [Stored(values, part.rescale) for values in part.values]
    return result


def _dataset(
    source: DicomSource,
    header_index: int,
    slices: list[int],
    frames: tuple[FrameRef, ...],
    encoded: list[Stored],
    lineage: Lineage,
) -> Dataset:
    """Return one derived object with the given slices, frames in the order of the source."""
    original = source.headers[header_index]
    slices = sorted(slices, key=lambda k: frames[k].number)
    dataset = derived_header(original, replace(lineage, part=_part(source, header_index, slices, frames)))
    parts = [encoded[k] for k in slices]
    is_new_rescale = any(encoded[k].rescale != frames[k].rescale for k in slices)
    if original.get("PerFrameFunctionalGroupsSequence"):
        derive_frames(dataset, original, [frames[k].number for k in slices], lineage)
        if is_new_rescale:
            _set_frame_rescales(dataset, original, [frames[k] for k in slices], parts)
    elif len(slices) != int(original.get("NumberOfFrames") or 1):
        raise UnwritableImage(
            "a part of a multi-frame object without functional groups cannot be written as DICOM. Write it as .nii.gz."
        )
    elif is_new_rescale:
        _set_rescale(dataset, parts[0])
        keep_true(dataset, frames[slices[0]].rescale, parts[0].rescale)
    _set_pixels(dataset, np.stack([part.values for part in parts]))
    return dataset


def _part(source: DicomSource, header_index: int, slices: list[int], frames: tuple[FrameRef, ...]) -> str:
    """Return what tells several derived objects of one source object apart; nothing where there is only one."""
    if len(source.headers) > len(source.paths):
        return str(header_index)  # a slice of a mosaic
    if len(slices) < int(source.headers[header_index].get("NumberOfFrames") or 1):
        return ",".join(str(frames[k].number) for k in slices)
    return ""


def _set_rescale(item: Dataset, part: Stored) -> None:
    item.RescaleSlope = decimal_string(part.rescale.slope)
    item.RescaleIntercept = decimal_string(part.rescale.intercept)
    if "RealWorldValueMappingSequence" in item:  # it maps the old integers
        del item.RealWorldValueMappingSequence


def _set_frame_rescales(dataset: Dataset, original: Dataset, frames: list[FrameRef], parts: list[Stored]) -> None:
    """Give every frame its own rescale; a functional group is either shared or per frame, never both."""
    groups = dataset.PerFrameFunctionalGroupsSequence
    for group, frame, part in zip(groups, frames, parts, strict=True):
        keep_true(group, frame.rescale, part.rescale)
        old = functional_group(original, frame.number, "PixelValueTransformationSequence")
        item = copy.deepcopy(old) if old is not None else Dataset()
        _set_rescale(item, part)
        item.RescaleType = item.get("RescaleType") or original.get("RescaleType") or "US"
        group.PixelValueTransformationSequence = [item]
    for item in [dataset, *groups, *(dataset.get("SharedFunctionalGroupsSequence") or [])]:
        if "RealWorldValueMappingSequence" in item:
            del item.RealWorldValueMappingSequence
    for shared in dataset.get("SharedFunctionalGroupsSequence") or []:
        if "PixelValueTransformationSequence" in shared:
            del shared.PixelValueTransformationSequence


def _set_pixels(dataset: Dataset, values: np.ndarray) -> None:
    """Store integers (frames, rows, columns), and what the header says of them."""
    low, high = int(values.min()), int(values.max())
    bits, is_signed = int(dataset.BitsStored), values.dtype.kind == "i"
    smallest = -(2 ** (bits - 1)) if is_signed else 0
    if low < smallest or high > smallest + 2**bits - 1:
        bits = values.dtype.itemsize * 8
    dataset.BitsStored, dataset.HighBit = bits, bits - 1
    dataset.SamplesPerPixel = 1
    for keyword, value in (("SmallestImagePixelValue", low), ("LargestImagePixelValue", high)):
        if values.dtype.itemsize <= 2:
            dataset.add_new(keyword, "SS" if is_signed else "US", value)
        elif keyword in dataset:
            del dataset[keyword]
    data = values.astype(values.dtype.newbyteorder("<")).tobytes()
    dataset.add_new("PixelData", "OB" if values.dtype.itemsize == 1 else "OW", data + b"\0" * (len(data) % 2))


def _save(dataset: Dataset, path: Path) -> None:
    writer: Callable[..., None] = dataset.save_as
    writer(path, implicit_vr=False, little_endian=True, enforce_file_format=True)
