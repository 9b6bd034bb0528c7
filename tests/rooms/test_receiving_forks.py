"""Forks of hostile shape at the write door, and what goes wrong meanwhile: crashes, failed writes, callers that leave.

Afterwards what is counted and told of the room is that of its resolved state, now and after a restart.

Spec: server-server API, "Room State Resolution"; room versions, "State resolution".
"""

from __future__ import annotations

import random
from typing import Any

import pytest
import pytest_twisted
from sqlalchemy import select
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater

from homeserver.errors import HomeserverError, StorageUnavailable
from homeserver.model.event import Event, EventTemplate
from homeserver.model.event_format import MAX_PREV_EVENTS
from homeserver.model.ids import UserID
from storage.events import StoredEvent
from storage.tables import rooms as tables
from tests.storage.core import Faults
from tests.support.elsewhere import ALICE, BOB, CAROL, Elsewhere
from tests.support.graph_check import assert_sound
from tests.support.rooms import Person, RoomServer
from tests.support.sync_clients import Client, sync_of
from tests.support.user_state import UserState, world

from .test_receiving_hostile import assert_well, current, ends, local_member, outcomes, shown

__all__ = ["world"]


async def opened(server: RoomServer, version: str = "12", **options: Any) -> tuple[Elsewhere, Person]:
    room = Elsewhere(version, **options)
    room.join(BOB)
    room.join(CAROL)
    await room.all_to(server)
    return room, await local_member(server, room)


async def memberships(server: RoomServer, room: Elsewhere) -> dict[str, str]:
    tip = await server.door.tip(room.room_id)
    query = select(tables.memberships.c.user_nid, tables.memberships.c.membership)
    rows = await server.store.database.read(
        lambda tx: tx.all(query.where(tables.memberships.c.room_nid == tip.room_nid))
    )
    names = await server.store.interner.user_names([row[0] for row in rows])
    return {str(names[row[0]]): row[1] for row in rows}


async def stats(server: RoomServer, room: Elsewhere) -> Any:
    room_nid = (await server.door.tip(room.room_id)).room_nid
    query = select(tables.room_stats).where(tables.room_stats.c.room_nid == room_nid)
    return await server.store.database.read(lambda tx: tx.first(query))


async def state_of(server: RoomServer, room: Elsewhere) -> dict[tuple[str, str], str]:
    tip = await server.door.tip(room.room_id)
    names = await server.store.interner.key_names(list(tip.state.keys()))
    events = await server.store.events.get(list(tip.state.values()))
    return {names[key]: events[nid].event_id for key, nid in tip.state.items()}


async def assert_state_as_elsewhere(server: RoomServer, room: Elsewhere) -> None:
    there = room.state_before(sorted(await ends(server, room)))
    assert dict(there) == await state_of(server, room)


# -- what follows the resolved state ---------------------------------------------------------------------------------


@pytest.mark.in_turns
@pytest.mark.parametrize("version", ["1", "2", "11", "12"])
@pytest.mark.parametrize("is_ban_first", [True, False], ids=["ban first", "ban last"])
@pytest_twisted.ensureDeferred
async def test_clients_and_counts_follow_the_resolved_state(world: UserState, version: str, is_ban_first: bool) -> None:
    """Lena is banned on one branch; on the other she is there, the room is renamed and others come and go."""
    server = world.server
    room, lena = await opened(server, version)
    kept = await local_member(server, room, "max")
    sync = sync_of(world)
    clients = [Client(person, number) for number, person in enumerate((lena, kept))]
    for client in clients:
        await client.sync(sync, server)
        assert room.room_id in client.rooms
    base = room.last
    ban = room.member(ALICE, str(lena.user_id), "ban", prev=[base])
    one = [ban, room.add("m.room.name", ALICE, {"name": "One"}, "", prev=[ban])]
    two = [room.add("m.room.name", ALICE, {"name": "Two"}, "", prev=[base])]
    two.append(room.member(BOB, BOB, "leave", prev=[two[-1]]))
    two.append(room.add("m.room.topic", ALICE, {"topic": "Forks"}, "", prev=[two[-1]]))
    for event in (*one, *two) if is_ban_first else (*two, *one):
        assert 0 == (await room.give(server, event)).flags
        for client in clients:
            await client.sync(sync, server)
    await assert_state_as_elsewhere(server, room)
    merge = room.say(ALICE, "both", prev=[one[-1], two[-1]])
    await room.give(server, merge)
    await assert_state_as_elsewhere(server, room)
    for client in clients:
        await client.sync(sync, server)
    told = await memberships(server, room)
    assert ("ban", "leave", "join") == (told[lena.user_id], told[BOB], told[kept.user_id])
    assert 3 == (await stats(server, room)).joined_members == (await server.door.tip(room.room_id)).joined_members
    name = await server.door.state_event(room.room_id, "m.room.name")
    assert name is not None and (await stats(server, room)).name == name.event.content["name"]
    assert room.room_id not in clients[0].rooms and room.room_id in clients[0].left
    server.forget_memory()
    # Told at the end: whoever takes it from the timeline has the last name that was given, not the one that counts.
    fresh = Client(kept, 7, state_after=True)
    await fresh.sync(sync_of(UserState(server)), server)
    state = await state_of(server, room)
    assert state == fresh.rooms[room.room_id].state
    with pytest.raises(HomeserverError):
        await server.say(room.room_id, lena)
    await assert_well(server, room, kept)


