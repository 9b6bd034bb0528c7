"""Rooms that were joined over federation and whose members are not all known yet.

The state group under all others of such a room lacks the members. When they are known they are put into that one
group: every later state is a difference to it, and so has them too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import orjson
from sqlalchemy import delete, func, select, update

from homeserver.errors import BrokenInvariant
from homeserver.model.ids import RoomID

from .room_servers import add_servers
from .state_groups import decode_delta, encode_delta
from .tables.federation_rooms import partial_rooms
from .tables.rooms import events, membership_changes, memberships, room_stats, rooms, state_groups
from .transaction import Transaction

_COUNTED: Final = ("join", "invite")


@dataclass(frozen=True, slots=True)
class NewPartialRoom:
    """What an append that joins a room notes where members are still missing."""

    base_group: int
    via: str
    servers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PartialRoom:
    """A room whose members are not all known; `join_id` is the event by which it was joined through `via`."""

    room_id: RoomID
    room_nid: int
    version: str
    join_id: str
    base_group: int
    via: str
    servers: tuple[str, ...]
    started_ts: int


@dataclass(frozen=True, slots=True)
class NewMember:
    """A membership that is known now."""

    user_nid: int
    server: str
    membership: str
    event_nid: int
    sender_nid: int
    is_local: bool


@dataclass(frozen=True, slots=True)
class Completed:
    """What completing changed: the local users who are in the room, and all state groups of it."""

    local_users: tuple[int, ...]
    state_groups: tuple[int, ...]


def add_partial_room(tx: Transaction, room_nid: int, join_nid: int, now_ms: int, new: NewPartialRoom) -> None:
    """Store that a room's members are missing."""
    tx.upsert(
        partial_rooms,
        {"room_nid": room_nid},
        {
            "join_nid": join_nid,
            "base_group": new.base_group,
            "via": new.via,
            "servers": orjson.dumps(new.servers),
            "started_ts": now_ms,
        },
    )


def load_partial_rooms(tx: Transaction) -> list[PartialRoom]:
    """Return all rooms whose members are not all known, the one that has waited longest first."""
    query = (
        select(
            rooms.c.room_id,
            rooms.c.room_nid,
            rooms.c.version,
            events.c.event_id,
            partial_rooms.c.base_group,
            partial_rooms.c.via,
            partial_rooms.c.servers,
            partial_rooms.c.started_ts,
        )
        .join(rooms, rooms.c.room_nid == partial_rooms.c.room_nid)
        .join(events, events.c.event_nid == partial_rooms.c.join_nid)
        .order_by(partial_rooms.c.started_ts)
    )
    return [
        PartialRoom(RoomID(row[0]), row[1], row[2], row[3], row[4], row[5], tuple(orjson.loads(row[6])), row[7])
        for row in tx.all(query)
    ]


def complete_room(
    tx: Transaction, room_nid: int, position: int, entries: Mapping[int, int], members: Sequence[NewMember]
) -> Completed:
    """Put what was missing into the room's first state, and the members where memberships are looked up.

    `entries`: key_nid -> event_nid. What is there already, or has changed since, stays as it is. `position` is that at
    which the room's local members are to see it anew.
    """
    partial = tx.first(
        select(partial_rooms.c.base_group, partial_rooms.c.join_nid).where(partial_rooms.c.room_nid == room_nid)
    )
    if partial is None:
        raise BrokenInvariant(f"room {room_nid} is complete already")
    raw = tx.scalar(select(state_groups.c.delta).where(state_groups.c.state_group == partial[0]))
    delta = {**entries, **decode_delta(raw)}
    tx.execute(update(state_groups).where(state_groups.c.state_group == partial[0]).values(delta=encode_delta(delta)))
    joined_at = tx.scalar(select(events.c.position).where(events.c.event_nid == partial[1]))
    known = {row[0] for row in tx.all(select(memberships.c.user_nid).where(memberships.c.room_nid == room_nid))}
    new = [member for member in members if member.user_nid not in known]
    tx.insert_many(
        memberships,
        ("room_nid", "user_nid", "membership", "event_nid", "position", "sender_nid", "is_local", "is_forgotten"),
        [
            (room_nid, each.user_nid, each.membership, each.event_nid, joined_at, each.sender_nid, each.is_local, False)
            for each in new
        ],
        ignore=True,
    )
    deltas: dict[tuple[int, str], int] = {}
    for each in new:
        if each.membership == "join":
            deltas[room_nid, each.server] = deltas.get((room_nid, each.server), 0) + 1
    add_servers(tx, deltas)
    counts = dict(
        (row[0], row[1])
        for row in tx.all(
            select(memberships.c.membership, func.count())
            .where(memberships.c.room_nid == room_nid, memberships.c.membership.in_(_COUNTED))
            .group_by(memberships.c.membership)
        )
    )
    tx.execute(
        update(room_stats)
        .where(room_stats.c.room_nid == room_nid)
        .values(joined_members=counts.get("join", 0), invited_members=counts.get("invite", 0))
    )
    local = tx.all(
        select(memberships.c.user_nid, memberships.c.event_nid, memberships.c.membership).where(
            memberships.c.room_nid == room_nid, memberships.c.is_local.is_(True), memberships.c.membership == "join"
        )
    )
    tx.insert_many(
        membership_changes,
        ("user_nid", "position", "room_nid", "event_nid", "membership"),
        [(row[0], position, room_nid, row[1], row[2]) for row in local],
    )
    tx.execute(delete(partial_rooms).where(partial_rooms.c.room_nid == room_nid))
    groups = tx.all(select(state_groups.c.state_group).where(state_groups.c.room_nid == room_nid))
    return Completed(tuple(row[0] for row in local), tuple(row[0] for row in groups))
