"""Versions of the tables, as alembic keeps them."""
