"""Stored events: reading them, and the rows of one append.

An event's JSON is its wire form; what the server knows about it besides (its place in the stream, the state after it,
whether it was redacted) are columns. A redacted event is read redacted; its original stays stored until it is pruned.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntFlag
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import Select, bindparam, select

from homeserver.errors import BrokenInvariant
from homeserver.model.event import Event
from homeserver.model.event_format import event_from_wire
from homeserver.model.event_json import dump_event, load_event, without_slack
from homeserver.model.ids import EventID, RoomID
from homeserver.model.redaction import redact
from homeserver.model.room_versions import KNOWN_ROOM_VERSIONS

from .tables.federation_rooms import missing_prevs
from .tables.rooms import event_edges, events, redactions, rooms, transaction_ids
from .transaction import Transaction, chunks

logger = logging.getLogger(__name__)

_shared_room_id: Final = lru_cache(maxsize=4_000)(RoomID)


class Flag(IntFlag):
    """What the server has decided about an event."""

    OUTLIER = 1
    REJECTED = 2
    SOFT_FAILED = 4
    # A redaction that redacts nothing: what it names is not there, or not for its sender to redact.
    INERT = 8


# As a plain number: it is tested for every event that is read.
HIDDEN: Final = int(Flag.REJECTED | Flag.SOFT_FAILED | Flag.OUTLIER | Flag.INERT)


@dataclass(slots=True, eq=False)
class StoredEvent:
    """An event as it is stored. `event` is the redacted form where it was redacted.

    `redaction` and `replaced_content` are what clients are told under `unsigned`: the redaction event, and the content
    of the state event that this one replaced. `head` and `tail` belong to `feed.client_event`, which keeps its encoding
    there, `facts` to the push rules.
    """

    event: Event
    nid: int
    room_nid: int
    position: int | None
    state_group: int | None
    sender_nid: int
    received_ts: int
    key_nid: int | None = None
    replaces_nid: int | None = None
    redacted_by: int | None = None
    flags: int = 0
    size: int = 0
    # The room's state after the event was appended, where other ends of the graph make it another one than what the
    # room had before and the event besides.
    tip_group: int | None = None
    replaced_content: Mapping[str, Any] | None = None
    replaced_id: EventID | None = None
    replaced_sender: str | None = None
    redaction: StoredEvent | None = None
    # Whether anything relates to the event; None where that was not asked yet.
    is_related: bool | None = None
    # (device_nid, txn_id) of the send, so that the sending device is told its own transaction ID.
    transaction: tuple[int, str] | None = None
    head: bytes | None = field(default=None, repr=False)
    tail: bytes = field(default=b"", repr=False)
    facts: Any = field(default=None, repr=False)
    # Whether it was asked for in memory since the cache last thought of letting it go.
    is_wanted: bool = field(default=False, repr=False)

    @property
    def event_id(self) -> EventID:
        return self.event.event_id

    @property
    def is_rejected(self) -> bool:
        return bool(self.flags & Flag.REJECTED)

    @property
    def is_outlier(self) -> bool:
        return bool(self.flags & Flag.OUTLIER)

    @property
    def room_group(self) -> int | None:
        """The room's state after the event was appended; None for what has no place in the room's history."""
        return self.state_group if self.tip_group is None else self.tip_group


def size_of(encoded_bytes: int) -> int:
    """Return about how many bytes of memory an event takes, with what clients are shown of it."""
    return encoded_bytes * 3 + 1_000


_COLUMNS = (
    events.c.event_nid,
    events.c.event_id,
    events.c.room_nid,
    events.c.position,
    events.c.key_nid,
    events.c.sender_nid,
    events.c.received_ts,
    events.c.state_group,
    events.c.replaces_nid,
    events.c.redacted_by,
    events.c.flags,
    events.c.json,
    rooms.c.room_id,
    rooms.c.version,
    events.c.tip_group,
)
_QUERY = select(*_COLUMNS).join(rooms, rooms.c.room_nid == events.c.room_nid)
# Made once: making a statement takes longer than finding a few events.
_OF_NIDS: Final = _QUERY.where(events.c.event_nid.in_(bindparam("nids", expanding=True)))
_WITH_TRANSACTION: Final = _OF_NIDS.add_columns(transaction_ids.c.device_nid, transaction_ids.c.txn_id).outerjoin(
    transaction_ids, transaction_ids.c.event_nid == events.c.event_nid
)


def load(tx: Transaction, nids: Iterable[int]) -> dict[int, StoredEvent]:
    """Return the events of these numbers, those that exist, each with what clients are told under `unsigned`."""
    found = _load_plain(tx, nids, query=_WITH_TRANSACTION)
    further = {nid for stored in found.values() for nid in (stored.redacted_by, stored.replaces_nid) if nid}
    missing = further - found.keys()
    more = _load_plain(tx, missing) if missing else {}
    for stored in found.values():
        if stored.redacted_by:
            stored.redaction = found.get(stored.redacted_by) or more.get(stored.redacted_by)
        if stored.replaces_nid:
            replaced = found.get(stored.replaces_nid) or more.get(stored.replaces_nid)
            if replaced is not None:
                set_replaced(stored, replaced)
    return found


def set_replaced(stored: StoredEvent, replaced: StoredEvent) -> None:
    """Note what a state event replaced, for clients' `unsigned`."""
    stored.replaced_content = replaced.event.content
    stored.replaced_id = replaced.event.event_id
    stored.replaced_sender = replaced.event.sender


