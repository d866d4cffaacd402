import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from medq_uni.annotate.images import open_source
from medq_uni.annotate.records import ReviewEntry, Role, StoreError
from medq_uni.annotate.rounds import choose_examples, edit_distance, measure_round, write_tuning_data
from medq_uni.annotate.store import Store
from medq_uni.data.descriptions import read_descriptions
from medq_uni.taxonomy import Anatomy, Modality, Verdict


def levenshtein(one: str, other: str) -> int:
    """The textbook table."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, start=1):
        new = [i]
        for j, b in enumerate(other, start=1):
            new.append(min(row[j] + 1, new[-1] + 1, row[j - 1] + (a != b)))
        row = new
    return row[-1]


@given(st.text("abc", max_size=80), st.text("abc", max_size=80))
def test_the_edit_distance_is_that_of_the_textbook(one: str, other: str):
    longest = max(len(one), len(other), 1)
    assert edit_distance(one, other) == pytest.approx(levenshtein(one, other) / longest)


def test_the_edit_distance_of_known_words():
    assert edit_distance("kitten", "sitting") == pytest.approx(3 / 7)
    assert edit_distance("", "") == 0
    assert edit_distance("", "ab") == 1


def test_a_round_is_measured_by_what_was_changed(project: SimpleNamespace, noise, graded):
    store = project.store
    for number in range(4):
        store.add_draft(f"image-{number}", 1, "nano", noise)
    reworded = replace(noise, cause="a low dose")
    regraded = graded("severe")
    project.review("image-0", noise, noise, noise)
    project.review("image-1", reworded, reworded, noise)
    project.review("image-2", regraded, regraded, regraded)
    project.review("image-3", noise, noise)  # no result yet
    project.review("image-4", noise, noise, noise)  # no draft
    report = measure_round(store, 1)
    assert (report.images, report.accepted, report.describers) == (3, 1, ("nano",))
    assert report.acceptance_rate == pytest.approx(1 / 3)
    assert report.slots_right == pytest.approx(2 / 3)
    assert report.changed == {"cause": 1, "ct-low-dose": 1, "verdict": 1}
    distances = [edit_distance(noise.to_text(), one.to_text()) for one in (noise, reworded, regraded)]
    assert report.edit_distance == pytest.approx(sum(distances) / 3)
    empty = measure_round(store, 2)
    assert (empty.images, empty.acceptance_rate, empty.edit_distance) == (0, None, None)


@pytest.fixture
def reviewed(store: Store, dataset: Path) -> SimpleNamespace:
    """All images of the dataset, drafted as good, and corrected by three reviewers to what the dataset says."""
    from medq_uni.annotate.drafts import draft_images, truth_in
    from medq_uni.describers.describer import Answer, Subject
    from medq_uni.description import QualityDescription

    source = open_source(dataset)

    class Naive:
        name, threads = "naive", 1

        def __call__(self, subject: Subject) -> Answer:
            good = (Anatomy.BODY, (), "all was well", "none", Verdict.GOOD)
            return Answer.described(QualityDescription(subject.image.modality, *good))

    draft_images(store, source, Naive())
    truth = {record.key: truth_in(source, record.key) for record in source.records()}
    people = [store.accounts.add(name, Role.REVIEWER, "hash").id for name in ("ann", "bob", "cat")]
    store.reviews.assign(1, [(key, person) for key in truth for person in people])
    for person in people:
        for given_image in store.reviews.listing(person):
            entry = ReviewEntry.of(truth[given_image.key])
            store.reviews.save(given_image.id, person, based_on=0, entry=entry, is_done=True)
    return SimpleNamespace(store=store, source=source, truth=truth)


def test_examples_are_corrections_of_the_modality_and_differ_from_each_other(reviewed: SimpleNamespace):
    modalities = Counter(one.modality for one in reviewed.truth.values())
    modality, count = modalities.most_common(1)[0]
    chosen = choose_examples(reviewed.store, reviewed.source, 1, modality, 2)
    assert len(chosen) == min(2, count)
    assert all(one.description.modality is modality and one.image.modality is modality for one in chosen)
    kinds = {tuple((d.task, d.severity) for d in one.description.degradations) for one in chosen}
    assert len(kinds) == len(chosen)
    assert choose_examples(reviewed.store, reviewed.source, 2, modality, 2) == []
    again = choose_examples(reviewed.store, reviewed.source, 1, modality, 2)
    assert [one.description for one in again] == [one.description for one in chosen]


def test_tuning_data_holds_the_corrections_with_their_pictures(reviewed: SimpleNamespace, tmp_path: Path):
    folder = tmp_path / "tuning"
    assert write_tuning_data(reviewed.store, reviewed.source, 1, folder) == 10
    assert read_descriptions(folder / "descriptions.jsonl") == reviewed.truth
    for line, key in zip((folder / "chat.jsonl").read_text().splitlines(), sorted(reviewed.truth), strict=True):
        messages = json.loads(line)["messages"]
        assert [message["role"] for message in messages] == ["system", "user", "assistant"]
        assert json.loads(messages[-1]["content"]) == reviewed.truth[key].to_dict()
        pictures = [part["image"] for part in messages[1]["content"] if part["type"] == "image"]
        assert len(pictures) == (2 if reviewed.truth[key].modality is Modality.CT else 1)
        for name in pictures:
            with Image.open(folder / name) as picture:
                assert picture.size == reviewed.source.image(key).shape[:0:-1]
    with pytest.raises(StoreError, match="no results"):
        write_tuning_data(reviewed.store, reviewed.source, 2, tmp_path / "none")
    assert not (tmp_path / "none").exists()
