"""DICOM file -> data set, data set -> stored integers; every limit is checked before the cost."""

from __future__ import annotations

import io
import logging
import mmap
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, config, dcmread
from pydicom.dataset import FileDataset
from pydicom.encaps import generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from medq_uni.errors import UnreadableImage
from medq_uni.io.codestream import read_claim
from medq_uni.io.dicom_scan import LONG_VRS, SMALL_BYTES, check_structure
from medq_uni.io.limits import (
    MAX_INFLATED_BYTES,
    MAX_RATIO,
    MAX_SEQUENCE_DEPTH,
    allowance,
    check_bytes,
    grant,
    third_party,
)

HEADER_ALLOWANCE = 64 * 2**20
"""Bytes beside the pixels that a file may have."""
META_BYTES = 2**16
"""Longest file meta information; most have some 200 bytes."""
SMALL_INFLATED_BYTES = 64 * 2**20
"""Size up to which a data set may be deflated however far."""
MAX_RLE_RATIO = 64
"""Two bytes of PackBits make at most 128 (DICOM PS3.5 G.3)."""
DECODING_COPIES = 3
"""How often the stored pixels of one file may lie in memory while it is decoded: as read, as decoded, as passed on."""
PHOTOMETRICS = ("MONOCHROME1", "MONOCHROME2")
BARE_STARTS = (b"\x08\0", b"\0\x08", b"\x02\0")
"""First bytes of DICOM without a preamble: group 8 in either byte order, or group 2."""
UID_FORM = re.compile(r"[0-2](\.(0|[1-9][0-9]*))+")


def is_uid(value: object) -> bool:
    """Return whether a value is a well-formed UID (DICOM PS3.5 9.1), safe to refer to."""
    text = str(value or "")
    return len(text) <= 64 and UID_FORM.fullmatch(text) is not None


def uid_name(value: object) -> str:
    """Return the registered name of a standard UID; anything else stays unquoted."""
    name = UID(str(value or "")).name
    return "unknown" if not name or is_uid(name) or name == str(value) else str(name)


@contextmanager
def parsing(name: str) -> Iterator[None]:
    """Run pydicom calls: no warnings, no log, no value checks, only :class:`UnreadableImage` leaves."""
    log = logging.getLogger("pydicom")  # its messages quote values of tags
    was_disabled, log.disabled = log.disabled, True
    try:
        with third_party(name, kind="DICOM"), config.disable_value_validation():
            yield
    finally:
        log.disabled = was_disabled


