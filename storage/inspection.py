"""Looking at a database from outside: a read-only snapshot beside a running server, and a room's rows as they lie.

For tools that check or draw what is stored. Nothing is cached and nothing is interpreted: the JSON of an event comes as
its bytes, redacted or not, because a tool that looks for damage may believe nothing. Big rooms come in portions.

SQLite stores any kind of value in any column. What is of another kind than its column comes as 0, as None where the
column may be null, or as text of it, and `EventRow.odd` names the column.
"""

from __future__ import annotations

import sqlite3
import struct
from array import array
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from sqlalchemy import Boolean, Connection, Integer, create_engine, func, select, type_coerce
from sqlalchemy.exc import DatabaseError, DBAPIError
from sqlalchemy.pool import NullPool

from homeserver.errors import Misconfigured

from .database import parse_url
from .migrations import HEAD
from .schema import find_version
from .state_groups import decode_delta
from .tables.identity import user_ids
from .tables.rooms import (
    event_edges,
    events,
    membership_changes,
    memberships,
    room_aliases,
    room_stats,
    room_tips,
    rooms,
    state_keys,
)
from .tables.rooms import state_groups as groups
from .transaction import Transaction, chunks

_PORTION: Final = 5_000


@dataclass(frozen=True, slots=True)
class RoomRow:
    """A row of `rooms`."""

    room_nid: int
    room_id: str
    version: str


@dataclass(frozen=True, slots=True)
class EventRow:
    """A row of `events` with the names of its numbers; `key` is None for a message event."""

    nid: int
    event_id: str
    position: int | None
    depth: int
    type: str
    key_nid: int | None
    key: tuple[str, str] | None
    sender_nid: int
    sender: str | None
    origin_server_ts: int
    state_group: int | None
    tip_group: int | None
    replaces_nid: int | None
    redacted_by: int | None
    flags: int
    json: bytes
    # Columns whose value is of another kind than they are for.
    odd: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GroupRow:
    """A row of `state_groups`; `delta` is None where it cannot be read."""

    parent: int | None
    delta: Mapping[int, int] | None


@dataclass(frozen=True, slots=True)
class TipRow:
    """A row of `room_tips`."""

    extremities: bytes
    depth: int
    state_group: int
    position: int


@dataclass(frozen=True, slots=True)
class MemberRow:
    """A row of `memberships`; `user_id` is None where the user's number has no name."""

    user_nid: int
    user_id: str | None
    membership: str
    event_nid: int
    sender_nid: int
    position: int
    is_local: bool


@dataclass(frozen=True, slots=True)
class ChangeRow:
    """A row of `membership_changes`."""

    user_nid: int
    position: int
    event_nid: int
    membership: str


@dataclass(frozen=True, slots=True)
class Shape:
    """A room's graph in few bytes: for each event its number, position (0: none) and flags, and all edges.

    `nids` ascend; `edges` are (event, prev event) numbers, one after the other, in no order.
    """

    nids: array[int]
    positions: array[int]
    flags: array[int]
    edges: array[int]


# -- the database ----------------------------------------------------------------------------------------------------


@contextmanager
def open_snapshot(url: str) -> Iterator[Transaction]:
    """Give one read-only transaction on the database, which a server may be running on; all reads see one moment.

    Takes no lock and changes nothing. Raises Misconfigured for a database that is not there, not ours, or of another
    schema version than this code's.
    """
    parsed = parse_url(url)
    is_sqlite = parsed.get_backend_name() == "sqlite"
    if is_sqlite and not (parsed.database and Path(parsed.database).is_file()):
        raise Misconfigured(f"There is no database {parsed.database or ''}: no server has run with this configuration.")
    if is_sqlite:
        path = quote(str(Path(parsed.database or "").absolute()))

        def connect() -> sqlite3.Connection:
            connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None, timeout=30)
            connection.text_factory = _decoded
            return connection

        engine = create_engine("sqlite://", creator=connect, poolclass=NullPool)
    else:
        # A snapshot for all statements of the transaction.
        engine = create_engine(parsed, poolclass=NullPool, isolation_level="REPEATABLE READ", paramstyle="format")
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql(
                "BEGIN" if is_sqlite else "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY"
            )
            _check_version(connection, parsed.database or "")
            yield Transaction(connection, {})
            connection.exec_driver_sql("ROLLBACK")
    except DatabaseError as fault:
        raise Misconfigured(
            f"The database {parsed.render_as_string(hide_password=True)} cannot be read: {fault.orig}."
        ) from fault
    finally:
        engine.dispose()


