"""The header of a NIfTI file, and the checks of what it claims, before anything of the size of the data is read."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any, BinaryIO, cast

from medq_uni.errors import UnreadableImage
from medq_uni.io.limits import check_bytes

MAX_HEADER_BYTES = 2**20
"""Farthest that the data may begin: extensions are read into memory."""
MAX_EXTENSIONS = 1000
GZIP_MAGIC = b"\x1f\x8b"


def opened(path: Path) -> BinaryIO:
    """Return the file open for reading, decompressed where its name says that it is compressed."""
    return cast(BinaryIO, gzip.open(path, "rb")) if path.name.lower().endswith(".gz") else path.open("rb")


def checked_header(path: Path) -> Any:
    """Return the nibabel image of the header and its extensions, whose claims are checked; its data are not read."""
    import nibabel

    if path.stat().st_size == 0:
        raise UnreadableImage(f"{path.name}: the file is empty. Copy or export it again.")
    _check_compression(path)
    with opened(path) as file:
        block = file.read(540)
        kinds: tuple[Any, ...] = (nibabel.Nifti1Image, nibabel.Nifti2Image)
        for kind in kinds:
            size = int(kind.header_class.sizeof_hdr)
            if len(block) >= size and int.from_bytes(block[:4], "little") in (size, _swapped(size)):
                header = kind.header_class(block[:size], check=False)
                break
        else:
            raise UnreadableImage(f"{path.name}: not a NIfTI file. Pass DICOM, NIfTI, PNG or TIFF.")
        if not 0 <= float(header["vox_offset"]) <= MAX_HEADER_BYTES:
            raise UnreadableImage(f"{path.name}: the header says that data begin beyond 1 MiB. Export it again.")
        if float(header["vox_offset"]) < size:
            raise UnreadableImage(f"{path.name}: the header says that data begin within it. Export it again.")
        _check_claims(path, header)
        begin = max(int(float(header["vox_offset"])), size + 4)
        block += file.read(max(0, begin - len(block)))
    _check_extensions(path.name, block[:begin], size, header.endianness)
    return kind.from_file_map({"image": nibabel.FileHolder(str(path), io.BytesIO(block[:begin]))})


def _check_claims(path: Path, header: Any) -> None:
    """Refuse what is no volume of gray values, or larger than allowed."""
    shape = tuple(int(n) for n in header.get_data_shape())
    dtype = header.get_data_dtype()
    if dtype.kind == "c":
        raise UnreadableImage(f"{path.name}: values are complex. Write the magnitude as float32.")
    if dtype.kind not in "iuf":
        raise UnreadableImage(f"{path.name}: values are color (RGB). Write one gray value per voxel.")
    check_bytes(path.name, shape[::-1], dtype.itemsize, file_bytes=path.stat().st_size)
    if len(shape) < 2 or sum(n != 1 for n in shape[3:]) > 1:
        raise UnreadableImage(
            f"{path.name}: {len(shape)} axes ({' x '.join(map(str, shape))}), but a volume has 3, a series 4. "
            "Split it first (nibabel.four_to_three, fslsplit)."
        )


def _check_extensions(name: str, block: bytes, at: int, endianness: str) -> None:
    """Refuse header extensions that do not end where the data begin, or are too many."""
    has_some = block[at : at + 4][:1] not in (b"", b"\0")
    at += 4
    num_extensions = 0
    while has_some and at + 8 <= len(block):
        length = int.from_bytes(block[at : at + 4], "little" if endianness == "<" else "big", signed=True)
        num_extensions += 1
        if length < 8 or at + length > len(block) or num_extensions > MAX_EXTENSIONS:
            raise UnreadableImage(
                f"{name}: the header extensions are damaged, or more than {MAX_EXTENSIONS}. Export it again."
            )
        at += length


def _check_compression(path: Path) -> None:
    """Refuse a name that says another compression than the content has; readers go by the name."""
    with path.open("rb") as file:
        is_compressed = file.read(2) == GZIP_MAGIC
    is_named = path.name.lower().endswith(".gz")
    if is_named and not is_compressed:
        wrong = "not a gzip file: it is named .gz but is not compressed."
        raise UnreadableImage(f"{path.name}: {wrong} Rename it: {path.name[:-3]}")
    if is_compressed and not is_named:
        raise UnreadableImage(f"{path.name}: is compressed but not named .gz. Rename it: {path.name}.gz")


def _swapped(value: int) -> int:
    return int.from_bytes(value.to_bytes(4, "big"), "little")