class _Bounded(io.BufferedReader):
    """A file that allocates no more than it holds, whatever length an element claims."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self._size = path.stat().st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """Return up to ``size`` bytes, all that are left where it is None or negative."""
        left = max(0, self._size - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))


def read_dataset(path: Path, *, header_only: bool = False) -> Dataset:
    """Return the data set of a DICOM file.

    Args:
        path: File; one without a preamble and meta header is read too.
        header_only: Leave the pixels in the file.

    Raises:
        UnreadableImage: If it is not DICOM, damaged, too large, or nested too deeply.
    """
    return read_elements(path, header_only=header_only)[0]


def read_elements(path: Path, *, header_only: bool = False) -> tuple[FileDataset, dict[Any, Any]]:
    """Return the data set of a DICOM file, and its elements by tag as they were before decoding.

    See :func:`read_dataset`.
    """
    with parsing(path.name):
        size = path.stat().st_size
        if size == 0:
            raise UnreadableImage(f"{path.name}: the file is empty. Copy or export it again.")
        limit = allowance().image_bytes
        if size > limit + HEADER_ALLOWANCE:
            raise UnreadableImage(
                f"{path.name}: the file has {size / 2**30:.1f} GiB, more than the limit of "
                f"{limit / 2**30:.0f} GiB (MEDQ_MAX_IMAGE_GB). Split the image, or raise the limit."
            )
        with path.open("rb") as file:
            head = file.read(132)
        has_preamble = head[128:] == b"DICM"
        if not has_preamble and head[:2] not in BARE_STARTS:
            raise UnreadableImage(f"{path.name}: not a DICOM file. Pass DICOM, NIfTI, PNG or TIFF.")
        _check_parts(path, size, has_preamble)
        with _Bounded(path) as file:
            dataset = dcmread(file, force=not has_preamble, stop_before_pixels=header_only)
        if not has_preamble and not ("SOPClassUID" in dataset and "Modality" in dataset):
            raise UnreadableImage(f"{path.name}: not a DICOM file. Pass DICOM, NIfTI, PNG or TIFF.")
        elements = dict(dataset._dict)
        check_elements(path.name, dataset)
        take_identity(dataset)
        return dataset, elements


def take_identity(dataset: Dataset) -> None:
    """Take the class and number of the object from the file meta information where the data set lost them."""
    meta = getattr(dataset, "file_meta", None)
    pairs = (("SOPClassUID", "MediaStorageSOPClassUID"), ("SOPInstanceUID", "MediaStorageSOPInstanceUID"))
    for keyword, stored in pairs:
        if not dataset.get(keyword) and meta is not None and is_uid(meta.get(stored)):
            setattr(dataset, keyword, meta.get(stored))


def _check_parts(path: Path, size: int, has_preamble: bool) -> None:
    """Count elements and items of a file that is large enough to hold too many, or is compressed as a whole."""
    syntax, start = _syntax_and_start(path) if has_preamble else ("", 0)
    if syntax == DeflatedExplicitVRLittleEndian:
        check_structure(path.name, _inflated(path, start, size), start=0)
    elif size > SMALL_BYTES:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            is_big = syntax == ExplicitVRBigEndian or (not has_preamble and data[:1] == b"\0")
            check_structure(path.name, data, start=start, is_little=not is_big)


def _syntax_and_start(path: Path) -> tuple[str, int]:
    """Return the transfer syntax that the file meta information states, and where the data set begins."""
    with path.open("rb") as file:
        head = file.read(META_BYTES)
    at, syntax = 132, ""
    while head[at : at + 2] == b"\2\0" and at < META_BYTES:
        is_long = head[at + 4 : at + 6] in LONG_VRS
        size, length = (12, head[at + 8 : at + 12]) if is_long else (8, head[at + 6 : at + 8])
        value = head[at + size : at + size + int.from_bytes(length, "little")]
        if head[at + 2 : at + 4] == b"\x10\0":
            syntax = value.rstrip(b"\0 ").decode("ascii", "replace")
        at += size + int.from_bytes(length, "little")
    if at >= META_BYTES:
        raise UnreadableImage(
            f"{path.name}: the file meta information is longer than {META_BYTES // 2**10} KiB. Export the image again."
        )
    return syntax, at


def _inflated(path: Path, start: int, size: int) -> bytes:
    """Return a deflated data set; a bomb is refused when it is larger than allowed, piece by piece."""
    limit = min(MAX_INFLATED_BYTES, max(SMALL_INFLATED_BYTES, MAX_RATIO * size))
    pieces, total = [], 0
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    with path.open("rb") as file:
        file.seek(start)
        while not inflater.eof:
            chunk = inflater.unconsumed_tail or file.read(2**16)
            if not chunk:
                break
            pieces.append(inflater.decompress(chunk, 2**20))
            total += len(pieces[-1])
            if total > limit:
                raise UnreadableImage(
                    f"{path.name}: inflates to more than {limit / 2**20:.0f} MiB "
                    "(Deflated transfer syntax). Export it uncompressed."
                )
    return b"".join(pieces)


def check_elements(name: str, dataset: Dataset) -> None:
    """Decode every element once, so that a bad one shows now, and bound the nesting."""
    level = [dataset]
    for _ in range(MAX_SEQUENCE_DEPTH):
        level = [item for parent in level for element in parent if element.VR == "SQ" for item in element.value]
        if not level:
            return
    raise UnreadableImage(f"{name}: sequences are nested more than {MAX_SEQUENCE_DEPTH} deep. Export the image again.")


def transfer_syntax(dataset: Dataset) -> UID:
    """Return the transfer syntax; without a meta header it follows from how the file was parsed."""
    stated = getattr(dataset, "file_meta", Dataset()).get("TransferSyntaxUID")
    if stated:
        return UID(str(stated))
    is_implicit, is_little = dataset.original_encoding
    if is_implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if is_little else ExplicitVRBigEndian


def check_pixels(name: str, dataset: Dataset) -> tuple[int, int, int]:
    """Return (frames, rows, columns) of a gray image, from the header alone.

    Raises:
        UnreadableImage: If there are no pixels, they are not gray, or their layout is impossible or
            larger than the limit.
    """
    if "PixelData" not in dataset:
        kind = uid_name(dataset.get("SOPClassUID"))
        raise UnreadableImage(f"{name}: DICOM has no PixelData ({kind}). Pass an image, not a report or plan.")
    kind = uid_name(dataset.get("SOPClassUID"))
    if kind.startswith(("RT ", "Segmentation", "Parametric")):
        raise UnreadableImage(f"{name}: {kind} is not an acquired image. Pass the CT, MR or PET itself.")
    photometric = str(dataset.get("PhotometricInterpretation", ""))
    if int(dataset.get("SamplesPerPixel") or 1) != 1 or photometric not in PHOTOMETRICS:
        known = re.fullmatch(r"(RGB|PALETTE COLOR|YBR_[A-Z0-9_]+)", photometric)
        raise UnreadableImage(
            f"{name}: photometric interpretation {photometric if known else 'unknown'} is not gray. "
            "Only MONOCHROME1 and MONOCHROME2 are read; export the gray image."
        )
    allocated, stored = int(dataset.get("BitsAllocated") or 0), int(dataset.get("BitsStored") or 0)
    if allocated not in (8, 16, 32) or not 0 < stored <= allocated:
        raise UnreadableImage(
            f"{name}: BitsAllocated {allocated} with BitsStored {stored} is not supported; "
            "8, 16 or 32 allocated bits are needed."
        )
    if dataset.get("PixelRepresentation", 0) not in (0, 1):
        raise UnreadableImage(f"{name}: PixelRepresentation must be 0 or 1. Correct the header.")
    shape = (
        int(dataset.get("NumberOfFrames") or 1),
        int(dataset.get("Rows") or 0),
        int(dataset.get("Columns") or 0),
    )
    data = dataset.get_item("PixelData").value
    check_bytes(name, shape, allocated // 8, file_bytes=len(data) if data else None)
    return shape


def decode(name: str, dataset: Dataset) -> np.ndarray:
    """Return the stored integers (frames, rows, columns), of the type that the header states.

    Raises:
        UnreadableImage: See :func:`check_pixels`; also if pixels are missing or too many, or no
            codec decodes them.
    """
    shape = check_pixels(name, dataset)
    grant(DECODING_COPIES * shape[0] * shape[1] * shape[2] * (int(dataset.BitsAllocated) // 8))
    kind = "i" if dataset.get("PixelRepresentation", 0) else "u"
    dtype = np.dtype(f"{kind}{int(dataset.BitsAllocated) // 8}")
    syntax = transfer_syntax(dataset)
    decoder = _decoder(name, syntax)
    _check_length(name, dataset, syntax, shape, dtype.itemsize)
    if not hasattr(dataset, "file_meta"):
        from pydicom.dataset import FileMetaDataset

        dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    try:
        frames = np.asarray(decoder.as_array(dataset, raw=True, allow_excess_frames=False)[0])
    except (RuntimeError, NotImplementedError, ValueError, AttributeError):
        raise UnreadableImage(
            f"{name}: pixels cannot be decoded (transfer syntax {uid_name(syntax)}). The file is damaged, "
            "or the codec is not supported: try pip install medq-uni[codecs], or export it uncompressed."
        ) from None
    if frames.size != np.prod(shape):
        raise UnreadableImage(f"{name}: decoded pixels do not have the size that the header gives.")
    frames = frames.reshape(shape)
    if frames.dtype != dtype:
        narrowed = frames.astype(dtype)
        if not np.array_equal(narrowed, frames):
            raise UnreadableImage(f"{name}: decoded pixels do not fit BitsAllocated. Export it uncompressed.")
        frames = narrowed
    return _valid_bits(dataset, frames)


def _decoder(name: str, syntax: UID) -> Any:  # pydicom does not export the type
    try:
        decoder = get_decoder(syntax)
        is_available = decoder.is_available
    except NotImplementedError:
        is_available = False
    if not is_available:
        raise UnreadableImage(
            f"{name}: no codec for transfer syntax {uid_name(syntax)} is installed. "
            "Run pip install medq-uni[codecs], or export the image uncompressed."
        )
    return decoder


def _check_length(name: str, dataset: Dataset, syntax: UID, shape: tuple[int, int, int], item_bytes: int) -> None:
    """Compare the bytes that are there with those that the header claims."""
    data = dataset.PixelData
    frame_bytes = shape[1] * shape[2] * item_bytes
    needed = shape[0] * frame_bytes
    if not syntax.is_encapsulated:
        if len(data) < needed:
            raise UnreadableImage(
                f"{name}: pixel data is truncated, {len(data)} of {needed} bytes are there. "
                "Copy or export the file again."
            )
        if len(data) >= needed + max(frame_bytes, 2):  # one byte may pad to an even length
            raise UnreadableImage(
                f"{name}: pixel data holds {len(data) // frame_bytes} frames, but NumberOfFrames says "
                f"{shape[0]}. Correct the header, or export the image again."
            )
        return
    if syntax == RLELossless and needed > MAX_RLE_RATIO * len(data):
        raise UnreadableImage(
            f"{name}: {len(data)} bytes of RLE cannot hold the {needed} bytes that the header claims. "
            "Copy or export the file again."
        )
    offsets = None
    if "ExtendedOffsetTable" in dataset:
        offsets = (dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths)
    num_frames = 0
    for frame in generate_frames(data, number_of_frames=shape[0], extended_offsets=offsets):
        num_frames += 1
        if syntax != RLELossless:
            _check_claim(name, frame, shape)
    if num_frames != shape[0]:
        raise UnreadableImage(
            f"{name}: pixel data holds {num_frames} frames, but NumberOfFrames says {shape[0]}. "
            "Copy or export the file again."
        )


def _check_claim(name: str, frame: bytes, shape: tuple[int, int, int]) -> None:
    """Refuse a compressed frame that says something else than the DICOM header, or nothing clear, of its size."""
    claim = read_claim(frame)
    if claim is not None and claim.rows and claim[:2] != shape[1:]:
        raise UnreadableImage(
            f"{name}: the compressed pixels are {claim.rows} x {claim.columns}, but the header says "
            f"{shape[1]} x {shape[2]}. Export the image again."
        )
    if claim is None or not claim.is_sound:
        raise UnreadableImage(
            f"{name}: the compressed pixels do not say clearly how large they are. The file may be damaged or "
            "incomplete; copy or export it again, uncompressed if that does not help."
        )
    if claim.components != 1:
        raise UnreadableImage(
            f"{name}: the compressed pixels have {claim.components} components, but the header says that they are "
            "gray. Export the image again."
        )


def _valid_bits(dataset: Dataset, frames: np.ndarray) -> np.ndarray:
    """Return the integers without what else may lie in unused high bits.

    Those bits hold an old-style overlay where the header says so; and signed values are sometimes
    stored without their sign spread over them. In all other cases a value beyond BitsStored is a
    header that lies, and the value is kept.
    """
    allocated, stored = int(dataset.BitsAllocated), int(dataset.BitsStored)
    unused = allocated - stored
    if unused == 0:
        return frames
    has_overlay = any(
        element.tag.group & 0xFF00 == 0x6000 and element.tag.element == 0x0102 and int(element.value or 0) > 0
        for element in dataset
    )
    is_unspread = frames.dtype.kind == "i" and frames.min() >= 0 and 2 ** (stored - 1) <= int(frames.max()) < 2**stored
    if has_overlay or is_unspread:
        frames = np.right_shift(np.left_shift(frames, unused), unused)
    return frames