def _check_version(connection: Connection, name: str) -> None:
    found = find_version(connection)
    if found is None:
        raise Misconfigured(f"The database {name} is empty: no server has run on it.")
    if found != HEAD:
        raise Misconfigured(
            f"The database {name} has version {found}, and this Sennit reads version {HEAD}. "
            "Start the server once to bring it up to date, or use the Sennit that made it."
        )


def is_disconnection(fault: Exception) -> bool:
    """Tell whether an error means that the connection to the database is gone."""
    return isinstance(fault, DBAPIError) and fault.connection_invalidated


# -- rooms -----------------------------------------------------------------------------------------------------------

_ROOM = select(rooms.c.room_nid, rooms.c.room_id, rooms.c.version)


def list_rooms(tx: Transaction) -> list[RoomRow]:
    """Return all rooms, those made or met first first."""
    return [_room_row(row) for row in tx.all(_ROOM.order_by(rooms.c.room_nid))]


def find_room(tx: Transaction, name: str) -> RoomRow | None:
    """Return the room of a room ID or an alias."""
    if name.startswith("#"):
        query = _ROOM.join(room_aliases, room_aliases.c.room_nid == rooms.c.room_nid).where(
            room_aliases.c.alias == name
        )
    else:
        query = _ROOM.where(rooms.c.room_id == name)
    row = tx.first(query)
    return None if row is None else _room_row(row)


def read_tip(tx: Transaction, room_nid: int) -> TipRow | None:
    """Return what is stored of the end of a room's graph; None for a room that we only know of."""
    query = select(room_tips.c.extremities, room_tips.c.depth, room_tips.c.state_group, room_tips.c.position)
    row = tx.first(query.where(room_tips.c.room_nid == room_nid))
    return None if row is None else TipRow(_bytes(row[0]), _int(row[1]), _int(row[2]), _int(row[3]))


def read_members(tx: Transaction, room_nid: int) -> Iterator[MemberRow]:
    """Yield the stored memberships of a room."""
    query = (
        select(
            memberships.c.user_nid,
            user_ids.c.user_id,
            memberships.c.membership,
            memberships.c.event_nid,
            memberships.c.sender_nid,
            memberships.c.position,
            # Not read as a truth value, which it may not be.
            type_coerce(memberships.c.is_local, Integer),
        )
        .select_from(memberships)
        .outerjoin(user_ids, user_ids.c.user_nid == memberships.c.user_nid)
        .where(memberships.c.room_nid == room_nid)
    )
    for row in _stream(tx, query):
        user_id = None if row[1] is None else _text(row[1])
        numbers = [_int(value) for value in (row[0], *row[3:6])]
        user_nid, event_nid, sender_nid, position = numbers
        yield MemberRow(user_nid, user_id, _text(row[2]), event_nid, sender_nid, position, row[6] in (1, True))


def read_changes(tx: Transaction, room_nid: int, user_nids: Iterable[int]) -> Iterator[ChangeRow]:
    """Yield the stored changes of membership of these users in a room."""
    table = membership_changes.c
    query = select(table.user_nid, table.position, table.event_nid, table.membership).where(table.room_nid == room_nid)
    for part in chunks(user_nids):
        for row in tx.all(query.where(table.user_nid.in_(part))):
            yield ChangeRow(_int(row[0]), _int(row[1]), _int(row[2]), _text(row[3]))


def find_user_nids(tx: Transaction, names: Iterable[str]) -> dict[str, int]:
    """Return the numbers of those of these users that have one."""
    result: dict[str, int] = {}
    query = select(user_ids.c.user_id, user_ids.c.user_nid)
    for part in chunks(names):
        result.update((_text(row[0]), row[1]) for row in tx.all(query.where(user_ids.c.user_id.in_(part))))
    return result


