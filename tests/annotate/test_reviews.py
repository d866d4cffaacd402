import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest

from medq_uni.annotate.records import ImageRecord, ReviewEntry, StaleRevision, StoreError, UnknownRecord
from medq_uni.description import Degradation, DescriptionError
from medq_uni.taxonomy import Modality, Severity, Task

HALF = ReviewEntry(modality=Modality.CT, cause="half a sent", comment="first look")
HOSTILE = "'); DROP TABLE revision; -- <script>alert('x')</script> \u00e4\u4e2d {{7*7}} %s"


@pytest.fixture
def given(project: SimpleNamespace, noise):
    """The assignment of an image with a draft to ann."""
    project.store.add_draft("image-0", 1, "record", noise)
    project.store.reviews.assign(1, [("image-0", account) for account in project.reviewers])
    return project.store.reviews.listing(project.reviewers[0])[0]


def test_unfinished_work_is_kept_as_it_is(project: SimpleNamespace, given):
    ann = project.reviewers[0]
    saved = project.store.reviews.save(given.id, ann, based_on=0, entry=HALF, is_done=False)
    assert (saved.number, saved.entry, saved.is_done, saved.account_id) == (1, HALF, False, ann)
    assert project.store.reviews.newest(ann, given.id) == saved
    assert project.store.reviews.get(ann, given.id).head == 1


def test_every_step_stays_in_the_history(project: SimpleNamespace, given, noise):
    ann, reviews = project.reviewers[0], project.store.reviews
    entries = [HALF, replace(HALF, cause="half a sentence"), ReviewEntry.of(noise, doubts=("cause",))]
    for number, entry in enumerate(entries):
        reviews.save(given.id, ann, based_on=number, entry=entry, is_done=number == 2)
    history = reviews.history(ann, given.id)
    assert [one.entry for one in history] == entries
    assert [one.is_done for one in history] == [False, False, True]
    assert history[0].at <= history[1].at <= history[2].at
    assert reviews.progress(ann).doubted == 1


def test_two_tabs_cannot_lose_each_others_work(project: SimpleNamespace, given):
    ann, reviews = project.reviewers[0], project.store.reviews
    first = reviews.save(given.id, ann, based_on=0, entry=HALF, is_done=False)
    with pytest.raises(StaleRevision, match="revision 1 is the newest, yours is based on 0") as caught:
        reviews.save(given.id, ann, based_on=0, entry=replace(HALF, cause="from the other tab"), is_done=False)
    assert caught.value.newest == first
    with pytest.raises(StaleRevision):
        reviews.save(given.id, ann, based_on=5, entry=HALF, is_done=False)
    assert reviews.history(ann, given.id) == [first]


def test_a_save_that_is_repeated_adds_nothing(project: SimpleNamespace, given):
    ann, reviews = project.reviewers[0], project.store.reviews
    first = reviews.save(given.id, ann, based_on=0, entry=HALF, is_done=False)
    assert reviews.save(given.id, ann, based_on=0, entry=HALF, is_done=False) == first
    assert len(reviews.history(ann, given.id)) == 1


def test_of_many_saves_at_once_one_wins_and_all_others_are_told(project: SimpleNamespace, given):
    ann, reviews = project.reviewers[0], project.store.reviews
    results: list[object] = []
    start = threading.Barrier(8)

    def save(number: int) -> None:
        start.wait()
        try:
            entry = ReviewEntry(cause=f"tab {number}")
            results.append(reviews.save(given.id, ann, based_on=0, entry=entry, is_done=False))
        except Exception as error:  # noqa: BLE001 - looked at below
            results.append(error)

    threads = [threading.Thread(target=save, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stale = [one for one in results if isinstance(one, StaleRevision)]
    (winner,) = [one for one in results if not isinstance(one, StaleRevision)]
    assert len(stale) == 7
    assert reviews.history(ann, given.id) == [winner]
    assert all(one.newest == winner for one in stale)


def test_only_a_whole_description_can_be_finished(project: SimpleNamespace, given):
    ann, reviews = project.reviewers[0], project.store.reviews
    with pytest.raises(DescriptionError, match="anatomy, verdict: not chosen"):
        reviews.save(given.id, ann, based_on=0, entry=HALF, is_done=True)
    assert reviews.history(ann, given.id) == []
    assert reviews.progress(ann).done == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cause": "x" * 2001}, "at most 2000"),
        ({"comment": "bell\a"}, "control characters"),
        ({"comment": "null\0"}, "control characters"),
        ({"impact": "half \ud800"}, "control characters"),
        ({"doubts": ("everything",)}, "everything"),
    ],
)
def test_an_entry_that_no_store_could_keep_is_refused(changes: dict[str, object], message: str):
    with pytest.raises(DescriptionError, match=message):
        ReviewEntry(**changes)


@pytest.mark.parametrize(
    "values",
    [
        {"modality": "x-ray"},
        {"degradations": "none"},
        {"degradations": [{"task": "ct-low-dose", "severity": "none"}]},
        {"cause": 3},
        {"cause": None},
        {"unknown": 1},
        {"doubts": 5},
        {"doubts": [[]]},
    ],
)
def test_json_that_is_no_entry_is_refused(values: dict[str, object]):
    with pytest.raises(DescriptionError):
        ReviewEntry.from_dict(values)


def test_hostile_words_come_back_as_they_were(project: SimpleNamespace, given):
    ann, reviews = project.reviewers[0], project.store.reviews
    entry = ReviewEntry(cause=HOSTILE, impact=HOSTILE, comment=HOSTILE + "\n\tsecond line")
    reviews.save(given.id, ann, based_on=0, entry=entry, is_done=False)
    assert reviews.newest(ann, given.id).entry == entry
    assert len(project.store.accounts.all()) == 4


