"""What becomes of the reviews of an image: standings, the adjudication queue, results."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from medq_uni.annotate.accounts import current_accounts
from medq_uni.annotate.database import Database
from medq_uni.annotate.majority import settle
from medq_uni.annotate.records import (
    ReviewEntry,
    Revision,
    Role,
    StaleRevision,
    Standing,
    State,
    StoreError,
    UnknownRecord,
)
from medq_uni.annotate.schema import (
    AccountRow,
    AssignmentRow,
    DraftRow,
    ImageRow,
    ResolutionRow,
    RevisionRow,
    StandingRow,
)
from medq_uni.description import QualityDescription

_REVISION = (
    RevisionRow.number,
    RevisionRow.entry,
    RevisionRow.is_done,
    RevisionRow.account_id,
    RevisionRow.at,
    RevisionRow.restores,
)
"""Columns in the order of a :class:`Revision`; many are read in half the time without objects of the mapper."""


@dataclass(frozen=True)
class ReviewedImage:
    """An image with its finished reviews.

    Attributes:
        reviews: Newest revision of every reviewer who is done, in the order of the account numbers.
        resolution: What an administrator decided, if one did.
    """

    key: str
    round: int
    state: State
    reviews: tuple[Revision, ...]
    resolution: Revision | None

    @property
    def how(self) -> str:
        """How its result came about: ``majority`` or ``adjudication``."""
        return "majority" if self.resolution is None else "adjudication"

    def result(self) -> QualityDescription | None:
        """Return the decided or agreed description; None where there is none yet."""
        if self.resolution is not None:
            return self.resolution.entry.description()
        return settle([one.entry for one in self.reviews]).description() if self.state is State.AGREED else None


class Outcomes:
    """Results of the reviews, for administrators; reviewers are kept from them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def rounds(self) -> list[int]:
        """Return the numbers of the rounds in which images are reviewed."""
        with self._database.reading() as session:
            return list(session.scalars(select(StandingRow.round).distinct().order_by(StandingRow.round)))

    def counts(self, round: int) -> dict[State, int]:
        """Return how many images of a round stand where."""
        query = select(StandingRow.state, func.count()).where(StandingRow.round == round).group_by(StandingRow.state)
        with self._database.reading() as session:
            found = dict(session.execute(query).all())
        return {state: found.get(state.value, 0) for state in State}

    def stamp(self, round: int) -> tuple[int, ...]:
        """Return numbers that change with every assignment, revision, decision and draft of a round.

        All of these are only added, so that their counts suffice.
        """
        given = select(func.count(), func.coalesce(func.sum(AssignmentRow.head), 0)).where(AssignmentRow.round == round)
        decided = select(func.count()).select_from(ResolutionRow).where(ResolutionRow.round == round)
        drafted = select(func.count()).select_from(DraftRow).where(DraftRow.round == round)
        with self._database.reading() as session:
            assignments, revisions = session.execute(given).one()
            return assignments, int(revisions), session.scalar(decided) or 0, session.scalar(drafted) or 0

    def standing(self, key: str, round: int) -> Standing:
        """Return where an image stands.

        Raises:
            UnknownRecord: If it is not reviewed in this round.
        """
        query = select(StandingRow).join(ImageRow).where(ImageRow.key == key, StandingRow.round == round)
        with self._database.reading() as session:
            row = session.scalar(query)
            if row is None:
                raise UnknownRecord(f"this image is not reviewed in round {round}. Assign it first.")
            return Standing(key, round, State(row.state), row.done, row.needed)

    def disputed(self, round: int, *, after: str = "", limit: int = 50) -> list[Standing]:
        """Return images that wait for adjudication, by key.

        Args:
            round: Which round.
            after: Key after which the list begins.
            limit: Most images.
        """
        query = (
            select(ImageRow.key, StandingRow.done, StandingRow.needed)
            .join(ImageRow, ImageRow.id == StandingRow.image_id)
            .where(StandingRow.round == round, StandingRow.state == State.DISPUTED.value, ImageRow.key > after)
            .order_by(ImageRow.key)
            .limit(limit)
        )
        with self._database.reading() as session:
            found = session.execute(query).all()
        return [Standing(key, round, State.DISPUTED, done, needed) for key, done, needed in found]

    def reviewed(self, round: int, *, key: str | None = None) -> Iterator[ReviewedImage]:
        """Yield the images of a round, or one of them, with their finished reviews; images without any are left out."""
        query = (
            select(ImageRow.key, StandingRow.state, *_REVISION)
            .join(AssignmentRow, AssignmentRow.id == RevisionRow.assignment_id)
            .join(ImageRow, ImageRow.id == AssignmentRow.image_id)
            .join(StandingRow, (StandingRow.image_id == ImageRow.id) & (StandingRow.round == AssignmentRow.round))
            .where(AssignmentRow.round == round, AssignmentRow.is_done, RevisionRow.number == AssignmentRow.head)
            .order_by(ImageRow.key, AssignmentRow.account_id)
        )
        if key is not None:
            query = query.where(ImageRow.key == key)
        with self._database.reading() as session:
            resolved = _resolutions(session, round, key)
            found = session.execute(query.execution_options(yield_per=1000))
            for name, rows in groupby(found, key=lambda row: str(row[0])):
                group = list(rows)
                reviews = tuple(Revision(row[2], ReviewEntry.from_dict(row[3]), *row[4:]) for row in group)
                yield ReviewedImage(name, round, State(group[0][1]), reviews, resolved.get(name))

    def histories(self, round: int) -> Iterator[tuple[str, dict[int, list[Revision]]]]:
        """Yield the key of every assigned image of a round with all revisions of every reviewer, finished or not."""
        query = (
            select(ImageRow.key, AssignmentRow.account_id, RevisionRow)
            .join(AssignmentRow, AssignmentRow.image_id == ImageRow.id)
            .outerjoin(RevisionRow, RevisionRow.assignment_id == AssignmentRow.id)
            .where(AssignmentRow.round == round)
            .order_by(ImageRow.key, AssignmentRow.account_id, RevisionRow.number)
        )
        with self._database.reading() as session:
            found = session.execute(query.execution_options(yield_per=1000))
            for name, rows in groupby(found, key=lambda row: str(row[0])):
                histories: dict[int, list[Revision]] = {}
                for _, account_id, row in rows:
                    histories.setdefault(account_id, []).extend([] if row is None else [revision_of(row)])
                yield name, histories

    def resolution(self, key: str, round: int) -> Revision | None:
        """Return the newest decision of an administrator about an image; None where there is none."""
        with self._database.reading() as session:
            return _resolutions(session, round, key).get(key)

    def resolve(self, key: str, round: int, account_id: int, *, based_on: int, entry: ReviewEntry) -> Revision:
        """Keep an administrator's decision, and return it.

        Args:
            key: Of the image.
            round: Of the reviews.
            account_id: Of the administrator.
            based_on: Number of the decision that was seen; 0 where there was none.
            entry: The decision; finished.

        Raises:
            StaleRevision: If there is a newer decision.
            DescriptionError: If the entry is no finished description.
            UnknownRecord: If the image is not reviewed in this round.
            StoreError: If reviews are missing, or the account is no administrator.
        """
        entry.description()
        try:
            with self._database.writing() as session:
                _check_administrator(session, account_id)
                query = select(StandingRow).join(ImageRow).where(ImageRow.key == key, StandingRow.round == round)
                standing = session.scalar(query.with_for_update(of=StandingRow))
                if standing is None:
                    raise UnknownRecord(f"this image is not reviewed in round {round}. Assign it first.")
                if standing.state == State.OPEN.value:
                    raise StoreError("reviews of this image are missing. Wait for them before you decide.")
                newest = _resolutions(session, round, key).get(key)
                if based_on != (0 if newest is None else newest.number):
                    raise StaleRevision(based_on, newest)
                row = ResolutionRow(
                    image_id=standing.image_id,
                    round=round,
                    number=based_on + 1,
                    entry=entry.to_dict(),
                    account_id=account_id,
                    at=datetime.now(UTC),
                )
                session.add(row)
                standing.state = State.RESOLVED.value
                session.flush()
                return revision_of(row)
        except IntegrityError as error:
            raise StaleRevision(based_on, self.resolution(key, round)) from error

    def check(self) -> list[str]:
        """Return where the state that is kept for speed differs from what the history says; empty where nowhere."""
        problems = []
        newest = (
            select(RevisionRow.assignment_id, func.max(RevisionRow.number).label("number"))
            .group_by(RevisionRow.assignment_id)
            .subquery()
        )
        heads = (
            select(AssignmentRow.id, AssignmentRow.head, AssignmentRow.is_done, newest.c.number, RevisionRow.is_done)
            .outerjoin(newest, newest.c.assignment_id == AssignmentRow.id)
            .outerjoin(
                RevisionRow,
                (RevisionRow.assignment_id == AssignmentRow.id) & (RevisionRow.number == newest.c.number),
            )
        )
        with self._database.reading() as session:
            for number, head, is_done, last, last_is_done in session.execute(heads):
                if head != (last or 0) or is_done != bool(last_is_done):
                    problems.append(f"assignment {number}: its newest revision is {last or 0}, {head} is kept.")
            for row, entries, is_decided in _all_standings(session):
                done, state = len(entries), _state_of(entries, row.needed, is_decided)
                if (row.done, row.state) != (done, state.value):
                    problems.append(f"image {row.image_id}, round {row.round}: is {state.value}, {row.state} is kept.")
        return problems


