"""The administrator's overview: how far everybody is, and how much they agree."""

from __future__ import annotations

from fastapi import APIRouter, Response

from medq_uni.annotate.records import Role
from medq_uni.serve.access import AdministratorSession
from medq_uni.serve.pages import page
from medq_uni.serve.review import OfStore

router = APIRouter()


@router.get("/progress")
def overview(session: AdministratorSession, store: OfStore) -> Response:
    """Show counts by round and by reviewer."""
    reviewers = [account for account in store.accounts.all() if account.role is Role.REVIEWER]
    return page(
        "progress",
        session,
        rounds=[(round, store.outcomes.counts(round)) for round in store.outcomes.rounds()],
        reviewers=[(account, store.reviews.progress(account.id)) for account in reviewers],
    )
