"""Keeping events whose place in the graph is not known, many at once: the state and the auth chains that servers tell.

Each is judged by the events that it cites alone. They are stored in the order in which they cite each other, and what
cites something that is nowhere is not stored. Where a room is only being joined there is no tip yet: what is needed of
the room is a `RoomFrame`.

Spec: server-server API, "Checks performed on receipt of a PDU", 4; "Joining Rooms".
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from homeserver.errors import BadJson, HomeserverError
from homeserver.model.event import Event
from homeserver.model.graph import sort_topologically
from homeserver.model.ids import EventID, RoomID
from homeserver.model.judgement import Verdict, judge_outlier
from homeserver.model.receipt_of_events import CheckedEvent
from homeserver.model.room_versions import RoomVersion
from homeserver.runtime.clock import Clock
from storage.auth_index import NewAuthEvent
from storage.events import Flag
from storage.outliers import FoundEvent, NewOutlier, find_events, store_outliers
from storage.store import Store

from .advance import encode_event
from .gather import Tips
from .surroundings import MissingEvents


@dataclass(frozen=True, slots=True)
class RoomFrame:
    """A room before there is a graph of it here. `create` is None until its create event is stored."""

    room_id: RoomID
    room_nid: int
    version: RoomVersion
    create: Event | None


@dataclass(frozen=True, slots=True)
class KeptEvent:
    """An event that is stored, in whatever way; `is_rejected` ones are part of no state."""

    nid: int
    key_nid: int | None
    sender_nid: int
    is_rejected: bool


Outcome = KeptEvent | MissingEvents | HomeserverError


class Outliers:
    """Stores outliers of a room; used in its lane."""

    def __init__(
        self, store: Store, tips: Tips, clock: Clock, *, on_renumbered: Callable[[str, RoomID, int, int], None]
    ) -> None:
        """`on_renumbered` is told whose member event has another number now, in which room, the old and the new one."""
        self._store = store
        self._on_renumbered = on_renumbered
        self._tips = tips
        self._clock = clock

    async def keep(self, room: RoomFrame, events: Sequence[CheckedEvent]) -> dict[EventID, Outcome]:
        """Store those of these events that are not here yet; return what became of each, once all is on disk."""
        given = {checked.event.event_id: checked for checked in events}
        outcomes: dict[EventID, Outcome] = {}
        # What is being written cannot be read yet.
        await self._tips.drained(room.room_id)
        cited = {event_id for checked in given.values() for event_id in checked.event.auth_event_ids}
        found = await self._store.database.read(lambda tx: find_events(tx, {*given, *cited}))
        for event_id in given.keys() & found.keys():
            outcomes[event_id] = _as_found(room, found[event_id])
        here = {event_id: each for event_id, each in found.items() if each.room_nid == room.room_nid}
        new = {event_id: checked for event_id, checked in given.items() if event_id not in found}
        # Kept before anything was known of the room, as invites are: it can be judged now.
        unjudged = {each.nid for each in found.values() if each.is_unjudged and each.room_nid == room.room_nid}
        new.update(
            (event_id, given[event_id]) for event_id in given.keys() & here.keys() if here[event_id].nid in unjudged
        )
        edges = {event_id: checked.event.auth_event_ids for event_id, checked in new.items()}
        # In versions that do not cite the create event, it still has to come first.
        order = sort_topologically(edges, lambda event_id: (new[event_id].event.type != "m.room.create", event_id))
        at_hand = await self._load({here[event_id].nid for event_id in cited & here.keys()})
        at_hand.update((event_id, checked.event) for event_id, checked in new.items())
        sender_nids, key_nids = await self._intern([checked.event for checked in new.values()])

        rows: list[NewOutlier] = []
        rejected = {event_id for event_id, each in here.items() if each.flags & Flag.REJECTED}
        nids = {event_id: each.nid for event_id, each in here.items()}
        create = room.create
        for event_id in order:
            checked = new[event_id]
            event = checked.event
            missing = frozenset(each for each in event.auth_event_ids if each not in nids or each not in at_hand)
            if missing or event.room_id != room.room_id:
                fault = BadJson("the event is of another room")
                outcomes[event_id] = MissingEvents(frozenset(), missing) if missing else fault
                continue
            judged = judge_outlier(
                room.version,
                checked,
                auth_events=[at_hand[each] for each in event.auth_event_ids],
                rejected_ids=rejected,
                create=create,
            )
            is_rejected = judged.verdict is Verdict.REJECTED
            if is_rejected:
                rejected.add(event_id)
            elif event.type == "m.room.create" and create is None:
                create = event
            old_nid = here[event_id].nid if event_id in here else None
            # Whatever number it has had: that of an event is higher than those of the events that it cites.
            nid = nids[event_id] = self._store.positions.skip()
            key_nid = key_nids.get((event.type, event.state_key)) if event.state_key is not None else None
            auth = None
            if key_nid is not None and not is_rejected:
                auth = NewAuthEvent(nid, key_nid, tuple(nids[each] for each in dict.fromkeys(event.auth_event_ids)))
            flags = int(Flag.REJECTED) if is_rejected else 0
            sender_nid = sender_nids[event.sender]
            rows.append(
                NewOutlier(nid, event, key_nid, sender_nid, flags, encode_event(room.version, event), auth, old_nid)
            )
            outcomes[event_id] = KeptEvent(nid, key_nid, sender_nid, is_rejected)
        if rows:
            now_ms, room_nid = self._clock.now_ms(), room.room_nid
            await self._store.database.write(lambda tx: store_outliers(tx, room_nid, now_ms, rows))
            self._store.events.drop(row.old_nid for row in rows if row.old_nid is not None)
            for row in rows:
                if row.old_nid is not None and row.event.type == "m.room.member":
                    self._on_renumbered(row.event.state_key or "", room.room_id, row.old_nid, row.nid)
        return outcomes

    async def _load(self, nids: Collection[int]) -> dict[EventID, Event]:
        return {stored.event_id: stored.event for stored in (await self._store.events.get(nids)).values()}

    async def _intern(self, events: Sequence[Event]) -> tuple[dict[str, int], dict[tuple[str, str], int]]:
        senders = await self._store.interner.users({event.sender for event in events})
        keys = {(event.type, event.state_key) for event in events if event.state_key is not None}
        return senders, await self._store.interner.keys(keys) if keys else {}


def _as_found(room: RoomFrame, found: FoundEvent) -> Outcome:
    if found.room_nid != room.room_nid:
        # Only where senders choose the IDs of events (room versions 1 and 2).
        return BadJson("an event of this ID is in another room")
    return KeptEvent(found.nid, found.key_nid, found.sender_nid, bool(found.flags & Flag.REJECTED))
