"""The first version of the tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0001", None

APPEND_ONLY = ("account", "account_revision", "image", "exchange", "draft", "revision", "resolution", "event")


def upgrade() -> None:
    """Make the tables, and the triggers that keep history from being changed."""
    _make_accounts()
    _make_images()
    _make_reviews()
    for table in APPEND_ONLY:
        _protect(table)


def _at() -> sa.schema.SchemaItem:
    return sa.Column("at", sa.DateTime(timezone=True), nullable=False)


def _reference(name: str, table: str, *, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.Integer(), sa.ForeignKey(f"{table}.id"), nullable=nullable)


def _table(name: str, *columns: sa.schema.SchemaItem, unique: tuple[tuple[str, ...], ...] = ()) -> None:
    """Make a table; it has a number as its key, unless the columns bring another one."""
    has_key = any(isinstance(column, sa.PrimaryKeyConstraint) for column in columns)
    key = () if has_key else (sa.Column("id", sa.Integer(), nullable=False), sa.PrimaryKeyConstraint("id"))
    op.create_table(name, *key, *columns, *(sa.UniqueConstraint(*group) for group in unique))


def _make_accounts() -> None:
    _table(
        "account",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("name_key", sa.String(256), nullable=False),
        unique=(("name_key",),),
    )
    _table(
        "account_revision",
        _reference("account_id", "account"),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=False),
        sa.Column("is_disabled", sa.Boolean(), nullable=False),
        _reference("by_id", "account", nullable=True),
        _at(),
        unique=(("account_id", "number"),),
    )
    _table(
        "web_session",
        sa.Column("token_hash", sa.String(64), nullable=False),
        _reference("account_id", "account"),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("token_hash"),
    )
    op.create_index("ix_web_session_account_id", "web_session", ["account_id"])
    _table(
        "event",
        _at(),
        sa.Column("kind", sa.String(64), nullable=False),
        _reference("account_id", "account", nullable=True),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
    )
    op.create_index("ix_event_subject", "event", ["kind", "subject", "at"])


def _make_images() -> None:
    _table(
        "image",
        sa.Column("key", sa.String(128), nullable=False),
        sa.Column("modality", sa.String(8), nullable=True),
        sa.Column("has_reference", sa.Boolean(), nullable=False),
        unique=(("key",),),
    )
    _table(
        "exchange",
        sa.Column("key", sa.String(128), nullable=False),
        sa.Column("cache_key", sa.String(64), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("prompt", sa.JSON(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("is_valid", sa.Boolean(), nullable=False),
        sa.Column("prompt_tokens", sa.Integer(), nullable=True),
        sa.Column("answer_tokens", sa.Integer(), nullable=True),
        sa.Column("seconds", sa.Double(), nullable=False),
        _at(),
    )
    op.create_index("ix_exchange_cache", "exchange", ["cache_key", "is_valid"])
    _table(
        "draft",
        _reference("image_id", "image"),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("describer", sa.Text(), nullable=False),
        sa.Column("description", sa.JSON(), nullable=False),
        _at(),
        unique=(("image_id", "round"),),
    )
    op.create_index("ix_draft_round", "draft", ["round"])


def _make_reviews() -> None:
    _table(
        "assignment",
        _reference("image_id", "image"),
        sa.Column("round", sa.Integer(), nullable=False),
        _reference("account_id", "account"),
        sa.Column("position", sa.Integer(), nullable=False),
        _at(),
        sa.Column("head", sa.Integer(), nullable=False),
        sa.Column("is_done", sa.Boolean(), nullable=False),
        sa.Column("is_doubted", sa.Boolean(), nullable=False),
        unique=(("round", "image_id", "account_id"), ("account_id", "position")),
    )
    op.create_index("ix_assignment_open", "assignment", ["account_id", "is_done", "position"])
    op.create_index("ix_assignment_image", "assignment", ["image_id", "round"])
    _table(
        "revision",
        _reference("assignment_id", "assignment"),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("entry", sa.JSON(), nullable=False),
        sa.Column("is_done", sa.Boolean(), nullable=False),
        sa.Column("restores", sa.Integer(), nullable=True),
        _reference("account_id", "account"),
        _at(),
        unique=(("assignment_id", "number"),),
    )
    _table(
        "resolution",
        _reference("image_id", "image"),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("entry", sa.JSON(), nullable=False),
        _reference("account_id", "account"),
        _at(),
        unique=(("image_id", "round", "number"),),
    )
    _table(
        "standing",
        _reference("image_id", "image"),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("needed", sa.Integer(), nullable=False),
        sa.Column("done", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.PrimaryKeyConstraint("image_id", "round"),
    )
    op.create_index("ix_standing_state", "standing", ["round", "state", "image_id"])


def _protect(table: str) -> None:
    """Refuse UPDATE and DELETE on a table."""
    says = f"{table} is append-only"
    if op.get_bind().dialect.name == "sqlite":
        for change in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER keep_{table}_{change.lower()} BEFORE {change} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{says}'); END"
            )
        return
    op.execute(
        "CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger AS $$ "
        "BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$ LANGUAGE plpgsql"
    )
    op.execute(
        f"CREATE TRIGGER keep_{table} BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
