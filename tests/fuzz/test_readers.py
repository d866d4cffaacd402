"""Random damage to every kind of file: it is read, or refused with one of our errors, in little time.

The ordinary suite makes the same few changes every time; ``make fuzz`` makes many, others each time. What breaks a
reader is kept in :data:`CRASHES`.
"""

from __future__ import annotations

import gzip
import io
import os
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import nibabel
import numpy as np
import pydicom.data
import pytest
import tifffile
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from medq_uni.errors import MedQError
from medq_uni.io.read_write import read_image
from medq_uni.json_text import parse_json

EXAMPLES = int(os.environ.get("MEDQ_FUZZ_EXAMPLES", "100"))
"""Damaged files per reader."""
PROMISED_S = 20.0
DICOM = ("MR_small.dcm", "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm")
Edit = tuple[str, float, bytes]
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["set", "insert", "cut", "drop", "repeat"]),
        st.floats(0, 1, exclude_max=True),
        st.one_of(
            st.binary(min_size=1, max_size=8),
            st.sampled_from([b"\xff" * 4, b"\0" * 4, b"\xff\xff\xff\x7f", b"\xfe\xff\x00\xe0" + bytes(4), b"\xff\xff"]),
        ),
    ),
    min_size=1,
    max_size=4,
)
CRASHES: dict[str, list[list[Edit]]] = {}
"""Reader -> changes that once broke it."""
HEADER_SHARE = 0.7
"""Share of changes that hit the first bytes of the file, where the headers are."""


def damaged(data: bytes, edits: list[Edit]) -> bytes:
    """Return the bytes after some changes; a place below :data:`HEADER_SHARE` is one in the first 600 bytes."""
    for kind, place, value in edits:
        reach = min(len(data), 600) if place < HEADER_SHARE else len(data)
        at = int((place / HEADER_SHARE if place < HEADER_SHARE else place) * reach)
        if kind == "set":
            data = data[:at] + value + data[at + len(value) :]
        elif kind == "insert":
            data = data[:at] + value + data[at:]
        elif kind == "cut":
            data = data[: max(at, 1)]
        elif kind == "drop":
            data = data[:at] + data[at + len(value) :]
        else:
            data = data[: at + 64] + data[at:]
    return data


def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 4000, (3, 12, 10), dtype=np.uint16)


def nifti_file(suffix: str) -> bytes:
    image = nibabel.Nifti1Image(pixels().astype(np.int16), np.diag([1.0, 2.0, 3.0, 1.0]))
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"hello"))
    return gzip.compress(image.to_bytes(), 1) if suffix.endswith(".gz") else image.to_bytes()


def png_file(_: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels()[0]).save(buffer, format="PNG")
    return buffer.getvalue()


def tiff_file(_: str) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels(), photometric="minisblack", compression="zlib")
    return buffer.getvalue()


READERS: dict[str, tuple[str, Callable[[str], bytes]]] = {
    **{name: (".dcm", lambda _, name=name: Path(pydicom.data.get_testdata_file(name)).read_bytes()) for name in DICOM},
    "nifti": (".nii", nifti_file),
    "nifti-gz": (".nii.gz", nifti_file),
    "nifti-inside-gz": (".nii.gz", lambda _: nifti_file(".nii")),
    "png": (".png", png_file),
    "tiff": (".tif", tiff_file),
}


def check(path: Path) -> None:
    began = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # none but ours
        warnings.simplefilter("ignore", UserWarning)
        message = ""
        try:
            image = read_image(path)
        except MedQError as error:
            message = str(error)
    if message:
        assert message.startswith(path.name)
        assert len(message) < 600
    else:
        assert np.isfinite(image.voxels).all()
        assert np.isfinite(image.affine).all()
    assert time.monotonic() - began < PROMISED_S


@pytest.mark.parametrize("reader", READERS)
def test_a_damaged_file_is_read_or_refused(reader, tmp_path_factory):
    suffix, make = READERS[reader]
    data = make(suffix)
    path = tmp_path_factory.mktemp("fuzz") / f"damaged{suffix}"

    @settings(
        max_examples=EXAMPLES,
        derandomize="MEDQ_FUZZ_EXAMPLES" not in os.environ,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(edits=EDITS)
    def run(edits: list[Edit]) -> None:
        changed = damaged(data, edits)
        path.write_bytes(gzip.compress(changed, 1) if reader == "nifti-inside-gz" else changed)
        check(path)

    for edits in CRASHES.get(reader, []):
        run = example(edits=edits)(run)
    run()


@settings(max_examples=4 * EXAMPLES, derandomize="MEDQ_FUZZ_EXAMPLES" not in os.environ, database=None, deadline=None)
@given(text=st.one_of(st.text(alphabet='[]{}",:0123456789eE+-. \\untrfals\n'), st.binary().map(bytes)))
def test_any_text_is_json_or_refused(text):
    with suppress(ValueError):
        parse_json(text)
