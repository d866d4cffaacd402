"""The reviewer's routes: the next image, its draft, saving, undo. A reviewer meets nobody else's work here."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, ConfigDict, Field

from medq_uni.annotate.images import ImageSource
from medq_uni.annotate.records import Assignment, ReviewEntry, Revision, UnknownRecord
from medq_uni.annotate.store import Store
from medq_uni.review.access import ReviewerSession
from medq_uni.review.pages import message_page, screen
from medq_uni.review.pixels import pixels_response

MOST_NUMBER = 2**31 - 1

router = APIRouter()


def store_of(request: Request) -> Store:
    """Return the store of the application."""
    store: Store = request.app.state.store
    return store


def source_of(request: Request) -> ImageSource:
    """Return where the application's images come from."""
    source: ImageSource = request.app.state.source
    return source


OfStore = Annotated[Store, Depends(store_of)]
OfSource = Annotated[ImageSource, Depends(source_of)]
Number = Annotated[int, Path(ge=1, le=MOST_NUMBER)]


class Based(BaseModel):
    """A change that says which revision it was made on."""

    model_config = ConfigDict(extra="forbid", strict=True)
    based_on: int = Field(ge=0, le=MOST_NUMBER)


class Saved(Based):
    """An entry to save."""

    done: bool
    entry: dict[str, Any]


@router.get("/review")
def next_page(session: ReviewerSession, store: OfStore) -> Response:
    """Lead to the reviewer's next unfinished image."""
    found = store.reviews.next_open(session.account.id)
    if found is not None:
        return RedirectResponse(f"/review/{found.id}", 303)
    progress = store.reviews.progress(session.account.id)
    if progress.total == 0:
        return message_page("Nothing to review yet", "No image is assigned to you. Come back later.", session)
    last = store.reviews.at(session.account.id, progress.total)
    said = f"All {progress.total} images are done; {progress.doubted} of them are marked as in doubt. Thank you."
    return message_page("Done", said, session, link=(f"/review/{last.id}", "Look at the last one again"))


@router.get("/review/{number}")
def review_page(number: Number, session: ReviewerSession, store: OfStore) -> Response:
    """Show the screen with one of the reviewer's images."""
    store.reviews.get(session.account.id, number)
    return screen(session, api="/api/reviews", path="/review", first=str(number), adjudicates=False)


@router.get("/api/reviews/{number}")
def read_review(number: Number, session: ReviewerSession, store: OfStore) -> dict[str, Any]:
    """Return what the screen shows beside the image."""
    found = store.reviews.get(session.account.id, number)
    draft = store.draft(found.key, found.round)
    newest = store.reviews.newest(session.account.id, number) if found.head else None
    entry = ReviewEntry(modality=found.modality)
    if newest is not None:
        entry = newest.entry
    elif draft is not None:
        entry = ReviewEntry.of(draft.description)
    return {
        "id": str(number),
        "title": f"No. {found.position}, round {found.round}",
        "modality": None if found.modality is None else found.modality.value,
        "has_reference": found.has_reference,
        "draft": None if draft is None else draft.description.to_dict(),
        "entry": entry.to_dict(),
        "previous": _neighbor(store, found, -1),
        "following": _neighbor(store, found, 1),
        **_standing(store, found, newest),
    }


@router.put("/api/reviews/{number}")
def save_review(number: Number, saved: Saved, session: ReviewerSession, store: OfStore) -> dict[str, Any]:
    """Add a revision; a stale one changes nothing and gets the newest as its answer."""
    entry = ReviewEntry.from_dict(saved.entry)
    revision = store.reviews.save(number, session.account.id, based_on=saved.based_on, entry=entry, is_done=saved.done)
    return _standing(store, store.reviews.get(session.account.id, number), revision)


@router.post("/api/reviews/{number}/undo")
def undo_review(number: Number, based: Based, session: ReviewerSession, store: OfStore) -> dict[str, Any]:
    """Take back the last change that is not taken back yet."""
    revision = store.reviews.undo(number, session.account.id, based_on=based.based_on)
    found = store.reviews.get(session.account.id, number)
    return {"entry": revision.entry.to_dict(), **_standing(store, found, revision)}


@router.get("/api/reviews/{number}/image")
def read_image(number: Number, session: ReviewerSession, store: OfStore, source: OfSource) -> Response:
    """Return the values of the image."""
    return pixels_response(source.image(store.reviews.get(session.account.id, number).key))


@router.get("/api/reviews/{number}/reference")
def read_reference(number: Number, session: ReviewerSession, store: OfStore, source: OfSource) -> Response:
    """Return the values of the reference."""
    reference = source.reference(store.reviews.get(session.account.id, number).key)
    if reference is None:
        raise UnknownRecord("this image has no reference.")
    return pixels_response(reference)


def _standing(store: Store, found: Assignment, newest: Revision | None) -> dict[str, Any]:
    progress = store.reviews.progress(found.account_id)
    following = store.reviews.next_open(found.account_id, after=found.position)
    return {
        "revision": 0 if newest is None else newest.number,
        "is_done": newest is not None and newest.is_done,
        "can_undo": newest is not None and newest.restores != 0,
        "progress": {"done": progress.done, "total": progress.total, "doubted": progress.doubted},
        "next": None if following is None or following.id == found.id else str(following.id),
    }


def _neighbor(store: Store, found: Assignment, step: int) -> str | None:
    try:
        return str(store.reviews.at(found.account_id, found.position + step).id)
    except UnknownRecord:
        return None
