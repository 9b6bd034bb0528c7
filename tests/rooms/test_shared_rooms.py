"""Rooms of other servers: joined with their state, completed later, with gaps that are filled."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
import pytest_twisted

from homeserver.errors import AuthRuleBroken, NotFound
from homeserver.model.auth.needed import needed_state
from homeserver.model.compose import GraphPlace, compose
from homeserver.model.event import Event, EventTemplate
from homeserver.model.hashing import reference_hashes
from homeserver.model.ids import UserID
from homeserver.model.receipt_of_events import trust_own
from homeserver.model.tokens import StreamToken
from homeserver.rooms.outside import OutsideRooms
from homeserver.rooms.surroundings import MissingEvents
from storage.events import StoredEvent
from storage.partial_rooms import load_partial_rooms
from tests.support.elsewhere import ALICE, BOB, CAROL, Elsewhere
from tests.support.rooms import SERVER, Person, RoomServer
from tests.support.sync_clients import Client, sync_of
from tests.support.user_state import UserState

# Whatever was taken in, the rooms that it leaves are sound.
pytestmark = pytest.mark.usefixtures("sound_rooms")

DAVE = UserID(f"@dave:{SERVER}")


class SyncClient:
    """A device that syncs."""

    def __init__(self, server: RoomServer, person: Person) -> None:
        self._server = server
        self._sync = sync_of(UserState(server))
        self._client = Client(person, 1, limit=50)

    async def sync(self) -> dict[str, Any]:
        """Sync once."""
        answer = orjson.loads(await self._sync.respond(self._client.request()))
        self._client.token = StreamToken.parse(answer["next_batch"]).position
        return answer


def own_join(server: RoomServer, room: Elsewhere, user_id: UserID = DAVE) -> Event:
    """Return the join of a user of the server under test, on top of the room's last event."""
    before = room.state_before([room.last.event_id])
    content = {"membership": "join"}
    keys = needed_state(room.version, type="m.room.member", sender=user_id, state_key=user_id, content=content)
    auth = [before[key] for key in keys if key in before]
    cited = [room.by_id[each] for each in (room.last.event_id, *auth)]
    place = GraphPlace(
        (room.last.event_id,),
        tuple(auth),
        room.last.depth + 1,
        reference_hashes(room.version, cited) if room.version.references_carry_hashes else {},
    )
    template = EventTemplate(type="m.room.member", content=content, sender=user_id, state_key=user_id)
    return compose(
        room.version,
        template,
        room_id=room.room_id,
        place=place,
        server_name=SERVER,
        key=server.identity.key,
        now_ms=server.clock.now_ms(),
    )


async def join(server: RoomServer, room: Elsewhere, *, is_partial: bool = False) -> StoredEvent:
    """Have the server join the room as it is elsewhere now; `is_partial`: without members but those needed."""
    before = [room.by_id[each] for each in room.state_before([room.last.event_id]).values()]
    event = own_join(server, room)
    given = before
    if is_partial:
        given = [each for each in before if each.type != "m.room.member"]
    needed = {each for event_ in (*given, event) for each in event_.auth_event_ids}
    chain: dict[str, Event] = {}
    while needed:
        each = needed.pop()
        if each not in chain:
            chain[each] = room.by_id[each]
            needed.update(room.by_id[each].auth_event_ids)
    stored = await server.door.receive_join(
        room.version,
        trust_own(event),
        [room.checked(each) for each in given],
        [room.checked(each) for each in chain.values()],
        via="a.example",
        servers=["a.example", "b.example", "c.example", SERVER],
        is_partial=is_partial,
    )
    room.note(stored)
    if is_partial:
        room.members_left = [each for each in before if each.type == "m.room.member"]  # type: ignore[attr-defined]
    return stored


def crowded(version: str, members: int = 30) -> Elsewhere:
    room = Elsewhere(version)
    for number in range(members):
        room.join(UserID(f"@u{number}:{'bc'[number % 2]}.example"))
    room.say(ALICE)
    return room


