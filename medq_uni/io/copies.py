"""Files that hold the same DICOM object: which one counts, and which of them contradict each other."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from medq_uni.errors import UnreadableImage
from medq_uni.files import file_digest
from medq_uni.io.dicom import frame_ref, plane_of
from medq_uni.io.dicom_pixels import decode, parsing, read_dataset
from medq_uni.io.limits import begin
from medq_uni.io.series import SliceRef, each_of


class Version(NamedTuple):
    """One content that is stored under a UID, and the first file that holds it."""

    slice: SliceRef
    digest: str
    """Of the bytes of the file."""
    content: str | UnreadableImage
    """What its decoded pixels and their place come to, or why they cannot be decoded; empty where nobody asked."""


def without_copies(slices: Sequence[SliceRef]) -> tuple[list[SliceRef], list[tuple[Path, str]]]:
    """Return every object once, and the files that are passed over with a reason.

    Files of one object are copies where they are equal, or decode to the same values in the same place, however they
    are compressed. Of a damaged file a good copy takes the place. Other values under the same UID are no copy: in
    another folder they are an image of their own; in the same one, nobody knows which file is right, so both say in
    ``problem`` that their series cannot be read. A multi-frame object is an image of its own in every folder.
    """
    groups: dict[object, list[SliceRef]] = defaultdict(list)
    for one in slices:
        own = one.path if not one.instance else one.path.parent if one.stack[-1] else ""
        groups[(one.instance, one.uid, own)].append(one)
    passed_over: list[tuple[Path, str]] = []
    several: list[list[Version]] = []
    for group in groups.values():
        versions: list[Version] = []
        for one in group:
            digest = file_digest(one.path) if len(group) > 1 else ""
            known = next((version for version in versions if version.digest == digest), None)
            if known is None:
                versions.append(Version(one, digest, ""))
            else:
                passed_over.append((one.path, _copy_of(known.slice, one, "the same object")))
        if len(versions) > 1:
            several.append(versions)
    problems: dict[Path, str] = {}
    contents = iter(each_of([version.slice.path for versions in several for version in versions], _contents))
    for versions in several:
        found = [version._replace(content=next(contents)) for version in versions]
        passed_over += _other_encodings(found)
        problems |= _clashes(found, {path for path, _ in passed_over})
    left_out = {path for path, _ in passed_over}
    kept = [one._replace(problem=problems.get(one.path, "")) for one in slices if one.path not in left_out]
    return kept, passed_over


def content_of(path: Path) -> str:
    """Return a hash that is equal for files with the same values in the same place, in whatever encoding.

    Raises:
        UnreadableImage: If the file cannot be decoded.
    """
    with parsing(path.name):
        dataset = read_dataset(path)
        frames = decode(path.name, dataset)
        said = hashlib.sha256(repr((frames.shape, str(dataset.PhotometricInterpretation))).encode())
        for index, pixels in enumerate(frames):
            where, value = plane_of(path.name, dataset, index), frame_ref(path.name, dataset, 0, index)
            said.update(repr((where, value.rescale)).encode())
            said.update(pixels.astype("<i8").tobytes())
        return said.hexdigest()


def _contents(paths: Sequence[Path]) -> list[str | UnreadableImage]:
    found: list[str | UnreadableImage] = []
    for number, path in enumerate(paths):
        begin(number)
        try:
            found.append(content_of(path))
        except UnreadableImage as error:
            found.append(error)
    return found


def _other_encodings(versions: Sequence[Version]) -> list[tuple[Path, str]]:
    """Return the versions of an object that another one stands for."""
    passed_over = []
    good: dict[str, SliceRef] = {}
    for one, _, content in versions:
        if isinstance(content, str):
            if content in good:
                passed_over.append((one.path, _copy_of(good[content], one, "the same object in another encoding")))
            good.setdefault(content, one)
    for one, _, content in versions:
        if isinstance(content, UnreadableImage) and good:
            used = next(iter(good.values()))
            reason = str(content).removeprefix(f"{one.path.name}: ")
            passed_over.append(
                (one.path, f"{one.path.name}: damaged; {_name(used, one)}, a good copy, is used. {reason}")
            )
    return passed_over


def _clashes(versions: Sequence[Version], left_out: set[Path]) -> dict[Path, str]:
    """Return why a series cannot be read, for each of several files of one folder that contradict each other."""
    folders: dict[Path, list[SliceRef]] = defaultdict(list)
    for one, _, _ in versions:
        if one.path not in left_out:
            folders[one.path.parent].append(one)
    return {
        one.path: f"{' and '.join(two.path.name for two in twins)} are the same object (SOPInstanceUID) with different "
        "pixels or geometry, so nobody knows which one is right. Remove the wrong one."
        for twins in folders.values()
        if len(twins) > 1
        for one in twins
    }


def _copy_of(original: SliceRef, one: SliceRef, what: str) -> str:
    return f"{one.path.name}: a copy of {_name(original, one)} ({what}), counted once."


def _name(one: SliceRef, beside: SliceRef) -> str:
    """Return the name of a file, with its folder where it lies in another one; with more of the path if need be."""
    if one.path.parent == beside.path.parent:
        return one.path.name
    mine, other = one.path.parent.parts, beside.path.parent.parts
    depth = next((n for n in range(1, len(mine)) if mine[-n:] != other[-n:]), 1)
    return "/".join((*mine[-depth:], one.path.name))
