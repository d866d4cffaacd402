"""The main job on files: read, assess, restore, write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medq_uni.files import check_target, files_digest
from medq_uni.io.discover import ImageItem
from medq_uni.io.read_write import check_writable, read_image
from medq_uni.restorer import Restorer
from medq_uni.result import Restoration, targets_of
from medq_uni.taxonomy import Modality


def restore_file(
    restorer: Restorer,
    source: str | Path | ImageItem,
    target: str | Path,
    *,
    modality: Modality | None = None,
    overwrite: bool = False,
    maps: bool = True,
    **options: Any,
) -> Restoration:
    """Read a file or DICOM series, assess and restore it, write the result, and return it.

    Args:
        restorer: Loaded model.
        source: Image file, folder with one series, or an item of :func:`medq_uni.io.discover.find_images`; never
            written to.
        target: Where the restored image goes, format by suffix; refused before the work where it cannot be written.
        modality: Overrides what the header says.
        overwrite: Whether an existing target may be replaced.
        maps: Also write residual and uncertainty beside it.
        **options: See :meth:`medq_uni.restorer.Restorer.restore`.

    Raises:
        UnreadableImage: If the source is not one readable image.
        UnwritableImage: If the target is the source, exists, or cannot hold the image.
        CannotAssess: See :meth:`medq_uni.restorer.Restorer.assess`.
    """
    origins = source.files if isinstance(source, ImageItem) else (Path(source),)
    for path in targets_of(Path(target)):
        check_target(path, sources=origins, overwrite=overwrite)
    image = read_image(source, modality=modality)
    check_writable(image, Path(target), overwrite=overwrite)
    source_said = source_record(getattr(image.source, "paths", ()), modality)  # before the work: it may change
    result = replace(restorer.restore(image, **options), source=source_said)
    result.save(target, maps=maps, overwrite=overwrite)
    return result


def source_record(files: Sequence[Path], modality: Modality | None) -> dict[str, Any]:
    """Return what the record of a restoration says of its source.

    Args:
        files: The files of the image.
        modality: That the user stated in place of the header, None where the header decided.

    Raises:
        OSError: If a file cannot be read.
    """
    return {"sha256": files_digest(files), "stated_modality": None if modality is None else modality.value}
