"""Who reviews what: balanced, random from a seed, nobody the same image twice in a round."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from medq_uni.annotate.records import Role, StoreError
from medq_uni.annotate.reviews import REVIEWS_PER_IMAGE
from medq_uni.annotate.store import Store


def plan(
    keys: Sequence[str],
    reviewers: Sequence[int],
    *,
    seed: int,
    needed: int = REVIEWS_PER_IMAGE,
    given: Sequence[tuple[str, int]] = (),
) -> list[tuple[str, int]]:
    """Return pairs of image and reviewer that bring every image to the number of reviewers that it needs.

    The loads of any two reviewers differ by at most one where nothing was given before; who gets which image, and in
    which order, is random. The same arguments give the same pairs.

    Args:
        keys: Of the images.
        reviewers: Numbers of accounts.
        seed: Of every choice.
        needed: Different reviewers per image.
        given: Pairs that exist already and count.

    Raises:
        StoreError: If there are fewer reviewers than an image needs.
    """
    choose = random.Random(seed)
    load = Counter({reviewer: 0 for reviewer in sorted(reviewers)})
    has: dict[str, set[int]] = {key: set() for key in keys}
    for key, reviewer in given:
        has.setdefault(key, set()).add(reviewer)
        if reviewer in load:
            load[reviewer] += 1
    order = sorted(keys)
    choose.shuffle(order)
    lists: dict[int, list[str]] = {reviewer: [] for reviewer in load}
    for key in order:
        free = [reviewer for reviewer in lists if reviewer not in has[key]]
        missing = max(needed - len(has[key]), 0)
        if len(free) < missing:
            raise StoreError(
                f"an image needs {needed} different reviewers, there are {len(load)}. "
                "Add reviewers: medq annotate user add DATASET NAME"
            )
        choose.shuffle(free)
        free.sort(key=lambda reviewer: load[reviewer])  # stable: equal loads stay in random order
        for reviewer in free[:missing]:
            lists[reviewer].append(key)
            load[reviewer] += 1
    for images in lists.values():
        choose.shuffle(images)
    return [(key, reviewer) for reviewer, images in lists.items() for key in images]


def assign_round(
    store: Store, round: int, *, seed: int, needed: int = REVIEWS_PER_IMAGE, keys: Sequence[str] | None = None
) -> int:
    """Assign the drafted images of a round, or these, to the reviewers who can sign in; return how many were given.

    Run it again after new drafts, or after a reviewer has left: images are brought back to the number that they need.
    What a reviewer who left has not finished does not count.

    Raises:
        StoreError: If there are too few reviewers, or nothing to assign.
    """
    accounts = store.accounts.all()
    active = [one.id for one in accounts if one.role is Role.REVIEWER and not one.is_disabled]
    chosen = [draft.key for draft in store.drafts(round)] if keys is None else list(keys)
    if not chosen:
        raise StoreError(f"round {round} has no drafted image. Draft first: medq annotate draft")
    given = [(key, account) for key, account, is_done in store.reviews.assigned(round) if is_done or account in active]
    pairs = plan(chosen, active, seed=seed, needed=needed, given=given)
    store.reviews.assign(round, pairs, needed=needed)
    return len(pairs)