async def state_ids(server: RoomServer, room: Elsewhere) -> dict[Any, str]:
    tip = await server.door.tip(room.room_id)
    names = await server.store.interner.key_names(tip.state)
    events = await server.store.events.get([tip.state[key] for key in tip.state])
    return {names[key]: events[tip.state[key]].event_id for key in tip.state}


@pytest.mark.in_turns
@pytest.mark.parametrize("version", ["1", "3", "6", "11", "12"])
@pytest_twisted.ensureDeferred
async def test_joined_room_has_the_state_that_was_told_and_lives_on(rooms: RoomServer, version: str) -> None:
    room = crowded(version)
    stored = await join(rooms, room)
    assert stored.position is not None
    tip = await rooms.door.tip(room.room_id)
    assert not tip.is_partial
    assert ("a.example", "b.example", "c.example", SERVER) == tip.servers.names
    assert (1, 15, 15) == tuple(tip.servers.count(f"{each}.example") for each in "abc")
    assert dict(room.states[stored.event_id]) == await state_ids(rooms, room)
    await room.give(rooms, room.say(UserID("@u3:c.example"), prev=[stored.event]))
    mine = await rooms.door.send(room.room_id, EventTemplate(type="m.room.message", content={}, sender=DAVE))
    assert ("a.example", "b.example", "c.example") == tip.servers.without(SERVER)
    rooms.forget_memory()
    again = await rooms.door.tip(room.room_id)
    assert (mine.nid,) == tuple(end.nid for end in again.extremities)
    assert tip.servers.names == again.servers.names
    assert 32 == again.joined_members


@pytest.mark.parametrize("version", ["2", "6", "12"])
@pytest_twisted.ensureDeferred
async def test_completed_room_has_its_members_at_every_event(rooms: RoomServer, version: str) -> None:
    room = crowded(version)
    stored = await join(rooms, room, is_partial=True)
    tip = await rooms.door.tip(room.room_id)
    assert tip.is_partial
    assert "c.example" in tip.servers
    mine = await rooms.door.send(room.room_id, EventTemplate(type="m.room.message", content={}, sender=DAVE))
    named = EventTemplate(
        type="m.room.member", content={"membership": "join", "displayname": "D"}, sender=DAVE, state_key=DAVE
    )
    await rooms.door.send(room.room_id, named)
    rooms.forget_memory()
    assert (await rooms.door.tip(room.room_id)).is_partial
    assert [room.room_id] == [each.room_id for each in await rooms.store.database.read(load_partial_rooms)]
    left = [room.checked(each) for each in room.members_left]  # type: ignore[attr-defined]
    await rooms.door.complete_state(room.room_id, left[:7], is_last=False)
    await rooms.door.complete_state(room.room_id, left[7:])
    assert [] == await rooms.store.database.read(load_partial_rooms)
    tip = await rooms.door.tip(room.room_id)
    assert not tip.is_partial
    assert 32 == tip.joined_members
    assert 15 == tip.servers.count("b.example")
    expected = {**room.states[stored.event_id]}
    found = await state_ids(rooms, room)
    assert expected.keys() == found.keys()
    assert {key: each for key, each in expected.items() if key[1] != DAVE} == {
        key: each for key, each in found.items() if key[1] != DAVE
    }
    state = await rooms.store.states.get(mine.state_group or 0)
    assert len(expected) == len(state)
    await room.give(rooms, room.say(UserID("@u3:c.example"), prev=[stored.event]))


@pytest_twisted.ensureDeferred
async def test_whoever_is_in_a_partial_room_is_told_its_members_when_they_are_known(rooms: RoomServer) -> None:
    room = crowded("12")
    client = SyncClient(rooms, await rooms.user("dave"))
    await client.sync()
    await join(rooms, room, is_partial=True)
    first = (await client.sync())["rooms"]["join"][room.room_id]
    assert not [each for each in first["state"]["events"] if each["sender"] == "@u3:c.example"]
    await rooms.door.complete_state(room.room_id, [room.checked(each) for each in room.members_left])  # type: ignore[attr-defined]
    second = (await client.sync())["rooms"]["join"][room.room_id]
    assert 1 == len([each for each in second["state"]["events"] if each["sender"] == "@u3:c.example"])


