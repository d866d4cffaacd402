import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
from PIL import Image

from medq_uni.annotate.drafts import draft_images
from medq_uni.annotate.images import open_source
from medq_uni.annotate.label_studio import export_label_studio, import_reviews, labeling_config, read_label_studio
from medq_uni.annotate.records import ReviewEntry, Role, StoreError
from medq_uni.annotate.store import Store
from medq_uni.describers.record import RecordDescriber
from medq_uni.description import DescriptionError
from medq_uni.taxonomy import Anatomy, Task


@pytest.fixture
def job(store: Store, dataset: Path) -> SimpleNamespace:
    source = open_source(dataset)
    draft_images(store, source, RecordDescriber())
    people = {name: store.accounts.add(name, Role.REVIEWER, "hash").id for name in ("ann", "bob@clinic.org")}
    keys = [record.key for record in source.records()]
    return SimpleNamespace(store=store, source=source, people=people, keys=keys)


def review(job: SimpleNamespace, name: str, key: str, entry: ReviewEntry) -> None:
    account = job.people[name]
    job.store.reviews.assign(1, [(key, account)])
    given = job.store.reviews.of_image(account, key, 1)
    job.store.reviews.save(given.id, account, based_on=0, entry=entry, is_done=True)


def test_the_configuration_offers_every_word():
    root = ElementTree.fromstring(labeling_config())
    choices = {one.get("name"): [word.get("value") for word in one] for one in root.iter("Choices")}
    assert choices["anatomy"] == [one.value for one in Anatomy]
    assert all(choices[task.value] == ["mild", "moderate", "severe"] for task in Task)
    assert {one.get("name") for one in root.iter("TextArea")} == {"cause", "impact", "comment"}
    assert root.find("Image").get("value") == "$image"
    assert {one.get("toName") for one in [*root.iter("Choices"), *root.iter("TextArea")]} == {"image"}


def test_what_is_exported_comes_back_the_same(job: SimpleNamespace, tmp_path: Path):
    drafts = {draft.key: draft.description for draft in job.store.drafts(1)}
    hostile = '<View/> & "quotes" \'); DROP TABLE\nsecond line \u4e2d'
    entries = {
        job.keys[0]: ReviewEntry.of(drafts[job.keys[0]], doubts=("cause", "verdict"), comment=hostile),
        job.keys[1]: ReviewEntry.of(replace(drafts[job.keys[1]], anatomy=Anatomy.PELVIS)),
    }
    for key, entry in entries.items():
        review(job, "ann", key, entry)
    folder = tmp_path / "label-studio"
    assert export_label_studio(job.store, job.source, 1, folder) == 10
    tasks = json.loads((folder / "tasks.json").read_text(encoding="utf-8"))
    assert [task["data"]["key"] for task in tasks] == job.keys
    assert all(len(task["predictions"]) == 1 for task in tasks)
    for task in tasks:
        name = task["data"]["image"].rpartition("/")[2]
        with Image.open(folder / "pictures" / name) as picture:
            assert picture.size == (40, 40)
    assert not any("annotations" in task for task in tasks)
    found = read_label_studio(folder / "reviews.json")
    assert {one.key: one.entry for one in found} == entries
    assert {one.annotator for one in found} == {"ann"}
    with Store.open(tmp_path / "other.sqlite") as other:
        other.add_images(job.source.records())
        ann = other.accounts.add("ann", Role.REVIEWER, "hash").id
        assert import_reviews(other, 1, found) == (2, 0)
        assert import_reviews(other, 1, found) == (0, 2)
        assert {one.key: other.reviews.newest(ann, one.id).entry for one in other.reviews.listing(ann)} == entries
        assert other.outcomes.check() == []


def annotation(who: object, at: str, entry: ReviewEntry, **more: object) -> dict[str, object]:
    from medq_uni.annotate.label_studio import _result

    return {"completed_by": who, "created_at": at, "result": _result(entry)} | more


