"""PNG and TIFF <-> MedicalImage, gray only, 8 and 16 bit or float32, never through 8-bit color.

A PNG that is written from physical values carries its rescale in a text chunk, and reads back in
those units; a TIFF holds the values themselves. Orientation hints of cameras (EXIF) are ignored.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medq_uni.errors import UnreadableImage, UnwritableImage
from medq_uni.files import atomic_file
from medq_uni.image import MedicalImage, Units
from medq_uni.io.guard import guarded
from medq_uni.io.limits import check_bytes, count_odd, grant, refuse_odd, third_party
from medq_uni.io.provenance import Derivation
from medq_uni.io.rescale import Rescale, physical
from medq_uni.io.spool import Spool
from medq_uni.io.tiff_scan import check_directories
from medq_uni.json_text import parse_json
from medq_uni.notice import SHORT_NOTICE
from medq_uni.taxonomy import Modality

PNG_KEY = "medq"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
CT_SLOPE, CT_INTERCEPT = 1.0 / 16.0, -1024.0
"""16 steps per HU from -1024: 16 bits end at 3071.94 HU, and whole HU are exact."""
TIFF_TYPES = ("uint8", "uint16", "int16", "float32")


@dataclass(frozen=True, eq=False)
class RasterSource:
    """What is needed to write a raster image back.

    Attributes:
        dtype: Type of the stored values.
        slope: value = stored * slope + intercept.
        intercept: See slope.
        paths: The file, never to be written to.
    """

    dtype: np.dtype
    slope: float
    intercept: float
    paths: tuple[Path, ...]


class Parsed(NamedTuple):
    """What a file holds, decoded."""

    voxels: Spool
    source: RasterSource
    modality: Modality | None
    units: Units


def read_png(path: Path, *, modality: Modality | None = None) -> MedicalImage:
    """Read a gray PNG of 8 or 16 bits; color is read where all channels are equal.

    Raises:
        UnreadableImage: If it is damaged, too large, animated,
            transparent, two-valued, or in color.
    """
    return _image(guarded([path], parse_png, path), modality)


def parse_png(path: Path) -> Parsed:
    """Return what a PNG holds; see :func:`read_png`."""
    from PIL import Image

    with third_party(path.name, kind="PNG"):
        with path.open("rb") as file:
            head = file.read(33)
        if not head.startswith(PNG_SIGNATURE) or len(head) < 33:
            raise UnreadableImage(f"{path.name}: not a PNG file. Pass DICOM, NIfTI, PNG or TIFF.")
        width, height = int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
        depth, color = head[24], head[25]
        check_bytes(path.name, (height, width), 2 if depth == 16 else 4)
        if color in (2, 4, 6) and depth == 16:
            raise UnreadableImage(f"{path.name}: 16-bit color or transparency. Save it as 16-bit gray.")
        with Image.open(path, formats=["PNG"]) as image:
            if getattr(image, "n_frames", 1) > 1:
                raise UnreadableImage(f"{path.name}: an animated PNG. Save its frames one by one.")
            image.load()
            record = _record(image.info.get(PNG_KEY))
            pixels = np.asarray(image.convert("RGBA") if image.mode in ("P", "PA") else image)
        if depth == 1:
            raise UnreadableImage(f"{path.name}: a two-valued mask, not an image. Save it as 8- or 16-bit gray.")
        if color in (3, 4, 6):
            if pixels[..., -1].min() < 255:
                raise UnreadableImage(f"{path.name}: has transparent pixels. Save it as opaque gray.")
            pixels = pixels[..., :-1]
        gray = _gray(path.name, pixels).astype(np.uint16 if depth == 16 else np.uint8)
        del pixels, image
        return _parsed(path, 1, [gray], record)


def read_tiff(path: Path, *, modality: Modality | None = None) -> MedicalImage:
    """Read a gray TIFF of uint8, uint16, int16 or float32; its pages are slices.

    So are the planes of a contiguous stack that has one page for all of them (ImageJ, OME).

    Raises:
        UnreadableImage: If it is damaged, too large, of another type, in color, its pages differ, or it holds fewer
            slices than it says.
    """
    return _image(guarded([path], parse_tiff, path), modality)


def parse_tiff(path: Path) -> Parsed:
    """Return what a TIFF holds; see :func:`read_tiff`."""
    import tifffile

    with third_party(path.name, kind="TIFF"):
        check_directories(path)
    with third_party(path.name, kind="TIFF"), tifffile.TiffFile(path, _multifile=False) as file:
        pages = [page.aspage() for page in file.pages]
        if not pages:
            raise UnreadableImage(f"{path.name}: holds no image. Export it again.")
        first: Any = pages[0]
        photometric = getattr(first.photometric, "name", "")
        if any((page.shape, page.dtype) != (first.shape, first.dtype) for page in pages):
            raise UnreadableImage(f"{path.name}: pages differ in size or type. Save them one by one.")
        if str(first.dtype) not in TIFF_TYPES:
            raise UnreadableImage(f"{path.name}: values must be one of {', '.join(TIFF_TYPES)}. Convert them.")
        if photometric not in ("MINISBLACK", "MINISWHITE", "RGB"):
            raise UnreadableImage(f"{path.name}: a palette or other color space. Save it as gray.")
        num_slices = _num_slices(path.name, file, pages)
        size = path.stat().st_size
        check_bytes(path.name, (num_slices, *first.shape[:2]), first.dtype.itemsize, file_bytes=size)
        if any(0 in page.databytecounts for page in pages):
            raise UnreadableImage(f"{path.name}: parts of it have no data. Copy or export it again.")
        return _parsed(path, num_slices, _slices(path.name, file, pages, num_slices), _record(first.description))


def _num_slices(name: str, file: Any, pages: list[Any]) -> int:
    """Return how many slices a TIFF holds: its pages, or more where one page stands for a contiguous stack.

    Raises:
        UnreadableImage: If it says that there are more slices than are there.
    """
    page_size = int(np.prod(pages[0].shape))
    stacks = file.series
    planes = int(np.prod(stacks[0].shape)) // page_size if len(stacks) == 1 else len(pages)
    stated = (file.imagej_metadata or {}).get("images", 1) if file.is_imagej else 1
    is_contiguous = len(stacks) == 1 and stacks[0].dataoffset is not None and planes % len(pages) == 0
    held = planes if planes > len(pages) and is_contiguous else len(pages)
    stated = max(int(stated), planes)
    if stated > held:
        raise UnreadableImage(f"{name}: says that it holds {stated} slices, but {held} are there. Export it again.")
    return held


def write_png(image: MedicalImage, path: Path, *, derivation: Derivation | None = None) -> None:
    """Write one slice as a gray PNG: the bit depth of a PNG source, else 16 bits.

    Values that do not come from a raster image are mapped linearly to 16 bits: CT within
    [-1024, 3071] HU with 1/16 HU per step, all else over their own range.

    Raises:
        UnwritableImage: If voxels are not finite.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    _check(image, path)
    dtype, slope, intercept = _png_scale(image)
    info = PngInfo()
    if not isinstance(image.source, RasterSource) or (slope, intercept) != (1.0, 0.0):
        info.add_text(PNG_KEY, _record_text(image, slope, intercept))
    if derivation is not None:
        info.add_text("Description", derivation.to_text().encode("ascii", "replace").decode())
    pixels = _to_integers(image.voxels[0], dtype, slope, intercept)
    with third_party(path.name, kind="PNG", error=UnwritableImage), atomic_file(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG", pnginfo=info)


def write_tiff(image: MedicalImage, path: Path, *, derivation: Derivation | None = None) -> None:
    """Write a TIFF, one page per slice: the type of a TIFF source, else float32 physical values.

    Raises:
        UnwritableImage: If voxels are not finite, or the file cannot be written.
    """
    import tifffile

    _check(image, path)
    source, voxels = image.source, image.voxels
    is_integer = isinstance(source, RasterSource) and source.dtype.kind in "iu"
    if is_integer and (source.slope, source.intercept) == (1.0, 0.0):
        voxels = _to_integers(voxels, source.dtype, 1.0, 0.0)
    record = json.loads(_record_text(image, 1.0, 0.0))
    if derivation is not None:
        record["notice"] = SHORT_NOTICE
    with third_party(path.name, kind="TIFF", error=UnwritableImage), atomic_file(path) as temporary:
        tifffile.imwrite(
            temporary,
            voxels,
            photometric="minisblack",
            description=json.dumps(record),
            metadata=None,
            software="medq-uni",
        )


def _check(image: MedicalImage, path: Path) -> None:
    if not np.isfinite(image.voxels).all():
        raise UnwritableImage(f"{path.name}: voxels are NaN or infinite. Replace them first.")


def _gray(name: str, pixels: np.ndarray) -> np.ndarray:
    """Return the one channel of a picture, (H, W)."""
    if pixels.ndim == 3 and pixels.shape[-1] in (1, 3) and (pixels == pixels[..., :1]).all():
        return pixels[..., 0]
    if pixels.ndim != 2:
        raise UnreadableImage(f"{name}: colors differ between channels. Save it as gray.")
    return pixels


def _image(parsed: Parsed, modality: Modality | None) -> MedicalImage:
    return MedicalImage(
        voxels=parsed.voxels.array(),
        modality=modality or parsed.modality,
        units=parsed.units,
        source=parsed.source,
    )


def _parsed(path: Path, num_slices: int, slices: Iterable[np.ndarray], record: dict[str, Any]) -> Parsed:
    """Return slices of stored values as physical ones, one after the other, so that none lies in memory for long."""
    rescale = Rescale(record.get("slope", 1.0), record.get("intercept", 0.0))
    voxels: Spool | None = None
    num_nan = num_inf = 0
    for number, stored in enumerate(slices):
        if voxels is None:
            voxels = Spool((num_slices, *stored.shape), np.float32)
            dtype = np.dtype(stored.dtype.newbyteorder("="))
        with np.errstate(over="ignore", invalid="ignore"):  # counted
            values = physical(stored, rescale)
        nan, inf = count_odd(values)
        num_nan, num_inf = num_nan + nan, num_inf + inf
        voxels.put(number, values)
    refuse_odd(path.name, num_nan, num_inf)
    assert voxels is not None
    source = RasterSource(dtype, rescale.slope, rescale.intercept, (path,))
    return Parsed(voxels, source, record.get("modality"), record.get("units", Units.ARBITRARY))


def _slices(name: str, file: Any, pages: list[Any], num_slices: int) -> Iterator[np.ndarray]:
    """Yield the gray slices of a TIFF as they are stored, dark for low values."""
    first: Any = pages[0]
    is_negative = getattr(first.photometric, "name", "") == "MINISWHITE"
    try:
        if num_slices == len(pages):
            stored: Iterable[np.ndarray] = (page.asarray() for page in pages)
        else:  # one directory describes the first slice, the others follow its pixels
            grant(2 * num_slices * int(np.prod(first.shape)) * first.dtype.itemsize)
            stored = file.series[0].asarray().reshape(num_slices, *first.shape)
        for pixels in stored:
            gray = _gray(name, pixels)
            yield (-gray if gray.dtype.kind == "f" else np.invert(gray)) if is_negative else gray
    except (ValueError, ImportError) as error:
        if isinstance(error, UnreadableImage):
            raise
        compression = getattr(first.compression, "name", "this")
        raise UnreadableImage(
            f"{name}: {compression} compression cannot be decoded. The file is damaged, "
            "or pip install imagecodecs is needed."
        ) from None


def _record(text: object) -> dict[str, Any]:
    """Return what our own writer noted, empty for anything else."""
    try:
        record = parse_json(str(text))[PNG_KEY]
        slope, intercept = float(record["slope"]), float(record["intercept"])
        if not (np.isfinite([slope, intercept]).all() and slope > 0):
            return {}
        modality = Modality(record["modality"]) if record["modality"] else None
        return {"slope": slope, "intercept": intercept, "units": Units(record["units"]), "modality": modality}
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        return {}


def _record_text(image: MedicalImage, slope: float, intercept: float) -> str:
    record = {
        "slope": slope,
        "intercept": intercept,
        "units": image.units.value,
        "modality": image.modality.value if image.modality else None,
    }
    return json.dumps({PNG_KEY: record})


def _png_scale(image: MedicalImage) -> tuple[np.dtype, float, float]:
    """Return type, slope and intercept of the integers."""
    source = image.source
    if isinstance(source, RasterSource) and source.dtype.kind == "u":
        return source.dtype, source.slope, source.intercept
    low, high = float(image.voxels.min()), float(image.voxels.max())
    if image.units is Units.HU and low >= CT_INTERCEPT and high <= CT_INTERCEPT + 65535 * CT_SLOPE:
        return np.dtype(np.uint16), CT_SLOPE, CT_INTERCEPT
    return np.dtype(np.uint16), (high - low) / 65535 or 1.0, low


def _to_integers(voxels: np.ndarray, dtype: np.dtype, slope: float, intercept: float) -> np.ndarray:
    limits = np.iinfo(dtype)
    steps = np.rint((voxels.astype(np.float64) - intercept) / slope)
    return np.clip(steps, limits.min, limits.max).astype(dtype)
