"""What a server has missed while it could not be reached, or while this one was stopped.

For each room with something newer than the server was sent, its newest events are sent again: at most so many, in
order, those of local users, and the newest that it had to get whoever sent it. What it lacks before them it can ask
for, as they name what they build on. A room comes before another if what it lacks ends earlier, so that the mark up to
which the server has everything rises with every room that is through.

Events of a time at which the server had nobody in the room are left out: it left in between, and is not to be told.

Belongs to `federation.outbox`, like it in reach of the database.

Spec: server-server API, "Transactions", "PDUs".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from homeserver.model.canonical_json import encode_canonical
from storage.events import StoredEvent
from storage.outbox import Missed, load_joins, load_missed, load_waiting_rooms
from storage.store import Store

from .outbox_queue import Pdu

# LIMIT: events of one room that are sent again.
MAX_MISSED: Final = 50
# Rooms that are read at once.
PAGE: Final = 20


@dataclass(slots=True)
class Scan:
    """One pass over the rooms of a server: events at `base` < position <= `upto`; `after`: rooms up to there are read.

    What comes later than `upto` waits in memory meanwhile.
    """

    base: int
    upto: int
    after: int
    # A room that becomes newer while it is passed comes by again.
    seen: set[int] = field(default_factory=set)
    is_through: bool = False


def encode_pdu(stored: StoredEvent) -> bytes:
    """Return an event as it goes to other servers: canonical JSON without `unsigned`."""
    return encode_canonical(stored.event.wire)


class CatchUp:
    """Reads what servers have missed."""

    def __init__(self, store: Store, server_name: str) -> None:
        self._store = store
        self._server_name = server_name

    async def read(self, destination: str, scan: Scan) -> list[Pdu]:
        """Return the next events that a server has missed; none are left when `scan.is_through`."""
        own = self._server_name
        after, base, upto = scan.after, scan.base, scan.upto
        seen = frozenset(scan.seen)
        rooms, found = await self._store.database.read(
            lambda tx: (
                rooms := load_waiting_rooms(tx, destination, after, PAGE),
                [
                    load_missed(tx, destination, room, base, upto, own, MAX_MISSED)
                    for room in rooms
                    if room.room_nid not in seen
                ],
            )
        )
        events = await self._store.events.get(nid for missed in found for nid in missed.nids)
        pdus: list[Pdu] = []
        places = iter(found)
        for room in rooms:
            if room.room_nid in seen:
                continue
            missed = next(places)
            stored = [events[nid] for nid in missed.nids if nid in events]
            if not missed.was_there:
                stored = await self._while_there(stored, missed)
            pdus.extend(Pdu(each.event_id, encode_pdu(each), None) for each in stored)
            if pdus:
                pdus[-1].mark = min(room.position, upto)
            scan.seen.add(room.room_nid)
        if rooms:
            scan.after = rooms[-1].position
        if len(rooms) < PAGE:
            scan.is_through = True
            if pdus:
                pdus[-1].mark = upto
        return pdus

    async def _while_there(self, events: list[StoredEvent], missed: Missed) -> list[StoredEvent]:
        """Return the events before which some user of the server was in the room."""
        groups = {stored.state_group for stored in events if stored.state_group is not None}
        states = await self._store.states.get_many(groups)
        before: dict[int, set[int]] = {}
        for stored in events:
            state = states.get(stored.state_group) if stored.state_group is not None else None
            if state is None:
                continue
            nids = {
                stored.replaces_nid if key_nid == stored.key_nid else state.get(key_nid)
                for key_nid in missed.member_keys
            }
            before[stored.nid] = {nid for nid in nids if nid}
        wanted = set().union(*before.values())
        joins = await self._store.database.read(lambda tx: load_joins(tx, wanted)) if wanted else set()
        return [
            stored
            for stored in events
            if stored.nid == missed.last_nid or not joins.isdisjoint(before.get(stored.nid, ()))
        ]
