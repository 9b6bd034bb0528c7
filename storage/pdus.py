"""Events as other servers are given them: read from the stored JSON, which is the wire form, without making objects.

Whole states are tens of thousands of events: they are written to a file, some at a time, as the bytes that are stored.
Only what was redacted has to be cut down first, or everything where whoever asks may see nothing.

Graphs are walked by what the events' JSON says, and by ID within the room: so a walk goes on where a gap was filled.
An event of another room is not found, whatever names it.
"""

from __future__ import annotations

import heapq
import logging
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import IO, Any, Final

import orjson
from sqlalchemy import select

from homeserver.model.event_json import dump_event, load_event
from homeserver.model.ids import EventID
from homeserver.model.redaction import redact
from homeserver.model.room_versions import RoomVersion

from .events import Flag
from .tables.rooms import events
from .transaction import Transaction, chunks

logger = logging.getLogger(__name__)

# Rows in memory at a time: of the greatest size allowed, these are 13 MB.
_ROWS: Final = 200
# LIMIT: events looked at for one walk, for each that may be returned: those that were rejected are passed over.
_LOOKS: Final = 10

_COLUMNS = (
    events.c.event_nid,
    events.c.event_id,
    events.c.position,
    events.c.depth,
    events.c.key_nid,
    events.c.sender_nid,
    events.c.state_group,
    events.c.replaces_nid,
    events.c.redacted_by,
    events.c.flags,
    events.c.json,
)


@dataclass(frozen=True, slots=True)
class StoredPDU:
    """An event as it is stored; `json` is the wire form, not redacted even if the event was."""

    nid: int
    event_id: str
    position: int | None
    depth: int
    key_nid: int | None
    sender_nid: int
    state_group: int | None
    replaces_nid: int | None
    redacted_by: int | None
    flags: int
    json: bytes

    @property
    def is_outlier(self) -> bool:
        return bool(self.flags & Flag.OUTLIER)

    @property
    def is_rejected(self) -> bool:
        return bool(self.flags & Flag.REJECTED)


# -- single events ---------------------------------------------------------------------------------------------------


def find_pdus(tx: Transaction, room_nid: int, event_ids: Iterable[str]) -> list[StoredPDU]:
    """Return those of these events that are in this room, in no order; outliers and rejected ones too."""
    query = select(*_COLUMNS).where(events.c.room_nid == room_nid)
    found: list[StoredPDU] = []
    for part in chunks(event_ids, _ROWS):
        found.extend(StoredPDU(*row) for row in tx.all(query.where(events.c.event_id.in_(part))))
    return found


def load_pdus(tx: Transaction, room_nid: int, nids: Iterable[int]) -> dict[int, StoredPDU]:
    """Return those of these events that are in this room, by number."""
    query = select(*_COLUMNS).where(events.c.room_nid == room_nid)
    found: dict[int, StoredPDU] = {}
    for part in chunks(nids, _ROWS):
        found.update((row[0], StoredPDU(*row)) for row in tx.all(query.where(events.c.event_nid.in_(part))))
    return found


def pdu_bytes(version: RoomVersion, raw: bytes, *, is_cut: bool) -> bytes:
    """Return a stored event as it goes out, cut to what survives a redaction if it is to be."""
    return dump_event(version, redact(version, load_event(version, raw))) if is_cut else raw


# -- walks -----------------------------------------------------------------------------------------------------------


def walk_back(
    tx: Transaction, version: RoomVersion, room_nid: int, start: Iterable[str], limit: int
) -> list[StoredPDU]:
    """Return up to `limit` events: those of `start` and what they build on, the latest to arrive first.

    Outliers and rejected events are left out; what the latter build on is not.
    """
    waiting: list[tuple[int, int, StoredPDU]] = []
    seen = set(start)
    found: list[StoredPDU] = []
    _push(waiting, find_pdus(tx, room_nid, seen))
    for _ in range(limit * _LOOKS):
        if not waiting or len(found) >= limit:
            break
        pdu = heapq.heappop(waiting)[2]
        if pdu.is_outlier:
            continue
        if not pdu.is_rejected:
            found.append(pdu)
        _push(waiting, find_pdus(tx, room_nid, _unseen(prev_event_ids(version, pdu), seen)))
    return found


