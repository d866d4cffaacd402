"""Counting what a DICOM file is made of, before a parser makes objects of it.

A parser takes some 40 microseconds and half a kilobyte for every element and item, so 8 MB of empty items would take it
a minute. Counting takes a hundredth of that.
"""

from __future__ import annotations

import mmap
from typing import Literal

from medq_uni.errors import UnreadableImage

SMALL_BYTES = 2**18
"""A file up to this size cannot hold too much, and is not scanned."""
MAX_PARTS = 60_000
"""Most elements and items of a file with few pixels."""
BYTES_PER_PART = 256
"""A file with more bytes of pixels may have another element or item for each of these: some 70 for each frame."""
MAX_VALUES = 2**20
"""Most values, as the backslashes between them."""
ITEMS, PIXELS = 0xFFFE, (0x7FE0, 0x0010)
"""Group of what begins and ends items, and the element that ends the header."""
UNDEFINED = 0xFFFFFFFF
LONG_VRS = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
"""Those whose length has four bytes, after two that are reserved."""
SHORT_VRS = {
    *(b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS"),
    *(b"ST", b"TM", b"UI", b"UL", b"US"),
}


def check_structure(name: str, data: bytes | mmap.mmap, *, start: int, is_little: bool = True) -> None:
    """Refuse a data set of too many elements, items or values.

    Sequences are stepped into, so that everything is counted; what is no DICOM ends the count, for the parser to judge.

    Args:
        name: File name for the message.
        data: File, or data set once inflated.
        start: Where the elements begin.
        is_little: Byte order.

    Raises:
        UnreadableImage: With what there is too much of.
    """
    end, num_parts = _walk(data, start, "little" if is_little else "big")
    if num_parts > MAX_PARTS + max(0, len(data) - end) // BYTES_PER_PART:
        raise _too_many(name, "elements and items", num_parts)
    num_values = bytes(data[start:end]).count(b"\\")
    if num_values > MAX_VALUES:
        raise _too_many(name, "values", num_values)


def _walk(data: bytes | mmap.mmap, at: int, order: Literal["little", "big"]) -> tuple[int, int]:
    """Return where the pixels begin, or what is no element, and how many elements and items come before."""
    num_parts = 0
    size = len(data)
    item_start = b"\xfe\xff\x00\xe0" if order == "little" else b"\xff\xfe\xe0\x00"
    most = MAX_PARTS + size // BYTES_PER_PART + 1
    while at + 8 <= size and num_parts < most:
        head = bytes(data[at : at + 12])
        tag = (int.from_bytes(head[:2], order), int.from_bytes(head[2:4], order))
        if tag == PIXELS:
            break
        num_parts += 1
        if tag[0] == ITEMS:
            at += 8
            continue
        representation = head[4:6]
        if representation in LONG_VRS and head[6:8] == b"\0\0":
            at, length = at + 12, int.from_bytes(head[8:12], order)
        elif representation in SHORT_VRS:
            at, length = at + 8, int.from_bytes(head[6:8], order)
        else:
            at, length = at + 8, int.from_bytes(head[4:8], order)
        if representation != b"SQ" and length != UNDEFINED and data[at : at + 4] != item_start:
            at += length
    return min(at, size), num_parts


def _too_many(name: str, what: str, found: int) -> UnreadableImage:
    return UnreadableImage(
        f"{name}: the DICOM header has {found} {what} or more, which is more than an image of its size needs. "
        "The file is damaged or made to harm; export the image again."
    )
