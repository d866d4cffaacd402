"""Which frames of a multi-frame DICOM object are one stack: by orientation, stack, echo, time, b-value and position."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from pydicom import Dataset

T = TypeVar("T")
TOLD_APART_BY = (
    ("FrameContentSequence", "StackID"),
    ("FrameContentSequence", "TemporalPositionIndex"),
    ("MREchoSequence", "EffectiveEchoTime"),
    ("MRDiffusionSequence", "DiffusionBValue"),
)
"""Functional group and element."""


def functional_group(dataset: Dataset, index: int, keyword: str) -> Dataset | None:
    """Return the item of a functional group that holds for a frame: its own, else the shared one."""
    for sequence, at in (("PerFrameFunctionalGroupsSequence", index), ("SharedFunctionalGroupsSequence", 0)):
        groups = dataset.get(sequence)
        if groups and at < len(groups) and groups[at].get(keyword):
            item: Dataset = groups[at].get(keyword)[0]
            return item
    return None


def stacks_of(header: Dataset) -> tuple[tuple[int, ...], ...]:
    """Return the frames (from 0) of every stack of a multi-frame object; ``((),)`` where all of them are one."""
    count = len(header.get("PerFrameFunctionalGroupsSequence") or [])
    if count < 2:
        return ((),)
    turns = [
        _numbers(functional_group(header, k, "PlaneOrientationSequence"), "ImageOrientationPatient", 6)
        for k in range(count)
    ]
    spots = [
        _numbers(functional_group(header, k, "PlanePositionSequence"), "ImagePositionPatient", 3) for k in range(count)
    ]
    places = [place_along(turn, spot) for turn, spot in zip(turns, spots, strict=True)]
    groups: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for k, turn in enumerate(turns):
        told = (str(_element(header, k, *names)) for names in TOLD_APART_BY)
        groups[(None if turn is None else tuple(np.round(turn, 2) + 0.0), *told)].append(k)
    num_turns = len({key[0] for key in groups})
    is_one = num_turns == 1 and None not in places and len(set(places)) == count
    if is_one and any(len(members) == 1 for members in groups.values()):
        return ((),)  # a number of the slice, say, under the name of a time point
    found = [tuple(volume) for members in groups.values() for volume in volumes(members, lambda k: places[k], int)]
    return tuple(sorted(found)) if len(found) > 1 else ((),)


def volumes(members: Sequence[T], place: Callable[[T], float | None], order: Callable[[T], Any]) -> list[list[T]]:
    """Return the volumes of a stack in which each position occurs equally often; otherwise the stack as it is.

    Args:
        members: Slices.
        place: Returns the position of a slice along the normal; None where unknown.
        order: Returns what slices at one position are sorted by.
    """
    by_place: dict[float, list[T]] = defaultdict(list)
    for one in members:
        spot = place(one)
        if spot is None:
            return [list(members)]
        by_place[spot].append(one)
    if len({len(found) for found in by_place.values()}) != 1 or len(by_place) < 2:
        return [list(members)]
    ordered = [sorted(found, key=order) for found in by_place.values()]
    return [list(volume) for volume in zip(*ordered, strict=True)]


def place_along(orientation: np.ndarray | None, position: np.ndarray | None) -> float | None:
    """Return the position of a plane along its normal in mm, rounded; None where unknown."""
    if orientation is None or position is None:
        return None
    return round(float(position @ np.cross(orientation[:3], orientation[3:])), 2)


def _element(header: Dataset, index: int, group: str, keyword: str) -> Any:
    item = functional_group(header, index, group)
    return None if item is None else item.get(keyword)


def _numbers(item: Dataset | None, keyword: str, count: int) -> np.ndarray | None:
    return None if item is None else numbers(item, keyword, count)


def numbers(header: Dataset, keyword: str, count: int) -> np.ndarray | None:
    """Return the finite numbers of a tag, None where it does not hold that many."""
    try:
        values = np.asarray(header.get(keyword), dtype=np.float64)
    except (TypeError, ValueError):
        return None
    return values if values.shape == (count,) and np.isfinite(values).all() else None
