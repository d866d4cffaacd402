"""Counting what a DICOM file is made of, before a parser makes objects of it.

A parser takes some 40 microseconds and half a kilobyte for every element and item; 8 MB of empty items would take it
minutes. Counting takes a hundredth of that.
"""

from __future__ import annotations

from medq_uni.errors import UnreadableImage

SMALL_BYTES = 2**20
"""A file up to this size cannot hold more than is allowed, and is not scanned."""
MAX_ITEMS = 2**17
"""Most items of sequences: 10 000 frames with a dozen each."""
MAX_ELEMENTS = 2**18
MAX_VALUES = 2**20
"""Most values, as the backslashes between them."""
ITEM, ITEM_END, SEQUENCE_END, PIXELS = (0xFFFE, 0xE000), (0xFFFE, 0xE00D), (0xFFFE, 0xE0DD), (0x7FE0, 0x0010)
UNDEFINED = 0xFFFFFFFF
LONG_VRS = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
"""Those whose length has four bytes, after two that are reserved."""
SHORT_VRS = {
    *(b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS"),
    *(b"ST", b"TM", b"UI", b"UL", b"US"),
}


def check_structure(name: str, data: bytes | memoryview, *, start: int, is_little: bool = True) -> None:
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
    end = _walk(name, data, start, "little" if is_little else "big")
    if bytes(data[start:end]).count(b"\\") > MAX_VALUES:
        raise _too_many(name, "values", MAX_VALUES)


def _walk(name: str, data: bytes | memoryview, at: int, order: str) -> int:
    """Count elements and items; return where the pixels begin, or what is no element."""
    num_elements = num_items = 0
    size = len(data)
    item_start = b"\xfe\xff\x00\xe0" if order == "little" else b"\xff\xfe\xe0\x00"
    while at + 8 <= size:
        head = bytes(data[at : at + 16])
        tag = (int.from_bytes(head[:2], order), int.from_bytes(head[2:4], order))  # type: ignore[arg-type]
        if tag[0] == 0xFFFE:
            at += 8
            num_items += tag == ITEM
            if num_items > MAX_ITEMS:
                raise _too_many(name, "items of sequences", MAX_ITEMS)
            continue
        if tag == PIXELS:
            return at
        num_elements += 1
        if num_elements > MAX_ELEMENTS:
            raise _too_many(name, "elements", MAX_ELEMENTS)
        representation = head[4:6]
        if representation in LONG_VRS and head[6:8] == b"\0\0":
            at, length = at + 12, int.from_bytes(head[8:12], order)  # type: ignore[arg-type]
        elif representation in SHORT_VRS:
            at, length = at + 8, int.from_bytes(head[6:8], order)  # type: ignore[arg-type]
        else:
            at, length = at + 8, int.from_bytes(head[4:8], order)  # type: ignore[arg-type]
        if representation != b"SQ" and length != UNDEFINED and data[at : at + 4] != item_start:
            at += length
    return min(at, size)


def _too_many(name: str, what: str, limit: int) -> UnreadableImage:
    return UnreadableImage(
        f"{name}: the DICOM header has more than {limit} {what}, which no image needs. The file is damaged or made to "
        "harm; export the image again."
    )