def walk_between(
    tx: Transaction,
    version: RoomVersion,
    room_nid: int,
    *,
    latest: Iterable[str],
    earliest: Collection[str],
    min_depth: int,
    limit: int,
) -> list[StoredPDU]:
    """Return up to `limit` events that `latest` build on, found breadth first; neither those nor `earliest`.

    What `earliest` build on is not looked for, nor what is below `min_depth`. Outliers and rejected events are left
    out; what the latter build on is not.
    """
    heads = find_pdus(tx, room_nid, latest)
    seen = {*latest, *earliest}
    waiting = deque(sorted(heads, key=lambda pdu: -pdu.nid))
    count = len(waiting)
    found: list[StoredPDU] = []
    looks = count + limit * _LOOKS
    while waiting and looks > 0:
        # A whole generation at a time.
        generation = [waiting.popleft() for _ in range(min(count, looks))]
        looks -= len(generation)
        new = [
            event_id
            for pdu in generation
            if not pdu.is_outlier
            for event_id in _unseen(prev_event_ids(version, pdu), seen)
        ]
        loaded = {pdu.event_id: pdu for pdu in find_pdus(tx, room_nid, new[:looks])}
        for event_id in new:
            pdu = loaded.get(event_id)
            if pdu is None or pdu.is_outlier or pdu.depth < min_depth:
                continue
            waiting.append(pdu)
            if not pdu.is_rejected:
                found.append(pdu)
                if len(found) == limit:
                    return found
        count = len(waiting)
    return found


def prev_event_ids(version: RoomVersion, pdu: StoredPDU) -> list[EventID]:
    """Return what an event builds on; nothing for a damaged one."""
    try:
        references = load_event(version, pdu.json)["prev_events"]
        return [EventID(each[0] if version.references_carry_hashes else each) for each in references]
    except (ValueError, LookupError, TypeError):
        logger.error("The stored event %s is damaged. `sennit graph --check` tells what else is.", pdu.event_id)
        return []


def _unseen(event_ids: Iterable[str], seen: set[str]) -> list[str]:
    """Return those that are not in `seen`, each once, and put them there."""
    new = [event_id for event_id in dict.fromkeys(event_ids) if event_id not in seen]
    seen.update(new)
    return new


def _push(waiting: list[tuple[int, int, StoredPDU]], pdus: Iterable[StoredPDU]) -> None:
    # By when it came, not by the depth that its sender claims; history that was fetched later has positions below 0.
    for pdu in pdus:
        heapq.heappush(waiting, (-(pdu.nid if pdu.position is None else pdu.position), pdu.nid, pdu))


# -- many ------------------------------------------------------------------------------------------------------------


def write_pdus(
    tx: Transaction, version: RoomVersion, room_nid: int, nids: Sequence[int], file: IO[bytes], *, cut_all: bool
) -> None:
    """Write these events to a file as the inside of a JSON array, in their order; redacted ones as they are now."""
    query = select(events.c.event_nid, events.c.event_id, events.c.redacted_by, events.c.json)
    query = query.where(events.c.room_nid == room_nid)
    separator = b""
    for part in chunks(nids, _ROWS):
        rows: dict[int, Any] = {row[0]: row for row in tx.all(query.where(events.c.event_nid.in_(part)))}
        for nid in part:
            if nid not in rows:
                continue
            _, event_id, redacted_by, raw = rows[nid]
            try:
                written = pdu_bytes(version, raw, is_cut=cut_all or redacted_by is not None)
            except (ValueError, LookupError, TypeError):
                logger.error("The stored event %s is damaged. `sennit graph --check` tells what else is.", event_id)
                continue
            file.write(separator)
            file.write(written)
            separator = b","


def event_ids_json(tx: Transaction, room_nid: int, nids: Iterable[int]) -> bytes:
    """Return the IDs of these events of a room as a JSON array."""
    query = select(events.c.event_id).where(events.c.room_nid == room_nid)
    return orjson.dumps([row[0] for part in chunks(nids) for row in tx.all(query.where(events.c.event_nid.in_(part)))])
