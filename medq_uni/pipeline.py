"""The main job on files: read, assess, restore, write."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medq_uni.files import check_target, files_digest
from medq_uni.image import MedicalImage, modality_named
from medq_uni.io.discover import ImageItem
from medq_uni.io.read_write import check_writable, num_frames, read_image
from medq_uni.restorer import Restorer
from medq_uni.result import Restoration, RestoredFrames, targets_of
from medq_uni.taxonomy import Modality


def restore_file(
    restorer: Restorer,
    source: str | Path | ImageItem,
    target: str | Path,
    *,
    modality: Modality | str | None = None,
    frame: int | None = None,
    overwrite: bool = False,
    maps: bool = True,
    skip_good: bool = False,
    **options: Any,
) -> Restoration | RestoredFrames:
    """Read a file or DICOM series, assess and restore it, write the result, and return it.

    The volumes of a 4-D NIfTI file are restored one by one and written as one 4-D file.

    Args:
        restorer: Loaded model.
        source: Image file, folder with one series, or an item of :func:`medq_uni.io.discover.find_images`; never
            written to.
        target: Where the restored image goes, format by suffix; refused before the work where it cannot be written.
        modality: Overrides what the header says.
        frame: Restore this volume of a 4-D file alone, or this time point, echo or stack of a series, from 0.
        overwrite: Whether an existing target may be replaced.
        maps: Also write residual and uncertainty beside it.
        skip_good: Write nothing but the record of an image that is judged Good.
        **options: See :meth:`medq_uni.restorer.Restorer.restore`.

    Raises:
        UnreadableImage: If the source is not one readable image.
        UnwritableImage: If the target is the source, exists, or cannot hold the image.
        CannotAssess: See :meth:`medq_uni.restorer.Restorer.assess`.
    """
    origins = source.files if isinstance(source, ImageItem) else (Path(source),)
    modality = modality_named(modality)
    for path in targets_of(Path(target)):
        check_target(path, sources=origins, overwrite=overwrite)
    count = num_frames(source) if frame is None else 1
    image = read_image(source, modality=modality, frame=0 if count > 1 else frame)
    check_writable(image, Path(target), overwrite=overwrite, num_volumes=count)
    source_said = source_record(getattr(image.source, "paths", ()), modality, frame)  # before the work: it may change
    if count == 1:
        result: Restoration | RestoredFrames = replace(restorer.restore(image, **options), source=source_said)
    else:
        others = (read_image(source, modality=modality, frame=number) for number in range(1, count))
        result = _restored_frames(restorer, itertools.chain([image], others), count, source_said, options)
    result.save(target, maps=maps, overwrite=overwrite, skip_good=skip_good)
    return result


def _restored_frames(
    restorer: Restorer,
    volumes: Iterable[MedicalImage],
    count: int,
    source_said: dict[str, Any],
    options: dict[str, Any],
) -> RestoredFrames:
    """Return every volume of a 4-D file, restored as it is read; their progress is told as one."""
    told = options.pop("progress", None)
    restored = []
    for frame, image in enumerate(volumes):

        def progress(done: int, total: int, frame: int = frame) -> None:
            if told is not None:
                told(frame * total + done, count * total)

        restored.append(replace(restorer.restore(image, progress=progress, **options), source=source_said))
    return RestoredFrames(tuple(restored))


def source_record(files: Sequence[Path], modality: Modality | None, frame: int | None = None) -> dict[str, Any]:
    """Return what the record of a restoration says of its source.

    Args:
        files: The files of the image.
        modality: That the user stated in place of the header, None where the header decided.
        frame: The volume of a 4-D file that was chosen, None where it was not asked for.

    Raises:
        OSError: If a file cannot be read.
    """
    said = {"sha256": files_digest(files), "stated_modality": None if modality is None else modality.value}
    return said if frame is None else said | {"frame": frame}