@pytest_twisted.ensureDeferred
async def test_join_that_the_state_does_not_allow_is_refused_and_leaves_nothing(rooms: RoomServer) -> None:
    room = crowded("12")
    room.add("m.room.join_rules", ALICE, {"join_rule": "invite"}, "")
    with pytest.raises(AuthRuleBroken):
        await join(rooms, room)
    with pytest.raises(NotFound):
        await rooms.door.tip(room.room_id)


@pytest.mark.parametrize("version", ["1", "6", "12"])
@pytest_twisted.ensureDeferred
async def test_history_fills_the_gap_before_the_join_in_order(rooms: RoomServer, version: str) -> None:
    room = Elsewhere(version)
    room.join(BOB)
    texts = [room.say(BOB, f"{number}") for number in range(30)]
    stored = await join(rooms, room)
    gaps = await rooms.door.gaps_before(room.room_id, None, 10)
    assert [(stored.event_id, (texts[-1].event_id,))] == [(gap.event_id, gap.missing) for gap in gaps]
    older = room.events[-12:-1]
    state = list(room.state_before(older[0].prev_event_ids).values())
    outcomes = await rooms.door.receive_history(
        room.room_id, stored.event_id, [room.checked(each) for each in older], {older[0].event_id: state}
    )
    assert all(isinstance(each, StoredEvent) and each.position is not None for each in outcomes)
    gaps = await rooms.door.gaps_before(room.room_id, None, 10)
    assert [older[0].event_id] == [gap.event_id for gap in gaps]
    rest = room.events[:-12]
    filled = [each for each in rest if each.type != "m.room.create"]
    outcomes = await rooms.door.receive_history(
        room.room_id, older[0].event_id, [room.checked(each) for each in filled], {}
    )
    assert any(isinstance(each, MissingEvents) for each in outcomes)
    dave = await rooms.user("dave")
    client = SyncClient(rooms, dave)
    shown = (await client.sync())["rooms"]["join"][room.room_id]["timeline"]["events"]
    bodies = [each["content"].get("body") for each in shown if each["type"] == "m.room.message"]
    assert sorted(bodies, key=int) == bodies


@pytest_twisted.ensureDeferred
async def test_event_after_a_gap_is_taken_with_the_state_that_is_told(rooms: RoomServer) -> None:
    room = crowded("12")
    await join(rooms, room)
    missed = [room.join(CAROL), room.add("m.room.name", ALICE, {"name": "renamed"}, ""), room.say(CAROL)]
    event = room.say(CAROL, "after the gap")
    with pytest.raises(MissingEvents):
        await rooms.door.receive(room.room_id, room.checked(event))
    state = room.state_before(event.prev_event_ids)
    here = set((await state_ids(rooms, room)).values())
    new = [room.checked(room.by_id[each]) for each in state.values() if each not in here]
    with pytest.raises(MissingEvents):
        await rooms.door.receive_after_gap(room.room_id, room.checked(event), list(state.values()))
    await rooms.door.receive_outliers(room.room_id, new)
    stored = await rooms.door.receive_after_gap(room.room_id, room.checked(event), list(state.values()))
    assert stored.position is not None
    found = await state_ids(rooms, room)
    assert missed[1].event_id == found["m.room.name", ""]
    gaps = await rooms.door.gaps_before(room.room_id, None, 10)
    assert (missed[2].event_id,) == gaps[0].missing
    outcomes = await rooms.door.receive_history(
        room.room_id, event.event_id, [room.checked(each) for each in missed], {}
    )
    assert all(isinstance(each, StoredEvent) for each in outcomes), outcomes
    gaps = await rooms.door.gaps_before(room.room_id, stored.position, 10)
    assert stored.event_id not in [gap.event_id for gap in gaps]


