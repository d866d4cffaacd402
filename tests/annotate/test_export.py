import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from medq_uni.annotate.export import export_descriptions, export_reviews
from medq_uni.annotate.records import ReviewEntry, StoreError
from medq_uni.data.descriptions import read_descriptions
from medq_uni.taxonomy import Anatomy


@pytest.fixture
def done(project: SimpleNamespace, noise, graded) -> SimpleNamespace:
    """One image agreed, one decided, one disputed, one open."""
    store = project.store
    store.add_draft("image-0", 1, "nano", graded("severe"))
    project.review("image-0", noise, noise, graded("severe"))
    project.review("image-1", graded("mild"), graded("moderate"), graded("severe"))
    project.review("image-2", graded("mild"), graded("moderate"), graded("severe"))
    project.review("image-3", noise)
    decided = ReviewEntry.of(replace(noise, anatomy=Anatomy.ABDOMEN), comment="\u4e2d <b>")
    store.outcomes.resolve("image-1", 1, project.administrator, based_on=0, entry=decided)
    return project


def test_descriptions_are_what_was_agreed_or_decided(done: SimpleNamespace, tmp_path: Path, noise):
    path = tmp_path / "descriptions.jsonl"
    assert export_descriptions(done.store, 1, path) == 2
    assert read_descriptions(path) == {"image-0": noise, "image-1": replace(noise, anatomy=Anatomy.ABDOMEN)}
    assert [json.loads(line)["how"] for line in path.read_text().splitlines()] == ["majority", "adjudication"]


def test_reviews_come_with_their_whole_history(done: SimpleNamespace, tmp_path: Path, noise):
    path = tmp_path / "reviews.jsonl"
    ann = done.reviewers[0]
    given = done.store.reviews.of_image(ann, "image-3", 1)
    done.store.reviews.undo(given.id, ann, based_on=1)
    assert export_reviews(done.store, 1, path) == 4
    lines = {line["key"]: line for line in map(json.loads, path.read_text(encoding="utf-8").splitlines())}
    assert [lines[key]["state"] for key in sorted(lines)] == ["agreed", "resolved", "disputed", "open"]
    first = lines["image-0"]
    assert first["draft"]["by"] == "nano"
    assert first["description"] == noise.to_text()
    assert first["votes"]["ct-low-dose"] == {"mild": 2, "severe": 1}
    assert [one["reviewer"] for one in first["reviews"]] == ["ann", "bob", "cat"]
    assert lines["image-1"]["resolution"]["by"] == "root"
    assert lines["image-1"]["resolution"]["comment"] == "\u4e2d <b>"
    assert lines["image-2"]["disputed"] == ["ct-low-dose"]
    assert lines["image-2"]["description"] is None
    (review,) = lines["image-3"]["reviews"]
    assert [(step["number"], step["restores"]) for step in review["revisions"]] == [(1, None), (2, 0)]


def test_nothing_to_export_is_said_and_writes_nothing(project: SimpleNamespace, tmp_path: Path):
    for export, message in ((export_descriptions, "no results yet"), (export_reviews, "no assigned images")):
        with pytest.raises(StoreError, match=message):
            export(project.store, 1, tmp_path / "none.jsonl")
    assert list(tmp_path.glob("*.jsonl")) == []
