from __future__ import annotations

import json
import re
import uuid
from pathlib import Path

import pytest

from medq_uni.errors import UnwritableImage
from medq_uni.io.provenance import Derivation, derived_uid, sidecar_path, write_sidecar


def test_uid_is_a_valid_uuid_uid_and_depends_on_every_fact():
    base = {"weights_sha256": "a", "settings": {"x": 1}, "seed": 1, "description": "d"}
    uid = derived_uid("1.2.3", Derivation(**base))
    assert uid == derived_uid("1.2.3", Derivation(**base))
    assert re.fullmatch(r"2\.25\.\d+", uid)
    assert len(uid) <= 64
    made = uuid.UUID(int=int(uid[5:]))
    assert (made.version, made.variant) == (8, uuid.RFC_4122)
    others = [
        derived_uid("1.2.4", Derivation(**base)),
        derived_uid("1.2.3", Derivation(**base), extra="x"),
        *[
            derived_uid("1.2.3", Derivation(**{**base, key: value}))
            for key, value in {
                "weights_sha256": "b",
                "settings": {"x": 2},
                "seed": 2,
                "description": "e",
            }.items()
        ],
    ]
    assert len({uid, *others}) == 7


def test_time_is_recorded_but_does_not_change_the_uid():
    assert derived_uid("1", Derivation(created="20260101")) == derived_uid("1", Derivation())


def test_text_keeps_notice_and_method_within_the_limit():
    text = Derivation(method="MedQ-UNI nano", seed=5, description="long " * 500, tasks=("mr-noise",)).to_text()
    assert len(text) <= 1024
    assert text.startswith("Research use only. Not for diagnostic use. MedQ-UNI nano")
    assert "Seed 5" in text


def test_record_is_json():
    record = Derivation(tasks=("a",), settings={"b": [1]}).to_dict()
    assert json.loads(json.dumps(record)) == record


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.nii.gz", "a.medq.json"),
        ("a.b.dcm", "a.b.medq.json"),
        ("A.PNG", "A.medq.json"),
        ("folder", "folder.medq.json"),
        ("x/y.tiff", "x/y.medq.json"),
    ],
)
def test_sidecar_lies_beside_its_image(name, expected):
    assert sidecar_path(name) == Path(expected)


def test_sidecar_is_written_whole_and_not_twice(tmp_path):
    path = tmp_path / "new" / "a.medq.json"
    write_sidecar(path, {"b": 1, "a": [2]})
    assert json.loads(path.read_text()) == {"b": 1, "a": [2]}
    with pytest.raises(UnwritableImage, match="overwrite=True"):
        write_sidecar(path, {})
    with pytest.raises(ValueError, match="JSON"):
        write_sidecar(path, {"x": float("nan")}, overwrite=True)
    assert json.loads(path.read_text()) == {"b": 1, "a": [2]}
    write_sidecar(path, {}, overwrite=True)
    assert [p.name for p in path.parent.iterdir()] == ["a.medq.json"]
