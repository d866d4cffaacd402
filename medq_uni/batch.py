"""A folder in, a folder out: every image of a tree restored, one bad item never stops the others."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from medq_uni.io import ImageItem, find_images, sidecar_path
from medq_uni.pipeline import Restoration, Restorer
from medq_uni.taxonomy import Modality

Status = Literal["restored", "unchanged", "skipped", "failed"]


@dataclass(frozen=True, eq=False)
class ItemResult:
    """What became of one image of a tree."""

    relative: Path
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

    An image whose result is there already, made with the same weights and settings, is skipped, so an interrupted
    run goes on where it stopped; what was left of a result without its image is replaced.

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
    for item in found:
        place = target / item.relative
        if not overwrite and _is_done(place, restorer, options):
            yield ItemResult(item.relative, "skipped", "done already")
            continue
        is_leftover = sidecar_path(place).exists() and not place.exists()
        yield _restore_item(restorer, item, place, modality, overwrite or is_leftover, maps, options)
    for path, reason in found.broken:
        yield ItemResult(path.relative_to(source), "failed", reason)


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


def _is_done(place: Path, restorer: Restorer, options: dict[str, Any]) -> bool:
    if not place.exists():
        return False
    try:
        made = json.loads(sidecar_path(place).read_text(encoding="utf-8"))["settings"]
        wanted = {key: options.get(key) for key in ("settings", "instruction", "description")}
        return bool(made == made | json.loads(json.dumps(restorer.recorded(**wanted))))
    except (OSError, ValueError, KeyError, TypeError):
        return False