def refresh_standing(session: Session, image_id: int, round: int) -> None:
    """Compute again where an image stands, in the transaction that changed a review of it."""
    query = select(StandingRow).where(StandingRow.image_id == image_id, StandingRow.round == round)
    row = session.scalar(query.with_for_update())
    assert row is not None
    found = session.scalars(
        select(RevisionRow.entry)
        .join(AssignmentRow, AssignmentRow.id == RevisionRow.assignment_id)
        .where(
            AssignmentRow.image_id == image_id,
            AssignmentRow.round == round,
            AssignmentRow.is_done,
            RevisionRow.number == AssignmentRow.head,
        )
        .order_by(AssignmentRow.account_id)
    )
    entries = [ReviewEntry.from_dict(entry) for entry in found]
    decided = select(ResolutionRow.id).where(ResolutionRow.image_id == image_id, ResolutionRow.round == round)
    is_decided = session.scalar(decided.limit(1)) is not None
    row.done, row.state = len(entries), _state_of(entries, row.needed, is_decided).value


def revision_of(row: RevisionRow | ResolutionRow) -> Revision:
    """Return the value of a row of history."""
    is_done, restores = (row.is_done, row.restores) if isinstance(row, RevisionRow) else (True, None)
    return Revision(row.number, ReviewEntry.from_dict(row.entry), is_done, row.account_id, row.at, restores)


