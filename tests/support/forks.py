"""Events as another server would make them: on top of any events of a room, not only of its present end.

    side = await branch(server, room, older, EventTemplate("m.room.topic", {"topic": "else"}, bob.user_id, ""))
    both = await branch(server, room, [side, end], message)

The event is composed with the state at its place, which is resolved here from all that is stored, and then received.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import select

from homeserver.model.auth.needed import needed_state
from homeserver.model.compose import GraphPlace, compose
from homeserver.model.event import Event, EventTemplate, StateKey
from homeserver.model.hashing import reference_hashes
from homeserver.model.ids import EventID, RoomID
from homeserver.model.receipt_of_events import trust_own
from homeserver.model.resolution.resolve import resolve_states
from homeserver.rooms.tip import RoomTip
from storage.events import StoredEvent, load_as_sent
from storage.tables.rooms import events as events_table
from storage.transaction import Transaction

from .rooms import RoomServer


async def branch(
    server: RoomServer, room_id: RoomID, at: StoredEvent | Sequence[StoredEvent], template: EventTemplate
) -> StoredEvent:
    """Have the server receive an event that stands on top of any of the room's events; return what it stored.

    Whatever the verdict is: `StoredEvent.flags` tells.
    """
    stored = await server.door.receive(room_id, trust_own(await compose_at(server, room_id, at, template)))
    server.clock.advance(0.001)
    return stored


async def compose_at(
    server: RoomServer, room_id: RoomID, at: StoredEvent | Sequence[StoredEvent], template: EventTemplate
) -> Event:
    """Return an event on top of any of the room's events, as its sender's server would have made it."""
    prev = [at] if isinstance(at, StoredEvent) else list(at)
    tip = await server.door.tip(room_id)
    known = await _all_events(server, tip.room_nid)
    state = await _state_after(server, tip, known, prev)
    keys = needed_state(
        tip.version,
        type=template.type,
        sender=template.sender,
        state_key=template.state_key,
        content=template.content,
    )
    cited = [state[key] for key in keys if key in state]
    by_id = {stored.event_id: stored.event for stored in known.values()}
    prev_ids = [stored.event_id for stored in prev]
    return compose(
        tip.version,
        template,
        room_id=room_id,
        place=GraphPlace(
            prev_event_ids=tuple(prev_ids),
            auth_event_ids=tuple(cited),
            depth=max(by_id[event_id].depth for event_id in prev_ids) + 1,
            reference_hashes=reference_hashes(tip.version, (by_id[event_id] for event_id in (*prev_ids, *cited))),
        ),
        server_name=server.identity.server_name,
        key=server.identity.key,
        now_ms=server.clock.now_ms(),
    )


async def state_ids(
    server: RoomServer, state: Mapping[int, int], known: Mapping[int, StoredEvent]
) -> dict[StateKey, EventID]:
    """Return a state as it is told between servers."""
    names = await server.store.interner.key_names(state.keys())
    return {names[key]: known[nid].event_id for key, nid in state.items()}


async def _state_after(
    server: RoomServer, tip: RoomTip, known: Mapping[int, StoredEvent], prev: Iterable[StoredEvent]
) -> dict[StateKey, EventID]:
    groups = {stored.state_group for stored in prev if stored.state_group is not None}
    states = await server.store.states.get_many(groups)
    told = [await state_ids(server, dict(state.items()), known) for state in states.values()]
    return resolve_states(
        tip.version,
        told,
        {stored.event_id: stored.event for stored in known.values()},
        create=tip.create.event,
        rejected={stored.event_id for stored in known.values() if stored.is_rejected},
    )


async def _all_events(server: RoomServer, room_nid: int) -> dict[int, StoredEvent]:
    """Return all that is stored of a room, refused events too, as it was sent."""

    def load(tx: Transaction) -> dict[int, StoredEvent]:
        query = select(events_table.c.event_nid).where(events_table.c.room_nid == room_nid)
        return load_as_sent(tx, [row[0] for row in tx.all(query)])

    return await server.store.database.read(load)
