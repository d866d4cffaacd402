"""The reviewers' side of the store: whose turn it is, saving, undo. Nobody sees another's work here."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import func, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from medq_uni.annotate.database import Database
from medq_uni.annotate.outcomes import refresh_standing, revision_of
from medq_uni.annotate.records import (
    Assignment,
    ReviewEntry,
    ReviewProgress,
    Revision,
    StaleRevision,
    State,
    StoreError,
    UnknownRecord,
)
from medq_uni.annotate.schema import AssignmentRow, DraftRow, ImageRow, RevisionRow, StandingRow
from medq_uni.description import QualityDescription
from medq_uni.taxonomy import Modality

REVIEWS_PER_IMAGE = 3


class Reviews:
    """Assignments and the histories of their reviews."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def assign(self, round: int, pairs: Sequence[tuple[str, int]], *, needed: int = REVIEWS_PER_IMAGE) -> int:
        """Give images to reviewers, in the order of the list, after what they have; return how many were given.

        Args:
            round: Number of the round, from 1.
            pairs: Key of an image and number of an account.
            needed: Finished reviews after which an image of this round is settled.

        Raises:
            StoreError: If a key is not in the store, or a reviewer has the image in this round already.
        """
        try:
            with self._database.writing() as session:
                keys = {key for key, _ in pairs}
                numbers = {key: number for key, number in session.execute(select(ImageRow.key, ImageRow.id))}
                missing = keys - set(numbers)
                if missing:
                    raise UnknownRecord(f"{len(missing)} of the images are not in the store. Draft or add them first.")
                self._insert(session, round, [(numbers[key], account) for key, account in pairs], needed)
        except IntegrityError as error:
            raise StoreError("a reviewer has one of these images already, or there is no such account.") from error
        return len(pairs)

    def _insert(self, session: Session, round: int, pairs: list[tuple[int, int]], needed: int) -> None:
        if not pairs:
            return
        last = select(AssignmentRow.account_id, func.max(AssignmentRow.position)).group_by(AssignmentRow.account_id)
        positions = dict(session.execute(last).all())
        now, rows = datetime.now(UTC), []
        for image_id, account_id in pairs:
            positions[account_id] = positions.get(account_id, 0) + 1
            rows.append(
                {"image_id": image_id, "round": round, "account_id": account_id, "position": positions[account_id]}
                | {"at": now, "head": 0, "is_done": False, "is_doubted": False}
            )
        session.execute(insert(AssignmentRow), rows)
        kept = set(session.scalars(select(StandingRow.image_id).where(StandingRow.round == round)))
        new = sorted({image_id for image_id, _ in pairs} - kept)
        standing = {"round": round, "needed": needed, "done": 0, "state": State.OPEN.value}
        if new:
            session.execute(insert(StandingRow), [{"image_id": image_id} | standing for image_id in new])

    def assigned(self, round: int) -> list[tuple[str, int, bool]]:
        """Return key, account and whether it is done, for every assignment of a round."""
        query = (
            select(ImageRow.key, AssignmentRow.account_id, AssignmentRow.is_done)
            .join(ImageRow, ImageRow.id == AssignmentRow.image_id)
            .where(AssignmentRow.round == round)
            .order_by(ImageRow.key, AssignmentRow.account_id)
        )
        with self._database.reading() as session:
            return list(session.execute(query))

    def next_open(self, account_id: int, *, after: int = 0) -> Assignment | None:
        """Return the reviewer's first unfinished image behind a position, else the first; None if all are done."""
        query = _assignments(account_id).where(~AssignmentRow.is_done).order_by(AssignmentRow.position).limit(1)
        with self._database.reading() as session:
            row = session.execute(query.where(AssignmentRow.position > after)).first()
            row = row or session.execute(query).first()
            return None if row is None else _assignment(*row)

    def get(self, account_id: int, assignment_id: int) -> Assignment:
        """Return one of the reviewer's assignments.

        Raises:
            UnknownRecord: If the reviewer has none of this number.
        """
        return self._one(_assignments(account_id).where(AssignmentRow.id == assignment_id))

    def at(self, account_id: int, position: int) -> Assignment:
        """Return the reviewer's assignment at a position.

        Raises:
            UnknownRecord: If there is none.
        """
        return self._one(_assignments(account_id).where(AssignmentRow.position == position))

    def of_image(self, account_id: int, key: str, round: int) -> Assignment:
        """Return the reviewer's assignment of an image in a round.

        Raises:
            UnknownRecord: If there is none.
        """
        return self._one(_assignments(account_id).where(ImageRow.key == key, AssignmentRow.round == round))

    def _one(self, query: Any) -> Assignment:
        with self._database.reading() as session:
            row = session.execute(query).first()
            if row is None:
                raise UnknownRecord("there is no such image for this reviewer.")
            return _assignment(*row)

    def listing(self, account_id: int, *, after: int = 0, limit: int = 100) -> list[Assignment]:
        """Return the reviewer's assignments behind a position, in their order."""
        query = _assignments(account_id).where(AssignmentRow.position > after).order_by(AssignmentRow.position)
        with self._database.reading() as session:
            return [_assignment(*row) for row in session.execute(query.limit(limit))]

    def progress(self, account_id: int) -> ReviewProgress:
        """Return how far a reviewer is."""
        query = (
            select(AssignmentRow.is_done, AssignmentRow.is_doubted, func.count())
            .where(AssignmentRow.account_id == account_id)
            .group_by(AssignmentRow.is_done, AssignmentRow.is_doubted)
        )
        with self._database.reading() as session:
            found = session.execute(query).all()
        done = [(is_doubted, count) for is_done, is_doubted, count in found if is_done]
        return ReviewProgress(
            done=sum(count for _, count in done),
            total=sum(count for _, _, count in found),
            doubted=sum(count for is_doubted, count in done if is_doubted),
        )

    def newest(self, account_id: int, assignment_id: int) -> Revision | None:
        """Return the newest revision of one of the reviewer's assignments; None before the first.

        Raises:
            UnknownRecord: If the reviewer has no such assignment.
        """
        history = self.history(account_id, assignment_id)
        return history[-1] if history else None

    def history(self, account_id: int, assignment_id: int) -> list[Revision]:
        """Return all revisions of one of the reviewer's assignments, the oldest first.

        Raises:
            UnknownRecord: If the reviewer has no such assignment.
        """
        self.get(account_id, assignment_id)
        with self._database.reading() as session:
            return _history(session, assignment_id)

    def save(
        self, assignment_id: int, account_id: int, *, based_on: int, entry: ReviewEntry, is_done: bool
    ) -> Revision:
        """Add a revision, and return it.

        A save that is repeated, because the answer to the first was lost, adds nothing.

        Args:
            assignment_id: What is reviewed.
            account_id: Who saves; the reviewer to whom it is assigned.
            based_on: Number of the revision that was seen; 0 for the draft.
            entry: The content.
            is_done: Whether the reviewer calls it finished.

        Raises:
            StaleRevision: If there is a newer revision than ``based_on``; nothing is written.
            DescriptionError: If it is to be finished and is no description yet.
            UnknownRecord: If the reviewer has no such assignment.
            StoreError: If it could not be written; nothing is.
        """
        if is_done:
            entry.description()
        try:
            with self._database.writing() as session:
                row = _locked(session, assignment_id, account_id)
                if row.head == based_on + 1:
                    newest = _history(session, assignment_id)[-1]
                    if newest.entry == entry and newest.is_done == is_done and newest.restores is None:
                        return newest
                return _append(session, row, based_on, entry, is_done, None)
        except IntegrityError as error:
            raise StaleRevision(based_on, self.newest(account_id, assignment_id)) from error

    def undo(self, assignment_id: int, account_id: int, *, based_on: int) -> Revision:
        """Add a revision that takes back the last change that is not taken back yet, and return it.

        The content before the first revision is the draft. What is taken back stays in the history.

        Raises:
            StaleRevision: If there is a newer revision than ``based_on``.
            UnknownRecord: If the reviewer has no such assignment.
            StoreError: If there is nothing to take back.
        """
        try:
            with self._database.writing() as session:
                row = _locked(session, assignment_id, account_id)
                history = _history(session, assignment_id)
                if row.head != based_on:
                    raise StaleRevision(based_on, history[-1] if history else None)
                shown = _shown(history, len(history))
                if shown == 0:
                    raise StoreError("there is nothing to undo; this is the draft.")
                target = _shown(history, shown - 1)
                if target == 0:
                    return _append(session, row, based_on, _draft_entry(session, row), False, 0)
                old = history[target - 1]
                return _append(session, row, based_on, old.entry, old.is_done, target)
        except IntegrityError as error:
            raise StaleRevision(based_on, self.newest(account_id, assignment_id)) from error


