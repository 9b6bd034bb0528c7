"""Which servers are in a room, and what each of them still has to be sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from sqlalchemy import select

from .tables.federation_rooms import destination_rooms, partial_rooms, room_servers
from .transaction import Transaction


def load_servers(tx: Transaction, room_nid: int) -> tuple[dict[str, int], bool]:
    """Return how many joined users of each server are in a room; whether its members are not all known.

    Where they are not, the servers that are known by name alone count as having one.
    """
    query = select(room_servers.c.server, room_servers.c.joined).where(
        room_servers.c.room_nid == room_nid, room_servers.c.joined > 0
    )
    counts: dict[str, int] = {row[0]: row[1] for row in tx.all(query)}
    told = tx.scalar(select(partial_rooms.c.servers).where(partial_rooms.c.room_nid == room_nid))
    if told is None:
        return counts, False
    for server in orjson.loads(told):
        counts.setdefault(server, 1)
    return counts, True


def add_servers(tx: Transaction, deltas: Mapping[tuple[int, str], int]) -> None:
    """Change how many users of servers are joined, by (room, server)."""
    rows = [(room_nid, server, delta) for (room_nid, server), delta in deltas.items() if delta]
    tx.insert_many(room_servers, ("room_nid", "server", "joined"), rows, add=("joined",))


def add_destinations(tx: Transaction, wanted: Iterable[tuple[str, int, int]]) -> None:
    """Note that (destination, room) has to be sent what is at a position; the rows come in order of position."""
    newest: dict[tuple[str, int], int] = {}
    for destination, room_nid, position in wanted:
        newest[destination, room_nid] = position
    rows: list[tuple[Any, ...]] = [(*key, position) for key, position in newest.items()]
    tx.insert_many(destination_rooms, ("destination", "room_nid", "position"), rows, update=("position",))
