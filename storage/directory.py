"""The room directory in the database: aliases, and pages of published rooms.

A page is found by where the page before it ended (members, then number of the room), so that a room is neither shown
twice nor skipped while others come and go.

Spec: client-server API, "Room aliases", "Published room directory".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, and_, func, or_, select

from .tables.rooms import room_aliases, room_stats, rooms
from .transaction import Transaction, chunks


@dataclass(frozen=True, slots=True)
class PublishedRoom:
    """A room as a directory shows it."""

    room_nid: int
    room_id: str
    joined_members: int
    name: str | None
    topic: str | None
    canonical_alias: str | None
    avatar_url: str | None
    join_rule: str | None
    history_visibility: str | None
    guest_access: str | None
    room_type: str | None


@dataclass(frozen=True, slots=True)
class RoomSearch:
    """Which published rooms are wanted; `folded` is a folded term, `room_types` None means any."""

    folded: str | None = None
    room_types: tuple[str | None, ...] | None = None
    is_federated: bool = False


_COLUMNS: Final = (
    rooms.c.room_nid,
    rooms.c.room_id,
    room_stats.c.joined_members,
    room_stats.c.name,
    room_stats.c.topic,
    room_stats.c.canonical_alias,
    room_stats.c.avatar_url,
    room_stats.c.join_rule,
    room_stats.c.history_visibility,
    room_stats.c.guest_access,
    room_stats.c.room_type,
)


def list_published(
    tx: Transaction, wanted: RoomSearch, *, limit: int, at: tuple[int, int] | None, backwards: bool
) -> list[PublishedRoom]:
    """Return published rooms in their order: most joined members first.

    With `at` (members, room_nid) those after that place, or with `backwards` the last ones before it.
    """
    members, room_nid = room_stats.c.joined_members, rooms.c.room_nid
    query = select(*_COLUMNS).join(room_stats, room_stats.c.room_nid == rooms.c.room_nid).where(*_conditions(wanted))
    if at is not None:
        if backwards:
            place = or_(members > at[0], and_(members == at[0], room_nid < at[1]))
        else:
            place = or_(members < at[0], and_(members == at[0], room_nid > at[1]))
        query = query.where(place)
    order = (members.asc(), room_nid.desc()) if backwards else (members.desc(), room_nid.asc())
    found = [PublishedRoom(*row) for row in tx.all(query.order_by(*order).limit(limit))]
    return found[::-1] if backwards else found


def count_published(tx: Transaction, wanted: RoomSearch) -> int:
    """Return how many published rooms there are; the term is not looked at."""
    query = (
        select(func.count())
        .select_from(rooms.join(room_stats, room_stats.c.room_nid == rooms.c.room_nid))
        .where(*_conditions(RoomSearch(None, None, wanted.is_federated)))
    )
    return int(tx.scalar(query))


def _conditions(wanted: RoomSearch) -> Iterable[ColumnElement[bool]]:
    yield rooms.c.is_published.is_(True)
    # Nobody could be met there.
    yield room_stats.c.joined_members > 0
    if wanted.is_federated:
        yield room_stats.c.is_federated.is_(True)
    if wanted.folded:
        # Not LIKE: its wildcards and escapes differ between the databases, and here every character is itself.
        yield or_(
            *(
                func.instr(column, wanted.folded) > 0
                for column in (room_stats.c.search_name, room_stats.c.search_topic, room_stats.c.search_alias)
            )
        )
    if wanted.room_types is not None:
        named = [kind for kind in wanted.room_types if kind is not None]
        kinds = room_stats.c.room_type.in_(named)
        yield or_(kinds, room_stats.c.room_type.is_(None)) if None in wanted.room_types else kinds


def find_aliases(tx: Transaction, aliases: Sequence[str]) -> dict[str, str]:
    """Return the room IDs that these local aliases point to; those that do not exist are left out."""
    query = select(room_aliases.c.alias, rooms.c.room_id).join(rooms, rooms.c.room_nid == room_aliases.c.room_nid)
    found: dict[str, str] = {}
    for part in chunks(aliases):
        rows: Sequence[Any] = tx.all(query.where(room_aliases.c.alias.in_(part)))
        found.update((row[0], row[1]) for row in rows)
    return found
