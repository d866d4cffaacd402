"""Every bad file gives one clear error, soon, in little memory, and without patient data."""

from __future__ import annotations

import gzip
import struct
import time
import tracemalloc
import warnings
import zlib

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from medq_uni.errors import UnreadableImage
from medq_uni.io import dicom_pixels
from medq_uni.io.read_write import read_image

MIB = 2**20


def refuse(path, match: str, *, canary: str = "ZZCANARY") -> str:
    """Read a file that must be refused within a second and 64 MiB of Python memory."""
    tracemalloc.start()
    started = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(UnreadableImage, match=match) as error:
                read_image(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    message = str(error.value)
    assert canary not in message
    assert "1.2.3.4" not in message
    assert message.startswith(path.name)
    assert len(message) < 500
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__ or error.value.__context__ is None
    assert peak < 64 * MIB, f"{peak / MIB:.0f} MiB"
    assert time.perf_counter() - started < 5
    return message


@pytest.fixture
def broken(tmp_path, phantom, stored_ct):
    """Return a function that writes one CT slice after an edit of its header."""

    def write(edit=lambda ds: None, stored=stored_ct[:1]):
        return phantom.series(tmp_path, stored, edit=lambda ds, k: edit(ds), names=["scan.dcm"])[0]

    return write


def test_missing_file(tmp_path):
    refuse(tmp_path / "gone.dcm", "no such file")


def test_empty_file(tmp_path):
    for name in ("a.dcm", "b.nii.gz", "c.png", "d"):
        (tmp_path / name).touch()
        refuse(tmp_path / name, "empty")


@pytest.mark.parametrize("name", ["a.dcm", "b.nii", "c.nii.gz", "d.png", "e.tif", "f.txt", "g"])
def test_text_is_no_image_whatever_its_name(tmp_path, name):
    path = tmp_path / name
    path.write_text("ZZCANARY, who is no image. " * 40)
    refuse(path, "not a|cannot be read")


@pytest.mark.parametrize("name", ["a.dcm", "b.nii", "c.nii.gz", "d.png", "e.tif"])
def test_noise_is_no_image_whatever_its_name(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    refuse(path, "not a|cannot be read")


def test_folder_without_images(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing here")
    refuse(tmp_path, "no image at all")


def test_truncated_pixels(broken):
    refuse(broken(lambda ds: setattr(ds, "PixelData", ds.PixelData[:50])), "truncated, 50 of 126 bytes")


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_file_cut_anywhere(broken, share):
    path = broken()
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    refuse(path, "scan.dcm: ")


def test_cut_compressed_file(tmp_path, bundled):
    for name in ("MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm"):
        data = bundled(name).read_bytes()
        path = tmp_path / name
        path.write_bytes(data[: len(data) * 2 // 3])
        refuse(path, name)


@pytest.mark.parametrize("name", ["test-SR.dcm", "reportsi.dcm", "rtplan.dcm", "rtstruct.dcm", "waveform_ecg.dcm"])
def test_dicom_without_pixels_is_named(bundled, name):
    refuse(bundled(name), "no PixelData")


@pytest.mark.parametrize("name", ["rtdose.dcm", "liver_1frame.dcm"])
def test_dicom_that_is_no_acquired_image(bundled, name):
    refuse(bundled(name), "not an acquired image")


@pytest.mark.parametrize(
    ("name", "photometric"),
    [
        ("examples_palette.dcm", "PALETTE COLOR"),
        ("SC_rgb_small_odd.dcm", "RGB"),
        ("SC_ybr_full_422_uncompressed.dcm", "YBR_FULL_422"),
    ],
)
def test_color_is_refused(bundled, name, photometric):
    refuse(bundled(name), f"{photometric} is not gray")


def test_unknown_photometric_is_not_quoted(broken):
    refuse(broken(lambda ds: setattr(ds, "PhotometricInterpretation", "ZZCANARY")), "unknown is not gray")


@pytest.mark.parametrize("keyword", ["Rows", "Columns"])
def test_zero_size(broken, keyword):
    refuse(broken(lambda ds: setattr(ds, keyword, 0)), "no voxels")


def test_huge_claims_are_refused_before_decoding(broken):
    def huge(ds):
        ds.Rows = ds.Columns = 65535

    refuse(broken(huge), "limit of 12 GiB")
    refuse(broken(lambda ds: setattr(ds, "NumberOfFrames", 10**9)), "limit of 12 GiB")


def test_rle_bomb_below_the_limit_is_refused_by_its_ratio(broken):
    def bomb(ds):
        ds.Rows = ds.Columns = 8000
        ds.file_meta.TransferSyntaxUID = pydicom.uid.RLELossless
        ds.PixelData = encapsulate([struct.pack("<16I", 2, 64, 66, *[0] * 13) + b"\x81\0\x81\0"])
        ds["PixelData"].is_undefined_length = True

    refuse(broken(bomb), "cannot hold")


@pytest.mark.parametrize(
    ("syntax", "stream"),
    [
        (
            pydicom.uid.JPEG2000Lossless,
            b"\xff\x4f\xff\x51\0\x29\0\0" + struct.pack(">4I", 60000, 60000, 0, 0),
        ),
        (pydicom.uid.JPEGLSLossless, b"\xff\xd8\xff\xf7\0\x0b\x10\xea\x60\xea\x60\x01\x01\x11\0"),
    ],
)
def test_codestream_that_claims_another_size_is_refused(broken, syntax, stream):
    def lie(ds):
        ds.file_meta.TransferSyntaxUID = syntax
        ds.PixelData = encapsulate([stream + b"\0" * 64])
        ds["PixelData"].is_undefined_length = True

    refuse(broken(lie), "60000 x 60000, but the header says 9 x 7")


def test_excess_frames_are_refused(broken):
    refuse(broken(lambda ds: setattr(ds, "PixelData", ds.PixelData * 50)), "50 frames, but NumberOfFrames says 1")


def test_excess_compressed_frames_are_refused(bundled, tmp_path):
    ds = pydicom.dcmread(bundled("MR_small_RLE.dcm"))
    frame = next(pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=1))
    ds.PixelData = encapsulate([frame] * 5)
    ds.save_as(tmp_path / "five.dcm")
    refuse(tmp_path / "five.dcm", "5 frames, but NumberOfFrames says 1")


@pytest.mark.parametrize("depth", [40, 150])
def test_nested_sequences_are_refused(broken, depth):
    def nest(ds):
        inner = Dataset()
        inner.CodeMeaning = "ZZCANARY"
        for _ in range(depth):
            outer = Dataset()
            outer.ConceptNameCodeSequence = [inner]
            inner = outer
        ds.ConceptNameCodeSequence = [inner]

    refuse(broken(nest), "nested")


def test_recursion_of_the_parser_is_translated(broken):
    path = broken()
    # 5000 items of undefined length inside each other, by hand: no library writes this
    opening = struct.pack("<HH2sHI", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    data = path.read_bytes()
    pixels = data.rindex(struct.pack("<HH", 0x7FE0, 0x0010))
    path.write_bytes(data[:pixels] + opening * 5000 + data[pixels:])
    refuse(path, "nested too deeply")


def test_deflate_bomb_is_refused_without_inflating_it_whole(broken, monkeypatch):
    monkeypatch.setenv("MEDQ_GUARD", "off")  # a worker has limits of its own
    monkeypatch.setattr(dicom_pixels, "MAX_INFLATED_BYTES", 4 * MIB)
    path = broken()
    ds = pydicom.dcmread(path)
    ds.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    ds.save_as(path)
    data = path.read_bytes()
    start = 144 + pydicom.filereader.read_file_meta_info(path).FileMetaInformationGroupLength
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = squeezer.compress(bytes(200 * MIB)) + squeezer.flush()
    path.write_bytes(data[:start] + bomb)
    assert path.stat().st_size < MIB
    refuse(path, "inflates to more than 4 MiB")


def test_missing_codec_names_syntax_and_remedy(broken, monkeypatch):
    def lossless(ds):
        ds.file_meta.TransferSyntaxUID = pydicom.uid.JPEGLosslessSV1
        ds.PixelData = encapsulate([b"\xff\xd8\xff\xd9"])
        ds["PixelData"].is_undefined_length = True

    path = broken(lossless)
    monkeypatch.setenv("MEDQ_GUARD", "off")  # a worker has decoders of its own
    decoder = type(pydicom.pixels.get_decoder(pydicom.uid.JPEGLosslessSV1))
    monkeypatch.setattr(decoder, "is_available", property(lambda self: False))
    message = refuse(path, r"medq-uni\[codecs\]")
    assert "JPEG Lossless" in message


def test_unknown_transfer_syntax_is_refused(bundled, tmp_path):
    data = bundled("MR_small_jpeg_ls_lossless.dcm").read_bytes()
    path = tmp_path / "odd.dcm"
    path.write_bytes(data.replace(b"1.2.840.10008.1.2.4.80", b"1.2.840.10008.1.2.4.99"))
    refuse(path, r"medq-uni\[codecs\]")


def test_text_in_a_number_is_not_quoted(broken):
    path = broken(lambda ds: ds.add_new("RescaleSlope", "DS", "1.234567"))
    path.write_bytes(path.read_bytes().replace(b"1.234567", b"ZZCANARY"))
    refuse(path, "scan.dcm: ")


@pytest.mark.parametrize(
    ("keyword", "vr", "value"),
    [
        ("RescaleSlope", "DS", "0"),
        ("RescaleIntercept", "DS", "nan"),
        ("ImagePositionPatient", "DS", ["1", "2"]),
        ("ImageOrientationPatient", "DS", ["1", "0", "0", "1", "0", "0"]),
        ("PixelSpacing", "DS", ["0", "1"]),
        ("BitsStored", "US", 40),
        ("BitsAllocated", "US", 12),
        ("PixelRepresentation", "US", 9),
    ],
)
def test_header_that_lies_is_refused(broken, keyword, vr, value):
    refuse(broken(lambda ds: ds.add_new(keyword, vr, value)), "scan.dcm: ")


def test_dicomdir_is_not_followed(bundled, tmp_path):
    source = bundled("DICOMDIR")
    path = tmp_path / "DICOMDIR"
    path.write_bytes(source.read_bytes())
    refuse(path, "no PixelData")


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("study.zip", b"PK\x03\x04" + b"../../etc/passwd"),
        ("study.h5", b"\x89HDF\r\n\x1a\n/etc/passwd"),
        ("study.nrrd", b"NRRD0004\ntype: short\ndimension: 3\nsizes: 2 2 2\ndata file: ../secret.raw\n"),
        ("study.mhd", b"ObjectType = Image\nElementDataFile = ../secret.raw\n"),
    ],
)
def test_formats_that_lead_elsewhere_are_not_read(tmp_path, name, start):
    path = tmp_path / name
    path.write_bytes(start + bytes(200))
    refuse(path, "not an image")


def test_polyglot_with_a_tiff_preamble_is_read_as_dicom(broken):
    path = broken()
    data = path.read_bytes()
    path.write_bytes(b"II*\0" + data[4:])
    assert read_image(path).shape == (1, 9, 7)


def nifti(path, data, **fields):
    image = nibabel.Nifti1Image(data, np.diag([1.0, 2.0, 3.0, 1.0]))
    for key, value in fields.items():
        image.header[key] = value
    nibabel.save(image, path)
    return path


def test_nan_and_infinity_are_counted(tmp_path):
    data = np.zeros((3, 4, 5), np.float32)
    data[0, 0, :2] = np.nan
    data[1, 0, 0] = np.inf
    refuse(nifti(tmp_path / "a.nii", data), "2 voxels are NaN and 1 are infinite")


def test_four_dimensional_nifti_says_what_to_do(tmp_path):
    refuse(nifti(tmp_path / "a.nii", np.zeros((3, 4, 5, 2), np.int16)), "four_to_three")


def test_complex_and_color_nifti_are_refused(tmp_path):
    refuse(nifti(tmp_path / "a.nii", np.zeros((3, 4, 5), np.complex64)), "complex")
    rgb = np.zeros((3, 4, 5), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    refuse(nifti(tmp_path / "b.nii", rgb), "color")


def test_nifti_header_that_claims_too_much_is_refused_before_loading(tmp_path):
    raw = bytearray(nibabel.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.eye(4)).to_bytes())
    struct.pack_into("<8h", raw, 40, 3, 32767, 32767, 32767, 1, 1, 1, 1)
    with gzip.open(tmp_path / "bomb.nii.gz", "wb", 1) as file:
        file.write(bytes(raw) + bytes(8 * MIB))
    refuse(tmp_path / "bomb.nii.gz", "limit of 12 GiB")


@pytest.mark.parametrize("size", [0, -5])
def test_nifti_without_voxels_is_refused(tmp_path, size):
    raw = bytearray(nibabel.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.eye(4)).to_bytes())
    struct.pack_into("<4h", raw, 40, 3, size, 2, 2)
    (tmp_path / "a.nii").write_bytes(raw)
    refuse(tmp_path / "a.nii", "no voxels|cannot be read")


def test_nifti_data_offset_far_away_is_refused(tmp_path):
    raw = bytearray(nibabel.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.eye(4)).to_bytes())
    struct.pack_into("<f", raw, 108, 1e9)
    (tmp_path / "a.nii").write_bytes(raw)
    refuse(tmp_path / "a.nii", "beyond 1 MiB")


def test_truncated_nifti_is_refused(tmp_path):
    path = nifti(tmp_path / "a.nii", np.zeros((20, 20, 20), np.int16))
    path.write_bytes(path.read_bytes()[:1000])
    refuse(path, "damaged")
    packed = nifti(tmp_path / "b.nii.gz", np.random.default_rng(0).integers(0, 99, (20, 20, 20), dtype=np.int16))
    packed.write_bytes(packed.read_bytes()[:1000])
    refuse(packed, "damaged")


def test_nifti_with_a_flat_affine_is_refused(tmp_path):
    image = nibabel.Nifti1Image(np.zeros((3, 4, 5), np.int16), np.eye(4))
    raw = bytearray(image.to_bytes())
    struct.pack_into("<12f", raw, 280, *[0.0] * 12)
    (tmp_path / "a.nii").write_bytes(raw)
    refuse(tmp_path / "a.nii", "affine is not invertible")


def test_png_bomb_is_refused_by_its_header(tmp_path):
    body = b"IHDR" + struct.pack(">II5B", 19000, 19000, 8, 0, 0, 0, 0)
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body)))
    refuse(path, "more than the limit")