def load_as_sent(tx: Transaction, nids: Iterable[int]) -> dict[int, StoredEvent]:
    """Return the events of these numbers as they were sent, redacted since or not: what state is resolved from."""
    return _load_plain(tx, nids, as_sent=True)


def load_as_sent_by_id(tx: Transaction, room_nid: int, event_ids: Iterable[str]) -> dict[int, StoredEvent]:
    """Return those of these events that are in this room, as they were sent, by number."""
    result: dict[int, StoredEvent] = {}
    query = _QUERY.where(events.c.room_nid == room_nid)
    for part in chunks(event_ids):
        for row in tx.all(query.where(events.c.event_id.in_(part))):
            result[row[0]] = _from_row(row, as_sent=True)
    return result


def _load_plain(
    tx: Transaction, nids: Iterable[int], *, as_sent: bool = False, query: Select[Any] = _OF_NIDS
) -> dict[int, StoredEvent]:
    result: dict[int, StoredEvent] = {}
    for part in chunks(nids):
        for row in tx.all(query, {"nids": part}):
            try:
                result[row[0]] = _from_row(row, as_sent=as_sent)
            except (ValueError, LookupError, TypeError) as fault:
                if as_sent:
                    raise BrokenInvariant(f"the stored event {row[1]} of {row[12]} is damaged: {fault}") from fault
                # One damaged row must not take the rest of the room with it.
                logger.error(
                    "The stored event %s of %s is damaged, and left out: %s. "
                    "`sennit graph --check` tells what else is.",
                    row[1],
                    row[12],
                    fault,
                )
    return result


def _from_row(row: Sequence[Any], *, as_sent: bool = False) -> StoredEvent:
    version = KNOWN_ROOM_VERSIONS[row[13]]
    raw = row[11]
    wire = load_event(version, raw)
    encoded = bytes(raw)
    if row[9] and not as_sent:
        wire = redact(version, wire)
        encoded = without_slack(dump_event(version, wire))
    return StoredEvent(
        event=event_from_wire(
            version, wire, event_id=EventID(row[1]), room_id=_shared_room_id(row[12]), encoded=encoded
        ),
        nid=row[0],
        room_nid=row[2],
        position=row[3],
        key_nid=row[4],
        sender_nid=row[5],
        received_ts=row[6],
        state_group=row[7],
        replaces_nid=row[8],
        redacted_by=row[9],
        flags=row[10],
        size=size_of(len(raw)),
        tip_group=row[14],
        transaction=(row[15], row[16]) if len(row) > 15 and row[15] is not None else None,
    )