def read_stats(tx: Transaction, room_nid: int) -> Mapping[str, Any] | None:
    """Return the row of `room_stats` by column."""
    columns = [column for column in room_stats.c if not isinstance(column.type, Boolean)]
    row = tx.first(select(*columns).where(room_stats.c.room_nid == room_nid))
    return None if row is None else dict(row._mapping)


# -- events ----------------------------------------------------------------------------------------------------------


def read_shape(tx: Transaction, room_nid: int) -> Shape:
    """Return the graph of a room."""
    query = select(events.c.event_nid, events.c.position, events.c.flags).where(events.c.room_nid == room_nid)
    rows = sorted((nid, _int(position), _int(flags)) for nid, position, flags in _stream(tx, query))
    edges: array[int] = array("q")
    joined = select(event_edges.c.event_nid, event_edges.c.prev_nid).join(
        events, events.c.event_nid == event_edges.c.event_nid
    )
    for row in _stream(tx, joined.where(events.c.room_nid == room_nid)):
        edges.extend(map(_int, row))
    return Shape(
        array("q", (row[0] for row in rows)),
        array("q", (row[1] for row in rows)),
        array("q", (row[2] for row in rows)),
        edges,
    )


_EVENT = (
    select(
        events.c.event_nid,
        events.c.event_id,
        events.c.position,
        events.c.depth,
        events.c.type,
        events.c.key_nid,
        state_keys.c.type,
        state_keys.c.state_key,
        events.c.sender_nid,
        user_ids.c.user_id,
        events.c.origin_server_ts,
        events.c.state_group,
        events.c.tip_group,
        events.c.replaces_nid,
        events.c.redacted_by,
        events.c.flags,
        events.c.json,
    )
    .select_from(events)
    .outerjoin(state_keys, state_keys.c.key_nid == events.c.key_nid)
    .outerjoin(user_ids, user_ids.c.user_nid == events.c.sender_nid)
)


def find_prev_nids(tx: Transaction, nids: Iterable[int]) -> dict[int, list[int]]:
    """Return the numbers of the events that these build on by their edges, whether those events are stored or not."""
    result: dict[int, list[int]] = {}
    query = select(event_edges.c.event_nid, event_edges.c.prev_nid)
    for part in chunks(nids):
        for row in tx.all(query.where(event_edges.c.event_nid.in_(part))):
            result.setdefault(row[0], []).append(_int(row[1]))
    return result


# Kinds of the values of an EventRow, by place.
_KINDS: Final[tuple[tuple[str, type], ...]] = (
    ("event_nid", int),
    ("event_id", str),
    ("position", int),
    ("depth", int),
    ("type", str),
    ("key_nid", int),
    ("key", tuple),
    ("sender_nid", int),
    ("user_id", str),
    ("origin_server_ts", int),
    ("state_group", int),
    ("tip_group", int),
    ("replaces_nid", int),
    ("redacted_by", int),
    ("flags", int),
    ("json", bytes),
)
_NULLABLE: Final = frozenset(
    ("position", "key_nid", "key", "user_id", "state_group", "tip_group", "replaces_nid", "redacted_by")
)


def read_events(tx: Transaction, room_nid: int, nids: Iterable[int]) -> dict[int, EventRow]:
    """Return the rows of those of these events that are in this room."""
    result: dict[int, EventRow] = {}
    query = _EVENT.where(events.c.room_nid == room_nid)
    for part in chunks(nids):
        for row in tx.all(query.where(events.c.event_nid.in_(part))):
            result[row[0]] = _event_row(row)
    return result


def _event_row(row: Any) -> EventRow:
    key = None if row[6] is None else (row[6], row[7])
    values: list[Any] = [*row[:6], key, *row[8:]]
    odd: list[str] = []
    for place, (column, kind) in enumerate(_KINDS):
        value = values[place]
        if type(value) is not kind and (value is not None or column not in _NULLABLE):
            odd.append(column)
            if kind is bytes:
                values[place] = _bytes(value)
            elif kind is str:
                values[place] = _text(value)
            else:
                values[place] = None if column in _NULLABLE else 0
    if key is not None and not (type(key[0]) is str and type(key[1]) is str):
        values[6] = (_text(key[0]), _text(key[1]))
    values.append(tuple(odd))
    return EventRow(*values)


