"""The three calls that everything else uses: read an image, read every series, write an image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from medq_uni.errors import MedQError, UnreadableImage, UnwritableImage
from medq_uni.files import check_name, check_target
from medq_uni.image import MedicalImage, Units, modality_named, units_named
from medq_uni.io.discover import Format, FoundImages, ImageItem, find_images, format_of
from medq_uni.io.limits import warn
from medq_uni.io.provenance import IMAGE_SUFFIXES, Derivation
from medq_uni.taxonomy import Modality


def read_image(
    path: str | Path | ImageItem,
    *,
    modality: Modality | str | None = None,
    units: Units | str | None = None,
    frame: int | None = None,
) -> MedicalImage:
    """Read one image in physical units, with its place in space (RAS+).

    CT is in HU, PET in SUV (by body weight) where the header allows and Bq/ml with a warning where
    not, all else in arbitrary units.

    Args:
        path: DICOM file (one or many frames), folder with one DICOM series, NIfTI, PNG or TIFF file,
            or an item of :func:`find_images`. The order of names in a folder plays no part.
        modality: Overrides what the header says: ct, mr or pet. Without either, the image has none.
        units: What the values are, where the file does not say: HU, SUV, BQML or a.u. DICOM says it.
        frame: Which volume of a 4-D NIfTI file, or which time point, echo or stack of a DICOM series or multi-frame
            object, from 0.

    Raises:
        MedQError: If the modality or the units are none of ours, or the units contradict a DICOM header.
        UnreadableImage: If it is not one readable image; the message says what to do. It names files
            and tags, never the values of tags.

    Warns:
        ImageWarning: What had to be assumed, or could not be found out.
    """
    modality = modality_named(modality)
    stated = None if units is None else units_named(units)
    _check_frame(frame)
    if isinstance(path, ImageItem):
        frame = path.frame if frame is None else frame
        _check_item(path)
        image = _read(path.format, list(path.files), path.relative.name or path.path.name, modality, frame)
        return _in_units(image, stated)
    path = Path(path)
    if path.is_dir():
        found = find_images(path)
        item, frame = _only_series(path, found, frame)
        _check_item(item)
        for _, reason in found.broken:
            warn(f"left out: {reason}")
        try:
            return _in_units(_read("dicom", list(item.files), path.name, modality, frame), stated)
        except UnreadableImage as error:
            count = sum(one.series == item.series for one in found)
            if frame is not None or item.frame is not None or count < 2:
                raise
            hint = f"Or choose one of its {count} images: frame=0 to {count - 1} (--frame on the command line)."
            raise UnreadableImage(f"{error} {hint}") from None
    return _in_units(_read(_format_of_file(path), [path], path.name, modality, frame), stated)


def num_frames(path: str | Path | ImageItem) -> int:
    """Return how many volumes :func:`read_image` can choose from by ``frame`` in one file: more than one in 4-D NIfTI.

    Raises:
        UnreadableImage: If the file cannot be read.
    """
    if not isinstance(path, ImageItem) and Path(path).is_dir():
        return 1
    file, kind = (path.files[0], path.format) if isinstance(path, ImageItem) else (Path(path), None)
    if (kind or _format_of_file(file)) != "nifti":
        return 1
    from medq_uni.io.nifti import num_frames as of_nifti

    return of_nifti(file)


def _format_of_file(path: Path) -> Format:
    """Return the format of a file.

    Raises:
        UnreadableImage: If it is none, or of none.
    """
    try:
        if not path.is_file():
            raise UnreadableImage(f"{path.name}: no such file or folder. Check the path.")
        if path.stat().st_size == 0:
            raise UnreadableImage(f"{path.name}: the file is empty. Copy or export it again.")
        kind = format_of(path)
    except (OSError, ValueError) as error:
        if isinstance(error, UnreadableImage):
            raise
        raise UnreadableImage(
            f"{path.name}: cannot be opened ({type(error).__name__}). Check its permissions."
        ) from None
    if kind is None:
        raise UnreadableImage(f"{path.name}: not an image. Pass DICOM, NIfTI, PNG or TIFF.")
    return kind


def _check_item(item: ImageItem) -> None:
    if item.problem:
        raise UnreadableImage(item.problem)


def _check_frame(frame: object) -> None:
    if frame is not None and (isinstance(frame, bool) or not isinstance(frame, int) or frame < 0):
        raise MedQError(f"frame must be a whole number from 0, got {str(frame)[:40]}.")


def _in_units(image: MedicalImage, stated: Units | None) -> MedicalImage:
    """Return the image with the units that the user states."""
    if stated is None or stated is image.units:
        return image
    if hasattr(image.source, "headers") and image.units is not Units.ARBITRARY:
        raise MedQError(f"the DICOM header says that values are {image.units}, not {stated}. Leave out units=.")
    return replace(image, units=stated)


def read_series(folder: str | Path, *, modality: Modality | str | None = None) -> Iterator[MedicalImage]:
    """Yield every DICOM series below a folder, one image each, in the order of :func:`find_images`.

    Args:
        folder: Root of the tree; other formats in it are passed over.
        modality: Overrides what the headers say.

    Raises:
        UnreadableImage: If a series cannot be read, or there is none.
    """
    found = [item for item in find_images(folder) if item.format == "dicom"]
    if not found:
        raise UnreadableImage(f"{Path(folder).name}: no DICOM image in this folder. Check the path.")
    for item in found:
        yield read_image(item, modality=modality)


def write_image(
    image: MedicalImage,
    path: str | Path,
    *,
    derivation: Derivation | None = None,
    overwrite: bool = False,
    series_number_offset: int = 1,
    more: Sequence[MedicalImage] = (),
) -> None:
    """Write an image, whole or not at all, in the form of its source and the format of the name.

    Args:
        image: Image in physical units, with the source that it was read with.
        path: ``.dcm``, or a name without a suffix for a folder with a DICOM series (both need a DICOM
            source); ``.nii`` or ``.nii.gz``; ``.png`` (one slice); ``.tif`` or ``.tiff``.
        derivation: How the image was made; decides the UIDs of a DICOM series.
        overwrite: Whether an existing target may be replaced. The source never is.
        series_number_offset: DICOM SeriesNumber = original * 100 + this.
        more: Further volumes of the same size, which make the file 4-D; NIfTI alone holds them.

    Raises:
        UnwritableImage: If the target is the source, exists, or cannot hold this image.
    """
    path = Path(path)
    kind = check_writable(image, path, overwrite=overwrite, num_volumes=1 + len(more))
    if kind == "dicom":
        from medq_uni.io.dicom_write import write_dicom

        write_dicom(image, path, derivation=derivation, series_number_offset=series_number_offset)
    elif kind == "nifti":
        from medq_uni.io.nifti import write_nifti

        write_nifti(image, path, derivation=derivation, more=more)
    elif kind == "png":
        from medq_uni.io.raster import write_png

        write_png(image, path, derivation=derivation)
    else:
        from medq_uni.io.raster import write_tiff

        write_tiff(image, path, derivation=derivation)


def for_nifti(image: MedicalImage) -> MedicalImage:
    """Return the image as NIfTI can hold it: slices on no regular grid lose their place in space, with a warning."""
    if not getattr(image.source, "is_uneven", False):
        return image
    warn("The slices lie on no regular grid, so the maps beside the result are stacks without a place in space.")
    return replace(image, affine=np.diag([1.0, 1.0, 1.0, 1.0]), spacing_mm=(1.0, 1.0, 1.0), source=None)


def check_writable(image: MedicalImage, path: Path, *, overwrite: bool = False, num_volumes: int = 1) -> Format:
    """Return the format that :func:`write_image` would write, or refuse what it would refuse, before any work is done.

    Args:
        image: Image of the form that will be written; its voxels may still change.
        path: Target.
        overwrite: Whether an existing target may be replaced.
        num_volumes: How many of its kind go into the file.

    Raises:
        UnwritableImage: If the target is the source, exists, or cannot hold this image.
    """
    kind = target_format(path)
    check_name(path)
    if num_volumes > 1 and kind != "nifti":
        raise UnwritableImage(
            f"{path.name}: {num_volumes} volumes need a 4-D file. Write .nii or .nii.gz, or choose one (--frame)."
        )
    if kind == "dicom" and path.suffix == "" and path.is_file():
        raise UnwritableImage(f"{path.name}: is a file, but a series needs a folder. Choose another name.")
    if path.suffix and path.is_dir():
        raise UnwritableImage(f"{path.name}: is a folder, but a file is to be written. Choose another name.")
    check_target(path, sources=getattr(image.source, "paths", ()), overwrite=overwrite)
    if kind == "dicom":
        from medq_uni.io.dicom_write import own_frames

        own_frames(image, path)
    elif kind == "nifti":
        _check_nifti(image, path)
    elif kind == "png" and image.shape[0] != 1:
        raise UnwritableImage(
            f"{path.name}: a PNG holds one slice, this image has {image.shape[0]}. "
            "Write .tif or .nii.gz, or one image.slice_at(z) at a time."
        )
    return kind


def _check_nifti(image: MedicalImage, path: Path) -> None:
    from medq_uni.io.nifti import check_bids

    check_bids(image, path)
    if getattr(image.source, "is_uneven", False):
        raise UnwritableImage(
            f"{path.name}: the slices lie on no regular grid, which NIfTI needs. Write a DICOM series (a folder)."
        )


def _read(
    kind: Format, paths: list[Path], name: str, modality: Modality | None, frame: int | None = None
) -> MedicalImage:
    if kind == "nifti":
        from medq_uni.io.nifti import read_nifti

        return read_nifti(paths[0], modality=modality, frame=frame)
    if kind == "dicom":
        from medq_uni.io.dicom import read_dicom

        return read_dicom(paths, name=name, modality=modality, frame=frame)
    if frame:
        raise UnreadableImage(f"{name}: has no frame {frame}; it is one image.")
    if kind == "png":
        from medq_uni.io.raster import read_png

        return read_png(paths[0], modality=modality)
    from medq_uni.io.raster import read_tiff

    return read_tiff(paths[0], modality=modality)


def _only_series(folder: Path, found: FoundImages, frame: int | None) -> tuple[ImageItem, int | None]:
    """Return the one DICOM series of a folder, and the frame that is still to be chosen in it.

    Args:
        folder: Where it is.
        found: What is in it.
        frame: Which time point, echo or stack of the series, from 0.

    Raises:
        UnreadableImage: If there is none, or several; the message counts them.
    """
    series = [item for item in found if item.format == "dicom"]
    if not series:
        others = f"{len(found)} other image files; pass one of them" if found else "no image at all"
        reason = f" First file passed over: {found.skipped[0][1]}" if found.skipped else ""
        raise UnreadableImage(f"{folder.name}: no DICOM series, {others}.{reason}")
    if len(series) > 1 and len({item.series for item in series}) == 1:
        if frame is not None:
            chosen = next((item for item in series if item.number == frame), None)
            if chosen is None:
                raise UnreadableImage(
                    f"{folder.name}: has no frame {frame}; its last one is {len(series) - 1}, counted from 0."
                )
            return chosen, chosen.frame
        files = tuple(sorted({file for item in series for file in item.files}))
        problem = next((item.problem for item in series if item.problem), "")
        # reading says in what the slices of the series differ
        return replace(series[0], path=folder, files=files, problem=problem), None
    if len(series) > 1:
        listing = ", ".join(f"{item.relative.name} ({len(item.files)} files)" for item in series[:8])
        more = ", ..." if len(series) > 8 else ""
        raise UnreadableImage(
            f"{folder.name}: holds {len(series)} DICOM series: {listing}{more}. Pass the folder or file of "
            "one, or choose with find_images(folder), or read all with read_series(folder)."
        )
    return series[0], frame


def target_format(path: Path) -> Format:
    """Return the format that a name asks for.

    Raises:
        UnwritableImage: If it asks for none that can be written.
    """
    name = path.name.lower()
    if path.suffix == "" or name.endswith(".dcm"):
        return "dicom"
    if name.endswith((".nii", ".nii.gz")):
        return "nifti"
    if name.endswith(".png"):
        return "png"
    if name.endswith((".tif", ".tiff")):
        return "tiff"
    raise UnwritableImage(
        f"{path.name}: cannot tell the format. The name must end in {', '.join(IMAGE_SUFFIXES)}, "
        "or have no suffix for a DICOM folder."
    )
