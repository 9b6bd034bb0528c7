"""Rows that hang on a room, an event or a user that is not stored: what no look at one room can find.

For the check of a whole database. Every query is one pass over a table, and what it gives is bounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Table, and_, func, select

from .tables import federation_rooms as f
from .tables import rooms as t
from .tables.held_events import held_events
from .transaction import Transaction

# LIMIT: rows of one kind that are named; the others are counted.
MAX_NAMED: Final = 10


@dataclass(frozen=True, slots=True)
class Orphans:
    """Rows of one table that hang on nothing; `names` are the first few, `count` is how many there are."""

    table: str
    fault: str
    names: tuple[str, ...]
    count: int


def find_orphans(tx: Transaction) -> Iterator[Orphans]:
    """Yield the kinds of rows that hang on nothing."""
    for table, name in _OF_ROOMS:
        missing = t.rooms.c.room_nid.is_(None)
        yield from _find(tx, table, name, t.rooms, table.c.room_nid == t.rooms.c.room_nid, missing, "no room of it")
    changes, members = t.membership_changes, t.memberships
    yield from _find(
        tx,
        changes,
        changes.c.event_nid,
        members,
        and_(changes.c.room_nid == members.c.room_nid, changes.c.user_nid == members.c.user_nid),
        members.c.user_nid.is_(None),
        "no membership of the user in the room",
    )
    edges, events = t.event_edges, t.events
    yield from _find(
        tx,
        edges,
        edges.c.event_nid,
        events,
        edges.c.event_nid == events.c.event_nid,
        events.c.event_nid.is_(None),
        "no event that it leads from",
    )


_OF_ROOMS: Final[tuple[tuple[Table, ColumnElement[Any]], ...]] = (
    (t.room_aliases, t.room_aliases.c.alias),
    (t.events, t.events.c.event_id),
    (t.room_tips, t.room_tips.c.room_nid),
    (t.state_groups, t.state_groups.c.state_group),
    (t.memberships, t.memberships.c.event_nid),
    (t.membership_changes, t.membership_changes.c.event_nid),
    (t.room_stats, t.room_stats.c.room_nid),
    (f.room_servers, f.room_servers.c.server),
    (f.destination_rooms, f.destination_rooms.c.destination),
    (f.missing_prevs, f.missing_prevs.c.prev_id),
    (f.history_blocks, f.history_blocks.c.top),
    (f.stripped_state, f.stripped_state.c.room_nid),
    (f.partial_rooms, f.partial_rooms.c.room_nid),
    (held_events, held_events.c.event_id),
)


def _find(
    tx: Transaction,
    table: Table,
    name: ColumnElement[Any],
    other: Table,
    joined: ColumnElement[bool],
    missing: ColumnElement[bool],
    fault: str,
) -> Iterator[Orphans]:
    source = table.outerjoin(other, joined)
    names = tx.all(select(name).select_from(source).where(missing).order_by(name).limit(MAX_NAMED))
    if names:
        count = tx.scalar(select(func.count()).select_from(source).where(missing))
        yield Orphans(table.name, fault, tuple(str(row[0]) for row in names), count)
