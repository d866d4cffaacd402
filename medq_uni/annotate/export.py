"""Results as files: descriptions by key, and every review with its history, one JSON object per line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from medq_uni.annotate.majority import settle
from medq_uni.annotate.records import Revision, State, StoreError
from medq_uni.annotate.store import Store
from medq_uni.data.descriptions import description_line
from medq_uni.files import atomic_file


def export_descriptions(store: Store, round: int, path: Path) -> int:
    """Write key and result of every image of a round that has one, and return how many that are.

    Raises:
        StoreError: If no image has a result.
    """
    return _write(_descriptions(store, round), path, f"round {round} has no results yet. Wait for the reviews.")


def export_reviews(store: Store, round: int, path: Path) -> int:
    """Write every image of a round with its draft, its reviews with all revisions, votes and result; return how many.

    Raises:
        StoreError: If no image is assigned.
    """
    return _write(_reviews(store, round), path, f"round {round} has no assigned images. Assign them first.")


def export_exchanges(store: Store, path: Path) -> int:
    """Write every question to a describer with its answer or error, of all rounds; return how many.

    Raises:
        StoreError: If none was asked.
    """
    lines = (vars(one) | {"at": one.at.isoformat()} for one in store.exchanges())
    return _write(lines, path, "no describer was asked yet. Draft first: medq annotate draft")


def _descriptions(store: Store, round: int) -> Iterator[dict[str, Any]]:
    for image in store.outcomes.reviewed(round):
        result = image.result()
        if result is not None:
            yield description_line(image.key, result, round, image.how)


def _reviews(store: Store, round: int) -> Iterator[dict[str, Any]]:
    names = {account.id: account.name for account in store.accounts.all()}
    drafts = {draft.key: draft for draft in store.drafts(round)}
    reviewed = {image.key: image for image in store.outcomes.reviewed(round)}
    for key, histories in store.outcomes.histories(round):
        image, draft = reviewed.get(key), drafts.get(key)
        settled = None if image is None or image.state is State.OPEN else settle([one.entry for one in image.reviews])
        result = None if image is None else image.result()
        yield {
            "key": key,
            "round": round,
            "state": State.OPEN.value if image is None else image.state.value,
            "draft": None if draft is None else {"by": draft.describer, "description": draft.description.to_dict()},
            "reviews": [
                {"reviewer": names[account], "revisions": [revision_line(one, names) for one in history]}
                for account, history in histories.items()
            ],
            "votes": None if settled is None else settled.votes,
            "disputed": [] if settled is None else list(settled.disputed),
            "resolution": None if image is None or image.resolution is None else revision_line(image.resolution, names),
            "description": None if result is None else result.to_text(),
        }


def revision_line(revision: Revision, names: dict[int, str]) -> dict[str, Any]:
    """Return a revision as JSON values: who, when, and what."""
    return {
        "number": revision.number,
        "by": names[revision.account_id],
        "at": revision.at.isoformat(),
        "is_done": revision.is_done,
        "restores": revision.restores,
        **revision.entry.to_dict(),
    }


def _write(lines: Iterable[dict[str, Any]], path: Path, nothing: str) -> int:
    count = 0
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            count += 1
        if not count:
            raise StoreError(nothing)
    return count
