import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest

from medq_uni.annotate.records import ReviewEntry, StaleRevision, State, StoreError, UnknownRecord
from medq_uni.description import DescriptionError
from medq_uni.taxonomy import Anatomy, Verdict


def test_an_image_is_settled_by_its_third_review(project: SimpleNamespace, noise, graded):
    outcomes = project.store.outcomes
    project.review("image-0", noise, noise)
    assert outcomes.standing("image-0", 1).state is State.OPEN
    assert next(outcomes.reviewed(1)).result() is None
    cat = project.reviewers[2]
    project.store.reviews.assign(1, [("image-0", cat)])
    given = project.store.reviews.of_image(cat, "image-0", 1)
    project.store.reviews.save(given.id, cat, based_on=0, entry=ReviewEntry.of(graded("severe")), is_done=True)
    assert outcomes.standing("image-0", 1).state is State.AGREED
    assert next(outcomes.reviewed(1)).result() == noise
    assert outcomes.check() == []


def test_a_review_that_is_opened_again_opens_the_image(project: SimpleNamespace, noise):
    outcomes, reviews = project.store.outcomes, project.store.reviews
    project.review("image-0", noise, noise, noise)
    ann = project.reviewers[0]
    given = reviews.of_image(ann, "image-0", 1)
    reviews.save(given.id, ann, based_on=1, entry=ReviewEntry.of(noise), is_done=False)
    assert outcomes.standing("image-0", 1).state is State.OPEN
    assert outcomes.counts(1) == {State.OPEN: 1, State.AGREED: 0, State.DISPUTED: 0, State.RESOLVED: 0}
    assert [len(one.reviews) for one in outcomes.reviewed(1)] == [2]


def test_disputes_queue_up_and_an_administrator_decides(project: SimpleNamespace, noise, graded):
    outcomes = project.store.outcomes
    for number in (2, 0, 1):
        project.review(f"image-{number}", graded("mild"), graded("moderate"), graded("severe"))
    assert [one.key for one in outcomes.disputed(1)] == ["image-0", "image-1", "image-2"]
    assert [one.key for one in outcomes.disputed(1, after="image-0", limit=1)] == ["image-1"]
    decided = outcomes.resolve(
        "image-1", 1, project.administrator, based_on=0, entry=ReviewEntry.of(noise, comment="seen")
    )
    assert (decided.number, decided.account_id) == (1, project.administrator)
    assert [one.key for one in outcomes.disputed(1)] == ["image-0", "image-2"]
    assert outcomes.counts(1)[State.RESOLVED] == 1
    (image,) = outcomes.reviewed(1, key="image-1")
    assert image.result() == noise
    assert outcomes.check() == []


def test_two_administrators_cannot_overwrite_each_other(project: SimpleNamespace, noise, graded):
    outcomes = project.store.outcomes
    project.review("image-0", graded("mild"), graded("moderate"), graded("severe"))
    first = outcomes.resolve("image-0", 1, project.administrator, based_on=0, entry=ReviewEntry.of(noise))
    with pytest.raises(StaleRevision) as caught:
        outcomes.resolve("image-0", 1, project.administrator, based_on=0, entry=ReviewEntry.of(graded("severe")))
    assert caught.value.newest == first
    outcomes.resolve("image-0", 1, project.administrator, based_on=1, entry=ReviewEntry.of(graded("severe")))
    assert outcomes.resolution("image-0", 1).number == 2
    assert next(outcomes.reviewed(1)).result() == graded("severe")


def test_only_an_administrator_decides_and_only_what_is_reviewed(project: SimpleNamespace, noise, graded):
    outcomes, root = project.store.outcomes, project.administrator
    project.review("image-0", graded("mild"), graded("moderate"), graded("severe"))
    project.review("image-1", noise)
    with pytest.raises(StoreError, match="only an administrator"):
        outcomes.resolve("image-0", 1, project.reviewers[0], based_on=0, entry=ReviewEntry.of(noise))
    with pytest.raises(StoreError, match="reviews of this image are missing"):
        outcomes.resolve("image-1", 1, root, based_on=0, entry=ReviewEntry.of(noise))
    with pytest.raises(UnknownRecord, match="not reviewed in round 2"):
        outcomes.resolve("image-0", 2, root, based_on=0, entry=ReviewEntry.of(noise))
    with pytest.raises(DescriptionError):
        outcomes.resolve("image-0", 1, root, based_on=0, entry=ReviewEntry())
    assert outcomes.resolution("image-0", 1) is None


def test_reviews_that_are_finished_at_once_all_count(project: SimpleNamespace, noise):
    store = project.store
    keys = [f"image-{number}" for number in range(5)]
    store.reviews.assign(1, [(key, account) for account in project.reviewers for key in keys])
    errors: list[BaseException] = []
    start = threading.Barrier(3)

    def review(account: int) -> None:
        try:
            for key in keys:
                given = store.reviews.of_image(account, key, 1)
                start.wait()  # all three finish the same image at the same moment
                store.reviews.save(given.id, account, based_on=0, entry=ReviewEntry.of(noise), is_done=True)
        except BaseException as error:  # noqa: BLE001 - the test looks at it in its own thread
            errors.append(error)
            start.abort()

    threads = [threading.Thread(target=review, args=(account,)) for account in project.reviewers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert store.outcomes.counts(1)[State.AGREED] == 5
    assert store.outcomes.check() == []


def test_a_check_finds_a_state_that_the_history_does_not_bear_out(project: SimpleNamespace, noise):
    from sqlalchemy import text

    project.review("image-0", noise, noise, noise)
    with project.store.database.writing() as session:
        session.execute(text("UPDATE assignment SET head = 7 WHERE account_id = :ann"), {"ann": project.reviewers[0]})
        session.execute(text("UPDATE standing SET state = 'open'"))
    problems = project.store.outcomes.check()
    assert len(problems) == 2
    assert "7 is kept" in problems[0]
    assert "open is kept" in problems[1]


def test_histories_hold_every_revision_of_every_reviewer(project: SimpleNamespace, noise):
    reviews = project.store.reviews
    ann, bob, _ = project.reviewers
    reviews.assign(1, [("image-0", ann), ("image-0", bob), ("image-1", bob)])
    given = reviews.of_image(ann, "image-0", 1)
    reviews.save(given.id, ann, based_on=0, entry=ReviewEntry(cause="half"), is_done=False)
    reviews.save(given.id, ann, based_on=1, entry=ReviewEntry.of(replace(noise, anatomy=Anatomy.BODY)), is_done=True)
    found = dict(project.store.outcomes.histories(1))
    assert {key: {who: len(steps) for who, steps in one.items()} for key, one in found.items()} == {
        "image-0": {ann: 2, bob: 0},
        "image-1": {bob: 0},
    }


def test_rounds_are_apart(project: SimpleNamespace, noise, graded):
    project.review("image-0", noise, noise, noise)
    project.review("image-0", *[graded("severe", verdict=Verdict.REJECT)] * 3, round=2)
    outcomes = project.store.outcomes
    assert outcomes.rounds() == [1, 2]
    assert [next(outcomes.reviewed(number)).result().verdict for number in (1, 2)] == [Verdict.USABLE, Verdict.REJECT]