def newest_nids(tx: Transaction, room_nid: int, limit: int) -> list[int]:
    """Return the numbers of a room's newest events, whatever became of them, newest first; fetched history is old."""
    query = select(events.c.event_nid).where(events.c.room_nid == room_nid)
    place = func.coalesce(events.c.position, events.c.event_nid)
    return [row[0] for row in tx.all(query.order_by(place.desc(), events.c.event_nid.desc()).limit(limit))]


def count_events(tx: Transaction, room_nid: int) -> int:
    """Return how many events of a room are stored, outliers and refused ones among them."""
    return int(tx.scalar(select(func.count()).select_from(events).where(events.c.room_nid == room_nid)))


def find_event_nids(tx: Transaction, room_nid: int, event_ids: Iterable[str]) -> dict[str, int]:
    """Return the numbers of those of these events that are in this room."""
    result: dict[str, int] = {}
    query = select(events.c.event_id, events.c.event_nid).where(events.c.room_nid == room_nid)
    for part in chunks(event_ids):
        result.update((_text(row[0]), row[1]) for row in tx.all(query.where(events.c.event_id.in_(part))))
    return result


def event_ids(tx: Transaction, nids: Iterable[int]) -> dict[int, str]:
    """Return the IDs of these events, in whatever room they are."""
    result: dict[int, str] = {}
    query = select(events.c.event_nid, events.c.event_id)
    for part in chunks(nids):
        result.update((row[0], _text(row[1])) for row in tx.all(query.where(events.c.event_nid.in_(part))))
    return result


# -- states ----------------------------------------------------------------------------------------------------------


def read_groups(tx: Transaction, wanted: Iterable[int]) -> dict[int, GroupRow]:
    """Return the rows of these state groups, those that exist."""
    result: dict[int, GroupRow] = {}
    query = select(groups.c.state_group, groups.c.parent, groups.c.delta)
    for part in chunks(wanted):
        for row in tx.all(query.where(groups.c.state_group.in_(part))):
            try:
                delta = decode_delta(_bytes(row[2]))
            except struct.error:
                delta = None
            result[row[0]] = GroupRow(None if row[1] is None else _int(row[1]), delta)
    return result


def key_names(tx: Transaction, key_nids: Iterable[int]) -> dict[int, tuple[str, str]]:
    """Return the (type, state_key) of these numbers."""
    result: dict[int, tuple[str, str]] = {}
    query = select(state_keys.c.key_nid, state_keys.c.type, state_keys.c.state_key)
    for part in chunks(key_nids):
        for row in tx.all(query.where(state_keys.c.key_nid.in_(part))):
            result[row[0]] = (_text(row[1]), _text(row[2]))
    return result


def key_nids(tx: Transaction, names: Iterable[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """Return the numbers of those of these (type, state_key) that have one."""
    result: dict[tuple[str, str], int] = {}
    query = select(state_keys.c.key_nid)
    for kind, state_key in names:
        nid = tx.scalar(query.where(state_keys.c.type == kind, state_keys.c.state_key == state_key))
        if nid is not None:
            result[kind, state_key] = nid
    return result


# -- values ----------------------------------------------------------------------------------------------------------


def _room_row(row: Any) -> RoomRow:
    return RoomRow(row[0], _text(row[1]), _text(row[2]))


def _decoded(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _int(value: Any) -> int:
    return value if type(value) is int else 0


def _text(value: Any) -> str:
    return value if type(value) is str else str(value)


def _bytes(value: Any) -> bytes:
    return bytes(value) if isinstance(value, bytes | bytearray | memoryview) else str(value).encode()


def _stream(tx: Transaction, query: Any) -> Iterator[Any]:
    """Yield rows as they come from the database; read to the end before anything else is asked."""
    result = tx.connection.execute(query.execution_options(stream_results=True, yield_per=_PORTION))
    for portion in result.partitions():
        yield from portion
