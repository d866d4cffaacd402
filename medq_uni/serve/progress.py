"""The administrator's overview: how far everybody is, how much they agree, and how good the drafts were."""

from __future__ import annotations

import base64
import threading

from fastapi import APIRouter, Response

from medq_uni.annotate.agreement import measure_agreement
from medq_uni.annotate.plots import plot_rounds
from medq_uni.annotate.records import Role
from medq_uni.annotate.rounds import measure_round
from medq_uni.serve.access import AdministratorSession
from medq_uni.serve.pages import message_page, page
from medq_uni.serve.review import OfStore

router = APIRouter()
_measuring = threading.Lock()  # one at a time: it reads every review, and matplotlib draws in one thread only


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
def agreement(session: AdministratorSession, store: OfStore) -> Response:
    """Show kappa per slot, pairs, reviewers, and the quality of the drafts, over rounds."""
    rounds = store.outcomes.rounds()
    if not rounds:
        return message_page("No reviews yet", "Assign images first.", session, link=("/progress", "Progress"))
    names = {account.id: account.name for account in store.accounts.all()}
    with _measuring:
        agreements = [measure_agreement(round, store.outcomes.reviewed(round), names) for round in rounds]
        reports = [measure_round(store, round) for round in rounds]
        plot = base64.b64encode(plot_rounds(agreements, reports)).decode("ascii")
    return page("agreement", session, agreements=agreements[::-1], reports=reports[::-1], plot=plot)
