"""Profile fields in the database: (user, field) and the value's JSON bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import delete, select

from .tables.accounts import profiles
from .transaction import Transaction, chunks


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


def delete_field(tx: Transaction, user_nid: int, field: str) -> bool:
    """Delete one field; False when it was not there."""
    condition = (profiles.c.user_nid == user_nid) & (profiles.c.field == field)
    return tx.execute(delete(profiles).where(condition)).rowcount == 1


def delete_profile(tx: Transaction, user_nid: int) -> None:
    """Delete all fields of a user."""
    tx.execute(delete(profiles).where(profiles.c.user_nid == user_nid))
