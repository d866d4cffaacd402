"""NIfTI <-> MedicalImage. The data axes are (X, Y, Z), the voxels (Z, Y, X); nothing is reoriented.

NIfTI says nothing about modality and units. A BIDS sidecar (same name, ``.json``) with ``Modality``
and ``Units`` is believed, or else the record beside a restored image; else CT is taken for Hounsfield units, all other
values are arbitrary. Written CT and PET say both in such a sidecar.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from einops import rearrange

from medq_uni.errors import UnreadableImage, UnwritableImage
from medq_uni.files import atomic_file, write_text
from medq_uni.image import UNITS_WORDS, MedicalImage, Units
from medq_uni.io.geometry import is_orthogonal, spacing_of
from medq_uni.io.guard import guarded
from medq_uni.io.limits import count_odd, refuse_odd, third_party, warn
from medq_uni.io.nifti_header import checked_header, opened
from medq_uni.io.provenance import Derivation, sidecar_path, split_suffix
from medq_uni.io.spool import Spool
from medq_uni.json_text import load_json
from medq_uni.notice import SHORT_NOTICE
from medq_uni.taxonomy import Modality

MAX_SIDECAR_BYTES = 2**20
BLOCK_BYTES = 2**20
"""Bytes that are read at a time."""
FORM_FIELDS = (
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z", "pixdim", "sform_code", "qform_code"),
)
"""Header fields that hold the place of the image."""
MODALITIES = {"CT": Modality.CT, "MR": Modality.MR, "PT": Modality.PET, "PET": Modality.PET}
WRITTEN_MODALITIES = {Modality.CT: "CT", Modality.PET: "PT"}
"""Those whose values have units; magnitude MR has none that a sidecar could say."""
WRITTEN_UNITS = {Units.HU: "HU", Units.SUV: "g/mL", Units.BQML: "Bq/mL", Units.ARBITRARY: "a.u."}
GENERATOR = "medq-uni"


@dataclass(frozen=True, eq=False)
class NiftiSource:
    """What is needed to write a NIfTI back.

    Attributes:
        header: nibabel header, with its sform and qform.
        dtype: Type of the stored values.
        slope: value = stored * slope + intercept.
        intercept: See slope.
        affine: Affine as read.
        paths: The file, never to be written to.
    """

    header: Any
    dtype: np.dtype
    slope: float
    intercept: float
    affine: np.ndarray
    paths: tuple[Path, ...]


class Parsed(NamedTuple):
    """What a file holds, decoded."""

    source: NiftiSource
    block: bytes
    """The header, in place of the one of the source, where it has no extensions; its fields are slow to pickle."""
    voxels: Spool
    is_split: bool
    """Whether sform and qform disagree."""


def read_nifti(path: Path, *, modality: Modality | None = None, frame: int | None = None) -> MedicalImage:
    """Read a ``.nii`` or ``.nii.gz`` file.

    Args:
        path: File with two or three axes, or four where a frame is named; trailing axes of length one are allowed.
        modality: Overrides the sidecar.
        frame: Which volume of a 4-D file, from 0.

    Raises:
        UnreadableImage: If it is damaged, too large, complex, RGB, 4-D without a frame, or not finite.
    """
    parsed = guarded([path], parse_file, path, frame)
    source = parsed.source if not parsed.block else replace(parsed.source, header=_header_of(parsed.block))
    affine = source.affine
    if parsed.is_split:
        warn(f"{path.name}: sform and qform disagree; the sform was used.")
    stated, units = _sidecar(path)
    modality = modality or stated
    if units is None:
        units = Units.HU if modality is Modality.CT else Units.ARBITRARY
    return MedicalImage(
        voxels=parsed.voxels.array(),
        spacing_mm=spacing_of(affine),
        affine=affine,
        modality=modality,
        units=units,
        source=source,
    )


def num_frames(path: Path) -> int:
    """Return how many volumes a file holds.

    Raises:
        UnreadableImage: If its header cannot be read.
    """
    count: int = guarded([path], _count_frames, path)
    return count


def _count_frames(path: Path) -> int:
    with third_party(path.name, kind="NIfTI"):
        return int(np.prod(checked_header(path).header.get_data_shape()[3:], dtype=np.int64))


def parse_file(path: Path, frame: int | None) -> Parsed:
    """Return what a file holds; see :func:`read_nifti`. Of the data, one slice at a time is in memory twice."""
    with third_party(path.name, kind="NIfTI"):
        image = checked_header(path)
        affine = np.array(image.affine, dtype=np.float64)
        if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
            raise UnreadableImage(f"{path.name}: the affine is not invertible. Correct sform and qform.")
        slope, intercept = (float(v) for v in (image.dataobj.slope, image.dataobj.inter))
        header = image.header.copy()
        dtype = header.get_data_dtype()
        shape = tuple(int(n) for n in header.get_data_shape())
        x, y, z = (*shape, 1)[:3]
        before = _checked_frame(path, shape, frame) * x * y * z * dtype.itemsize
        voxels = Spool((z, y, x), np.float32)
        num_nan = num_inf = 0
        with opened(path) as file, np.errstate(over="ignore", invalid="ignore"):  # counted below
            _skip(file, int(image.dataobj.offset) + before)
            at_once = max(1, BLOCK_BYTES // max(1, x * y * dtype.itemsize))
            for at in range(0, z, at_once):
                some = (min(at_once, z - at), y, x)
                raw = np.frombuffer(_exactly(path.name, file, dtype.itemsize * int(np.prod(some))), dtype)
                part = (raw.astype(np.float64) * slope + intercept).astype(np.float32).reshape(some)
                nan, inf = count_odd(part)
                num_nan, num_inf = num_nan + nan, num_inf + inf
                voxels.put(at, part)
        refuse_odd(path.name, num_nan, num_inf)
        is_split = bool(header["sform_code"] and header["qform_code"]) and not np.allclose(
            header.get_sform(), header.get_qform(), atol=0.01 * min(spacing_of(affine))
        )
        block = b"" if header.extensions else bytes(header.binaryblock)
        source = NiftiSource(None if block else header, dtype, slope, intercept, affine, (path,))
        return Parsed(source, block, voxels, is_split)


def _header_of(block: bytes) -> Any:
    import nibabel

    is_first = len(block) == nibabel.Nifti1Header.sizeof_hdr
    kind: Any = nibabel.Nifti1Header if is_first else nibabel.Nifti2Header
    return kind(block, check=False)


def _skip(file: BinaryIO, count: int) -> None:
    while count > 0:
        done = len(file.read(min(count, BLOCK_BYTES)))
        if done == 0:
            return
        count -= done


def _exactly(name: str, file: BinaryIO, count: int) -> bytes:
    """Return this many bytes of the data.

    Raises:
        UnreadableImage: If the file ends before.
    """
    pieces = []
    while count > 0:
        piece = file.read(min(count, BLOCK_BYTES))  # what is there, not what is claimed, decides on memory
        if not piece:
            raise UnreadableImage(f"{name}: the file is damaged or incomplete; copy or export it again.")
        pieces.append(piece)
        count -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def write_nifti(
    image: MedicalImage,
    path: Path,
    *,
    derivation: Derivation | None = None,
    more: Sequence[MedicalImage] = (),
) -> None:
    """Write ``.nii`` or ``.nii.gz``.

    The source's integer type and scaling are used where they hold every value exactly, else float32.
    Header, sform and qform codes of a NIfTI source stay.

    Args:
        image: What is written.
        path: Where to.
        derivation: How it was derived.
        more: Further volumes of the same size and source; with them the file has four axes.

    Raises:
        UnwritableImage: If voxels are not finite, or the file cannot be written.
    """
    import nibabel

    frames = (image, *more)
    if not all(np.isfinite(one.voxels).all() for one in frames):
        raise UnwritableImage(f"{path.name}: voxels are NaN or infinite. Replace them first.")
    with third_party(path.name, kind="NIfTI", error=UnwritableImage):
        stored = [_stored(one) for one in frames]
        _, slope, intercept = stored[0]
        if {one[1:] for one in stored} == {(slope, intercept)}:
            parts = [data for data, _, _ in stored]
        else:  # not every volume fits the integers
            parts, slope, intercept = [one.voxels for one in frames], None, None
        data = rearrange(parts, "t z y x -> x y z t")
        made = _nifti(image, data if more else data[..., 0])
        made.header.set_slope_inter(slope, intercept)
        made.header["descrip"], made.header["aux_file"] = b"", b""  # scanners write the patient's name there
        if derivation is not None:
            why = "restoration withheld" if derivation.settings.get("withheld") else "judged good"
            method = f"{why}, unchanged" if derivation.kind == "unchanged" else derivation.method
            made.header["descrip"] = f"{SHORT_NOTICE} {method}".encode("ascii", "replace")[:79]
        _write_bids(image, path)
        with atomic_file(path) as temporary:
            nibabel.save(made, temporary)


def bids_path(path: Path) -> Path:
    """Return where the BIDS sidecar of a NIfTI image lies: ``a.nii.gz`` -> ``a.json``."""
    return path.with_name(f"{split_suffix(path.name)[0]}.json")


def check_bids(image: MedicalImage, path: Path) -> None:
    """Refuse to write CT or PET beside a sidecar of someone else's that says another modality or other units.

    Raises:
        UnwritableImage: If there is one.
    """
    sidecar = bids_path(path)
    if image.modality not in WRITTEN_MODALITIES or not sidecar.exists():
        return
    record = _read_json(sidecar)
    if GENERATOR not in str(record.get("GeneratedBy")) and _said(record) != (image.modality, image.units):
        raise UnwritableImage(
            f"{sidecar.name}: lies where the sidecar of {path.name} goes, and says another modality or other units. "
            "Choose another name, or remove it."
        )


def _write_bids(image: MedicalImage, path: Path) -> None:
    """Write modality and units of CT or PET beside an image, unless a sidecar that is there says the same."""
    check_bids(image, path)
    sidecar = bids_path(path)
    modality = None if image.modality is None else WRITTEN_MODALITIES.get(image.modality)
    if modality is None or (sidecar.exists() and _said(_read_json(sidecar)) == (image.modality, image.units)):
        return
    record = {"Modality": modality, "Units": WRITTEN_UNITS[image.units]}
    write_text(sidecar, json.dumps(record | {"GeneratedBy": [{"Name": GENERATOR}]}, indent=2) + "\n")


def _checked_frame(path: Path, shape: tuple[int, ...], frame: int | None) -> int:
    """Return which volume of a file is read."""
    count = int(np.prod(shape[3:], dtype=np.int64))
    if frame is None and count > 1:
        raise UnreadableImage(
            f"{path.name}: {len(shape)} axes ({' x '.join(map(str, shape))}), but a volume has 3. Choose one of its "
            f"{count} volumes (frame=0 to {count - 1}, --frame on the command line), or split the series first "
            "(nibabel.four_to_three, fslsplit)."
        )
    if not 0 <= (frame or 0) < count:
        raise UnreadableImage(f"{path.name}: has no frame {frame}; its last one is {count - 1}, counted from 0.")
    return frame or 0


def _sidecar(path: Path) -> tuple[Modality | None, Units | None]:
    """Return modality and units that a BIDS sidecar states, or the record of a restoration."""
    for sidecar, kind in ((bids_path(path), "a BIDS sidecar"), (sidecar_path(path), "a record")):
        try:
            record = _read_json(sidecar)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, AttributeError, RecursionError):
            warn(f"{sidecar.name}: not {kind}, so it was not used.")
            continue
        modality, units = _said(record)
        if modality is Modality.PET and units is None and record.get("Units"):
            warn(f"{sidecar.name}: its Units are not understood (Bq/mL or g/mL are); values are arbitrary.")
        if modality is not None or units is not None:
            return modality, units
    return None, None


def _read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is too large, or holds something else.
    """
    record = load_json(path, max_bytes=MAX_SIDECAR_BYTES)
    if not isinstance(record, dict):
        raise ValueError
    return record


