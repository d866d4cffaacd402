import json
from pathlib import Path

import pytest

from medq_uni.data.descriptions import description_line, descriptions_by_number, read_descriptions
from medq_uni.description import DescriptionError, QualityDescription
from medq_uni.taxonomy import Anatomy, Modality, Verdict


@pytest.fixture
def noise() -> QualityDescription:
    return QualityDescription(Modality.CT, Anatomy.CHEST, (), "all was well", "none", Verdict.GOOD)


def write(path: Path, noise: QualityDescription, *keys: str) -> Path:
    path.write_text("".join(json.dumps(description_line(key, noise, 1, "majority")) + "\n" for key in keys))
    return path


def test_descriptions_of_a_split_are_found_by_the_number_of_the_pair(tmp_path: Path, noise):
    path = write(tmp_path / "found.jsonl", noise, "train-00000003", "train-00000000")
    assert descriptions_by_number(path, 4) == {0: noise, 3: noise}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (("train-00000004",), "none of the 4 pairs"),
        (("0123456789abcdef-1of1",), "none of the 4 pairs"),
        (("train-00000001", "val-00000002"), "pairs of train, val"),
    ],
)
def test_keys_of_something_else_are_refused(tmp_path: Path, noise, keys: tuple[str, ...], message: str):
    with pytest.raises(DescriptionError, match=message):
        descriptions_by_number(write(tmp_path / "wrong.jsonl", noise, *keys), 4)


@pytest.mark.parametrize(
    "line", ["nonsense", "[]", "{}", '{"key": "a", "description": "Image: ?"}', '{"key": "a", "description": null}']
)
def test_a_line_that_is_no_description_is_named(tmp_path: Path, noise, line: str):
    path = tmp_path / "descriptions.jsonl"
    good = json.dumps({"key": "good", "description": noise.to_text()})
    path.write_text(f"{good}\n{line}\n")
    with pytest.raises(DescriptionError, match="line 2"):
        read_descriptions(path)
    path.write_text(f"{good}\n{good}\n")
    with pytest.raises(DescriptionError, match="comes twice"):
        read_descriptions(path)
