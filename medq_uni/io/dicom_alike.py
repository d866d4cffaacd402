"""Whether DICOM files can be slices of one volume, by the size and type of their pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np
from pydicom import Dataset

from medq_uni.errors import UnreadableImage
from medq_uni.io.limits import MAX_NAMED


def check_alike(
    name: str,
    files: Sequence[str],
    headers: Sequence[Dataset],
    shapes: Sequence[tuple[int, ...]],
    kinds: Sequence[np.dtype],
) -> None:
    """Refuse files that cannot be slices of one volume; where a few differ from the others, they are named.

    Args:
        name: What messages call the image.
        files: Name of the file of every header.
        headers: Of the slices.
        shapes: (frames, rows, columns) of every header.
        kinds: Type of its pixels.

    Raises:
        UnreadableImage: With what differs.
    """
    if len({shape[1:] for shape in shapes}) > 1:
        sizes = sorted({f"{rows} x {columns}" for _, rows, columns in shapes})
        odd = _odd_ones(files, [shape[1:] for shape in shapes])
        raise UnreadableImage(f"{name}: slices differ in size ({', '.join(sizes)}).{odd} Read them one by one.")
    stored = [(kind, header.PhotometricInterpretation) for kind, header in zip(kinds, headers, strict=True)]
    if len(set(stored)) > 1:
        odd = _odd_ones(files, stored)
        raise UnreadableImage(f"{name}: slices differ in how pixels are stored.{odd} Read them one by one.")
    if len(headers) > 1 and any(shape[0] > 1 for shape in shapes):
        raise UnreadableImage(
            f"{name}: {len(headers)} multi-frame objects share one series. Read each file on its own."
        )
    for header, (num_frames, _, _) in zip(headers, shapes, strict=True):
        groups = header.get("PerFrameFunctionalGroupsSequence")
        if groups and len(groups) != num_frames:
            raise UnreadableImage(
                f"{name}: {len(groups)} functional groups for {num_frames} frames. Export the image again."
            )


def _odd_ones(files: Sequence[str], values: Sequence[Hashable]) -> str:
    """Return a sentence that names the files which are unlike most others; nothing where these are too many."""
    usual = Counter(values).most_common(1)[0][0]
    odd = [file for file, value in zip(files, values, strict=True) if value != usual]
    if len(odd) > MAX_NAMED or 2 * len(odd) >= len(files):
        return ""
    return f" Unlike the others: {', '.join(odd)}."
