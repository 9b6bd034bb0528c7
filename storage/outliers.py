"""Writing outliers: events that are kept to be cited, many at once, and finding the events of a given state."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import select, update

from homeserver.model.event import Event
from homeserver.model.ids import EventID

from . import auth_index
from .auth_index import NewAuthEvent
from .events import Flag
from .tables.auth_chains import auth_chains
from .tables.identity import user_ids
from .tables.rooms import events, membership_changes, memberships, room_stats, rooms
from .transaction import Transaction, chunks


@dataclass(frozen=True, slots=True)
class NewOutlier:
    """An event to be stored that has no place in the graph."""

    nid: int
    event: Event
    key_nid: int | None
    sender_nid: int
    flags: int
    encoded: bytes
    auth: NewAuthEvent | None
    # The number under which it is stored already, from before it could be judged: it gets `nid` instead.
    old_nid: int | None = None


@dataclass(frozen=True, slots=True)
class FoundEvent:
    """What is known of a stored event before it is read."""

    nid: int
    room_nid: int
    key_nid: int | None
    sender_nid: int
    flags: int
    is_placed: bool
    # A state event that was never judged by what it cites: it came alone, before the room did.
    is_unjudged: bool


_COLUMNS = (
    "event_nid",
    "event_id",
    "room_nid",
    "depth",
    "type",
    "key_nid",
    "sender_nid",
    "origin_server_ts",
    "received_ts",
    "flags",
    "json",
)


def store_outliers(tx: Transaction, room_nid: int, received_ts: int, new: Sequence[NewOutlier]) -> None:
    """Store outliers of one room, those that are cited before those that cite them.

    One that is there already gets a new number: that of an event is higher than those of the events that it cites.
    """
    rows = [
        (
            each.nid,
            each.event.event_id,
            room_nid,
            each.event.depth,
            each.event.type,
            each.key_nid,
            each.sender_nid,
            each.event.origin_server_ts,
            received_ts,
            each.flags | Flag.OUTLIER,
            each.encoded,
        )
        for each in new
        if each.old_nid is None
    ]
    tx.insert_many(events, _COLUMNS, rows)
    for each in new:
        if each.old_nid is not None:
            _renumber(tx, room_nid, each.old_nid, each)
    auth_index.add(tx, [each.auth for each in new if each.auth is not None])


def _renumber(tx: Transaction, room_nid: int, old_nid: int, new: NewOutlier) -> None:
    """Give an outlier another number, and with it the memberships that rest on it: all that can name it."""
    tx.execute(
        update(events).where(events.c.event_nid == old_nid).values(event_nid=new.nid, flags=new.flags | Flag.OUTLIER)
    )
    tx.execute(
        update(memberships)
        .where(memberships.c.room_nid == room_nid, memberships.c.event_nid == old_nid)
        .values(event_nid=new.nid)
    )
    # The table is found by user only.
    of_user = select(user_ids.c.user_nid).where(user_ids.c.user_id == (new.event.state_key or ""))
    changes = membership_changes.c
    tx.execute(
        update(membership_changes)
        .where(
            changes.user_nid == of_user.scalar_subquery(), changes.room_nid == room_nid, changes.event_nid == old_nid
        )
        .values(event_nid=new.nid)
    )


def find_events(tx: Transaction, event_ids: Iterable[EventID]) -> dict[EventID, FoundEvent]:
    """Return those of these events that are stored, in whatever room: the caller looks at `room_nid`."""
    found: dict[EventID, FoundEvent] = {}
    query = select(
        events.c.event_id,
        events.c.event_nid,
        events.c.room_nid,
        events.c.key_nid,
        events.c.sender_nid,
        events.c.flags,
        events.c.state_group,
        auth_chains.c.chain,
    ).outerjoin(auth_chains, auth_chains.c.event_nid == events.c.event_nid)
    for part in chunks(event_ids):
        for row in tx.all(query.where(events.c.event_id.in_(part))):
            found[EventID(row[0])] = FoundEvent(
                nid=row[1],
                room_nid=row[2],
                key_nid=row[3],
                sender_nid=row[4],
                flags=row[5],
                is_placed=row[6] is not None,
                is_unjudged=row[3] is not None
                and row[7] is None
                and row[5] & (Flag.OUTLIER | Flag.REJECTED) == Flag.OUTLIER,
            )
    return found


def find_room(tx: Transaction, room_id: str) -> tuple[int, str] | None:
    """Return the number and version of a room that is known by name, be this server in it or not."""
    row = tx.first(select(rooms.c.room_nid, rooms.c.version).where(rooms.c.room_id == room_id))
    return None if row is None else (row[0], row[1])


def ensure_room(tx: Transaction, room_nid: int, room_id: str, version: str, now_ms: int) -> tuple[int, str]:
    """Return the number and version of a room, which gets `room_nid` if it has none yet."""
    found = find_room(tx, room_id)
    if found is not None:
        return found
    tx.insert_many(
        rooms,
        ("room_nid", "room_id", "version", "is_published", "created_ts"),
        [(room_nid, room_id, version, False, now_ms)],
    )
    tx.execute(room_stats.insert().values(room_nid=room_nid, is_federated=True, joined_members=0, invited_members=0))
    return room_nid, version
