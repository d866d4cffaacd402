"""Run by alembic: migrate over the connection that :class:`medq_uni.annotate.database.Database` hands in."""

from __future__ import annotations

from alembic import context

from medq_uni.annotate.schema import Base

context.configure(
    connection=context.config.attributes["connection"], target_metadata=Base.metadata, transactional_ddl=True
)
with context.begin_transaction():
    context.run_migrations()
