"""Files of descriptions by key: what experts agreed on, one JSON object per line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medq_uni.description import DescriptionError, QualityDescription
from medq_uni.json_text import parse_json


def description_line(key: str, description: QualityDescription, round: int, how: str) -> dict[str, Any]:
    """Return a line of such a file; ``description`` is the text that a dataset's index has.

    Args:
        key: Of the image.
        description: Of the image.
        round: Round of annotation that it comes from.
        how: ``majority`` or ``adjudication``.
    """
    return {"key": key, "description": description.to_text(), "round": round, "how": how}


def read_descriptions(path: Path) -> dict[str, QualityDescription]:
    """Return the descriptions of a file by key.

    Raises:
        DescriptionError: If a line cannot be read, or a key comes twice; the message gives its number.
        OSError: If there is no such file.
    """
    found: dict[str, QualityDescription] = {}
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                values = parse_json(line)
                key, description = str(values["key"]), QualityDescription.from_text(values["description"])
            except (ValueError, KeyError, TypeError) as error:
                raise DescriptionError(f"{path.name}, line {number}: cannot be read: {error}") from error
            if key in found:
                raise DescriptionError(f"{path.name}, line {number}: {key} comes twice.")
            found[key] = description
    return found


def descriptions_by_number(path: Path, count: int) -> dict[int, QualityDescription]:
    """Return the descriptions of the pairs of one split of a dataset, by the number of the pair.

    Args:
        path: File whose keys are those of a dataset: ``SPLIT-NUMBER``.
        count: Number of pairs in the split.

    Raises:
        DescriptionError: If a key is none of a dataset, of a second split, or beyond the last pair.
    """
    found: dict[int, QualityDescription] = {}
    splits = set()
    for key, description in read_descriptions(path).items():
        split, _, digits = key.rpartition("-")
        if not split.isidentifier() or not digits.isdecimal() or int(digits) >= count:
            raise DescriptionError(f"{path.name}: {key} is none of the {count} pairs. Use the dataset's own recipe.")
        splits.add(split)
        found[int(digits)] = description
    if len(splits) > 1:
        raise DescriptionError(f"{path.name}: holds pairs of {', '.join(sorted(splits))}. Keep those of one split.")
    return found
