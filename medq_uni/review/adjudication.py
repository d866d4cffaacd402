"""The administrator's routes for images on which the reviewers do not agree."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any

from fastapi import APIRouter, Path, Response
from fastapi.responses import RedirectResponse

from medq_uni.annotate.majority import Settlement, aspect_of, settle
from medq_uni.annotate.outcomes import ReviewedImage
from medq_uni.annotate.records import ReviewEntry, Revision, State, UnknownRecord
from medq_uni.annotate.store import Store
from medq_uni.review.access import AdministratorSession
from medq_uni.review.pages import message_page, screen
from medq_uni.review.pixels import pixels_response
from medq_uni.review.reviewing import Number, OfSource, OfStore, Saved
from medq_uni.taxonomy import Task

Key = Annotated[str, Path(min_length=1, max_length=128)]

router = APIRouter()


@router.get("/adjudicate")
def next_page(session: AdministratorSession, store: OfStore) -> Response:
    """Lead to an image that waits for a decision, of the newest round that has one."""
    for round in reversed(store.outcomes.rounds()):
        waiting = store.outcomes.disputed(round, limit=1)
        if waiting:
            return RedirectResponse(f"/adjudicate/{round}/{waiting[0].key}", 303)
    link = ("/progress", "Progress and agreement")
    return message_page("Nothing to decide", "No image waits for adjudication.", session, link=link)


@router.get("/adjudicate/{round}/{key}")
def adjudication_page(round: Number, key: Key, session: AdministratorSession, store: OfStore) -> Response:
    """Show the screen with one image and all its reviews."""
    _decidable(store, round, key)
    return screen(session, api="/api/adjudications", path="/adjudicate", first=f"{round}/{key}", adjudicates=True)


@router.get("/api/adjudications/{round}/{key}")
def read_adjudication(round: Number, key: Key, session: AdministratorSession, store: OfStore) -> dict[str, Any]:
    """Return the reviews without names, what they agree on, and the decision where there is one."""
    found = _decidable(store, round, key)
    settlement = settle([review.entry for review in found.reviews])
    image = store.image(key)
    draft = store.draft(key, round)
    entry = settlement.entry if found.resolution is None else found.resolution.entry
    return {
        "id": f"{round}/{key}",
        "title": f"{key}, round {round}",
        "modality": None if image.modality is None else image.modality.value,
        "has_reference": image.has_reference,
        "draft": None if draft is None else draft.description.to_dict(),
        "entry": entry.to_dict(),
        "votes": [{"label": label, "entry": review.entry.to_dict()} for label, review in _anonymous(found)],
        "contested": sorted({aspect_of(slot) for slot in settlement.disputed}),
        "undecided": _undecided(found, settlement),
        "previous": None,
        "following": _next(store, round, key),
        **_standing(store, round, key, found.resolution),
    }


@router.put("/api/adjudications/{round}/{key}")
def save_decision(
    round: Number, key: Key, saved: Saved, session: AdministratorSession, store: OfStore
) -> dict[str, Any]:
    """Keep a decision; earlier ones stay in the history."""
    entry = ReviewEntry.from_dict(saved.entry)
    revision = store.outcomes.resolve(key, round, session.account.id, based_on=saved.based_on, entry=entry)
    return _standing(store, round, key, revision)


@router.get("/api/adjudications/{round}/{key}/image")
def read_image(round: Number, key: Key, session: AdministratorSession, store: OfStore, source: OfSource) -> Response:
    """Return the values of the image."""
    _decidable(store, round, key)
    return pixels_response(source.image(key))


@router.get("/api/adjudications/{round}/{key}/reference")
def read_reference(
    round: Number, key: Key, session: AdministratorSession, store: OfStore, source: OfSource
) -> Response:
    """Return the values of the reference."""
    _decidable(store, round, key)
    reference = source.reference(key)
    if reference is None:
        raise UnknownRecord("this image has no reference.")
    return pixels_response(reference)


def _decidable(store: Store, round: int, key: str) -> ReviewedImage:
    found = next(store.outcomes.reviewed(round, key=key), None)
    if found is None or found.state is State.OPEN:
        raise UnknownRecord("there is no such image with all its reviews.")
    return found


def _undecided(found: ReviewedImage, settlement: Settlement) -> list[str]:
    """Kinds of degradation without an agreed grade; an entry leaves them out, as it does those of grade none."""
    return [] if found.resolution is not None else [slot for slot in settlement.disputed if slot in set(Task)]


def _anonymous(found: ReviewedImage) -> list[tuple[str, Revision]]:
    """Letters that differ in order from image to image, so that nobody is known by theirs."""

    def place(review: Revision) -> str:
        return hashlib.sha256(f"{found.key} {review.account_id}".encode()).hexdigest()

    return [(chr(ord("A") + number), one) for number, one in enumerate(sorted(found.reviews, key=place))]


def _standing(store: Store, round: int, key: str, resolution: Revision | None) -> dict[str, Any]:
    counts = store.outcomes.counts(round)
    waiting, decided = counts[State.DISPUTED], counts[State.RESOLVED]
    return {
        "revision": 0 if resolution is None else resolution.number,
        "is_done": resolution is not None,
        "can_undo": False,
        "progress": {"done": decided, "total": decided + waiting, "doubted": 0},
        "next": _next(store, round, key),
    }


def _next(store: Store, round: int, key: str) -> str | None:
    waiting = store.outcomes.disputed(round, after=key, limit=1) or store.outcomes.disputed(round, limit=1)
    return f"{round}/{waiting[0].key}" if waiting and waiting[0].key != key else None
