"""Filters in the database: uploaded once, never changed."""

from __future__ import annotations

from typing import Final

from sqlalchemy import delete, func, select

from .tables.user_state import filters
from .transaction import Transaction

# LIMIT: filters of one user; the oldest goes first. Clients upload one, and again after an update.
MAX_FILTERS: Final = 200


def add_filter(tx: Transaction, user_nid: int, encoded: bytes) -> int:
    """Store a filter and return its ID; the same JSON gets the same ID."""
    own = filters.c.user_nid == user_nid
    found = tx.scalar(select(filters.c.filter_id).where(own, filters.c.filter == encoded))
    if found is not None:
        return int(found)
    newest = tx.scalar(select(func.max(filters.c.filter_id)).where(own))
    filter_id = 0 if newest is None else int(newest) + 1
    tx.insert_many(filters, ("user_nid", "filter_id", "filter"), [(user_nid, filter_id, encoded)])
    if filter_id >= MAX_FILTERS:
        tx.execute(delete(filters).where(own, filters.c.filter_id <= filter_id - MAX_FILTERS))
    return filter_id


def find_filter(tx: Transaction, user_nid: int, filter_id: int) -> bytes | None:
    """Return the JSON of a filter, or None."""
    encoded: bytes | None = tx.scalar(
        select(filters.c.filter).where(filters.c.user_nid == user_nid, filters.c.filter_id == filter_id)
    )
    return encoded
