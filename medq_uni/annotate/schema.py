"""Tables of the annotation store.

History is added to and never changed: triggers of the migrations refuse UPDATE and DELETE on the tables of
:data:`APPEND_ONLY`. Two tables hold what follows from the history, so that the next image is found at once:
``assignment.head``, ``is_done`` and ``is_doubted``, and ``standing``; :meth:`medq_uni.annotate.reviews.Reviews.check`
computes them again.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, DateTime, ForeignKey, Index, MetaData, String, Text, TypeDecorator, UniqueConstraint
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

APPEND_ONLY = ("account", "account_revision", "image", "exchange", "draft", "revision", "resolution", "event")


class UtcTime(TypeDecorator[datetime]):
    """A moment in UTC; databases without time zones keep it without."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the moment in UTC."""
        if value is None:
            return None
        assert value.tzinfo is not None
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the moment with its zone."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """Base of all tables; constraints have names, so that migrations can speak of them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: UtcTime, dict[str, Any]: JSON}  # noqa: RUF012 - as SQLAlchemy reads it


class AccountRow(Base):
    """Name of an account; what can change is in its revisions."""

    __tablename__ = "account"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64))
    name_key: Mapped[str] = mapped_column(String(256), unique=True)


class AccountRevisionRow(Base):
    """Role, password hash and state of an account from a moment on."""

    __tablename__ = "account_revision"
    __table_args__ = (UniqueConstraint("account_id", "number"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id"))
    number: Mapped[int]
    role: Mapped[str] = mapped_column(String(16))
    password_hash: Mapped[str] = mapped_column(Text)
    is_disabled: Mapped[bool]
    by_id: Mapped[int | None] = mapped_column(ForeignKey("account.id"))
    at: Mapped[datetime]


class WebSessionRow(Base):
    """A signed-in browser; removed when it ends. Sign-in and sign-out are in the event log."""

    __tablename__ = "web_session"
    token_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id"), index=True)
    expires_at: Mapped[datetime]


class ImageRow(Base):
    """An image of the source."""

    __tablename__ = "image"
    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(String(128), unique=True)
    modality: Mapped[str | None] = mapped_column(String(8))
    has_reference: Mapped[bool]


class ExchangeRow(Base):
    """A prompt that was sent to a describer, and its answer or error."""

    __tablename__ = "exchange"
    __table_args__ = (Index("ix_exchange_cache", "cache_key", "is_valid"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(String(128))
    cache_key: Mapped[str] = mapped_column(String(64))
    model: Mapped[str] = mapped_column(Text)
    prompt: Mapped[dict[str, Any]]
    answer: Mapped[str] = mapped_column(Text)
    error: Mapped[str] = mapped_column(Text)
    is_valid: Mapped[bool]
    prompt_tokens: Mapped[int | None]
    answer_tokens: Mapped[int | None]
    seconds: Mapped[float]
    at: Mapped[datetime]


class DraftRow(Base):
    """What a describer proposed for an image in a round."""

    __tablename__ = "draft"
    __table_args__ = (UniqueConstraint("image_id", "round"), Index("ix_draft_round", "round"))
    id: Mapped[int] = mapped_column(primary_key=True)
    image_id: Mapped[int] = mapped_column(ForeignKey("image.id"))
    round: Mapped[int]
    describer: Mapped[str] = mapped_column(Text)
    description: Mapped[dict[str, Any]]
    at: Mapped[datetime]


class AssignmentRow(Base):
    """An image given to a reviewer in a round."""

    __tablename__ = "assignment"
    __table_args__ = (
        UniqueConstraint("round", "image_id", "account_id"),
        UniqueConstraint("account_id", "position"),
        Index("ix_assignment_open", "account_id", "is_done", "position"),
        Index("ix_assignment_image", "image_id", "round"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    image_id: Mapped[int] = mapped_column(ForeignKey("image.id"))
    round: Mapped[int]
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id"))
    position: Mapped[int]
    at: Mapped[datetime]
    head: Mapped[int]
    is_done: Mapped[bool]
    is_doubted: Mapped[bool]


class RevisionRow(Base):
    """One step in the history of a review."""

    __tablename__ = "revision"
    __table_args__ = (UniqueConstraint("assignment_id", "number"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    assignment_id: Mapped[int] = mapped_column(ForeignKey("assignment.id"))
    number: Mapped[int]
    entry: Mapped[dict[str, Any]]
    is_done: Mapped[bool]
    restores: Mapped[int | None]
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id"))
    at: Mapped[datetime]


class ResolutionRow(Base):
    """One step in the history of an adjudication."""

    __tablename__ = "resolution"
    __table_args__ = (UniqueConstraint("image_id", "round", "number"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    image_id: Mapped[int] = mapped_column(ForeignKey("image.id"))
    round: Mapped[int]
    number: Mapped[int]
    entry: Mapped[dict[str, Any]]
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id"))
    at: Mapped[datetime]


class StandingRow(Base):
    """How far the reviews of an image have come in a round."""

    __tablename__ = "standing"
    __table_args__ = (Index("ix_standing_state", "round", "state", "image_id"),)
    image_id: Mapped[int] = mapped_column(ForeignKey("image.id"), primary_key=True)
    round: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    needed: Mapped[int]
    done: Mapped[int]
    state: Mapped[str] = mapped_column(String(16))


class EventRow(Base):
    """Something that happened."""

    __tablename__ = "event"
    __table_args__ = (Index("ix_event_subject", "kind", "subject", "at"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    kind: Mapped[str] = mapped_column(String(64))
    account_id: Mapped[int | None] = mapped_column(ForeignKey("account.id"))
    subject: Mapped[str] = mapped_column(Text)
    detail: Mapped[dict[str, Any]]
