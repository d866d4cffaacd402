"""A folder in, a folder out: every image of a tree restored, one bad item never stops the others."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from medq_uni.errors import MedQError, UnwritableImage, words_of
from medq_uni.io.discover import SUFFIX_FORMATS, ImageItem, find_images
from medq_uni.io.provenance import sidecar_path, split_suffix
from medq_uni.io.read_write import target_format
from medq_uni.json_text import load_json
from medq_uni.pipeline import restore_file, source_record
from medq_uni.restorer import Restorer
from medq_uni.result import Restoration, RestoredFrames, map_path, provenance_of, targets_of
from medq_uni.taxonomy import Modality

Status = Literal["restored", "unchanged", "skipped", "failed"]


@dataclass(frozen=True, eq=False)
class ItemResult:
    """What became of one image of a tree."""

    relative: Path
    """Place of the image below the source."""
    place: Path
    """Place of its result below the target, where there is one; of another name where images would share a file."""
    status: Status
    message: str
    """Description of what was found, or the reason of a failure."""
    item: ImageItem | None = None
    """The image itself, where it could be opened."""
    restoration: Restoration | RestoredFrames | None = None
    """What was done in this run; :func:`medq_uni.result.load_result` gives that of an earlier one."""


def restore_folder(
    restorer: Restorer,
    source: Path,
    target: Path,
    *,
    modality: Modality | None = None,
    overwrite: bool = False,
    maps: bool = True,
    on_start: Callable[[int], None] | None = None,
    on_passed_over: Callable[[Path, str], None] | None = None,
    **options: Any,
) -> Iterator[ItemResult]:
    """Restore every image below ``source`` into the same place below ``target``; yield each result.

    An image whose result is there already, made of the same files with the same weights and settings, is skipped, so an
    interrupted run goes on where it stopped; what was left of a result without its image is replaced. Where an
    image would write a file of another one (a record, a map), of this run or an earlier one, it gets another name.

    Args:
        restorer: Loaded model.
        source: Root of the tree; never written to.
        target: Root of the results.
        modality: Overrides what the headers say.
        overwrite: Make results again that exist.
        maps: Also write residual and uncertainty.
        on_start: Called with the number of images that were found, broken ones included.
        on_passed_over: Called with every other file, below the source, and why it is no image.
        **options: ``skip_good``, see :func:`medq_uni.pipeline.restore_file`; and those of
            :meth:`medq_uni.restorer.Restorer.restore`.

    Raises:
        MedQError: If the target is the source or lies inside it.
    """
    source, target = Path(source).resolve(), Path(target).resolve()
    if target == source or source in target.parents:
        raise MedQError(f"{target.name}: the results must not lie inside the source folder. Choose another folder.")
    found = find_images(source)
    if on_start is not None:
        on_start(len(found) + len(found.broken))
    if on_passed_over is not None:
        for path, reason in found.passed_over:
            on_passed_over(path.relative_to(source), reason)
    for item, place in _places(found, target):
        try:
            yield _restored(restorer, item, place, target, modality, overwrite, maps, options)
        except (MedQError, OSError) as error:
            words = words_of(error) if isinstance(error, OSError) else str(error)
            yield ItemResult(item.relative, place.relative_to(target), "failed", words, item)
    for path, reason in found.broken:
        yield ItemResult(path.relative_to(source), path.relative_to(source), "failed", reason)


def _restored(
    restorer: Restorer,
    item: ImageItem,
    place: Path,
    target: Path,
    modality: Modality | None,
    overwrite: bool,
    maps: bool,
    options: dict[str, Any],
) -> ItemResult:
    """Return what became of one image.

    Raises:
        MedQError: If it cannot be read, restored or written.
        OSError: Likewise.
    """
    relative, is_there = place.relative_to(target), _exists(place)
    is_leftover = _exists(sidecar_path(place)) and not is_there
    why = None if overwrite else _why_not_done(restorer, item, place, modality, maps, options)
    if not overwrite and why is None:
        is_left = is_there and bool(options.get("skip_good")) and _record(place).get("unchanged") is True
        said = "done already" + (", and its unchanged copy of an earlier run was left there" if is_left else "")
        return ItemResult(item.relative, relative, "skipped", said, item)
    if not overwrite and is_there:
        raise UnwritableImage(
            f"{place.name}: exists already, {why}. Pass overwrite=True (--overwrite on the command line) to make it "
            "again, or choose another folder for the results."
        )
    try:
        result = restore_file(
            restorer, item, place, modality=modality, overwrite=overwrite or is_leftover, maps=maps, **options
        )
    except MedQError:
        if not overwrite and _why_not_done(restorer, item, place, modality, maps, options) is None:
            return ItemResult(item.relative, relative, "skipped", "done meanwhile by another process", item)
        raise
    status: Status = "unchanged" if result.is_unchanged else "restored"
    return ItemResult(item.relative, relative, status, result.description.to_text(), item, result)


def _places(items: Sequence[ImageItem], target: Path) -> list[tuple[ImageItem, Path]]:
    """Return where the result of every image goes, so that no two results share a file.

    Results that are there keep their places; then the others take theirs, in order.
    """
    natural = [target / item.relative.with_name(_written_name(item)) for item in items]
    taken: set[str] = set()
    places = list(natural)
    for index in sorted(range(len(items)), key=lambda index: not _exists(natural[index])):
        place = natural[index]
        stem, suffix = split_suffix(place.name)
        for number in itertools.count(1):
            files = {str(path).casefold() for path in targets_of(place)}
            if taken.isdisjoint(files) and not _is_of_another(place):
                break
            place = place.with_name(f"{stem}-{items[index].format}{'' if number == 1 else number}{suffix}")
        taken |= files
        places[index] = place
    return list(zip(items, places, strict=True))


def _is_of_another(place: Path) -> bool:
    """Return whether there is a record in the place of that of an image, and it is of something else."""
    record = _record(place)
    is_ours = bool(record.keys() & {"provenance", "settings"}) and record.get("image", place.name) == place.name
    return _exists(sidecar_path(place)) and not is_ours


def _record(place: Path) -> dict[str, Any]:
    """Return the record beside an image, nothing where there is none to read."""
    try:
        found = load_json(sidecar_path(place))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _written_name(item: ImageItem) -> str:
    """Return the name of an image, changed where it would not be written in its own format under it."""
    name, is_folder = item.relative.name, item.format == "dicom" and len(item.files) > 1
    name = item.relative.stem if item.is_mosaic else name
    if is_folder or item.is_mosaic:
        if "." not in name:
            return name
        # a folder named by a UID, say, whose end would be taken for a suffix
        return f"{name.replace('.', '_')}-{hashlib.sha256(str(item.relative).encode()).hexdigest()[:8]}"
    try:
        fits = target_format(Path(name)) == item.format
    except UnwritableImage:
        fits = False
    return name if fits else name + next(suffix for suffix, form in SUFFIX_FORMATS.items() if form == item.format)


def _why_not_done(
    restorer: Restorer, item: ImageItem, place: Path, modality: Modality | None, maps: bool, options: dict[str, Any]
) -> str | None:
    """Return what an earlier result lacks, or in what it differs; None where it is the one that is asked for."""
    record = _record(place)
    made = provenance_of(record)
    if made is None or not record.keys() >= {"maps", "source"}:
        return "without a record of how it was made"
    is_left_out = bool(options.get("skip_good")) and record.get("written") is False and record.get("unchanged") is True
    if not is_left_out and not _exists(place):
        return "without its image"
    wanted = {key: options.get(key) for key in ("settings", "instruction", "description")}
    if made.options != restorer.options(**wanted):
        return "made by other weights, settings or words, or by another version"
    if maps and not is_left_out:
        written = record["maps"]
        if not written or not isinstance(written, list):
            return "without its maps"
        lost = [path.name for name in written if not (path := map_path(place, str(name))).exists()]
        if lost:
            return f"and {lost[0]} is missing"
    return None if record["source"] == source_record(item.files, modality) else "made of other files or modality"


def _exists(path: Path) -> bool:
    """Return whether a path is there; a name that is too long for the system is not, where ``Path.exists`` fails."""
    return os.path.exists(path)  # noqa: PTH110
