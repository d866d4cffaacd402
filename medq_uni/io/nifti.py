"""NIfTI <-> MedicalImage. The data axes are (X, Y, Z), the voxels (Z, Y, X); nothing is reoriented.

NIfTI says nothing about modality and units. A BIDS sidecar (same name, ``.json``) with ``Modality``
and ``Units`` is believed, or else the record beside a restored image; else CT is taken for Hounsfield units, all other
values are arbitrary. Written CT and PET say both in such a sidecar.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange

from medq_uni.errors import UnreadableImage, UnwritableImage
from medq_uni.files import atomic_file, write_text
from medq_uni.image import UNITS_WORDS, MedicalImage, Units
from medq_uni.io.geometry import is_orthogonal, spacing_of
from medq_uni.io.limits import check_bytes, check_finite, third_party, warn
from medq_uni.io.provenance import Derivation, sidecar_path, split_suffix
from medq_uni.notice import SHORT_NOTICE
from medq_uni.taxonomy import Modality

MAX_HEADER_BYTES = 2**20
"""Farthest that the data may begin: extensions are read into memory."""
MAX_SIDECAR_BYTES = 2**20
GZIP_MAGIC = b"\x1f\x8b"
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


def read_nifti(path: Path, *, modality: Modality | None = None, frame: int | None = None) -> MedicalImage:
    """Read a ``.nii`` or ``.nii.gz`` file.

    Args:
        path: File with two or three axes, or four where a frame is named; trailing axes of length one are allowed.
        modality: Overrides the sidecar.
        frame: Which volume of a 4-D file, from 0.

    Raises:
        UnreadableImage: If it is damaged, too large, complex, RGB, 4-D without a frame, or not finite.
    """
    import nibabel

    with third_party(path.name, kind="NIfTI"):
        frame = _checked_frame(path, _check_header(path), frame)
        image: Any = nibabel.load(path)
        affine = np.array(image.affine, dtype=np.float64)
        if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
            raise UnreadableImage(f"{path.name}: the affine is not invertible. Correct sform and qform.")
        slope, intercept = (float(v) for v in (image.dataobj.slope, image.dataobj.inter))
        raw = np.asanyarray(image.dataobj.get_unscaled())
        raw = raw.reshape(*raw.shape[:3], -1)[..., frame] if raw.ndim > 3 else raw[:, :, None] if raw.ndim == 2 else raw
        raw = rearrange(raw, "x y z -> z y x")
        voxels = np.empty(raw.shape, np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # reported by check_finite
            for z in range(len(raw)):
                voxels[z] = raw[z].astype(np.float64) * slope + intercept
        check_finite(path.name, voxels)
        header = image.header.copy()
        is_split = bool(header["sform_code"] and header["qform_code"]) and not np.allclose(
            header.get_sform(), header.get_qform(), atol=0.01 * min(spacing_of(affine))
        )
        source = NiftiSource(header, header.get_data_dtype(), slope, intercept, affine, (path,))
    if is_split:
        warn(f"{path.name}: sform and qform disagree; the sform was used.")
    stated, units = _sidecar(path)
    modality = modality or stated
    if units is None:
        units = Units.HU if modality is Modality.CT else Units.ARBITRARY
    return MedicalImage(
        voxels=voxels,
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
    with third_party(path.name, kind="NIfTI"):
        return int(np.prod(_check_header(path)[3:], dtype=np.int64))


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
            method = "judged good, unchanged" if derivation.kind == "unchanged" else derivation.method
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
        raise UnreadableImage(f"{path.name}: has no frame {frame}; it has {count}, from 0 to {count - 1}.")
    return frame or 0


def _check_header(path: Path) -> tuple[int, ...]:
    """Check the header's claims before anything of the size of the data is read, and return the size."""
    import nibabel

    if path.stat().st_size == 0:
        raise UnreadableImage(f"{path.name}: the file is empty. Copy or export it again.")
    _check_compression(path)
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    with opener(path, "rb") as file:
        block = file.read(540)
    kinds: tuple[Any, ...] = (nibabel.Nifti1Header, nibabel.Nifti2Header)
    for kind in kinds:
        size = int(kind.sizeof_hdr)
        if len(block) >= size and int.from_bytes(block[:4], "little") in (size, _swapped(size)):
            header = kind(block[:size], check=False)
            break
    else:
        raise UnreadableImage(f"{path.name}: not a NIfTI file. Pass DICOM, NIfTI, PNG or TIFF.")
    if not 0 <= float(header["vox_offset"]) <= MAX_HEADER_BYTES:
        raise UnreadableImage(f"{path.name}: the header says that data begin beyond 1 MiB. Export it again.")
    shape = tuple(int(n) for n in header.get_data_shape())
    dtype = header.get_data_dtype()
    if dtype.kind == "c":
        raise UnreadableImage(f"{path.name}: values are complex. Write the magnitude as float32.")
    if dtype.kind not in "iuf":
        raise UnreadableImage(f"{path.name}: values are color (RGB). Write one gray value per voxel.")
    check_bytes(path.name, shape, dtype.itemsize)
    if len(shape) < 2 or sum(n != 1 for n in shape[3:]) > 1:
        raise UnreadableImage(
            f"{path.name}: {len(shape)} axes ({' x '.join(map(str, shape))}), but a volume has 3, a series 4. "
            "Split it first (nibabel.four_to_three, fslsplit)."
        )
    return shape


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
    if path.stat().st_size > MAX_SIDECAR_BYTES:
        raise ValueError
    record = json.loads(path.read_text(encoding="utf-8"))
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