@pytest.mark.parametrize("version", ["2", "12"])
@pytest_twisted.ensureDeferred
async def test_a_branch_of_old_brings_nobody_back(rooms: RoomServer, version: str) -> None:
    """A banned admin, an old name and an old level do not come back with what an old branch says."""
    room = Elsewhere(version)
    room.join(BOB)
    levels = dict(room.power.content["users"])
    base = room.add("m.room.power_levels", ALICE, {"users": {**levels, str(BOB): 50}}, "")
    room.add("m.room.name", ALICE, {"name": "new"}, "")
    room.add("m.room.power_levels", ALICE, {"users": levels}, "")
    ban = room.member(ALICE, BOB, "ban")
    await room.all_to(rooms)
    lena = await local_member(rooms, room)
    before = await state_of(rooms, room)
    old = room.join(CAROL, prev=[base])
    for _ in range(3):
        old = room.add("m.room.name", BOB, {"name": "old"}, "", prev=[old])
        old = room.member(BOB, BOB, "join", prev=[old])
    for event in room.events[room.events.index(ban) + 2 :]:
        await room.give(rooms, event)
    after = await state_of(rooms, room)
    assert before == {key: value for key, value in after.items() if key != ("m.room.member", CAROL)}
    await assert_state_as_elsewhere(rooms, room)
    await assert_well(rooms, room, lena)


# -- many ends -------------------------------------------------------------------------------------------------------


async def spread(server: RoomServer, room: Elsewhere, count: int) -> list[Event]:
    base = room.last
    made = []
    for number in range(count):
        if number % 3:
            made.append(room.say(BOB, str(number), prev=[base]))
        else:
            made.append(room.add("m.room.topic", ALICE, {"topic": str(number)}, "", prev=[base]))
        await room.give(server, made[-1])
    return made


@pytest.mark.parametrize("count", [25, 60, pytest.param(200, marks=pytest.mark.slow)])
@pytest_twisted.ensureDeferred
async def test_local_events_bring_many_ends_together(rooms: RoomServer, count: int) -> None:
    room, lena = await opened(rooms)
    made = await spread(rooms, room, count)
    assert {event.event_id for event in made} == await ends(rooms, room)
    await assert_state_as_elsewhere(rooms, room)
    left = count
    while left > 1:
        if left % 2:
            rooms.forget_memory()
        stored = await rooms.say(room.room_id, lena, "together")
        assert min(left, MAX_PREV_EVENTS) == len(stored.event.prev_event_ids)
        room.note(stored)
        left = max(left - MAX_PREV_EVENTS, 0) + 1
        assert left == len(await ends(rooms, room))
    await assert_state_as_elsewhere(rooms, room)
    await assert_well(rooms, room, lena)


@pytest_twisted.ensureDeferred
async def test_several_local_events_at_once_bring_many_ends_together_or_leave_nothing(rooms: RoomServer) -> None:
    room, lena = await opened(rooms)
    await spread(rooms, room, 60)
    before = await ends(rooms, room)
    name = EventTemplate("m.room.member", {"membership": "join", "displayname": "L"}, lena.user_id, str(lena.user_id))
    wishes = [EventTemplate("m.room.message", {"body": str(number)}, lena.user_id) for number in range(4)]
    with pytest.raises(StorageUnavailable):
        await rooms.door.send_all(room.room_id, [wishes[0], name, *wishes])
    assert before == await ends(rooms, room)
    for stored in await rooms.door.send_all(room.room_id, [*wishes, name]):
        room.note(stored)
    assert 1 == len(await ends(rooms, room))
    await assert_state_as_elsewhere(rooms, room)
    await assert_well(rooms, room, lena)


# -- crashes, failed writes, callers that leave ----------------------------------------------------------------------


async def tangle(room: Elsewhere, seed: int, count: int = 40) -> list[Event]:
    """Add events on random branches, all of them allowed."""
    draw = random.Random(seed)
    base = room.last
    tips, made = [base], []
    for number in range(count):
        prev = draw.sample(tips, min(len(tips), draw.choice((1, 1, 1, 2))))
        if draw.random() < 0.3:
            prev = [draw.choice([base, *made])]
        kind = draw.choice(("m.room.name", "m.room.topic", "m.room.message", "m.room.member"))
        if kind == "m.room.message":
            event = room.say(CAROL, str(number), prev=prev)
        elif kind == "m.room.member":
            event = room.join(UserID(f"@user{draw.randrange(5)}:c.example"), prev=prev)
        else:
            event = room.add(kind, ALICE, {kind[7:]: str(number)}, "", prev=prev)
        tips = [each for each in tips if each not in prev] + [event]
        made.append(event)
    return made


