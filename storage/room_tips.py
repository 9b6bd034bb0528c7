"""Reading the end of a room's graph."""

from __future__ import annotations

from dataclasses import dataclass

import orjson
from sqlalchemy import select

from .room_servers import load_servers
from .state_groups import Chain, load_chain
from .tables.rooms import room_stats, room_tips, rooms
from .transaction import Transaction


@dataclass(frozen=True, slots=True)
class StoredTip:
    """What `rooms`, `room_tips` and `room_stats` say of one room. `chain` is the state after its extremities."""

    room_nid: int
    version: str
    extremities: tuple[int, ...]
    depth: int
    state_group: int
    position: int
    chain: Chain
    joined_members: int
    # How many joined users each server has in the room.
    servers: dict[str, int]
    # Whether the room was joined and its members are not all known yet.
    is_partial: bool


def load_tip(tx: Transaction, room_id: str) -> StoredTip | None:
    """Return the end of a room's graph, or None if the room is not known."""
    query = (
        select(
            rooms.c.room_nid,
            rooms.c.version,
            room_tips.c.extremities,
            room_tips.c.depth,
            room_tips.c.state_group,
            room_tips.c.position,
            room_stats.c.joined_members,
        )
        .join(room_tips, room_tips.c.room_nid == rooms.c.room_nid)
        .join(room_stats, room_stats.c.room_nid == rooms.c.room_nid)
        .where(rooms.c.room_id == room_id)
    )
    row = tx.first(query)
    if row is None:
        return None
    chain = load_chain(tx, row[4])
    servers, is_partial = load_servers(tx, row[0])
    extremities = tuple(orjson.loads(row[2]))
    return StoredTip(row[0], row[1], extremities, row[3], row[4], row[5], chain, row[6], servers, is_partial)
