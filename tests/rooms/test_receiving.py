"""Events that others made find their place: forks resolve, refused events are kept apart, nothing comes twice.

Whole random rooms are taken in, in random orders; the room that grew elsewhere says what the state must be, and the
checker of `sennit graph --check` looks over what was stored.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence

import pytest
import pytest_twisted
from twisted.internet.defer import ensureDeferred, gatherResults

from homeserver.model.canonical_json import encode_canonical
from homeserver.model.event import Event
from homeserver.model.event_format import event_from_wire
from homeserver.model.ids import EventID
from homeserver.model.receipt_of_events import CheckedEvent, trust_own
from homeserver.model.resolution.resolve import resolve_states
from homeserver.model.room_versions import KNOWN_ROOM_VERSIONS, RoomVersion
from homeserver.model.signing import SigningKey, generate_signing_key
from homeserver.rooms.surroundings import MissingEvents
from storage.events import Flag, StoredEvent
from tests.model.random_rooms import RandomRoom, build_random_room
from tests.support.graph_check import assert_sound
from tests.support.rooms import RoomServer, rooms

__all__ = ["rooms"]


def key_of(server_name: str) -> SigningKey:
    return generate_signing_key(server_name.encode().ljust(32, b"\0")[:32], "test")


def arrived(version: RoomVersion, event: Event) -> CheckedEvent:
    """Return the event as it comes from another server."""
    wire = json.loads(encode_canonical(event.wire))
    return trust_own(event_from_wire(version, wire, event.event_id))


def shuffled(draw: random.Random, events: Sequence[Event]) -> list[Event]:
    """Return the events in another order in which each comes after those that it names."""
    waiting, done, result = list(events), set[EventID](), list[Event]()
    while waiting:
        ready = [each for each in waiting if done.issuperset((*each.prev_event_ids, *each.auth_event_ids))]
        chosen = draw.choice(ready)
        waiting.remove(chosen)
        done.add(chosen.event_id)
        result.append(chosen)
    return result


async def take_in(server: RoomServer, version: RoomVersion, events: Sequence[Event]) -> dict[EventID, StoredEvent]:
    """Have the server receive a room, the create event first; return what it stored."""
    room_id = await server.door.receive_create(version, arrived(version, events[0]))
    stored = {}
    for event in events[1:]:
        stored[event.event_id] = await server.door.receive(room_id, arrived(version, event))
        server.clock.advance(0.001)
    return stored


async def state_ids(server: RoomServer, state: Mapping[int, int]) -> dict[tuple[str, str], EventID]:
    """Return a state as it is told between servers."""
    names = await server.store.interner.key_names(state.keys())
    events = await server.store.events.get(state.values())
    return {names[key]: events[nid].event_id for key, nid in state.items()}


async def assert_same_states(server: RoomServer, room: RandomRoom, stored: Mapping[EventID, StoredEvent]) -> None:
    for event_id, each in stored.items():
        if each.flags & Flag.REJECTED:
            continue
        assert each.state_group is not None
        found = await state_ids(server, dict((await server.store.states.get(each.state_group)).items()))
        assert dict(room.states[event_id]) == found, event_id
    tip = await server.door.tip(room.create.room_id)
    states = [room.states[extremity.event_id] for extremity in tip.extremities]
    expected = resolve_states(room.version, states, room.by_id, create=room.create)
    assert dict(expected) == await state_ids(server, dict(tip.state.items()))


@pytest.mark.in_turns
@pytest.mark.parametrize("version", sorted(KNOWN_ROOM_VERSIONS))
@pytest_twisted.ensureDeferred
async def test_a_room_with_forks_has_the_state_that_it_has_elsewhere(rooms: RoomServer, version: str) -> None:
    draw = random.Random(version)
    room = build_random_room(draw.randrange(10**6), KNOWN_ROOM_VERSIONS[version], events=60, branches=4, key=key_of)
    stored = await take_in(rooms, room.version, shuffled(draw, room.events))
    await assert_same_states(rooms, room, stored)
    await assert_sound(rooms, room.create.room_id)


@pytest_twisted.ensureDeferred
async def test_a_restart_in_the_middle_changes_nothing(rooms: RoomServer) -> None:
    draw = random.Random(5)
    room = build_random_room(77, KNOWN_ROOM_VERSIONS["12"], events=80, branches=4, key=key_of)
    stored = {}
    events = shuffled(draw, room.events)
    room_id = await rooms.door.receive_create(room.version, arrived(room.version, events[0]))
    for number, event in enumerate(events[1:]):
        if number % 7 == 0:
            rooms.forget_memory()
        stored[event.event_id] = await rooms.door.receive(room_id, arrived(room.version, event))
    await assert_same_states(rooms, room, stored)
    await assert_sound(rooms, room_id)


@pytest_twisted.ensureDeferred
async def test_events_that_come_together_are_placed_one_by_one(rooms: RoomServer) -> None:
    draw = random.Random(6)
    room = build_random_room(78, KNOWN_ROOM_VERSIONS["11"], events=80, branches=5, key=key_of)
    events = shuffled(draw, room.events)
    room_id = await rooms.door.receive_create(room.version, arrived(room.version, events[0]))

    waiting = [
        ensureDeferred(rooms.door.receive(room_id, arrived(room.version, event)))
        for event in (*events[1:], *events[5:9])
    ]
    stored = await gatherResults(waiting)
    await assert_same_states(rooms, room, {each.event_id: each for each in stored})
    await assert_sound(rooms, room_id)


@pytest_twisted.ensureDeferred
async def test_events_of_one_transaction_are_taken_in_together(rooms: RoomServer) -> None:
    draw = random.Random(8)
    room = build_random_room(79, KNOWN_ROOM_VERSIONS["10"], events=80, branches=5, key=key_of)
    events = [arrived(room.version, event) for event in shuffled(draw, room.events)]
    room_id = await rooms.door.receive_create(room.version, events[0])
    late = events.pop(40)
    taken = await rooms.door.receive_all(room_id, [*events[1:], late, events[5]])
    missing = [outcome for outcome in taken if isinstance(outcome, MissingEvents)]
    assert all(late.event.event_id in each.prev | each.auth for each in missing[:1])
    waiting = [checked for checked, outcome in zip(events[1:], taken, strict=False) if outcome in missing]
    stored = [each for each in (*taken, *await rooms.door.receive_all(room_id, waiting))]
    found = {each.event_id: each for each in stored if isinstance(each, StoredEvent)}
    assert {event.event_id for event in room.events[1:]} == found.keys()
    await assert_same_states(rooms, room, found)
    await assert_sound(rooms, room_id)


@pytest_twisted.ensureDeferred
async def test_an_event_that_is_there_comes_back_as_it_was_stored(rooms: RoomServer) -> None:
    room = build_random_room(3, KNOWN_ROOM_VERSIONS["12"], events=12, branches=2, key=key_of)
    stored = await take_in(rooms, room.version, room.events)
    before = (await rooms.door.tip(room.create.room_id)).extremities
    for event in room.events[1:]:
        again = await rooms.door.receive(room.create.room_id, arrived(room.version, event))
        assert stored[event.event_id].nid == again.nid
    assert before == (await rooms.door.tip(room.create.room_id)).extremities


@pytest_twisted.ensureDeferred
async def test_what_is_missing_is_named(rooms: RoomServer) -> None:
    room = build_random_room(4, KNOWN_ROOM_VERSIONS["12"], events=30, branches=1, key=key_of)
    room_id = await rooms.door.receive_create(room.version, arrived(room.version, room.create))
    event = room.events[-1]
    with pytest.raises(MissingEvents) as missing:
        await rooms.door.receive(room_id, arrived(room.version, event))
    assert frozenset(event.prev_event_ids) == missing.value.prev
    assert frozenset(event.auth_event_ids) == missing.value.auth
    await assert_sound(rooms, room_id)


@pytest_twisted.ensureDeferred
async def test_an_outlier_gets_its_place_later(rooms: RoomServer) -> None:
    room = build_random_room(9, KNOWN_ROOM_VERSIONS["12"], events=40, branches=3, key=key_of)
    room_id = await rooms.door.receive_create(room.version, arrived(room.version, room.create))
    outliers = [event for event in room.events[1:] if event.is_state]
    for event in outliers:
        kept = await rooms.door.receive_outlier(room_id, arrived(room.version, event))
        assert Flag.OUTLIER == kept.flags and kept.position is None and kept.state_group is None
    assert [room.create.event_id] == [end.event_id for end in (await rooms.door.tip(room_id)).extremities]
    await assert_sound(rooms, room_id)
    stored = {}
    for event in room.events[1:]:
        stored[event.event_id] = await rooms.door.receive(room_id, arrived(room.version, event))
    rooms.forget_memory()
    await assert_same_states(rooms, room, stored)
    await assert_sound(rooms, room_id)
