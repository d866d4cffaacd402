"""Small files that cost a careless reader gigabytes or minutes."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable

MIB = 2**20
EXPLICIT, DEFLATED, RLE = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5"
JPEG, JPEG_LS, JPEG_2000 = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90"
LONG = ("OB", "OW", "SQ", "UN")
UNDEFINED = 0xFFFFFFFF
ITEM = struct.pack("<HHI", 0xFFFE, 0xE000, 0)

FILES: dict[str, tuple[Callable[[], bytes], str]] = {}
"""Name -> maker of the bytes, and what the refusal says; nothing where the file is read."""


def hostile(name: str, refusal: str) -> Callable[[Callable[[], bytes]], Callable[[], bytes]]:
    """Enter a maker."""

    def enter(make: Callable[[], bytes]) -> Callable[[], bytes]:
        FILES[name] = (make, refusal)
        return make

    return enter


# DICOM


def element(group: int, number: int, vr: str, value: bytes | str, length: int | None = None) -> bytes:
    """Return an element in explicit little-endian form."""
    value = value if isinstance(value, bytes) else value.encode()
    value += b"\0" * (len(value) % 2) if vr in ("UI", "OB", "OW") else b" " * (len(value) % 2)
    length = len(value) if length is None else length
    if vr in LONG:
        return struct.pack("<HH2sHI", group, number, vr.encode(), 0, length) + value
    return struct.pack("<HH2sH", group, number, vr.encode(), length) + value


def number(group: int, element_number: int, value: int) -> bytes:
    return element(group, element_number, "US", struct.pack("<H", value))


def meta(syntax: str) -> bytes:
    inside = element(2, 2, "UI", "1.2.840.10008.5.1.4.1.1.4") + element(2, 3, "UI", "1.2.3.4")
    inside += element(2, 0x10, "UI", syntax)
    return bytes(128) + b"DICM" + element(2, 0, "UL", struct.pack("<I", len(inside))) + inside


def head(rows: int, columns: int, *, frames: int = 1, bits: int = 16, extra: bytes = b"") -> bytes:
    return b"".join(
        [
            element(8, 0x16, "UI", "1.2.840.10008.5.1.4.1.1.4"),
            element(8, 0x18, "UI", "1.2.3.4"),
            element(8, 0x60, "CS", "MR"),
            extra,
            element(0x10, 0x10, "PN", "ZZCANARY"),
            element(0x20, 0xE, "UI", "1.2.3.5"),
            element(0x20, 0x32, "DS", "0\\0\\0"),
            element(0x20, 0x37, "DS", "1\\0\\0\\0\\1\\0"),
            number(0x28, 2, 1),
            element(0x28, 4, "CS", "MONOCHROME2"),
            element(0x28, 8, "IS", str(frames)),
            number(0x28, 0x10, rows),
            number(0x28, 0x11, columns),
            element(0x28, 0x30, "DS", "1\\1"),
            number(0x28, 0x100, bits),
            number(0x28, 0x101, bits),
            number(0x28, 0x102, bits - 1),
            number(0x28, 0x103, 0),
        ]
    )


def frames_of(*frames: bytes) -> bytes:
    """Return encapsulated pixel data."""
    out = element(0x7FE0, 0x10, "OB", b"", UNDEFINED) + ITEM
    for frame in frames:
        frame += b"\0" * (len(frame) % 2)
        out += struct.pack("<HHI", 0xFFFE, 0xE000, len(frame)) + frame
    return out + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def deflated(*parts: tuple[bytes, int]) -> bytes:
    """Return parts, each many times, in raw deflate."""
    squeezer = zlib.compressobj(3, zlib.DEFLATED, -15)
    out = b""
    for unit, count in parts:
        at_once = max(1, MIB // max(1, len(unit)))
        for done in range(0, count, at_once):
            out += squeezer.compress(unit * min(at_once, count - done))
    return out + squeezer.flush()


SMALL_HEAD = element(8, 0x16, "UI", "1.2.840.10008.5.1.4.1.1.4") + element(8, 0x60, "CS", "MR")


@hostile("items.dcm", "elements and items")
def _() -> bytes:
    return meta(EXPLICIT) + SMALL_HEAD + element(8, 0x1140, "SQ", b"", 8 * 10**6) + ITEM * 10**6


@hostile("items-deflated.dcm", "elements and items")
def _() -> bytes:
    sequence = SMALL_HEAD + element(8, 0x1140, "SQ", b"", 8 * 10**6)
    return meta(DEFLATED) + deflated((sequence, 1), (ITEM, 10**6))


@hostile("wide-nest.dcm", "elements and items")
def _() -> bytes:
    opening = element(8, 0x1140, "SQ", b"", UNDEFINED) + struct.pack("<HHI", 0xFFFE, 0xE000, UNDEFINED)
    closing = struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    return meta(EXPLICIT) + SMALL_HEAD + (opening * 30 + closing * 30) * 3000


@hostile("deep-nest.dcm", "nested too deeply")
def _() -> bytes:
    opening = element(8, 0x1140, "SQ", b"", UNDEFINED) + struct.pack("<HHI", 0xFFFE, 0xE000, UNDEFINED)
    return meta(EXPLICIT) + SMALL_HEAD + opening * 5000


@hostile("never-closed.dcm", "elements and items")
def _() -> bytes:
    return meta(EXPLICIT) + SMALL_HEAD + element(9, 0x10, "UN", bytes(2 * 10**6), UNDEFINED)


@hostile("values.dcm", "values")
def _() -> bytes:
    many = b"".join(element(9, 0x1000 + k, "DS", b"1\\" * 32000) for k in range(100))
    return meta(EXPLICIT) + head(8, 8, extra=many) + element(0x7FE0, 0x10, "OW", b"\1\0" * 64)


@hostile("digits.dcm", "cannot be read")
def _() -> bytes:
    extra = element(9, 0x1000, "IS", b"9" * 65000)
    return meta(EXPLICIT) + head(8, 8, extra=extra) + element(0x7FE0, 0x10, "OW", b"\1\0" * 64)


@hostile("one-pixel-frames.dcm", "slices are more than the limit")
def _() -> bytes:
    return meta(EXPLICIT) + head(1, 1, frames=10**6) + element(0x7FE0, 0x10, "OW", b"\1\0" * 10**6)


@hostile("negative-frames.dcm", "no voxels")
def _() -> bytes:
    return meta(EXPLICIT) + head(8, 8, frames=-3) + element(0x7FE0, 0x10, "OW", b"\1\0" * 64)


@hostile("claimed-length.dcm", "limit of 12 GiB")
def _() -> bytes:
    return meta(EXPLICIT) + head(65535, 65535) + element(0x7FE0, 0x10, "OW", bytes(20), 0xFFFFFFFE)


@hostile("undefined-pixels.dcm", "cannot be read")
def _() -> bytes:
    return meta(EXPLICIT) + head(64, 64) + element(0x7FE0, 0x10, "OW", bytes(8192), UNDEFINED)


@hostile("deflated-pixels.dcm", "per slice")
def _() -> bytes:
    pixels = element(0x7FE0, 0x10, "OW", b"", 2 * 11000**2)
    return meta(DEFLATED) + deflated((head(11000, 11000) + pixels, 1), (b"\1\0", 100 * MIB))


@hostile("long-meta.dcm", "file meta information is longer")
def _() -> bytes:
    return bytes(128) + b"DICM" + element(2, 0x102, "OB", bytes(2 * MIB)) + head(8, 8)


@hostile("rle-large.dcm", "per slice")
def _() -> bytes:
    planes = b"\x81\0" * 1000
    frame = struct.pack("<16I", 2, 64, 64 + len(planes), *[0] * 13) + planes * 2
    return meta(RLE) + head(32000, 32000) + frames_of(frame)


def j2k(width: int, height: int, *, components: int = 1, tile: int = 0) -> bytes:
    """Return a JPEG 2000 codestream with nothing in it."""
    size = struct.pack(">H8IH", 0, width, height, 0, 0, tile or width, tile or height, 0, 0, components)
    size += bytes([15, 1, 1]) * components
    coding = b"\xff\x52" + struct.pack(">HBBHBBBBBB", 12, 0, 0, 1, 0, 5, 4, 4, 0, 1)
    steps = b"\xff\x5c" + struct.pack(">HB", 19, 0x40) + bytes(range(0x48, 0x58))
    tiles = b"\xff\x90" + struct.pack(">HHIBB", 10, 0, 0, 0, 1) + b"\xff\x93" + b"\x80" * 40 + b"\xff\xd9"
    return b"\xff\x4f\xff\x51" + struct.pack(">H", len(size) + 2) + size + coding + steps + tiles


@hostile("j2k-other-size.dcm", "65000 x 65000, but the header says 64 x 64")
def _() -> bytes:
    return meta(JPEG_2000) + head(64, 64) + frames_of(j2k(65000, 65000))


@hostile("j2k-components.dcm", "255 components")
def _() -> bytes:
    return meta(JPEG_2000) + head(4096, 4096) + frames_of(j2k(4096, 4096, components=255))


@hostile("j2k-tiles.dcm", "do not say clearly")
def _() -> bytes:
    return meta(JPEG_2000) + head(4096, 4096) + frames_of(j2k(4096, 4096, tile=1))


@hostile("j2k-large.dcm", "per slice")
def _() -> bytes:
    return meta(JPEG_2000) + head(30000, 30000) + frames_of(j2k(30000, 30000))


@hostile("j2k-many.dcm", "more than 250 times as much")
def _() -> bytes:
    return meta(JPEG_2000) + head(8000, 8000, frames=8) + frames_of(*[j2k(8000, 8000)] * 8)


@hostile("jp2-boxes.dcm", "30000 x 30000, but the header says 64 x 64")
def _() -> bytes:
    start = b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0\0\0\x14ftypjp2 \0\0\0\0jp2 "
    image = struct.pack(">I4sIIHBBBB", 22, b"ihdr", 30000, 30000, 1, 15, 7, 0, 0)
    boxes = struct.pack(">I4s", 8 + len(image), b"jp2h") + image + struct.pack(">I4s", 0, b"jp2c")
    return meta(JPEG_2000) + head(64, 64) + frames_of(start + boxes + j2k(30000, 30000))


def jpeg_ls(width: int, height: int, *, before: bytes = b"", components: int = 1) -> bytes:
    """Return a JPEG-LS frame with nothing in it."""
    frame = struct.pack(">HBHHB", 8 + 3 * components, 16, height, width, components)
    frame += b"".join(bytes([k + 1, 0x11, 0]) for k in range(components))
    scan = struct.pack(">HB", 6 + 2 * components, components)
    scan += b"".join(bytes([k + 1, 0]) for k in range(components)) + bytes(3)
    return b"\xff\xd8" + before + b"\xff\xf7" + frame + b"\xff\xda" + scan + bytes(64) + b"\xff\xd9"


@hostile("jls-other-size.dcm", "65535 x 65535, but the header says 64 x 64")
def _() -> bytes:
    return meta(JPEG_LS) + head(64, 64) + frames_of(jpeg_ls(65535, 65535))


@hostile("jls-fill-bytes.dcm", "20000 x 50000, but the header says 64 x 64")
def _() -> bytes:
    return meta(JPEG_LS) + head(64, 64) + frames_of(jpeg_ls(50000, 20000, before=b"\xff" * 5))


@hostile("jls-size-elsewhere.dcm", "do not say clearly")
def _() -> bytes:
    oversize = b"\xff\xf8" + struct.pack(">HBBII", 12, 4, 4, 60000, 60000)
    return meta(JPEG_LS) + head(64, 64) + frames_of(jpeg_ls(0, 0, before=oversize))


@hostile("jls-two-sizes.dcm", "do not say clearly")
def _() -> bytes:
    first = jpeg_ls(64, 64)
    first = first[2 : first.index(b"\xff\xda")]
    return meta(JPEG_LS) + head(64, 64) + frames_of(jpeg_ls(60000, 60000, before=first))


@hostile("jls-components.dcm", "components")
def _() -> bytes:
    return meta(JPEG_LS) + head(64, 64) + frames_of(jpeg_ls(64, 64, components=200))


@hostile("jpeg-hidden-size.dcm", "do not say clearly")
def _() -> bytes:
    frame = b"\xff\xc0" + struct.pack(">HBHHB", 11, 8, 13000, 13000, 1) + b"\1\x11\0\xff\xda\0\x08\1\1\0\0\x3f\0"
    stream = b"\xff\xd8\xff\xe0\0\4aa\0" + frame + bytes(64) + b"\xff\xd9"
    return meta(JPEG) + head(64, 64, bits=8) + frames_of(stream)


# NIfTI


def nifti(*sides: int, kind: int = 4, bits: int = 16, offset: float = 352.0, extension: bytes = bytes(4)) -> bytes:
    """Return a NIfTI-1 header."""
    raw = bytearray(348)
    struct.pack_into("<i", raw, 0, 348)
    struct.pack_into(f"<{len(sides) + 1}h", raw, 40, len(sides), *sides)
    struct.pack_into("<hh", raw, 70, kind, bits)
    struct.pack_into("<8f", raw, 76, *[1.0] * 8)
    struct.pack_into("<fff", raw, 108, offset, 1.0, 0.0)
    struct.pack_into("<hh", raw, 252, 0, 1)
    for row in range(3):
        struct.pack_into("<4f", raw, 280 + 16 * row, *(float(row == column) for column in range(4)))
    raw[344:348] = b"n+1\0"
    return bytes(raw) + extension


@hostile("blank.nii.gz", "more than 250 times as much")
def _() -> bytes:
    return gzip.compress(nifti(1290, 1290, 1290, kind=2, bits=8) + bytes(8 * MIB), 1)


@hostile("long-tail.nii.gz", "")
def _() -> bytes:
    return gzip.compress(nifti(8, 8, 8) + bytes(256 * MIB), 1)


@hostile("long-extension.nii.gz", "begin within it")
def _() -> bytes:
    return gzip.compress(nifti(8, 8, 8, offset=0.0, extension=b"\1\0\0\0" + struct.pack("<ii", 2**31 - 16, 4)), 1)


@hostile("damaged-extension.nii", "header extensions are damaged")
def _() -> bytes:
    extension = b"\1\0\0\0" + struct.pack("<ii", 2**31 - 16, 4) + bytes(1000)
    return nifti(8, 8, 8, offset=1360.0, extension=extension) + bytes(1024)


@hostile("overflow.nii", "limit of 12 GiB")
def _() -> bytes:
    return nifti(*[32767] * 7, kind=16, bits=32) + bytes(64)


@hostile("no-offset.nii", "beyond 1 MiB")
def _() -> bytes:
    return nifti(8, 8, 8, offset=float("nan")) + bytes(1024)


# PNG


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    out = b"\x89PNG\r\n\x1a\n"
    for name, data in chunks:
        out += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return out


def zeros(count: int) -> bytes:
    """Return zeros in a zlib stream."""
    squeezer = zlib.compressobj(1)
    out = b"".join(squeezer.compress(bytes(min(MIB, count - done))) for done in range(0, count, MIB))
    return out + squeezer.flush()


def ihdr(side: int) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)


@hostile("texts.png", "cannot be read")
def _() -> bytes:
    texts = [(b"zTXt", b"k%d\0\0" % k + zeros(32 * MIB)) for k in range(4)]
    return png(ihdr(8), *texts, (b"IDAT", zeros(72)), (b"IEND", b""))


@hostile("profile.png", "cannot be read")
def _() -> bytes:
    return png(ihdr(8), (b"iCCP", b"x\0\0" + zeros(128 * MIB)), (b"IDAT", zeros(72)), (b"IEND", b""))


@hostile("pixels.png", "")
def _() -> bytes:
    return png(ihdr(8), (b"IDAT", zeros(256 * MIB)), (b"IEND", b""))


@hostile("chunk-length.png", "cannot be read")
def _() -> bytes:
    return png(ihdr(8)) + struct.pack(">I", 0x7FFFFFFF) + b"tEXt" + b"a" * 100


# TIFF


def directory(*entries: tuple[int, int, int, int], following: int = 0) -> bytes:
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return struct.pack("<H", len(entries)) + body + struct.pack("<I", following)


def tags(side: int, *, at: int = 200, count: int = 64, compression: int = 1) -> list[tuple[int, int, int, int]]:
    shape = [(256, 4, 1, side), (257, 4, 1, side), (258, 3, 1, 8), (259, 3, 1, compression), (262, 3, 1, 1)]
    return [*shape, (273, 4, 1, at), (277, 3, 1, 1), (278, 4, 1, side), (279, 4, 1, count), (339, 3, 1, 1)]


def tiff(*directories: bytes, size: int = 300) -> bytes:
    return (b"II*\0" + struct.pack("<I", 8) + b"".join(directories)).ljust(size, b"\0")


@hostile("loop.tif", "form a loop")
def _() -> bytes:
    return tiff(directory(*tags(8), following=8))


@hostile("pages.tif", "more than 32768 pages")
def _() -> bytes:
    length = len(directory(*tags(1)))
    return tiff(*(directory(*tags(1, at=4, count=1), following=8 + (k + 1) * length) for k in range(33000)))


@hostile("sparse.tif", "parts of it have no data")
def _() -> bytes:
    return tiff(directory(*tags(8000, at=0, count=0)))


@hostile("sparse-large.tif", "per slice")
def _() -> bytes:
    return tiff(directory(*tags(45000, at=0, count=0)))


@hostile("long-tag.tif", "its tags are longer")
def _() -> bytes:
    return tiff(directory(*tags(8), (65000, 4, 0xFFFFFFFF, 8)))


@hostile("tag-elsewhere.tif", "a place that is not there")
def _() -> bytes:
    return tiff(directory(*tags(8), (65000, 4, 100000, 8)))


@hostile("strips.tif", "its tags are longer")
def _() -> bytes:
    places = [(number, kind, 0x20000000 if number in (273, 279) else count, at) for number, kind, count, at in tags(8)]
    return tiff(directory(*places))


@hostile("inflating.tif", "more than the 1000 MiB")
def _() -> bytes:
    strip = zeros(1200 * MIB)
    return tiff(directory(*tags(8, count=len(strip), compression=8)), size=200) + strip


@hostile("shape.tif", "limit of 12 GiB")
def _() -> bytes:
    text = b'{"shape": [2000000000, 8, 8]}\0'
    return tiff(directory(*sorted([*tags(8, at=400), (270, 2, len(text), 250)])), size=250) + text.ljust(300, b"\0")
