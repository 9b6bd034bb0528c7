"""Reading a stored room into the value that is drawn.

What cannot be read is drawn with what its columns say: whoever looks at a damaged room wants to see where.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush
from typing import Final

import orjson

from homeserver.errors import MatrixError
from homeserver.model.event import Event
from homeserver.model.event_format import check_event_format, event_from_wire
from homeserver.model.event_json import load_event
from homeserver.model.graph_drawing import DrawnEvent, DrawnGraph, Mark
from homeserver.model.ids import EventID, RoomID
from homeserver.model.room_versions import KNOWN_ROOM_VERSIONS, RoomVersion
from storage.events import Flag
from storage.inspection import EventRow, RoomRow, count_events, find_event_nids, newest_nids, read_events, read_tip
from storage.transaction import Transaction

_FLAG_MARKS: Final = {
    Flag.REJECTED: Mark.REJECTED,
    Flag.SOFT_FAILED: Mark.SOFT_FAILED,
    Flag.OUTLIER: Mark.OUTLIER,
}


def read_graph(tx: Transaction, room: RoomRow, limit: int) -> DrawnGraph:
    """Return the newest `limit` events of a room, outliers and refused ones among them."""
    rows = read_events(tx, room.room_nid, newest_nids(tx, room.room_nid, limit))
    version = KNOWN_ROOM_VERSIONS.get(room.version)
    extremities = _extremities(tx, room)
    drawn = {nid: _drawn(row, version, room.room_id, nid in extremities) for nid, row in rows.items()}
    events = [drawn[nid] for nid in _in_order(rows, drawn)]
    earlier = count_events(tx, room.room_nid) - len(events)
    return DrawnGraph(room.room_id, room.version, events, earlier, _outside_groups(tx, room, events))


def _outside_groups(tx: Transaction, room: RoomRow, events: Sequence[DrawnEvent]) -> dict[str, int]:
    """Return the state groups of the events that the drawn ones build on, and that are not drawn."""
    cited = {event_id for event in events for event_id in event.prev_event_ids}
    nids = find_event_nids(tx, room.room_nid, cited.difference(event.event_id for event in events))
    rows = read_events(tx, room.room_nid, nids.values())
    return {row.event_id: row.state_group for row in rows.values() if row.state_group is not None}


def _drawn(row: EventRow, version: RoomVersion | None, room_id: str, is_extremity: bool) -> DrawnEvent:
    event = _parse(row, version, room_id)
    marks = {mark for flag, mark in _FLAG_MARKS.items() if row.flags & flag}
    if row.redacted_by is not None:
        marks.add(Mark.REDACTED)
    if is_extremity:
        marks.add(Mark.EXTREMITY)
    if event is None:
        marks.add(Mark.UNREADABLE)
    return DrawnEvent(
        event_id=row.event_id,
        type=row.type,
        state_key=None if row.key is None else row.key[1],
        sender=row.sender or "",
        position=row.position,
        prev_event_ids=() if event is None else event.prev_event_ids,
        auth_event_ids=() if event is None else event.auth_event_ids,
        marks=frozenset(marks),
        state_group=row.state_group,
        room_group=row.tip_group,
    )


def _parse(row: EventRow, version: RoomVersion | None, room_id: str) -> Event | None:
    if version is None:
        return None
    try:
        wire = load_event(version, row.json)
        check_event_format(version, wire)
        return event_from_wire(version, wire, EventID(row.event_id), RoomID(room_id))
    except (MatrixError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return None


def _extremities(tx: Transaction, room: RoomRow) -> frozenset[int]:
    tip = read_tip(tx, room.room_nid)
    if tip is None:
        return frozenset()
    try:
        claimed = orjson.loads(tip.extremities)
    except ValueError:
        return frozenset()
    return frozenset(nid for nid in claimed if isinstance(nid, int)) if isinstance(claimed, list) else frozenset()


def _in_order(rows: Mapping[int, EventRow], drawn: Mapping[int, DrawnEvent]) -> Iterable[int]:
    """Yield the events, each after those that it builds on; between others the order of coming decides."""
    nids = {event.event_id: nid for nid, event in drawn.items()}
    waiting = {nid: len({*event.prev_event_ids} & nids.keys()) for nid, event in drawn.items()}
    nexts: dict[int, list[int]] = {}
    for nid, event in drawn.items():
        for prev in {*event.prev_event_ids} & nids.keys():
            nexts.setdefault(nids[prev], []).append(nid)
    ready = [(rows[nid].position or nid, nid) for nid, count in waiting.items() if not count]
    heapify(ready)
    while ready:
        _, nid = heappop(ready)
        yield nid
        for later in nexts.get(nid, ()):
            waiting[later] -= 1
            if not waiting[later]:
                heappush(ready, (rows[later].position or later, later))
