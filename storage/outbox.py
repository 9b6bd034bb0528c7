"""What other servers have yet to be sent: rooms with newer events, and EDUs that must arrive.

The newest position of an event in each room that a server must get is written with the event (`destination_rooms`), and
up to which position it has everything is kept with the destination. So what it has missed is computed when it is back,
and an event costs a row for each server that has never been sent one of that room before, else nothing new.

EDUs that must arrive are rows, written in the transaction of whatever they tell of, and deleted when they have arrived.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from sqlalchemy import delete, func, select

from homeserver.model.canonical_json import JsonObject, encode_canonical

from .events import Flag, load_as_sent
from .tables.federation_rooms import destination_rooms
from .tables.identity import user_ids
from .tables.outbox import outbox_edus
from .tables.rooms import events, memberships, state_keys
from .transaction import Transaction, chunks

# LIMIT: users of one server in one room whose memberships are looked at to tell whether it was there.
MAX_MEMBERS: Final = 1_000
# LIMIT: events of one room that are looked through for those of local users.
MAX_SCANNED: Final = 1_000
# LIMIT: rows that one round of trimming looks at.
MAX_TRIMMED: Final = 20_000
# EDUs that have waited for too long and are deleted at once.
_BATCH: Final = 2_000


@dataclass(frozen=True, slots=True)
class OutboxEdu:
    """An EDU that has to reach a server. `edu_nid` is of `Store.numbers`: they are sent in that order.

    Of those with one `collapse_key` (any text) only the newest is kept for a server that was away for long; None: all
    are.
    """

    edu_nid: int
    destination: str
    kind: str
    content: JsonObject
    created_ts: int
    collapse_key: str | None = None


@dataclass(frozen=True, slots=True)
class WaitingEdu:
    """An EDU that waits; `content` is canonical JSON."""

    edu_nid: int
    kind: str
    content: bytes


@dataclass(frozen=True, slots=True)
class WaitingRoom:
    """A room in which a server has to be sent events up to `position`."""

    room_nid: int
    position: int


@dataclass(frozen=True, slots=True)
class Missed:
    """Events of one room that a server may have missed, oldest first.

    `was_there` is true where the server was in the room all the time; else `member_keys` are the key_nids of the member
    events of its users, to be looked up in the state before each event. `last_nid` is the event that it must get in any
    case.
    """

    nids: Sequence[int]
    last_nid: int | None
    was_there: bool
    member_keys: frozenset[int]


# -- events ----------------------------------------------------------------------------------------------------------


def load_newest_by_destination(tx: Transaction) -> list[tuple[str, int]]:
    """Return every server that was ever to be sent an event, with the newest position of one."""
    query = select(destination_rooms.c.destination, func.max(destination_rooms.c.position)).group_by(
        destination_rooms.c.destination
    )
    return [(destination, newest) for destination, newest in tx.all(query)]


def load_waiting_rooms(tx: Transaction, destination: str, after: int, limit: int) -> list[WaitingRoom]:
    """Return up to `limit` rooms whose newest event for this server is over `after`, in the order of those events."""
    query = (
        select(destination_rooms.c.room_nid, destination_rooms.c.position)
        .where(destination_rooms.c.destination == destination, destination_rooms.c.position > after)
        .order_by(destination_rooms.c.position)
        .limit(limit)
    )
    return [WaitingRoom(*row) for row in tx.all(query)]


def load_missed(
    tx: Transaction, destination: str, room: WaitingRoom, after: int, upto: int, own_server: str, limit: int
) -> Missed:
    """Return the newest `limit` events of local users in a room at after < position <= `upto`, oldest first.

    The one at `room.position` is among them whoever sent it: it is there to be sent.
    """
    query = (
        select(events.c.event_nid, events.c.position, user_ids.c.user_id)
        .join(user_ids, user_ids.c.user_nid == events.c.sender_nid)
        .where(
            events.c.room_nid == room.room_nid,
            events.c.position > after,
            events.c.position <= min(upto, room.position),
            events.c.flags.in_((0, int(Flag.INERT))),
        )
        .order_by(events.c.position.desc())
        .limit(MAX_SCANNED)
    )
    own = ":" + own_server
    nids: list[int] = []
    last_nid = None
    for nid, position, sender in tx.all(query):
        if position == room.position:
            last_nid = nid
        elif not sender.endswith(own):
            continue
        nids.append(nid)
        if len(nids) == limit:
            break
    nids.reverse()
    if not nids or nids == [last_nid]:
        return Missed(nids, last_nid, True, frozenset())
    members = _members_of(tx, destination, room.room_nid)
    if any(membership == "join" and since <= after for _, membership, since in members):
        return Missed(nids, last_nid, True, frozenset())
    keys = frozenset(_member_keys(tx, [user_id for user_id, _, _ in members]))
    return Missed(nids, last_nid, False, keys)


def _members_of(tx: Transaction, server: str, room_nid: int) -> list[tuple[str, str, int]]:
    escaped = server.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    query = (
        select(user_ids.c.user_id, memberships.c.membership, memberships.c.position)
        .join(memberships, memberships.c.user_nid == user_ids.c.user_nid)
        .where(
            memberships.c.room_nid == room_nid,
            memberships.c.is_local.is_(False),
            user_ids.c.user_id.like(f"%:{escaped}", escape="\\"),
        )
        .limit(MAX_MEMBERS)
    )
    # LIKE knows no case on SQLite, and a localpart may hold a colon.
    return [tuple(row) for row in tx.all(query) if row[0].partition(":")[2] == server]


def _member_keys(tx: Transaction, members: Iterable[str]) -> Iterable[int]:
    query = select(state_keys.c.key_nid).where(state_keys.c.type == "m.room.member")
    for part in chunks(members):
        for row in tx.all(query.where(state_keys.c.state_key.in_(part))):
            yield row[0]


def load_joins(tx: Transaction, nids: Iterable[int]) -> set[int]:
    """Return those of these member events that are joins, as the server stored them."""
    return {nid for nid, stored in load_as_sent(tx, nids).items() if stored.event.membership == "join"}


# -- EDUs ------------------------------------------------------------------------------------------------------------


def store_edus(tx: Transaction, rows: Iterable[OutboxEdu]) -> None:
    """Write EDUs that have to arrive; `Outbox.wake` their destinations after the commit.

    Raises BadJson for a content that has no canonical form.
    """
    # The same content goes to many servers.
    encoded: dict[int, bytes] = {}
    values: list[tuple[str, int, str, str | None, int, bytes]] = []
    for row in rows:
        content = encoded.get(id(row.content))
        if content is None:
            content = encoded[id(row.content)] = encode_canonical(row.content)
        key = None
        if row.collapse_key is not None:
            key = sha256(f"{row.kind}\n{row.collapse_key}".encode("utf-8", "surrogatepass")).hexdigest()
        values.append((row.destination, row.edu_nid, row.kind, key, row.created_ts, content))
    tx.insert_many(
        outbox_edus, ("destination", "edu_nid", "kind", "collapse_key", "created_ts", "content"), values, ignore=True
    )


def load_edus(tx: Transaction, destination: str, after: int, limit: int) -> list[WaitingEdu]:
    """Return up to `limit` EDUs over the number `after` that wait for a server, in order."""
    query = (
        select(outbox_edus.c.edu_nid, outbox_edus.c.kind, outbox_edus.c.content)
        .where(outbox_edus.c.destination == destination, outbox_edus.c.edu_nid > after)
        .order_by(outbox_edus.c.edu_nid)
        .limit(limit)
    )
    return [WaitingEdu(row[0], row[1], bytes(row[2])) for row in tx.all(query)]


def delete_edus(tx: Transaction, destination: str, edu_nids: Collection[int]) -> None:
    """Forget EDUs that a server has acknowledged."""
    for part in chunks(edu_nids):
        tx.execute(delete(outbox_edus).where(outbox_edus.c.destination == destination, outbox_edus.c.edu_nid.in_(part)))


def load_destinations_of_edus(tx: Transaction) -> list[str]:
    """Return the servers that EDUs wait for."""
    return [row[0] for row in tx.all(select(outbox_edus.c.destination).distinct())]


def collapse_edus(tx: Transaction, destination: str) -> int:
    """Of the EDUs with one collapse key that wait for a server keep the newest; return how many went.

    A gap in the changes of a device list makes the receiver ask for the whole of it.
    """
    table = outbox_edus.c
    query = (
        select(table.edu_nid, table.collapse_key)
        .where(table.destination == destination, table.collapse_key.is_not(None))
        .order_by(table.edu_nid.desc())
        .limit(MAX_TRIMMED)
    )
    seen: set[str] = set()
    gone: list[int] = []
    for edu_nid, key in tx.all(query):
        if key in seen:
            gone.append(edu_nid)
        seen.add(key)
    delete_edus(tx, destination, gone)
    return len(gone)


def limit_edus(tx: Transaction, destination: str, most: int) -> bool:
    """Keep the newest `most` EDUs that wait for a server; return whether any of those that went had a collapse key."""
    table = outbox_edus.c
    query = (
        select(table.edu_nid, table.collapse_key)
        .where(table.destination == destination, table.edu_nid > 0)
        .order_by(table.edu_nid.desc())
        .offset(most)
        .limit(MAX_TRIMMED)
    )
    gone = tx.all(query)
    delete_edus(tx, destination, [row[0] for row in gone])
    return any(row[1] is not None for row in gone)


def delete_edus_before(tx: Transaction, created_ts: int) -> tuple[set[str], bool]:
    """Forget a batch of the EDUs that have waited since before then (milliseconds since the epoch).

    Return the servers of those that had a collapse key, and whether there may be more.
    """
    table = outbox_edus.c
    query = select(table.destination, table.edu_nid, table.collapse_key).where(table.created_ts < created_ts)
    gone: dict[str, list[int]] = {}
    lost: set[str] = set()
    rows = tx.all(query.order_by(table.created_ts).limit(_BATCH))
    for destination, edu_nid, key in rows:
        gone.setdefault(destination, []).append(edu_nid)
        if key is not None:
            lost.add(destination)
    for destination, nids in gone.items():
        delete_edus(tx, destination, nids)
    return lost, len(rows) == _BATCH
