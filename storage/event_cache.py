"""Events in memory: what never changes but by redaction, kept within a byte budget.

What has been asked for since its turn last came stays for another round: a room's create event, power levels and
members decide about each message, and would otherwise fall out with the messages of their time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from homeserver.model.event_format import event_from_wire
from homeserver.model.redaction import redact
from homeserver.model.room_versions import RoomVersion

from . import events
from .database import Database
from .events import StoredEvent


class EventCache:
    """Gives stored events by number, from memory where it can. Lives on the reactor's thread."""

    def __init__(self, database: Database, *, budget_bytes: int) -> None:
        self._database = database
        self._budget = budget_bytes
        self._size = 0
        self._events: dict[int, StoredEvent] = {}
        # Whose turn it is to go; numbers of events that are gone already may be among them.
        self._turns: deque[int] = deque()
        self._nids: dict[str, int] = {}
        self._loads = 0

    def find(self, nid: int) -> StoredEvent | None:
        """Return an event if it is in memory."""
        stored = self._events.get(nid)
        if stored is not None:
            stored.is_wanted = True
        return stored

    def find_by_id(self, event_id: str) -> StoredEvent | None:
        """Return an event by its ID if it is in memory."""
        nid = self._nids.get(event_id)
        return self.find(nid) if nid is not None else None

    def add(self, stored: StoredEvent) -> None:
        """Put in an event that was just committed."""
        self._keep(stored)

    async def get(self, nids: Iterable[int], *, keeps: bool = True) -> dict[int, StoredEvent]:
        """Return the events of these numbers; unknown numbers are left out.

        `keeps` False: what is not in memory is not put there, because it is too much to be asked for soon again.
        """
        found: dict[int, StoredEvent] = {}
        missing: list[int] = []
        held = self._events
        for nid in nids:
            stored = held.get(nid)
            if stored is not None:
                stored.is_wanted = True
                found[nid] = stored
            else:
                missing.append(nid)
        if missing:
            redactions = self._loads
            loaded = await self._database.read(lambda tx: events.load(tx, missing))
            for nid, stored in loaded.items():
                # One that came in meanwhile is the newer.
                present = held.get(nid)
                found[nid] = present or stored
                if keeps and present is None and redactions == self._loads:
                    self._keep(stored)
        return found

    async def get_by_id(self, room_nid: int, event_id: str) -> StoredEvent | None:
        """Return an event of this room, or None: an event of another room is not found."""
        stored = self.find_by_id(event_id)
        if stored is None:
            nids = await self._database.read(lambda tx: events.find_nids(tx, room_nid, [event_id]))
            if not nids:
                return None
            stored = (await self.get(nids.values())).get(next(iter(nids.values())))
        return stored if stored is not None and stored.room_nid == room_nid else None

    def redact(self, version: RoomVersion, target_nid: int, redaction: StoredEvent) -> StoredEvent | None:
        """Redact an event in memory after its redaction was committed; return its new form if it is here."""
        # Reads that began before must not bring the old form back.
        self._loads += 1
        old = self._events.get(target_nid)
        if old is None or old.key_nid is not None or old.event.type == "m.room.redaction":
            # Whoever shows the old content under `unsigned` is read anew.
            for stored in [
                held for held in self._events.values() if target_nid in (held.replaces_nid, held.redacted_by)
            ]:
                self._drop(stored.nid)
        if old is None:
            return None
        if old.redacted_by is not None:
            # It was read after the commit, or redacted before: the first redaction counts.
            return old
        event = old.event
        wire = redact(version, event.wire)
        new = StoredEvent(
            event=event_from_wire(version, wire, event_id=event.event_id, room_id=event.room_id),
            nid=old.nid,
            room_nid=old.room_nid,
            position=old.position,
            state_group=old.state_group,
            sender_nid=old.sender_nid,
            received_ts=old.received_ts,
            key_nid=old.key_nid,
            replaces_nid=old.replaces_nid,
            redacted_by=redaction.nid,
            flags=old.flags,
            size=old.size,
            tip_group=old.tip_group,
            replaced_content=old.replaced_content,
            replaced_id=old.replaced_id,
            replaced_sender=old.replaced_sender,
            redaction=redaction,
            is_related=old.is_related,
            transaction=old.transaction,
        )
        self._events[target_nid] = new
        return new

    def drop(self, nids: Iterable[int]) -> None:
        """Forget events that are deleted, or have another number."""
        for nid in nids:
            # Reads that began before must not bring it back.
            self._loads += 1
            self._drop(nid)

    def _keep(self, stored: StoredEvent) -> None:
        self._drop(stored.nid)
        self._events[stored.nid] = stored
        self._nids[stored.event.event_id] = stored.nid
        self._size += stored.size
        turns = self._turns
        turns.append(stored.nid)
        while self._size > self._budget and len(self._events) > 1:
            nid = turns.popleft()
            held = self._events.get(nid)
            if held is not None and held.is_wanted:
                held.is_wanted = False
                turns.append(nid)
            else:
                self._drop(nid)
        if len(turns) > 2 * len(self._events) + 1_000:
            self._turns = deque(self._events)

    def _drop(self, nid: int) -> None:
        gone = self._events.pop(nid, None)
        if gone is not None:
            self._nids.pop(gone.event.event_id, None)
            self._size -= gone.size