def test_undo_goes_back_step_by_step_to_the_draft_and_loses_nothing(project: SimpleNamespace, given, noise):
    ann, reviews = project.reviewers[0], project.store.reviews
    texts = ["one", "two", "three"]
    for number, cause in enumerate(texts):
        reviews.save(given.id, ann, based_on=number, entry=ReviewEntry(cause=cause), is_done=False)
    undone = [reviews.undo(given.id, ann, based_on=number) for number in (3, 4, 5)]
    assert [one.entry.cause for one in undone] == ["two", "one", noise.cause]
    assert [one.restores for one in undone] == [2, 1, 0]
    with pytest.raises(StoreError, match="nothing to undo"):
        reviews.undo(given.id, ann, based_on=6)
    reviews.save(given.id, ann, based_on=6, entry=ReviewEntry(cause="four"), is_done=False)
    assert reviews.undo(given.id, ann, based_on=7).entry.cause == noise.cause
    assert [one.entry.cause for one in reviews.history(ann, given.id)][:3] == texts


def test_undo_after_finishing_opens_the_image_again(project: SimpleNamespace, given, noise):
    ann, reviews = project.reviewers[0], project.store.reviews
    reviews.save(given.id, ann, based_on=0, entry=ReviewEntry.of(noise), is_done=True)
    assert reviews.progress(ann).done == 1
    assert not reviews.undo(given.id, ann, based_on=1).is_done
    assert reviews.progress(ann).done == 0
    assert project.store.outcomes.standing("image-0", 1).done == 0
    with pytest.raises(StaleRevision):
        reviews.undo(given.id, ann, based_on=1)


def test_nobody_reaches_the_work_of_another(project: SimpleNamespace, given):
    ann, bob, _ = project.reviewers
    reviews = project.store.reviews
    reviews.save(given.id, ann, based_on=0, entry=HALF, is_done=False)
    calls = (
        lambda: reviews.get(bob, given.id),
        lambda: reviews.newest(bob, given.id),
        lambda: reviews.history(bob, given.id),
        lambda: reviews.save(given.id, bob, based_on=1, entry=HALF, is_done=False),
        lambda: reviews.undo(given.id, bob, based_on=1),
        lambda: reviews.get(bob, 999),
    )
    messages = set()
    for call in calls:
        with pytest.raises(UnknownRecord) as caught:
            call()
        messages.add(str(caught.value))
    assert len(messages) == 1  # another's image looks like none
    assert [one.head for one in reviews.listing(bob)] == [0]


def test_the_next_image_is_the_first_open_one_behind_and_then_from_the_start(project: SimpleNamespace, noise):
    ann, reviews = project.reviewers[0], project.store.reviews
    reviews.assign(1, [(f"image-{number}", ann) for number in (3, 1, 4)])
    assert [one.key for one in reviews.listing(ann)] == ["image-3", "image-1", "image-4"]
    assert reviews.at(ann, 2).key == "image-1"

    def finish(key: str) -> None:
        reviews.save(reviews.of_image(ann, key, 1).id, ann, based_on=0, entry=ReviewEntry.of(noise), is_done=True)

    assert reviews.next_open(ann, after=2).key == "image-4"
    finish("image-4")
    assert reviews.next_open(ann, after=3).key == "image-3"
    finish("image-3")
    finish("image-1")
    assert reviews.next_open(ann) is None
    progress = reviews.progress(ann)
    assert (progress.done, progress.total) == (3, 3)
    reviews.assign(2, [("image-0", ann)])
    assert reviews.next_open(ann).position == 4


def test_nobody_gets_an_image_twice_in_a_round_and_unknown_images_are_refused(project: SimpleNamespace):
    ann, reviews = project.reviewers[0], project.store.reviews
    reviews.assign(1, [("image-0", ann)])
    with pytest.raises(StoreError, match="already"):
        reviews.assign(1, [("image-1", ann), ("image-0", ann)])
    assert [one.key for one in reviews.listing(ann)] == ["image-0"]
    reviews.assign(2, [("image-0", ann)])
    with pytest.raises(UnknownRecord, match="1 of the images"):
        reviews.assign(1, [("image-9", ann)])


def test_images_are_added_once(project: SimpleNamespace):
    again = [ImageRecord("image-0", None, False), ImageRecord("new", Modality.MR, False)]
    assert project.store.add_images([*again, *again]) == 1
    assert project.store.image("image-0").modality is Modality.CT
    assert project.store.image("new").modality is Modality.MR
    with pytest.raises(UnknownRecord):
        project.store.image("missing")


def test_an_image_has_one_draft_per_round(project: SimpleNamespace, noise):
    store = project.store
    store.add_draft("image-0", 1, "record", noise)
    with pytest.raises(StoreError, match="Begin a new round"):
        store.add_draft("image-0", 1, "nano", noise)
    other = replace(noise, degradations=(Degradation(Task.CT_LOW_DOSE, Severity.SEVERE),))
    store.add_draft("image-0", 2, "nano", other)
    assert store.draft("image-0", 1).description == noise
    assert store.draft("image-0", 2).description == other
    assert store.draft("image-1", 1) is None
    assert store.undrafted(1) == [f"image-{number}" for number in range(1, 5)]
    assert [draft.key for draft in store.drafts(2)] == ["image-0"]
    assert store.rounds() == [1, 2]
    with pytest.raises(UnknownRecord):
        store.add_draft("missing", 1, "nano", noise)