def _all_standings(session: Session) -> Iterator[tuple[StandingRow, list[ReviewEntry], bool]]:
    """Yield every standing with the finished reviews behind it, and whether an administrator has decided."""
    decided = {
        (image_id, round) for image_id, round in session.execute(select(ResolutionRow.image_id, ResolutionRow.round))
    }
    given = (AssignmentRow.image_id == StandingRow.image_id) & (AssignmentRow.round == StandingRow.round)
    query = (
        select(StandingRow, RevisionRow.entry)
        .outerjoin(AssignmentRow, given & AssignmentRow.is_done)
        .outerjoin(
            RevisionRow,
            (RevisionRow.assignment_id == AssignmentRow.id) & (RevisionRow.number == AssignmentRow.head),
        )
        .order_by(StandingRow.round, StandingRow.image_id, AssignmentRow.account_id)
    )
    found = session.execute(query.execution_options(yield_per=1000))
    for place, rows in groupby(found, key=lambda row: (row[0].image_id, row[0].round)):
        group = list(rows)
        yield group[0][0], [ReviewEntry.from_dict(entry) for _, entry in group if entry is not None], place in decided


def _state_of(entries: list[ReviewEntry], needed: int, is_decided: bool) -> State:
    if is_decided:
        return State.RESOLVED
    if len(entries) < needed:
        return State.OPEN
    return State.AGREED if settle(entries).is_agreed else State.DISPUTED


def _resolutions(session: Session, round: int, key: str | None) -> dict[str, Revision]:
    query = (
        select(ImageRow.key, ResolutionRow)
        .join(ImageRow, ImageRow.id == ResolutionRow.image_id)
        .where(ResolutionRow.round == round)
        .order_by(ResolutionRow.number)
    )
    if key is not None:
        query = query.where(ImageRow.key == key)
    found: list[Any] = list(session.execute(query))
    return {name: revision_of(row) for name, row in found}  # the newest comes last


def _check_administrator(session: Session, account_id: int) -> None:
    row = session.execute(current_accounts(AccountRow.id == account_id)).first()
    if row is None or row[1].role != Role.ADMINISTRATOR.value or row[1].is_disabled:
        raise StoreError("only an administrator decides. Sign in as one.")
