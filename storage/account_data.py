"""Account data in the database: content by user, room (0: global) and type.

Spec: client-server API, "Client Config".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import func, select

from .tables.rooms import events, rooms
from .tables.user_state import account_data
from .transaction import Transaction, chunks

GLOBAL: Final = 0
"""The room number of global account data."""


@dataclass(frozen=True, slots=True)
class AccountDataRow:
    """One piece of account data; `content` is JSON."""

    room_nid: int
    type: str
    content: bytes
    position: int


_COLUMNS: Final = (
    account_data.c.room_nid,
    account_data.c.type,
    account_data.c.content,
    account_data.c.position,
)


def find_content(tx: Transaction, user_nid: int, room_nid: int, data_type: str) -> bytes | None:
    """Return the content of one type, or None."""
    content: bytes | None = tx.scalar(
        select(account_data.c.content).where(
            account_data.c.user_nid == user_nid, account_data.c.room_nid == room_nid, account_data.c.type == data_type
        )
    )
    return content


def load_global(tx: Transaction, user_nid: int, *, after: int | None, upto: int) -> list[AccountDataRow]:
    """Return the global account data that changed at after < position <= upto (None: all), oldest change first."""
    query = select(*_COLUMNS).where(
        account_data.c.user_nid == user_nid, account_data.c.room_nid == GLOBAL, account_data.c.position <= upto
    )
    if after is not None:
        query = query.where(account_data.c.position > after)
    return [AccountDataRow(*row) for row in tx.all(query.order_by(account_data.c.position))]


def load_in_rooms(
    tx: Transaction, user_nid: int, room_nids: Iterable[int], *, after: int | None, upto: int
) -> list[AccountDataRow]:
    """Return the same for rooms."""
    query = select(*_COLUMNS).where(account_data.c.user_nid == user_nid, account_data.c.position <= upto)
    if after is not None:
        query = query.where(account_data.c.position > after)
    query = query.order_by(account_data.c.position)
    return [
        AccountDataRow(*row)
        for part in chunks(room_nids)
        for row in tx.all(query.where(account_data.c.room_nid.in_(part)))
    ]


def set_content(tx: Transaction, user_nid: int, room_nid: int, data_type: str, content: bytes, position: int) -> None:
    """Store the content of one type."""
    tx.upsert(
        account_data,
        {"user_nid": user_nid, "room_nid": room_nid, "type": data_type},
        {"content": content, "position": position},
    )


def measure(tx: Transaction, user_nid: int) -> tuple[int, int]:
    """Return how many pieces of account data a user has, and their bytes."""
    row = tx.first(
        select(func.count(), func.sum(func.length(account_data.c.content))).where(account_data.c.user_nid == user_nid)
    )
    return (int(row[0]), int(row[1] or 0)) if row is not None else (0, 0)


def find_room_nid(tx: Transaction, room_id: str) -> int | None:
    """Return the number of a room."""
    nid: int | None = tx.scalar(select(rooms.c.room_nid).where(rooms.c.room_id == room_id))
    return nid


def find_event_position(tx: Transaction, room_nid: int, event_id: str) -> int | None:
    """Return where in a room's timeline an event is, or None."""
    position: int | None = tx.scalar(
        select(events.c.position).where(events.c.event_id == event_id, events.c.room_nid == room_nid)
    )
    return position