def test_truncated_png_and_tiff_are_refused(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    for name in ("a.png", "b.tif"):
        Image.fromarray(pixels).save(tmp_path / name)
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2])
        refuse(tmp_path / name, "damaged|cannot be read|no image")


def test_color_transparent_animated_and_binary_png_are_refused(tmp_path):
    rng = np.random.default_rng(0)
    color = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(color).save(tmp_path / "a.png")
    refuse(tmp_path / "a.png", "colors differ")
    clear = np.full((8, 8, 2), 9, np.uint8)
    gray = Image.fromarray(clear[..., 0])
    Image.merge("LA", [gray, gray]).save(tmp_path / "b.png")
    refuse(tmp_path / "b.png", "transparent")
    frames = [Image.fromarray(color[..., k]) for k in range(3)]
    frames[0].save(tmp_path / "c.png", save_all=True, append_images=frames[1:])
    refuse(tmp_path / "c.png", "animated")
    Image.fromarray(color[..., 0] > 99).save(tmp_path / "d.png")
    refuse(tmp_path / "d.png", "two-valued")


def test_tiff_that_claims_too_much_is_refused(tmp_path):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.tif")
    raw = bytearray((tmp_path / "a.tif").read_bytes())
    at = struct.unpack_from("<I", raw, 4)[0]
    for k in range(struct.unpack_from("<H", raw, at)[0]):
        entry = at + 2 + 12 * k
        tag = struct.unpack_from("<H", raw, entry)[0]
        if tag in (256, 257):
            struct.pack_into("<HHII", raw, entry, tag, 4, 1, 60000)
    (tmp_path / "a.tif").write_bytes(raw)
    refuse(tmp_path / "a.tif", "limit of 12 GiB")