@pytest.mark.parametrize("version", ["2", "12"])
@pytest_twisted.ensureDeferred
async def test_a_crash_between_any_two_events_changes_nothing(rooms: RoomServer, version: str) -> None:
    room, lena = await opened(rooms, version)
    for event in await tangle(room, 3):
        rooms.forget_memory()
        assert 0 == (await room.give(rooms, event)).flags
    await assert_state_as_elsewhere(rooms, room)
    await assert_well(rooms, room, lena)


@pytest.mark.in_turns
@pytest.mark.parametrize("seed", range(4))
@pytest_twisted.ensureDeferred
async def test_after_a_failed_write_events_are_judged_from_what_is_stored(rooms: RoomServer, seed: int) -> None:
    room, lena = await opened(rooms)
    events = await tangle(room, 10 + seed)
    for start in range(0, len(events), 8):
        some = events[start : start + 8]
        faults = Faults(rooms.store.database)
        faults.refuse_commits(1 + seed % 2)
        found = await outcomes([room.give(rooms, event) for event in some])
        faults.dialect.do_commit = faults._commit
        assert any(isinstance(each, Exception) for each in found)
        stored = {each.event_id for each in found if isinstance(each, StoredEvent)}
        assert not rooms.store.positions._open and not rooms.door._tips.in_flight
        await assert_sound(rooms, room.room_id)
        visible = set(await shown(rooms, room.room_id))
        assert stored <= visible
        # They come again, as from a server that was told of the failure.
        for event in some:
            assert 0 == (await room.give(rooms, event)).flags
    await assert_state_as_elsewhere(rooms, room)
    await assert_well(rooms, room, lena)


@pytest.mark.parametrize("seed", range(3))
@pytest_twisted.ensureDeferred
async def test_callers_that_go_away_leave_nothing_open(rooms: RoomServer, seed: int) -> None:
    room, lena = await opened(rooms)
    events = await tangle(room, 20 + seed)
    draw = random.Random(seed)
    for event in events:
        rooms.forget_memory()
        waiting = Deferred.fromCoroutine(room.give(rooms, event))
        behind = Deferred.fromCoroutine(rooms.say(room.room_id, lena, "behind it"))
        for _ in range(draw.randrange(6)):
            await deferLater(reactor, 0.001)  # type: ignore[arg-type]
        waiting.cancel()
        gone: list[Any] = []
        waiting.addBoth(gone.append)
        room.note(await behind)
        assert gone and (isinstance(gone[0], StoredEvent) or gone[0].check(CancelledError)), gone
        assert not rooms.store.positions._open
        again = await room.give(rooms, event)
        assert again.event_id == event.event_id
        await rooms.store.database.read(lambda tx: None)
    assert not rooms.door._lanes._lanes
    last = await rooms.say(room.room_id, lena)
    assert last.position == rooms.store.positions.watermark
    await assert_sound(rooms, room.room_id)
    assert room.events[-1].event_id in await shown(rooms, room.room_id)


@pytest_twisted.ensureDeferred
async def test_events_that_come_many_at_once_are_taken_in_once(rooms: RoomServer) -> None:
    room, lena = await opened(rooms)
    events = await tangle(room, 30)
    checked = [room.checked(event) for event in (*events, *events[:7])]
    strange = Elsewhere("12", "strange")
    found = await rooms.door.receive_all(room.room_id, [*checked[:9], strange.checked(strange.last), *checked[9:]])
    assert isinstance(found.pop(9), HomeserverError)
    assert [each.event.event_id for each in checked] == [
        each.event_id for each in found if isinstance(each, StoredEvent)
    ]
    assert len(events) == len({each.nid for each in found if isinstance(each, StoredEvent)})
    await assert_state_as_elsewhere(rooms, room)
    await assert_well(rooms, room, lena)


@pytest_twisted.ensureDeferred
async def test_hardly_any_memory_changes_nothing(rooms: RoomServer) -> None:
    """What was in memory at the start of a batch is gone from it before its turn comes."""
    room, lena = await opened(rooms)
    events = await tangle(room, 31)
    base = room.last
    target = room.say(BOB, "regret", prev=[base])
    redaction = room.redact(BOB, target, prev=[base])
    rooms.store.events._budget = rooms.store.states._budget = 2_000
    batch = [*events, redaction, *events, target, *events]
    found = await rooms.door.receive_all(room.room_id, [room.checked(event) for event in batch])
    assert [event.event_id for event in batch] == [each.event_id for each in found if isinstance(each, StoredEvent)]
    last = found[batch.index(target)]
    assert isinstance(last, StoredEvent) and last.redacted_by is not None
    assert await current(rooms, room, "m.room.create") == room.create.event_id
    await assert_well(rooms, room, lena)
