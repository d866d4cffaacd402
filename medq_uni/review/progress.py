"""The administrator's overview: how far everybody is, how much they agree, and how good the drafts were."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from medq_uni.annotate.records import Role
from medq_uni.review.access import AdministratorSession
from medq_uni.review.measuring import Measurement
from medq_uni.review.pages import message_page, page
from medq_uni.review.reviewing import OfStore

router = APIRouter()
RELOAD_S = 5
"""After how many seconds a page with an old count is loaded again."""


@router.get("/progress")
def overview(session: AdministratorSession, store: OfStore) -> Response:
    """Show counts by round and by reviewer."""
    reviewers = [account for account in store.accounts.all() if account.role is Role.REVIEWER]
    return page(
        "progress",
        session,
        rounds=[(round, store.outcomes.counts(round)) for round in reversed(store.outcomes.rounds())],
        reviewers=[(account, store.reviews.progress(account.id)) for account in reviewers],
    )


@router.get("/agreement")
def agreement(request: Request, session: AdministratorSession) -> Response:
    """Show kappa per slot, pairs, reviewers, and the quality of the drafts, over rounds."""
    measurement: Measurement = request.app.state.measurement
    measured, is_current = measurement.read()
    if measured is None:
        said = "The reviews are being counted. This page loads itself again."
        response = message_page("Counting", said, session, link=("/progress", "Progress"))
    elif not measured.stamps:
        return message_page("No reviews yet", "Assign images first.", session, link=("/progress", "Progress"))
    else:
        response = page(
            "agreement",
            session,
            agreements=measured.agreements[::-1],
            reports=measured.reports[::-1],
            plot=measured.plot,
            at=measured.at,
            is_current=is_current,
        )
    if not is_current:
        response.headers["Refresh"] = str(RELOAD_S)
    return response