@pytest_twisted.ensureDeferred
async def test_what_was_missing_in_a_gap_and_comes_late_takes_its_place(rooms: RoomServer) -> None:
    room = crowded("12")
    await join(rooms, room)
    late = room.say(ALICE, "late")
    event = room.say(ALICE, "after the gap")
    state = list(room.state_before([late.event_id]).values())
    edge = await rooms.door.receive_after_gap(room.room_id, room.checked(event), state)
    stored = await room.give(rooms, late)
    assert stored.position is not None
    assert edge.position is not None
    assert stored.position < edge.position
    tip = await rooms.door.tip(room.room_id)
    assert stored.nid not in [end.nid for end in tip.extremities]
    assert event.event_id not in [gap.event_id for gap in await rooms.door.gaps_before(room.room_id, None, 10)]


@pytest_twisted.ensureDeferred
async def test_server_that_comes_back_takes_the_room_as_it_is_told(rooms: RoomServer) -> None:
    """What it thought of the room when it left has no say in it: others may never have heard of that, or refused it."""
    room = crowded("12")
    room.add("m.room.power_levels", ALICE, {"users": {str(DAVE): 50}}, "")
    await join(rooms, room)
    rule = EventTemplate("m.room.join_rules", {"join_rule": "invite"}, DAVE, "")
    await rooms.door.send(room.room_id, rule)
    await rooms.door.send(room.room_id, EventTemplate("m.room.member", {"membership": "leave"}, DAVE, str(DAVE)))
    room.member(DAVE, DAVE, "leave")
    room.add("m.room.name", ALICE, {"name": "renamed"}, "")
    stored = await join(rooms, room)
    assert stored.position is not None
    tip = await rooms.door.tip(room.room_id)
    assert (stored.nid,) == tuple(end.nid for end in tip.extremities)
    assert dict(room.states[stored.event_id]) == await state_ids(rooms, room)
    assert SERVER in tip.servers
    rooms.forget_memory()
    assert dict(room.states[stored.event_id]) == await state_ids(rooms, room)
    assert SERVER in (await rooms.door.tip(room.room_id)).servers
    member = await rooms.door.state_event(room.room_id, "m.room.member", DAVE)
    assert member is not None
    assert stored.event_id == member.event_id


@pytest_twisted.ensureDeferred
async def test_invite_from_outside_is_shown_with_what_came_with_it_and_can_end(rooms: RoomServer) -> None:
    room = Elsewhere("12")
    invite = room.member(ALICE, DAVE, "invite")
    outside = OutsideRooms(rooms.store, rooms.feed, rooms.door._lanes, rooms.clock, SERVER)
    client = SyncClient(rooms, await rooms.user("dave"))
    await client.sync()
    told = [{"type": "m.room.name", "state_key": "", "sender": str(ALICE), "content": {"name": "Hall"}}, {"type": 3}]
    await outside.take_invite(room.version, room.checked(invite), told)
    shown = (await client.sync())["rooms"]["invite"][room.room_id]["invite_state"]["events"]
    assert ["m.room.name", "m.room.member"] == [each["type"] for each in shown]
    found = await outside.find(room.room_id, DAVE)
    assert found is not None
    assert ("invite", ALICE) == (found.membership, found.sender)
    with pytest.raises(NotFound):
        await rooms.door.tip(room.room_id)
    leave = room.member(ALICE, DAVE, "leave")
    await outside.take_membership(None, room.room_id, room.checked(leave))
    left = (await client.sync())["rooms"]
    assert [room.room_id] == list(left["leave"])
    rooms.forget_memory()
    fresh = SyncClient(rooms, await rooms.user("dave"))
    assert "invite" not in (await fresh.sync()).get("rooms", {})


@pytest_twisted.ensureDeferred
async def test_who_was_invited_from_outside_joins(rooms: RoomServer) -> None:
    room = crowded("12")
    room.add("m.room.join_rules", ALICE, {"join_rule": "invite"}, "")
    invite = room.member(ALICE, DAVE, "invite")
    outside = OutsideRooms(rooms.store, rooms.feed, rooms.door._lanes, rooms.clock, SERVER)
    client = SyncClient(rooms, await rooms.user("dave"))
    await outside.take_invite(room.version, room.checked(invite), [])
    assert room.room_id in (await client.sync())["rooms"]["invite"]
    await join(rooms, room)
    answer = (await client.sync())["rooms"]
    assert room.room_id in answer["join"]
    assert "invite" not in answer
    assert "m.room.member" in json.dumps(answer)
