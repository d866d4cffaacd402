"""A folder in, a folder out: every image of a tree restored, one bad item never stops the others."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from medq_uni.io import ImageItem, UnwritableImage, find_images, sidecar_path, split_suffix, target_format
from medq_uni.pipeline import Restoration, Restorer, source_record
from medq_uni.restoration import map_path, targets_of
from medq_uni.taxonomy import Modality

Status = Literal["restored", "unchanged", "skipped", "failed"]
SUFFIXES = {"dicom": ".dcm", "nifti": ".nii.gz", "png": ".png", "tiff": ".tif"}
"""What a result is called whose source has a name that says nothing of its format."""


@dataclass(frozen=True, eq=False)
class ItemResult:
    """What became of one image of a tree."""

    relative: Path
    """Place of the image below the source."""
    status: Status
    message: str
    """Description of what was found, or the reason of a failure."""
    restoration: Restoration | None = None


def restore_folder(
    restorer: Restorer,
    source: Path,
    target: Path,
    *,
    modality: Modality | None = None,
    overwrite: bool = False,
    maps: bool = True,
    on_start: Callable[[int], None] | None = None,
    **options: Any,
) -> Iterator[ItemResult]:
    """Restore every image below ``source`` into the same place below ``target``; yield each result.

    An image whose result is there already, made of the same files with the same weights and settings, is skipped, so an
    interrupted run goes on where it stopped; what was left of a result without its image is replaced. Where two
    images would write the same file (a record, a map), the second gets another name.

    Args:
        restorer: Loaded model.
        source: Root of the tree; never written to.
        target: Root of the results.
        modality: Overrides what the headers say.
        overwrite: Make results again that exist.
        maps: Also write residual and uncertainty.
        on_start: Called with the number of images that were found, broken ones included.
        **options: See :meth:`medq_uni.pipeline.Restorer.restore`.

    Raises:
        ValueError: If the target is the source or lies inside it.
    """
    source, target = Path(source).resolve(), Path(target).resolve()
    if target == source or source in target.parents:
        raise ValueError(f"{target.name}: the results must not lie inside the source folder. Choose another folder.")
    found = find_images(source)
    if on_start is not None:
        on_start(len(found) + len(found.broken))
    for item, place in zip(found, _places(found, target), strict=True):
        if not overwrite and _is_done(restorer, item, place, modality, maps, options):
            yield ItemResult(item.relative, "skipped", "done already")
            continue
        is_leftover = sidecar_path(place).exists() and not place.exists()
        result = _restore_item(restorer, item, place, modality, overwrite or is_leftover, maps, options)
        renamed = "" if place == target / item.relative else f" [written as {place.name}]"
        yield replace(result, message=result.message + renamed)
    for path, reason in found.broken:
        yield ItemResult(path.relative_to(source), "failed", reason)


def _places(items: Sequence[ImageItem], target: Path) -> list[Path]:
    """Return where the result of every image goes, so that no two results share a file."""
    taken: set[str] = set()
    places = []
    for item in items:
        place, number = target / item.relative.with_name(_written_name(item)), 1
        stem, suffix = split_suffix(place.name)
        while not taken.isdisjoint(files := {str(path).casefold() for path in targets_of(place)}):
            place = place.with_name(f"{stem}-{item.format}{'' if number == 1 else number}{suffix}")
            number += 1
        taken |= files
        places.append(place)
    return places


def _written_name(item: ImageItem) -> str:
    """Return the name of an image, changed where it would not be written in its own format under it."""
    name, is_folder = item.relative.name, item.format == "dicom" and len(item.files) > 1
    if is_folder:
        return name.replace(".", "_")  # of a folder named by a UID, say; the rest would be taken for a suffix
    try:
        fits = target_format(Path(name)) == item.format
    except UnwritableImage:
        fits = False
    return name if fits else name + SUFFIXES[item.format]


def _restore_item(
    restorer: Restorer,
    item: ImageItem,
    place: Path,
    modality: Modality | None,
    overwrite: bool,
    maps: bool,
    options: dict[str, Any],
) -> ItemResult:
    try:
        result = restorer.run(item, place, modality=modality, overwrite=overwrite, maps=maps, **options)
    except (ValueError, OSError) as error:
        return ItemResult(item.relative, "failed", str(error))
    status: Status = "unchanged" if result.is_unchanged else "restored"
    return ItemResult(item.relative, status, result.description.to_text(), result)


def _is_done(
    restorer: Restorer, item: ImageItem, place: Path, modality: Modality | None, maps: bool, options: dict[str, Any]
) -> bool:
    if not place.exists() or (maps and not map_path(place, "residual").exists()):
        return False
    try:
        record = json.loads(sidecar_path(place).read_text(encoding="utf-8"))
        made = record["settings"]
        wanted = {key: options.get(key) for key in ("settings", "instruction", "description")}
        is_same = bool(made == made | json.loads(json.dumps(restorer.recorded(**wanted))))
        return is_same and bool(record["source"] == source_record(item.files, modality))
    except (OSError, ValueError, KeyError, TypeError):
        return False
