"""What a compressed frame claims to be: size and components of JPEG, JPEG-LS and JPEG 2000, from its header.

Decoders allocate by these claims, not by the DICOM header, so they are read and compared before a decoder runs. What
cannot be read is not decoded.
"""

from __future__ import annotations

from typing import NamedTuple

MAX_TILES = 2**12
"""Most tiles of a JPEG 2000 frame: 8192 x 8192 in tiles of 128. Decoders keep tables for each."""
MAX_MARKERS = 1000
START_OF_IMAGE, START_OF_CODESTREAM = b"\xff\xd8", b"\xff\x4f\xff\x51"
JP2_SIGNATURE = b"\0\0\0\x0cjP  \r\n\x87\n"
SOF_LS, LSE, SOS, EOI = 0xF7, 0xF8, 0xDA, 0xD9
TABLES = (0xC4, 0xC8, 0xCC)
"""Markers between C0 and CF that begin no frame."""
STANDING_ALONE = (0x01, *range(0xD0, 0xD8))
LSE_OVERSIZE = 4
"""Kind of a JPEG-LS parameter segment that states another size than the frame header."""


class Claim(NamedTuple):
    """What a frame says of itself."""

    rows: int
    columns: int
    components: int
    is_sound: bool
    """Whether nothing else in the header contradicts it, or makes a decoder allocate more."""


def read_claim(frame: bytes) -> Claim | None:
    """Return what a frame claims; None where it does not say, or not clearly."""
    if frame[:12] == JP2_SIGNATURE:
        frame = _codestream_of(frame)
    if frame[:4] == START_OF_CODESTREAM:
        return _jpeg_2000(frame)
    return _jpeg(frame) if frame[:2] == START_OF_IMAGE else None


def _number(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "big")


def _codestream_of(frame: bytes) -> bytes:
    """Return the codestream of a JP2 file, empty where its boxes do not lead to one."""
    at = 0
    for _ in range(MAX_MARKERS):
        size, kind, head = _number(frame, at, 4), frame[at + 4 : at + 8], 8
        if size == 1:
            size, head = _number(frame, at + 8, 8), 16
        if kind == b"jp2c":
            return frame[at + head :]
        if size < head or at + size >= len(frame):
            return b""
        at += size
    return b""


def _jpeg_2000(frame: bytes) -> Claim | None:
    if len(frame) < 42:
        return None
    right, bottom, left, top, tile_width, tile_height, tile_left, tile_top = (
        _number(frame, at, 4) for at in range(8, 40, 4)
    )
    is_sound = tile_width > 0 and tile_height > 0 and tile_left <= left < right and tile_top <= top < bottom
    if is_sound:
        is_sound = -(-(right - tile_left) // tile_width) * -(-(bottom - tile_top) // tile_height) <= MAX_TILES
    return Claim(bottom - top, right - left, _number(frame, 40, 2), is_sound)


def _jpeg(frame: bytes) -> Claim | None:
    """Return what the frame header before the first scan says, which is not sound where there are more, or none."""
    claim, at = None, 2
    for _ in range(MAX_MARKERS):
        while frame[at : at + 2] == b"\xff\xff":  # any number of fill bytes
            at += 1
        marker = frame[at + 1] if at + 4 <= len(frame) and frame[at] == 0xFF else EOI
        if marker in STANDING_ALONE:
            at += 2
            continue
        if marker == SOS:
            return None if claim is None else claim._replace(is_sound=claim.rows > 0)
        if marker == EOI or (marker == LSE and frame[at + 4 : at + 5] == bytes([LSE_OVERSIZE])):
            return claim
        if marker == SOF_LS or (0xC0 <= marker <= 0xCF and marker not in TABLES):
            if claim is not None:
                return claim
            rows, columns = _number(frame, at + 5, 2), _number(frame, at + 7, 2)
            claim = Claim(rows, columns, _number(frame, at + 9, 1), is_sound=False)
        at += 2 + _number(frame, at + 2, 2)
    return claim
