"""What is around an event that comes in: itself, if it is there already, what it builds on and what it cites.

Looked for among what is decided and not stored yet, in memory, and on the disk.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from homeserver.errors import BadJson
from homeserver.model.event import Event
from homeserver.model.ids import EventID
from homeserver.model.receipt_of_events import CheckedEvent
from storage.events import Flag, LookAhead, StoredEvent, find_nids, load_prev_nids, look_ahead
from storage.store import Store

from .gather import Tips
from .tip import RoomTip

# LIMIT: hidden events that are walked through to find which ends of the graph an event builds on.
MAX_HIDDEN_WALKED: Final = 1_000


class MissingEvents(Exception):
    """Events that have to be there first: those that an event builds on, and those that it cites."""

    def __init__(self, prev: frozenset[EventID], auth: frozenset[EventID]) -> None:
        super().__init__(f"{len(prev)} prev events and {len(auth)} auth events are missing")
        self.prev = prev
        self.auth = auth


class Surroundings:
    """Finds events of a room; used in the room's lane."""

    def __init__(self, store: Store, tips: Tips) -> None:
        self._store = store
        self._tips = tips

    async def look_ahead(self, tip: RoomTip, events: Sequence[CheckedEvent]) -> LookAhead:
        """Return what of these events is there: one read for all of them, for nearly always it is nothing.

        What is in memory now may have left it, for the disk or for nowhere, when it is asked for.
        """
        held = {each.event_id: each for checked in events if (each := self._at_hand(checked.event.event_id))}
        flying: dict[str, list[int]] = {}
        for each in self._tips.in_flight.values():
            if each.event.type == "m.room.redaction" and each.event.redacts is not None:
                flying.setdefault(each.event.redacts, []).append(each.nid)
        event_ids = [checked.event.event_id for checked in events]
        wanted = [event_id for event_id in event_ids if event_id not in held or held[event_id].is_outlier]
        found = LookAhead({}, {})
        if wanted:
            found = await self._store.database.read(lambda tx: look_ahead(tx, tip.room_nid, wanted))
        found.nids.update((event_id, (each.nid, each.room_nid)) for event_id, each in held.items())
        for event_id in event_ids:
            if event_id in flying:
                found.redactions.setdefault(event_id, []).extend(flying[event_id])
        return found

    def _at_hand(self, event_id: EventID) -> StoredEvent | None:
        return self._tips.find_flying(event_id) or self._store.events.find_by_id(event_id)

    async def known(self, tip: RoomTip, event: Event, ahead: LookAhead) -> StoredEvent | None:
        """Return the event itself if it is there; raise BadJson if its ID is that of an event of another room."""
        stored = self._at_hand(event.event_id)
        nid, room_nid = ahead.nids.get(event.event_id, (0, tip.room_nid)) if stored is None else (0, stored.room_nid)
        if room_nid != tip.room_nid:
            # Only where senders choose the IDs of events (room versions 1 and 2).
            raise BadJson("an event of this ID is in another room")
        if nid:
            # None where it was being written and could not be.
            stored = (await self._store.events.get([nid])).get(nid)
        return stored

    async def find(self, tip: RoomTip, event_ids: Collection[EventID]) -> dict[EventID, StoredEvent]:
        """Return those of these events that the room has, decided ones included."""
        found: dict[EventID, StoredEvent] = {}
        missing: list[EventID] = []
        for event_id in event_ids:
            stored = self._at_hand(event_id)
            if stored is None:
                missing.append(event_id)
            elif stored.room_nid == tip.room_nid:
                found[event_id] = stored
        if missing:
            nids = await self._store.database.read(lambda tx: find_nids(tx, tip.room_nid, missing))
            for stored in (await self._store.events.get(nids.values())).values():
                found[stored.event_id] = stored
        return found

    async def around(
        self, tip: RoomTip, event: Event, *, has_gap: bool = False
    ) -> tuple[list[StoredEvent], dict[EventID, StoredEvent]]:
        """Return what the event builds on, and by ID what it cites; raise MissingEvents where some of it is not there.

        An outlier is nothing to build on: its place is not known. With `has_gap`, what it builds on may be missing.
        """
        found = await self.find(tip, {*event.prev_event_ids, *event.auth_event_ids})
        prev = [
            found[event_id]
            for event_id in dict.fromkeys(event.prev_event_ids)
            if event_id in found and not found[event_id].is_outlier
        ]
        have = {stored.event_id for stored in prev}
        auth = {event_id: found[event_id] for event_id in event.auth_event_ids if event_id in found}
        missing_prev = frozenset[EventID]() if has_gap else frozenset(event.prev_event_ids) - have
        require(missing_prev, frozenset(event.auth_event_ids) - auth.keys())
        return prev, auth

    async def consumed(self, tip: RoomTip, prev: Sequence[StoredEvent]) -> frozenset[int]:
        """Return the ends of the graph that an event builds on: its prev events, and what is before hidden ones."""
        consumed = {stored.nid for stored in prev}
        pending = [stored.nid for stored in prev if stored.flags & (Flag.REJECTED | Flag.SOFT_FAILED)]
        if not pending:
            return frozenset(consumed)
        await self._tips.drained(tip.room_id)
        while pending and len(consumed) < MAX_HIDDEN_WALKED:
            batch = pending
            found = await self._store.database.read(lambda tx, batch=batch: load_prev_nids(tx, batch))  # type: ignore[misc]
            pending = [nid for nid, flags in found.items() if nid not in consumed and flags]
            consumed.update(found)
        return frozenset(consumed)


def require(prev: frozenset[EventID], auth: frozenset[EventID]) -> None:
    """Raise MissingEvents unless both are empty."""
    if prev or auth:
        raise MissingEvents(prev, auth)
