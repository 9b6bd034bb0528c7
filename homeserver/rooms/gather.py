"""Gathering: the ends of rooms' graphs and the state events that an append needs, from memory where warm.

A cold room costs one read; a warm one none. What is decided and not published yet is found here too, because the next
append is composed on top of it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred

from homeserver.errors import BrokenInvariant, NotFound, StorageUnavailable
from homeserver.model.event import StateKey
from homeserver.model.ids import EventID, RoomID
from homeserver.model.room_versions import get_room_version
from storage.events import StoredEvent
from storage.room_tips import load_tip
from storage.state_groups import state_of
from storage.store import Store

from .tip import Extremity, RoomServers, RoomTip, StateEvents

# LIMIT: rooms whose tips are kept in memory, and the entries of the states in them; who sent least lately goes first.
MAX_TIPS: Final = 10_000
MAX_TIP_ENTRIES: Final = 500_000
# Entries of the state of a room that is called small.
SMALL_STATE: Final = 20
_SOON: Final = frozenset({"m.room.create", "m.room.power_levels", "m.room.member"})
CREATE_KEY: Final = ("m.room.create", "")


class Tips:
    """Holds the tips of rooms; only a room's lane changes that of the room."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tips: OrderedDict[RoomID, RoomTip] = OrderedDict()
        self._tip_entries = 0
        # Decided and not published: what the next append of the room may need to see. Changed by `fly` and `land`.
        self.in_flight: dict[int, StoredEvent] = {}
        self._flying_ids: dict[EventID, StoredEvent] = {}
        self._pending: dict[RoomID, int] = {}
        self._drained: dict[RoomID, list[Deferred[None]]] = {}

    def fly(self, stored: StoredEvent) -> None:
        """Show an event that is decided to the next appends."""
        self.in_flight[stored.nid] = stored
        self._flying_ids[stored.event_id] = stored

    def land(self, stored: StoredEvent) -> None:
        """Take back what `fly` did: the event is published, or was given up."""
        self.in_flight.pop(stored.nid, None)
        self._flying_ids.pop(stored.event_id, None)

    def find_flying(self, event_id: EventID) -> StoredEvent | None:
        """Return an event that is decided and not published."""
        return self._flying_ids.get(event_id)

    def find(self, room_id: RoomID) -> RoomTip | None:
        """Return a tip if it is in memory."""
        return self._tips.get(room_id)

    async def get(self, room_id: RoomID) -> RoomTip:
        """Return a tip; called in the room's lane. Raises NotFound."""
        return self._tips.get(room_id) or await self._load(room_id)

    def keep(self, tip: RoomTip) -> None:
        """Take a tip as the room's newest."""
        self.drop(tip.room_id)
        self._tips[tip.room_id] = tip
        self._tip_entries += len(tip.state)
        while len(self._tips) > MAX_TIPS or (self._tip_entries > MAX_TIP_ENTRIES and len(self._tips) > 1):
            _, gone = self._tips.popitem(last=False)
            self._tip_entries -= len(gone.state)

    def drop(self, room_id: RoomID) -> None:
        """Forget a tip: it will be read again."""
        gone = self._tips.pop(room_id, None)
        if gone is not None:
            self._tip_entries -= len(gone.state)

    def clear(self) -> None:
        """Forget all tips, as after a restart."""
        self._tips.clear()
        self._tip_entries = 0

    def begin(self, room_id: RoomID) -> None:
        """Note that appends of a room are handed to the writer."""
        self._pending[room_id] = self._pending.get(room_id, 0) + 1

    def settle(self, room_id: RoomID) -> None:
        """Note that they are written, or have failed."""
        left = self._pending[room_id] - 1
        if left:
            self._pending[room_id] = left
            return
        del self._pending[room_id]
        for drained in self._drained.pop(room_id, ()):
            drained.callback(None)

    async def state_events(self, tip: RoomTip, keys: Sequence[StateKey]) -> StateEvents:
        """Return those of the state events of a tip that exist, by key."""
        return await self.events_of(tip.state, keys)

    async def events_of(self, state: Any, keys: Sequence[StateKey]) -> StateEvents:
        """Return those of the events of a state (key_nid -> event_nid) that exist, by key."""
        interner, events, in_flight = self._store.interner, self._store.events, self.in_flight
        found: StateEvents = {}
        unknown: list[StateKey] = []
        missing: dict[int, StateKey] = {}
        for key in keys:
            key_nid = interner.known_key(key)
            if key_nid is None:
                unknown.append(key)
                continue
            nid = state.get(key_nid)
            if nid is not None:
                stored = events.find(nid) or in_flight.get(nid)
                if stored is None:
                    missing[nid] = key
                else:
                    found[key] = stored
        if unknown:
            for key, key_nid in (await interner.find_keys(unknown)).items():
                nid = state.get(key_nid)
                if nid is not None:
                    missing[nid] = key
        if missing:
            loaded = await events.get([*missing, *self._soon(state)])
            for nid, key in missing.items():
                stored = loaded.get(nid) or in_flight.get(nid)
                if stored is None:
                    raise StorageUnavailable("the state that this event builds on could not be stored")
                found[key] = stored
        return found

    def _soon(self, state: Any) -> list[int]:
        """Return what will be asked for next in a small room that nobody has asked for lately: who is in it, and such.

        One look-up for all takes little longer than one.
        """
        if len(state) > SMALL_STATE:
            return []
        known_key_name = self._store.interner.known_key_name
        names = ((known_key_name(key_nid), nid) for key_nid, nid in state.items())
        return [nid for name, nid in names if name is not None and name[0] in _SOON]

    async def drained(self, room_id: RoomID) -> None:
        """Wait until the appends of a room that are decided are stored; called in its lane."""
        while self._pending.get(room_id):
            drained: Deferred[None] = Deferred()
            self._drained.setdefault(room_id, []).append(drained)
            await drained

    async def load(self, nids: Iterable[int]) -> dict[int, StoredEvent]:
        """Return events by number, decided ones included; one that is nowhere is left out."""
        found: dict[int, StoredEvent] = {}
        missing: list[int] = []
        for nid in nids:
            stored = self._store.events.find(nid) or self.in_flight.get(nid)
            if stored is None:
                missing.append(nid)
            else:
                found[nid] = stored
        if missing:
            found.update(await self._store.events.get(missing))
        return found

    async def _load(self, room_id: RoomID) -> RoomTip:
        # Appends that are still being written would be missing from what is read.
        await self.drained(room_id)
        found = await self._store.database.read(lambda tx: load_tip(tx, room_id))
        if found is None:
            raise NotFound("Unknown room")
        state = state_of(found.chain)
        create_key = (await self._store.interner.keys([("m.room.create", "")]))["m.room.create", ""]
        create_nid = state.get(create_key)
        wanted = {*found.extremities, create_nid} if create_nid is not None else {*found.extremities}
        events = await self._store.events.get(wanted)
        if create_nid is None or create_nid not in events:
            raise NotFound("Unknown room")
        self._store.states.add(found.state_group, state, len(state))
        tip = RoomTip(
            room_id=room_id,
            room_nid=found.room_nid,
            version=get_room_version(found.version),
            create=events[create_nid],
            extremities=tuple(_extremity(events[nid]) for nid in found.extremities),
            depth=found.depth,
            state_group=found.state_group,
            chain=found.chain,
            state=state,
            joined_members=found.joined_members,
            position=found.position,
            servers=RoomServers(found.servers),
            is_partial=found.is_partial,
        )
        self.keep(tip)
        return tip


def _extremity(stored: StoredEvent) -> Extremity:
    if stored.state_group is None:
        raise BrokenInvariant(f"the end {stored.event_id} of a room's graph has no state")
    return Extremity(stored.nid, stored.event_id, stored.state_group, stored.event.depth)
