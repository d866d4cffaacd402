"""The annotation store: images, drafts, accounts, reviews, results, and a log of what happened."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError

from medq_uni.annotate.accounts import Accounts
from medq_uni.annotate.database import Database
from medq_uni.annotate.outcomes import Outcomes
from medq_uni.annotate.records import Draft, Event, Exchange, ImageRecord, StoreError, UnknownRecord
from medq_uni.annotate.reviews import Reviews
from medq_uni.annotate.schema import DraftRow, EventRow, ExchangeRow, ImageRow
from medq_uni.description import QualityDescription
from medq_uni.taxonomy import Modality


class Store:
    """An open annotation store; safe to use from several threads, and from several programs at a time.

    Attributes:
        database: Connection.
        accounts: Who may sign in.
        reviews: What reviewers see and do.
        outcomes: What administrators see and do.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self.accounts = Accounts(database)
        self.reviews = Reviews(database)
        self.outcomes = Outcomes(database)

    @classmethod
    def open(cls, url: str | Path, *, create: bool = True) -> Store:
        """Open a store, and bring its tables to the newest version.

        Args:
            url: Path of a SQLite file, or a URL: ``sqlite:///FILE``, ``postgresql://USER@HOST/NAME``.
            create: Whether a store that is not there is made.

        Raises:
            StoreError: If it cannot be opened, is no annotation store, or was made by newer software.
        """
        return cls(Database(url, create=create))

    def close(self) -> None:
        """Close every connection."""
        self.database.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add_images(self, images: Iterable[ImageRecord]) -> int:
        """Add the images that are not there yet, and return how many that were."""
        with self.database.writing() as session:
            known = set(session.scalars(select(ImageRow.key)))
            rows = []
            for image in images:
                if image.key not in known:
                    known.add(image.key)
                    modality = None if image.modality is None else image.modality.value
                    rows.append({"key": image.key, "modality": modality, "has_reference": image.has_reference})
            if rows:
                session.execute(insert(ImageRow), rows)
        return len(rows)

    def images(self) -> list[ImageRecord]:
        """Return every image, by key."""
        with self.database.reading() as session:
            return [_image(row) for row in session.scalars(select(ImageRow).order_by(ImageRow.key))]

    def image(self, key: str) -> ImageRecord:
        """Return an image.

        Raises:
            UnknownRecord: If there is none of this key.
        """
        with self.database.reading() as session:
            row = session.scalar(select(ImageRow).where(ImageRow.key == key))
            if row is None:
                raise UnknownRecord("there is no such image in the store.")
            return _image(row)

    def add_draft(self, key: str, round: int, describer: str, description: QualityDescription) -> Draft:
        """Keep what a describer proposed, and return it; an image has one draft per round.

        Raises:
            UnknownRecord: If there is no such image.
            StoreError: If it has a draft in this round.
        """
        at = datetime.now(UTC)
        try:
            with self.database.writing() as session:
                number = session.scalar(select(ImageRow.id).where(ImageRow.key == key))
                if number is None:
                    raise UnknownRecord("there is no such image in the store.")
                values = description.to_dict()
                session.add(DraftRow(image_id=number, round=round, describer=describer, description=values, at=at))
        except IntegrityError as error:
            raise StoreError(f"{key} has a draft in round {round} already. Begin a new round.") from error
        return Draft(key, round, describer, description, at)

    def draft(self, key: str, round: int) -> Draft | None:
        """Return the draft of an image in a round; None where there is none."""
        query = select(DraftRow).join(ImageRow).where(ImageRow.key == key, DraftRow.round == round)
        with self.database.reading() as session:
            row = session.scalar(query)
            return None if row is None else _draft(key, row)

    def drafts(self, round: int) -> Iterator[Draft]:
        """Yield the drafts of a round, by key."""
        query = select(ImageRow.key, DraftRow).join(ImageRow, ImageRow.id == DraftRow.image_id)
        query = query.where(DraftRow.round == round).order_by(ImageRow.key)
        with self.database.reading() as session:
            for key, row in session.execute(query.execution_options(yield_per=1000)):
                yield _draft(key, row)

    def undrafted(self, round: int) -> list[str]:
        """Return the keys of the images that have no draft in a round."""
        drafted = select(DraftRow.id).where(DraftRow.image_id == ImageRow.id, DraftRow.round == round).exists()
        with self.database.reading() as session:
            return list(session.scalars(select(ImageRow.key).where(~drafted).order_by(ImageRow.key)))

    def add_exchange(self, exchange: Exchange) -> None:
        """Keep a prompt and its answer."""
        with self.database.writing() as session:
            session.add(ExchangeRow(**vars(exchange)))

    def valid_exchange(self, cache_key: str) -> Exchange | None:
        """Return an exchange with this hash whose answer was a description; None where there is none."""
        query = select(ExchangeRow).where(ExchangeRow.cache_key == cache_key, ExchangeRow.is_valid)
        with self.database.reading() as session:
            row = session.scalar(query.order_by(ExchangeRow.id).limit(1))
            return None if row is None else _exchange(row)

    def exchanges(self, key: str | None = None) -> Iterator[Exchange]:
        """Yield every prompt about an image, or about all, with its answer, the oldest first."""
        query = select(ExchangeRow).order_by(ExchangeRow.id)
        if key is not None:
            query = query.where(ExchangeRow.key == key)
        with self.database.reading() as session:
            for row in session.scalars(query.execution_options(yield_per=1000)):
                yield _exchange(row)

    def rounds(self) -> list[int]:
        """Return the numbers of the rounds that have drafts or reviews."""
        with self.database.reading() as session:
            drafted = set(session.scalars(select(DraftRow.round).distinct()))
        return sorted(drafted | set(self.outcomes.rounds()))

    def log(
        self, kind: str, *, account_id: int | None = None, subject: str = "", detail: dict[str, Any] | None = None
    ) -> None:
        """Add to the log of what happened.

        Args:
            kind: What, at most 64 characters, for example ``sign-in``.
            account_id: Who; None on the command line, or before signing in.
            subject: About what.
            detail: JSON values. No secret and no patient data.
        """
        with self.database.writing() as session:
            at = datetime.now(UTC)
            session.add(EventRow(at=at, kind=kind, account_id=account_id, subject=subject, detail=detail or {}))

    def events(
        self, *, kind: str | None = None, subject: str | None = None, since: datetime | None = None, limit: int = 1000
    ) -> list[Event]:
        """Return what happened, the newest first."""
        query = select(EventRow).order_by(EventRow.id.desc()).limit(limit)
        if kind is not None:
            query = query.where(EventRow.kind == kind)
        if subject is not None:
            query = query.where(EventRow.subject == subject)
        if since is not None:
            query = query.where(EventRow.at >= since)
        with self.database.reading() as session:
            rows = session.scalars(query)
            return [Event(row.at, row.kind, row.account_id, row.subject, row.detail) for row in rows]


def _image(row: ImageRow) -> ImageRecord:
    return ImageRecord(row.key, None if row.modality is None else Modality(row.modality), row.has_reference)


def _exchange(row: ExchangeRow) -> Exchange:
    return Exchange(**{one.name: getattr(row, one.name) for one in fields(Exchange)})


def _draft(key: str, row: DraftRow) -> Draft:
    return Draft(key, row.round, row.describer, QualityDescription.from_dict(row.description), row.at)
