from collections import Counter
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medq_uni.annotate.assignment import assign_round, plan
from medq_uni.annotate.records import ReviewEntry, Role, StoreError

KEYS = [f"image-{number:03d}" for number in range(100)]


@settings(max_examples=50)
@given(st.integers(1, 60), st.integers(3, 9), st.integers(1, 3), st.integers(0, 10**6))
def test_every_image_gets_different_reviewers_and_loads_are_even(images: int, people: int, needed: int, seed: int):
    pairs = plan(KEYS[:images], range(people), seed=seed, needed=needed)
    assert len(set(pairs)) == len(pairs) == images * needed
    assert set(Counter(key for key, _ in pairs).values()) == {needed}
    loads = Counter({person: 0 for person in range(people)})
    loads.update(person for _, person in pairs)
    assert max(loads.values()) - min(loads.values()) <= 1


def test_the_seed_decides_and_the_order_of_the_keys_does_not():
    pairs = plan(KEYS, [1, 2, 3, 4, 5], seed=7)
    assert plan(KEYS[::-1], [5, 4, 3, 2, 1], seed=7) == pairs
    assert plan(KEYS, [1, 2, 3, 4, 5], seed=8) != pairs


def test_who_meets_whom_and_in_which_order_is_random():
    pairs = plan(KEYS, [1, 2, 3, 4, 5], seed=0)
    groups = Counter(frozenset(person for key, person in pairs if key == one) for one in KEYS)
    assert len(groups) == 10  # every group of three among five occurs
    orders = {person: [key for key, other in pairs if other == person] for person in (1, 2)}
    assert orders[1] != sorted(orders[1])
    shared = set(orders[1]) & set(orders[2])
    assert [key for key in orders[1] if key in shared] != [key for key in orders[2] if key in shared]


def test_too_few_reviewers_are_refused():
    with pytest.raises(StoreError, match="needs 3 different reviewers, there are 2"):
        plan(KEYS[:1], [1, 2], seed=0)


def test_a_second_run_fills_up_what_is_missing(project: SimpleNamespace, noise):
    store = project.store
    for number in range(4):
        store.add_draft(f"image-{number}", 1, "record", noise)
    assert assign_round(store, 1, seed=0) == 12
    assert assign_round(store, 1, seed=0) == 0
    store.add_draft("image-4", 1, "record", noise)
    assert assign_round(store, 1, seed=1) == 3


def test_what_a_reviewer_who_left_has_not_done_goes_to_others(project: SimpleNamespace, noise):
    store, ann = project.store, project.reviewers[0]
    for number in range(4):
        store.add_draft(f"image-{number}", 1, "record", noise)
    assign_round(store, 1, seed=0)
    first = store.reviews.next_open(ann)
    store.reviews.save(first.id, ann, based_on=0, entry=ReviewEntry.of(noise), is_done=True)
    store.accounts.change(ann, is_disabled=True)
    with pytest.raises(StoreError, match="different reviewers"):
        assign_round(store, 1, seed=0)
    dora = store.accounts.add("dora", Role.REVIEWER, "hash").id
    assert assign_round(store, 1, seed=0) == 3
    assert first.key not in [one.key for one in store.reviews.listing(dora)]


def test_administrators_get_nothing_and_a_round_without_drafts_is_refused(project: SimpleNamespace, noise):
    with pytest.raises(StoreError, match="no drafted image"):
        assign_round(project.store, 1, seed=0)
    project.store.add_draft("image-0", 1, "record", noise)
    assign_round(project.store, 1, seed=0)
    assert project.store.reviews.listing(project.administrator) == []