def find_nids(tx: Transaction, room_nid: int, event_ids: Iterable[str]) -> dict[EventID, int]:
    """Return the numbers of those of these events that are in this room."""
    result: dict[EventID, int] = {}
    query = select(events.c.event_id, events.c.event_nid).where(events.c.room_nid == room_nid)
    for part in chunks(event_ids):
        for event_id, nid in tx.all(query.where(events.c.event_id.in_(part))):
            result[EventID(event_id)] = nid
    return result


def load_prev_nids(tx: Transaction, nids: Iterable[int]) -> dict[int, int]:
    """Return the events that these build on, those that are stored: number -> whether it is hidden (as flags)."""
    result: dict[int, int] = {}
    hidden = int(Flag.REJECTED | Flag.SOFT_FAILED)
    query = select(events.c.event_nid, events.c.flags).join(event_edges, event_edges.c.prev_nid == events.c.event_nid)
    for part in chunks(nids):
        for nid, flags in tx.all(query.where(event_edges.c.event_nid.in_(part))):
            result[nid] = flags & hidden
    return result


@dataclass(frozen=True, slots=True)
class LookAhead:
    """What is stored of events that are about to be taken in: mostly nothing.

    `nids` are the (number, room) of those that are there, in whatever room; `redactions` by the ID of their target.
    `below`: of those that are missing in a gap, the position of the event after it.
    """

    nids: dict[str, tuple[int, int]]
    redactions: dict[str, list[int]]
    below: dict[str, int] = field(default_factory=dict)


def look_ahead(tx: Transaction, room_nid: int, event_ids: Iterable[str]) -> LookAhead:
    """Return what is stored of these events of a room, and the redactions of it that name them, earliest first."""
    nids: dict[str, tuple[int, int]] = {}
    waiting: dict[str, list[int]] = {}
    known = select(events.c.event_id, events.c.event_nid, events.c.room_nid)
    naming = (
        select(redactions.c.target_id, redactions.c.redaction_nid)
        .where(redactions.c.room_nid == room_nid)
        .order_by(redactions.c.redaction_nid)
    )
    awaited = (
        select(missing_prevs.c.prev_id, events.c.position)
        .join(events, events.c.event_nid == missing_prevs.c.event_nid)
        .where(missing_prevs.c.room_nid == room_nid, events.c.position.is_not(None))
    )
    below: dict[str, int] = {}
    for part in chunks(event_ids):
        for event_id, nid, its_room in tx.all(known.where(events.c.event_id.in_(part))):
            nids[event_id] = nid, its_room
        for target_id, nid in tx.all(naming.where(redactions.c.target_id.in_(part))):
            waiting.setdefault(target_id, []).append(nid)
        for prev_id, position in tx.all(awaited.where(missing_prevs.c.prev_id.in_(part))):
            below[prev_id] = min(position, below.get(prev_id, position))
    return LookAhead(nids, waiting, below)


def timeline_before(tx: Transaction, room_nid: int, before: int, limit: int, after: int | None = None) -> list[int]:
    """Return up to `limit` event numbers of a room's timeline at positions `after` < p <= `before`, newest first."""
    query = (
        select(events.c.event_nid)
        .where(events.c.room_nid == room_nid, events.c.position <= before)
        .order_by(events.c.position.desc())
        .limit(limit)
    )
    if after is not None:
        query = query.where(events.c.position > after)
    return [row[0] for row in tx.all(query)]


def timeline_after(tx: Transaction, room_nid: int, after: int, limit: int, upto: int | None = None) -> list[int]:
    """Return up to `limit` event numbers of a room's timeline at positions `after` < p <= `upto`, oldest first."""
    query = (
        select(events.c.event_nid)
        .where(events.c.room_nid == room_nid, events.c.position > after)
        .order_by(events.c.position.asc())
        .limit(limit)
    )
    if upto is not None:
        query = query.where(events.c.position <= upto)
    return [row[0] for row in tx.all(query)]
