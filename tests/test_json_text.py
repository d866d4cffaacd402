"""JSON of others is read with limits on its size and depth."""

import json

import pytest

from medq_uni.errors import MedQError
from medq_uni.json_text import MAX_DEPTH, JsonTooLarge, load_json, parse_json


def test_what_json_can_say_is_read(tmp_path):
    value = {"a": [1, 2.5, None, True, 'x"[{'], "b": {"c": "é"}}
    text = json.dumps(value)
    assert parse_json(text) == parse_json(text.encode()) == value
    (tmp_path / "a.json").write_text(text)
    assert load_json(tmp_path / "a.json") == value


def test_brackets_in_texts_are_no_depth():
    value = ["[" * 500, "\\", '"[[[' * 100, "{" * 500]
    assert parse_json(json.dumps(value)) == value


def test_many_objects_beside_each_other_are_no_depth():
    value = [{"a": [k]} for k in range(10_000)]
    assert parse_json(json.dumps(value)) == value


@pytest.mark.parametrize("opening", ["[", '{"a":'])
@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 500_000])
def test_what_is_nested_too_deeply_is_refused(opening, depth):
    with pytest.raises(JsonTooLarge, match="nested deeper than 100"):
        parse_json(opening * depth)


def test_what_is_too_long_is_refused_unread(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("[" + "1," * 1000 + "1]")
    with pytest.raises(MedQError, match="more than 0 MiB"):
        load_json(path, max_bytes=1000)


@pytest.mark.parametrize("text", ["", "[1,", "{'a': 1}", b"\xff\xfe", "9" * 5000])
def test_what_is_no_json_is_a_value_error(text):
    with pytest.raises(ValueError):  # noqa: PT011 - of the library
        parse_json(text)


def test_pairs_are_passed_on():
    assert parse_json('{"a": 1, "a": 2}', pairs=list) == [("a", 1), ("a", 2)]
