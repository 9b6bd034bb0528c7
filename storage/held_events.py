"""Events of other servers that wait on the disk until they can be taken in.

They have passed the gate and nothing more; the gate looks at them again when they are read. Nobody is shown them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import delete, func, select, update

from .tables.held_events import held_events
from .tables.rooms import rooms
from .transaction import Transaction, chunks

PARTIAL: Final = "partial"
MISSING: Final = "missing"


@dataclass(frozen=True, slots=True)
class HeldEvent:
    """An event that waits; `json` is its wire form, `origin` who sent it."""

    event_id: str
    held_nid: int
    origin: str
    json: bytes
    received_ts: int
    tries: int = 0
    next_try_ts: int = 0


def hold(tx: Transaction, room_nid: int, reason: str, held: Iterable[HeldEvent]) -> None:
    """Keep events; one that is kept already stays as it is."""
    rows = [
        (
            room_nid,
            each.event_id,
            each.held_nid,
            each.origin,
            reason,
            each.json,
            each.received_ts,
            each.tries,
            each.next_try_ts,
        )
        for each in held
    ]
    columns = (
        "room_nid",
        "event_id",
        "held_nid",
        "origin",
        "reason",
        "json",
        "received_ts",
        "tries",
        "next_try_ts",
    )
    tx.insert_many(held_events, columns, rows, ignore=True)


def count_held(tx: Transaction, *, room_nid: int, reason: str, origin: str) -> tuple[int, int]:
    """Return how many events wait in a room for a reason, and how many of one origin in all rooms."""
    in_room = tx.scalar(select(func.count()).where(held_events.c.room_nid == room_nid, held_events.c.reason == reason))
    by_origin = tx.scalar(select(func.count()).where(held_events.c.origin == origin, held_events.c.reason == reason))
    return int(in_room or 0), int(by_origin or 0)


def load_held(tx: Transaction, room_nid: int, reason: str, limit: int) -> list[HeldEvent]:
    """Return the events of a room that have waited longest for a reason, in the order in which they came."""
    query = (
        select(*_COLUMNS)
        .where(held_events.c.room_nid == room_nid, held_events.c.reason == reason)
        .order_by(held_events.c.held_nid)
        .limit(limit)
    )
    return [HeldEvent(*row) for row in tx.all(query)]


def load_due(tx: Transaction, now_ms: int, limit: int) -> dict[str, list[HeldEvent]]:
    """Return the events with something missing that are to be tried again, by the ID of their room."""
    query = (
        select(rooms.c.room_id, *_COLUMNS)
        .join(rooms, rooms.c.room_nid == held_events.c.room_nid)
        .where(held_events.c.reason == MISSING, held_events.c.next_try_ts <= now_ms)
        .order_by(held_events.c.next_try_ts)
        .limit(limit)
    )
    due: dict[str, list[HeldEvent]] = {}
    for row in tx.all(query):
        due.setdefault(row[0], []).append(HeldEvent(*row[1:]))
    return due


def load_rooms_held(tx: Transaction, reason: str) -> list[str]:
    """Return the IDs of the rooms in which events wait for a reason."""
    query = (
        select(rooms.c.room_id)
        .where(rooms.c.room_nid.in_(select(held_events.c.room_nid).where(held_events.c.reason == reason)))
        .order_by(rooms.c.room_id)
    )
    return [row[0] for row in tx.all(query)]


def drop_held(tx: Transaction, room_nid: int, event_ids: Sequence[str]) -> None:
    """Let events go: they are taken in, or given up."""
    for part in chunks(event_ids):
        tx.execute(delete(held_events).where(held_events.c.room_nid == room_nid, held_events.c.event_id.in_(part)))


def put_off(tx: Transaction, room_nid: int, event_id: str, tries: int, next_try_ts: int) -> None:
    """Note that an event was tried again, and when the next try is; whatever it waited for, something is missing."""
    tx.execute(
        update(held_events)
        .where(held_events.c.room_nid == room_nid, held_events.c.event_id == event_id)
        .values(tries=tries, next_try_ts=next_try_ts, reason=MISSING)
    )


_COLUMNS: Final = (
    held_events.c.event_id,
    held_events.c.held_nid,
    held_events.c.origin,
    held_events.c.json,
    held_events.c.received_ts,
    held_events.c.tries,
    held_events.c.next_try_ts,
)