def _said(record: dict[str, Any]) -> tuple[Modality | None, Units | None]:
    """Return what a BIDS sidecar, or a record of ours, says of modality and units."""
    modality = MODALITIES.get(str(record.get("Modality", record.get("modality", ""))).upper())
    return modality, UNITS_WORDS.get(str(record.get("Units", record.get("units", ""))).lower())


def _stored(image: MedicalImage) -> tuple[np.ndarray, float | None, float | None]:
    """Return stored values with slope and intercept: the source's integers where they are exact."""
    source = image.source
    if not isinstance(source, NiftiSource) or source.dtype.kind not in "iu":
        return image.voxels, None, None
    limits = np.iinfo(source.dtype)
    steps = np.rint((image.voxels.astype(np.float64) - source.intercept) / source.slope)
    if steps.min() < limits.min or steps.max() >= float(limits.max) + (limits.max < 2**53):
        return image.voxels, None, None
    stored = steps.astype(source.dtype)
    again = (stored.astype(np.float64) * source.slope + source.intercept).astype(np.float32)
    if not np.array_equal(again, image.voxels):
        return image.voxels, None, None
    return stored, source.slope, source.intercept


def _nifti(image: MedicalImage, data: np.ndarray) -> Any:
    """Return the nibabel image with header and forms as near to the source's as the grid allows."""
    import nibabel

    source = image.source
    kind: Any = nibabel.Nifti1Image
    header, code = None, 2  # 2: aligned to something unknown
    if isinstance(source, NiftiSource):
        header = source.header.copy()
        header.set_data_dtype(data.dtype)
        kind = nibabel.Nifti2Image if isinstance(header, nibabel.Nifti2Header) else nibabel.Nifti1Image
        if np.array_equal(image.affine, source.affine):
            made = kind(data, None, header)
            for field in FORM_FIELDS:  # recomputing them would round
                made.header[field] = header[field]
            return made
        code = int(header["sform_code"]) or int(header["qform_code"]) or 2
    elif hasattr(source, "headers"):
        code = 1  # scanner coordinates, from DICOM
    made = kind(data, image.affine, header)
    made.header.set_xyzt_units("mm")
    made.set_sform(image.affine, code=code)
    # a quaternion cannot hold a shear, so a tilted stack has an sform only
    made.set_qform(image.affine, code=code if is_orthogonal(image.affine) else 0, strip_shears=True)
    return made