def test_annotations_are_taken_as_label_studio_writes_them(job: SimpleNamespace, tmp_path: Path, noise):
    early, late = ReviewEntry.of(noise, comment="early"), ReviewEntry.of(noise, comment="late")
    tasks = [
        {
            "data": {"key": job.keys[0]},
            "annotations": [
                annotation(5, "2026-01-02T00:00:00Z", late),
                annotation(5, "2026-01-01T00:00:00Z", early),
                annotation({"id": 6, "email": "bob@clinic.org"}, "2026-01-01T00:00:00Z", early),
                annotation(7, "2026-01-01T00:00:00Z", early, was_cancelled=True),
            ],
        },
        {"data": {"key": job.keys[1]}, "annotations": []},
        {"data": {"key": job.keys[2]}},
    ]
    path = tmp_path / "export.json"
    path.write_text(json.dumps(tasks))
    found = read_label_studio(path)
    assert sorted((one.annotator, one.entry.comment) for one in found) == [("5", "late"), ("bob@clinic.org", "early")]
    with pytest.raises(StoreError, match="annotator '5' has no account"):
        import_reviews(job.store, 1, found)
    assert job.store.reviews.assigned(1) == []
    assert import_reviews(job.store, 1, found, {"5": "ann"}) == (2, 0)
    assert job.store.reviews.progress(job.people["ann"]).done == 1


def test_an_export_that_label_studio_itself_wrote_is_read():
    """Tasks of this software, imported into Label Studio 1.23.2 and exported from it as JSON."""
    found = read_label_studio(Path(__file__).parent / "label_studio_export.json")
    assert [(one.key, one.annotator, one.round) for one in found] == [
        ("train-00000000", "1", 1),
        ("train-00000001", "1", 1),
    ]
    assert found[0].entry.comment == "c"
    assert found[0].entry.description().to_text() == (
        "Image: CT of the brain. Degradation: severe low-dose noise. Cause: a low radiation dose was used. "
        "Impact: streaks and grain bury small structures. Verdict: reject."
    )


def test_reviews_of_another_round_are_not_taken_for_this_one(job: SimpleNamespace, tmp_path: Path, noise):
    tasks = [{"data": {"key": job.keys[0], "round": 1}, "annotations": [annotation("ann", "", ReviewEntry.of(noise))]}]
    path = tmp_path / "export.json"
    path.write_text(json.dumps(tasks))
    found = read_label_studio(path)
    with pytest.raises(StoreError, match="of round 1, not 2"):
        import_reviews(job.store, 2, found)
    assert job.store.reviews.assigned(2) == []
    assert import_reviews(job.store, 1, found) == (1, 0)


def test_an_import_adds_to_what_the_reviewer_had(job: SimpleNamespace, tmp_path: Path, noise):
    key = job.keys[0]
    review(job, "ann", key, ReviewEntry.of(noise, comment="in the browser"))
    path = tmp_path / "export.json"
    tasks = [{"data": {"key": key}, "annotations": [annotation("ann", "", ReviewEntry.of(noise, comment="elsewhere"))]}]
    path.write_text(json.dumps(tasks))
    import_reviews(job.store, 1, read_label_studio(path))
    given = job.store.reviews.of_image(job.people["ann"], key, 1)
    history = job.store.reviews.history(job.people["ann"], given.id)
    assert [one.entry.comment for one in history] == ["in the browser", "elsewhere"]


@pytest.mark.parametrize(
    "content",
    [
        "<html>",
        "{}",
        "[]x",
        "[" * 100_000,
        "[1]",
        '[{"data": {}}]',
        '[{"data": {"key": "a"}, "annotations": [{}]}]',
        '[{"data": {"key": "a"}, "annotations": [{"completed_by": 1, "result": [{"from_name": "verdict"}]}]}]',
        '[{"data": {"key": "a"}, "annotations": [{"completed_by": 1, "result": []}]}]',
        '[{"data": {"key": "a"}, "annotations": [{"completed_by": 1, "result": '
        '[{"from_name": "modality", "value": {"choices": ["x-ray"]}}]}]}]',
    ],
)
def test_a_file_that_is_no_export_is_refused(tmp_path: Path, content: str):
    path = tmp_path / "export.json"
    path.write_text(content)
    with pytest.raises(DescriptionError, match=r"export\.json"):
        read_label_studio(path)


def test_an_image_that_the_store_does_not_know_stops_the_import_before_it_begins(
    job: SimpleNamespace, tmp_path: Path, noise
):
    path = tmp_path / "export.json"
    tasks = [
        {"data": {"key": key}, "annotations": [annotation("ann", "", ReviewEntry.of(noise))]}
        for key in (job.keys[0], "no")
    ]
    path.write_text(json.dumps(tasks))
    with pytest.raises(StoreError, match="not in the store"):
        import_reviews(job.store, 1, read_label_studio(path))
    assert job.store.reviews.assigned(1) == []