def _assignments(account_id: int) -> Any:
    joined = select(AssignmentRow, ImageRow).join(ImageRow, ImageRow.id == AssignmentRow.image_id)
    return joined.where(AssignmentRow.account_id == account_id)


def _assignment(row: AssignmentRow, image: ImageRow) -> Assignment:
    return Assignment(
        id=row.id,
        key=image.key,
        round=row.round,
        account_id=row.account_id,
        position=row.position,
        head=row.head,
        is_done=row.is_done,
        modality=None if image.modality is None else Modality(image.modality),
        has_reference=image.has_reference,
    )


def _history(session: Session, assignment_id: int) -> list[Revision]:
    query = select(RevisionRow).where(RevisionRow.assignment_id == assignment_id).order_by(RevisionRow.number)
    return [revision_of(row) for row in session.scalars(query)]


def _locked(session: Session, assignment_id: int, account_id: int) -> AssignmentRow:
    query = select(AssignmentRow).where(AssignmentRow.id == assignment_id, AssignmentRow.account_id == account_id)
    row = session.scalar(query.with_for_update())
    if row is None:
        raise UnknownRecord("there is no such image for this reviewer.")
    return row


def _append(
    session: Session, row: AssignmentRow, based_on: int, entry: ReviewEntry, is_done: bool, restores: int | None
) -> Revision:
    if row.head != based_on:
        history = _history(session, row.id)
        raise StaleRevision(based_on, history[-1] if history else None)
    added = RevisionRow(
        assignment_id=row.id,
        number=based_on + 1,
        entry=entry.to_dict(),
        is_done=is_done,
        restores=restores,
        account_id=row.account_id,
        at=datetime.now(UTC),
    )
    session.add(added)
    was_done = row.is_done
    row.head, row.is_done, row.is_doubted = based_on + 1, is_done, bool(entry.doubts)
    session.flush()
    if was_done or is_done:
        refresh_standing(session, row.image_id, row.round)
    return revision_of(added)


def _shown(history: list[Revision], number: int) -> int:
    """Return the revision whose content revision ``number`` shows: itself, or what an undo brought back."""
    if number == 0:
        return 0
    restores = history[number - 1].restores
    return number if restores is None else restores


def _draft_entry(session: Session, row: AssignmentRow) -> ReviewEntry:
    query = select(DraftRow).where(DraftRow.image_id == row.image_id, DraftRow.round == row.round)
    draft = session.scalar(query)
    return ReviewEntry() if draft is None else ReviewEntry.of(QualityDescription.from_dict(draft.description))
