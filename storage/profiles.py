"""Profile fields in the database: (user, field) and the value's JSON bytes.

The display name is also what the user directory finds people by; its index is kept in the same transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import delete, select

from .tables.accounts import profiles
from .transaction import Transaction, chunks
from .user_directory import index_user

_INDEXED = "displayname"


def get_profile(tx: Transaction, user_nid: int) -> dict[str, bytes]:
    """Return all fields of a user; may be empty."""
    query = select(profiles.c.field, profiles.c.value).where(profiles.c.user_nid == user_nid)
    rows: Sequence[Any] = tx.all(query)
    return {row[0]: row[1] for row in rows}


def get_fields(tx: Transaction, user_nids: Iterable[int], fields: tuple[str, ...]) -> dict[int, dict[str, bytes]]:
    """Return those of the named fields that the users have, by user; users without any are left out."""
    query = select(profiles.c.user_nid, profiles.c.field, profiles.c.value).where(profiles.c.field.in_(fields))
    found: dict[int, dict[str, bytes]] = {}
    for part in chunks(user_nids):
        rows: Sequence[Any] = tx.all(query.where(profiles.c.user_nid.in_(part)))
        for user_nid, field, value in rows:
            found.setdefault(user_nid, {})[field] = value
    return found


def set_field(tx: Transaction, user_nid: int, field: str, value: bytes) -> None:
    """Set one field."""
    tx.upsert(profiles, {"user_nid": user_nid, "field": field}, {"value": value})
    if field == _INDEXED:
        index_user(tx, user_nid)


def delete_field(tx: Transaction, user_nid: int, field: str) -> bool:
    """Delete one field; False when it was not there."""
    condition = (profiles.c.user_nid == user_nid) & (profiles.c.field == field)
    is_deleted = tx.execute(delete(profiles).where(condition)).rowcount == 1
    if field == _INDEXED:
        index_user(tx, user_nid)
    return is_deleted


def delete_profile(tx: Transaction, user_nid: int) -> None:
    """Delete all fields of a user."""
    tx.execute(delete(profiles).where(profiles.c.user_nid == user_nid))
    index_user(tx, user_nid)
