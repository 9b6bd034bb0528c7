"""What an operator is told of the rooms of a server: how large they are, who shares them, what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import orjson
from sqlalchemy import and_, func, select

from .room_servers import load_servers
from .tables.federation_rooms import missing_prevs, partial_rooms, room_servers
from .tables.rooms import room_stats, room_tips, rooms
from .transaction import Transaction

# Rooms that are read at once.
PORTION = 500


@dataclass(frozen=True, slots=True)
class RoomOverview:
    """One room; `missing_since_ts` and `via` are there while its members are not all known."""

    room_id: str
    version: str
    name: str | None
    joined_members: int
    servers: int
    extremities: int
    gaps: int
    missing_since_ts: int | None
    via: str | None


def list_overviews(tx: Transaction) -> Iterator[RoomOverview]:
    """Give all rooms that have a graph here, those made or met first first."""
    servers = (
        select(func.count())
        .where(room_servers.c.room_nid == rooms.c.room_nid, room_servers.c.joined > 0)
        .scalar_subquery()
    )
    gaps = (
        select(func.count(missing_prevs.c.event_nid.distinct()))
        .where(missing_prevs.c.room_nid == rooms.c.room_nid)
        .scalar_subquery()
    )
    query = (
        select(
            rooms.c.room_nid,
            rooms.c.room_id,
            rooms.c.version,
            room_stats.c.name,
            room_stats.c.joined_members,
            servers,
            room_tips.c.extremities,
            gaps,
            partial_rooms.c.started_ts,
            partial_rooms.c.via,
            partial_rooms.c.servers,
        )
        .join(room_tips, room_tips.c.room_nid == rooms.c.room_nid)
        .outerjoin(room_stats, room_stats.c.room_nid == rooms.c.room_nid)
        .outerjoin(partial_rooms, partial_rooms.c.room_nid == rooms.c.room_nid)
        .order_by(rooms.c.room_nid)
        .limit(PORTION)
    )
    after = 0
    while rows := tx.all(query.where(and_(rooms.c.room_nid > after))):
        for row in rows:
            # Of a room that is partial only the other server knows who is in it.
            count = row[5] if row[10] is None else len(load_servers(tx, row[0])[0])
            ends = len(orjson.loads(row[6]))
            yield RoomOverview(row[1], row[2], row[3], row[4] or 0, count, ends, row[7], row[8], row[9])
        after = rows[-1][0]
