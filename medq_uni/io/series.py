"""Which DICOM files are the slices of one image: by identity, orientation, echo, time point and position."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from pydicom import Dataset

from medq_uni.errors import UnreadableImage
from medq_uni.io.dicom_pixels import parsing, read_dataset, uid_name
from medq_uni.io.frames import numbers, place_along, stacks_of, volumes
from medq_uni.io.guard import guarded
from medq_uni.io.image_kind import is_localizer
from medq_uni.io.limits import begin
from medq_uni.io.mosaic import is_mosaic

T = TypeVar("T")
FILES_PER_CALL = 128
"""Files whose headers are asked for at a time."""


class NoImage(UnreadableImage):
    """A sound DICOM object of another kind."""


class SliceRef(NamedTuple):
    """One DICOM image file, and what tells its image apart from others."""

    path: Path
    uid: str
    """Of the series, or the path where there is none."""
    instance: str
    """SOPInstanceUID; empty where there is none."""
    stack: tuple[object, ...]
    """Patient, study, size, orientation, echo, time point; the path as well of a multi-frame object."""
    place: float | None
    """Position along the normal in mm, rounded; None where unknown."""
    order: tuple[float, ...]
    """Acquisition and instance number, which tell slices at one position apart."""
    num_stacks: int = 1
    """Of a multi-frame object."""
    is_mosaic: bool = False
    """Whether it holds slices side by side, which become objects of their own."""
    problem: str = ""
    """Why its series cannot be read, although its own header can."""


def slice_of(path: Path) -> SliceRef:
    """Return what a file says of its place in a series, from the header alone.

    Raises:
        NoImage: If it is a DICOM object of another kind.
        UnreadableImage: If it cannot be read, or is a localizer.
    """
    with parsing(path.name):
        header = read_dataset(path, header_only=True)
        if not header.get("Rows") or not header.get("Columns"):
            media = getattr(header, "file_meta", {}).get("MediaStorageSOPClassUID")
            kind = header.get("SOPClassUID") or media
            is_another_kind = kind and "Image Storage" not in uid_name(kind)
            refusal = NoImage if is_another_kind else UnreadableImage
            raise refusal(f"{path.name}: DICOM without an image ({uid_name(kind)}).")
        if is_localizer(header):
            raise UnreadableImage(f"{path.name}: a localizer, set aside. Pass it by itself to read it.")
        uid = str(header.get("SeriesInstanceUID") or path)
        orientation = numbers(header, "ImageOrientationPatient", 6)
        place = place_along(orientation, numbers(header, "ImagePositionPatient", 3))
        stack = (
            *(str(header.get(keyword, "")) for keyword in ("PatientID", "StudyInstanceUID", "Rows", "Columns")),
            None if orientation is None else tuple(np.round(orientation, 2) + 0.0),
            *(str(header.get(keyword, "")) for keyword in ("EchoNumbers", "EchoTime", "TemporalPositionIdentifier")),
            str(path) if int(header.get("NumberOfFrames") or 1) > 1 or is_mosaic(header) else "",
        )
        return SliceRef(
            path=path,
            uid=uid,
            instance=str(header.get("SOPInstanceUID", "") or ""),
            stack=stack,
            place=place,
            order=tuple(_number(header, keyword) for keyword in ("AcquisitionNumber", "InstanceNumber")),
            num_stacks=len(stacks_of(header)),
            is_mosaic=is_mosaic(header),
        )


def slices_of(paths: Sequence[Path]) -> list[SliceRef | UnreadableImage]:
    """Return what each file says, or why it cannot be read; the files are read by a worker, many per call."""
    return each_of(paths, _said_by)


def each_of(
    paths: Sequence[Path], function: Callable[[Sequence[Path]], list[T | UnreadableImage]]
) -> list[T | UnreadableImage]:
    """Return what a function says of each of many files, or why it says nothing.

    Args:
        paths: Files.
        function: On the top level of a module; it runs in a worker, for some files at a time.
    """
    found: list[T | UnreadableImage] = []
    for at in range(0, len(paths), FILES_PER_CALL):
        some = paths[at : at + FILES_PER_CALL]
        try:
            found += guarded(some, function, some)
        except UnreadableImage:  # one of them took the worker with it, which says of which only when it is alone
            for path in some:
                try:
                    found += guarded([path], function, [path])
                except UnreadableImage as error:
                    found.append(error)
    return found


def _said_by(paths: Sequence[Path]) -> list[SliceRef | UnreadableImage]:
    found: list[SliceRef | UnreadableImage] = []
    for number, path in enumerate(paths):
        begin(number)
        try:
            found.append(slice_of(path))
        except UnreadableImage as error:
            found.append(error)
    return found


def images_of(slices: Sequence[SliceRef]) -> dict[str, list[SliceRef]]:
    """Return the slices of every image under a key that is the same in every run.

    Where each position of a stack occurs equally often, the stack is that many volumes, in the order of acquisition.
    The same object twice with other content is an image per folder.
    """
    groups: dict[tuple[object, ...], list[SliceRef]] = defaultdict(list)
    clashing = _clashing(slices)
    for one in slices:
        folder = str(one.path.parent) if one.uid in clashing else ""
        groups[(one.uid, folder, *one.stack)].append(one)
    per_series: dict[str, int] = defaultdict(int)
    for key in groups:
        per_series[str(key[0])] += 1
    images: dict[str, list[SliceRef]] = {}
    for key, members in groups.items():
        # the key of a series that is one image is its UID, so that places of results stay what they were
        is_alone = per_series[str(key[0])] == 1 and not members[0].stack[-1]
        name = str(key[0]) if is_alone else f"{key[0]}|{hashlib.sha256(repr(key[1:]).encode()).hexdigest()}"
        found = volumes(members, lambda one: one.place, lambda one: (one.order, one.path))
        for number, volume in enumerate(found):
            images[name if number == 0 else f"{name}|{number}"] = sorted(volume, key=lambda one: one.path)
    return images


def _clashing(slices: Sequence[SliceRef]) -> set[str]:
    """Return the series of which two folders hold the same object with other content."""
    folders: dict[str, set[Path]] = defaultdict(set)
    uids: dict[str, str] = {}
    for one in slices:
        if one.instance:
            folders[one.instance].add(one.path.parent)
            uids[one.instance] = one.uid
    return {uids[instance] for instance, found in folders.items() if len(found) > 1}


def _number(header: Dataset, keyword: str) -> float:
    try:
        return float(header.get(keyword) or 0)
    except (TypeError, ValueError):
        return 0.0
