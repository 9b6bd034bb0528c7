"""Looking at the rows of rooms that are shared with other servers, as they lie; see `inspection`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from .inspection import _bytes, _int, _stream, _text
from .tables.federation_rooms import (
    destination_rooms,
    history_blocks,
    missing_prevs,
    partial_rooms,
    room_servers,
    stripped_state,
)
from .tables.rooms import events
from .transaction import Transaction, chunks


@dataclass(frozen=True, slots=True)
class BlockRow:
    """A row of `history_blocks`."""

    top: int
    floor: int
    next_position: int


@dataclass(frozen=True, slots=True)
class PartialRow:
    """A row of `partial_rooms`; `servers` is JSON."""

    join_nid: int
    base_group: int
    servers: bytes


def read_blocks(tx: Transaction, room_nid: int) -> list[BlockRow]:
    """Return the blocks of positions that are kept for a room's history, the lowest first."""
    table = history_blocks.c
    query = select(table.top, table.floor, table.next_position).where(table.room_nid == room_nid)
    return sorted((BlockRow(*map(_int, row)) for row in tx.all(query)), key=lambda block: block.top)


def read_missing(tx: Transaction, room_nid: int) -> Iterator[tuple[int, str]]:
    """Yield number and missing prev event of the edges of gaps."""
    table = missing_prevs.c
    own = select(table.event_nid, table.prev_id).where(table.room_nid == room_nid, table.is_inherited.is_(False))
    for row in _stream(tx, own):
        yield _int(row[0]), _text(row[1])


def read_partial(tx: Transaction, room_nid: int) -> PartialRow | None:
    """Return what is noted of a room whose members are not all known."""
    table = partial_rooms.c
    row = tx.first(select(table.join_nid, table.base_group, table.servers).where(table.room_nid == room_nid))
    return None if row is None else PartialRow(_int(row[0]), _int(row[1]), _bytes(row[2]))


def read_servers(tx: Transaction, room_nid: int) -> dict[str, int]:
    """Return how many joined users each server is said to have in a room."""
    table = room_servers.c
    rows = tx.all(select(table.server, table.joined).where(table.room_nid == room_nid))
    return {_text(row[0]): _int(row[1]) for row in rows}


def read_destinations(tx: Transaction, room_nid: int) -> list[tuple[str, int]]:
    """Return the servers that have to be sent events of a room, with the position of the newest."""
    table = destination_rooms.c
    rows = tx.all(select(table.destination, table.position).where(table.room_nid == room_nid))
    return [(_text(row[0]), _int(row[1])) for row in rows]


def read_stripped(tx: Transaction, room_nid: int) -> list[tuple[int, bytes]]:
    """Return users with what they are shown of a room that this server is not in, as JSON."""
    table = stripped_state.c
    rows = tx.all(select(table.user_nid, table.json).where(table.room_nid == room_nid))
    return [(_int(row[0]), _bytes(row[1])) for row in rows]


def read_keys_and_flags(tx: Transaction, room_nid: int, nids: Iterable[int]) -> dict[int, tuple[Any, int]]:
    """Return the number of the state key (None for a message) and the flags of those of these events of the room."""
    query = select(events.c.event_nid, events.c.key_nid, events.c.flags).where(events.c.room_nid == room_nid)
    found: dict[int, tuple[Any, int]] = {}
    for part in chunks(nids):
        found.update((row[0], (row[1], _int(row[2]))) for row in tx.all(query.where(events.c.event_nid.in_(part))))
    return found
