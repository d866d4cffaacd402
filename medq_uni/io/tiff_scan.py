"""The directories of a TIFF, walked and counted before a reader makes objects of them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from medq_uni.errors import UnreadableImage

MAX_DIRECTORIES = 2**15
"""Most pages."""
MAX_ENTRIES = 2**10
"""Most tags of a page."""
MAX_TAG_BYTES = 16 * 2**20
"""Longest value of a tag: the places of two million strips."""
MAX_ALL_TAG_BYTES = 64 * 2**20
TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


class _Form(NamedTuple):
    """Byte order and sizes of a TIFF or BigTIFF: of a count of entries, of an offset, and of an entry."""

    order: str
    number: str
    offset: str
    entry: str


class _BrokenError(Exception):
    """The chain of directories leads out of the file, or stops in the middle."""


def check_directories(path: Path) -> None:
    """Refuse a TIFF whose directories form a loop, are too many, or hold values that are not there, or are too long.

    Raises:
        UnreadableImage: With what is wrong.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        try:
            form, at = _start(file)
            seen: set[int] = set()
            num_bytes = 0
            while at:
                if at in seen:
                    raise UnreadableImage(f"{path.name}: its pages form a loop. The file is damaged; export it again.")
                seen.add(at)
                if len(seen) > MAX_DIRECTORIES:
                    raise UnreadableImage(f"{path.name}: more than {MAX_DIRECTORIES} pages. Split the image.")
                entries, at = _directory(file, form, at)
                num_bytes += sum(_value_bytes(path.name, size, entry) for entry in entries)
                if num_bytes > MAX_ALL_TAG_BYTES:
                    raise _too_long(path.name)
        except (_BrokenError, struct.error):
            raise UnreadableImage(
                f"{path.name}: not a whole TIFF file: a page leads to a place that is not there. It is damaged or "
                "incomplete; copy or export it again."
            ) from None


def _start(file: BinaryIO) -> tuple[_Form, int]:
    head = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None:
        raise _BrokenError
    if struct.unpack_from(f"{order}H", head, 2)[0] == 43:
        return _Form(order, "Q", "Q", "HHQQ"), struct.unpack_from(f"{order}Q", head, 8)[0]
    return _Form(order, "H", "I", "HHII"), struct.unpack_from(f"{order}I", head, 4)[0]


def _directory(file: BinaryIO, form: _Form, at: int) -> tuple[Iterator[tuple[int, ...]], int]:
    """Return the entries of a directory, and where the next one is, 0 for nowhere."""
    count_form, offset_form = f"{form.order}{form.number}", f"{form.order}{form.offset}"
    file.seek(at)
    count = struct.unpack(count_form, file.read(struct.calcsize(count_form)))[0]
    if not 0 < count <= MAX_ENTRIES:
        raise _BrokenError
    entry_form = f"{form.order}{form.entry}"
    block = file.read(count * struct.calcsize(entry_form))
    entries = struct.iter_unpack(entry_form, block)
    if len(block) < count * struct.calcsize(entry_form):
        raise _BrokenError
    link = file.read(struct.calcsize(offset_form))
    return entries, struct.unpack(offset_form, link)[0]


def _value_bytes(name: str, size: int, entry: tuple[int, ...]) -> int:
    """Return the bytes of a tag's value where it lies outside of the directory."""
    _, kind, count, place = entry
    length = TYPE_BYTES.get(kind, 1) * count
    if length <= 8:
        return 0
    if length > MAX_TAG_BYTES:
        raise _too_long(name)
    if place + length > size:
        raise _BrokenError
    return length


def _too_long(name: str) -> UnreadableImage:
    return UnreadableImage(
        f"{name}: its tags are longer than {MAX_TAG_BYTES // 2**20} MiB, or {MAX_ALL_TAG_BYTES // 2**20} MiB in all. "
        "The file is damaged or made to harm; export it again."
    )
