"""Siemens mosaics: the slices of a volume side by side in one picture, and where each of them lies.

The count of slices, the normal and the order are in the private header (CSA). Its position is that of the corner of
the picture, as if the picture were a slice around the same center; nibabel and dcm2niix understand it so too.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from einops import rearrange
from pydicom import Dataset

from medq_uni.errors import UnreadableImage
from medq_uni.io.frames import numbers
from medq_uni.io.limits import third_party

CREATOR, IMAGE_HEADER = "SIEMENS CSA HEADER", 0x10
CSA_HEADERS = (0x08, 0x09, IMAGE_HEADER, 0x18, 0x19, 0x20)
COUNT = (0x0019, "SIEMENS MR HEADER", 0x0A)
MOST_SLICES = 1024


class Mosaic(NamedTuple):
    """What a header says of a mosaic."""

    num_slices: int
    """Slices."""
    side: int
    """Slices per row and per column of the picture."""
    normal: np.ndarray
    """LPS direction from one slice to the next."""


def is_mosaic(header: Dataset) -> bool:
    """Return whether a header says that the picture holds many slices."""
    image_type = header.get("ImageType")
    words = [image_type] if isinstance(image_type, str) else list(image_type or [])
    return "MOSAIC" in [str(word).strip().upper() for word in words] or (_private_count(header) or 0) > 1


def mosaic_of(header: Dataset) -> Mosaic | None:
    """Return what a header says of its mosaic; None where it does not say all that splitting needs."""
    csa = _csa(header)
    count = _private_count(header) or _first(csa, "NumberOfImagesInMosaic")
    normal = _vector(csa, "SliceNormalVector")
    turn, position = numbers(header, "ImageOrientationPatient", 6), numbers(header, "ImagePositionPatient", 3)
    spacing = numbers(header, "PixelSpacing", 2)
    if not count or not 1 < count <= MOST_SLICES or any(one is None for one in (normal, turn, position, spacing)):
        return None
    assert normal is not None
    assert turn is not None
    side = math.ceil(math.sqrt(count))
    is_square = int(header.get("Rows") or 0) % side == 0 and int(header.get("Columns") or 0) % side == 0
    along = float(normal @ np.cross(turn[:3], turn[3:]))
    if not is_square or abs(abs(along) - 1) > 1e-3 or not _step(header) or int(header.get("NumberOfFrames") or 1) > 1:
        return None
    return Mosaic(int(count), side, normal)


def split(name: str, header: Dataset, picture: np.ndarray) -> tuple[list[Dataset], np.ndarray]:
    """Return a header for every slice of a mosaic, and the slices (Z, Y, X).

    Args:
        name: What messages call it.
        header: Without pixels.
        picture: Stored integers (1, rows, columns).

    Raises:
        UnreadableImage: If the header does not say how to split it.
    """
    mosaic = mosaic_of(header)
    if mosaic is None:
        raise UnreadableImage(f"{name}: {WHY_NOT}")
    slices = rearrange(picture[0], "(r y) (c x) -> (r c) y x", r=mosaic.side, c=mosaic.side)[: mosaic.num_slices]
    turn, position = numbers(header, "ImageOrientationPatient", 6), numbers(header, "ImagePositionPatient", 3)
    spacing = numbers(header, "PixelSpacing", 2)
    assert turn is not None
    assert position is not None
    assert spacing is not None
    rows, columns = slices.shape[1:]
    margin = (mosaic.side - 1) / 2
    first = position + turn[:3] * spacing[1] * columns * margin + turn[3:] * spacing[0] * rows * margin
    number = _whole(header.get("InstanceNumber"))
    plain = _plain(header)
    headers = []
    for k in range(mosaic.num_slices):
        one = _sharing(plain)
        spot = first + k * _step(header) * mosaic.normal
        place = [f"{value:.6f}".rstrip("0").rstrip(".")[:16] for value in spot]
        for keyword, kind, value in (("Rows", "US", rows), ("Columns", "US", columns)):
            one.add_new(keyword, kind, value)
        one.add_new("ImagePositionPatient", "DS", place)
        one.add_new("InstanceNumber", "IS", max(number - 1, 0) * mosaic.num_slices + k + 1)
        headers.append(one)
    return headers, np.ascontiguousarray(slices)


WHY_NOT = (
    "a mosaic (ImageType MOSAIC): many slices side by side in one picture, and the header does not say how many or in "
    "which direction (CSA NumberOfImagesInMosaic, SliceNormalVector). Split it first, for example with dcm2niix."
)


def _sharing(header: Dataset) -> Dataset:
    """Return a data set of the same elements, which cost nothing more; they are replaced in it, never changed."""
    shared = Dataset()
    for element in header:
        shared.add(element)
    shared.file_meta = header.file_meta
    is_implicit, is_little = header.original_encoding
    shared.set_original_encoding(is_implicit, is_little, header.original_character_set)
    return shared


def _plain(header: Dataset) -> Dataset:
    """Return a header without what is true of the mosaic alone."""
    plain = _sharing(header)
    words = [str(word) for word in header.get("ImageType") or [] if str(word).strip().upper() != "MOSAIC"]
    plain.add_new("ImageType", "CS", words)
    for group, creator, offsets in ((0x0029, CREATOR, CSA_HEADERS), (*COUNT[:2], COUNT[2:])):
        try:
            block = header.private_block(group, creator)
        except KeyError:
            continue
        for offset in offsets:
            if block.get_tag(offset) in plain:
                del plain[block.get_tag(offset)]
    return plain


def _step(header: Dataset) -> float:
    """Return the distance of slices in mm, 0 where it is unknown."""
    for keyword in ("SpacingBetweenSlices", "SliceThickness"):
        value = header.get(keyword)
        try:
            step = abs(float(value)) if value not in (None, "") else 0.0
        except (TypeError, ValueError):
            step = 0.0
        if step and math.isfinite(step):
            return step
    return 0.0


def _whole(value: Any) -> int:
    try:
        return int(value or 0)
    except (TypeError, ValueError):
        return 0


def _private_count(header: Dataset) -> int | None:
    group, creator, offset = COUNT
    try:
        value = header.private_block(group, creator)[offset].value
        value = int.from_bytes(value[:2], "little") if isinstance(value, bytes) else value
        return int(value if isinstance(value, (int, float, str)) else value[0])
    except (KeyError, IndexError, TypeError, ValueError):
        return None


def _csa(header: Dataset) -> dict[str, Any]:
    """Return the elements of the private image header; none where it cannot be read."""
    try:
        value = header.private_block(0x0029, CREATOR)[IMAGE_HEADER].value
    except KeyError:
        return {}
    if not isinstance(value, bytes):
        return {}
    try:
        with third_party("CSA", kind="CSA header"):
            from nibabel.nicom import csareader  # warns when it is loaded

            tags: dict[str, Any] = csareader.read(value)["tags"]
            return tags
    except UnreadableImage:
        return {}


def _items(csa: dict[str, Any], name: str) -> list[float]:
    try:
        return [float(item) for item in csa[name]["items"]]
    except (KeyError, TypeError, ValueError):
        return []


def _first(csa: dict[str, Any], name: str) -> int | None:
    found = _items(csa, name)
    return int(found[0]) if found and math.isfinite(found[0]) else None


def _vector(csa: dict[str, Any], name: str) -> np.ndarray | None:
    found = np.asarray(_items(csa, name)[:3])
    return found if found.shape == (3,) and np.isfinite(found).all() else None
