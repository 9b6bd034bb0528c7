"""What readers are told of a room whose branches meet, case by case; `test_sync_forks` has the random ones."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
import pytest_twisted

from homeserver.model.event import EventTemplate
from homeserver.model.ids import RoomID
from homeserver.model.tokens import PaginationToken
from storage.events import Flag, StoredEvent
from tests.support.forks import branch
from tests.support.graph_check import assert_sound
from tests.support.room_reads import RoomReads, bodies
from tests.support.rooms import Person, RoomServer
from tests.support.sync_clients import Client, sync_of
from tests.support.user_state import UserState


def message(sender: Person, text: str) -> EventTemplate:
    return EventTemplate("m.room.message", {"msgtype": "m.text", "body": text}, sender.user_id)


def member(sender: Person, target: Person, membership: str) -> EventTemplate:
    return EventTemplate("m.room.member", {"membership": membership}, sender.user_id, str(target.user_id))


async def end_of(server: RoomServer, room: RoomID) -> StoredEvent:
    """Return the room's newest end."""
    tip = await server.door.tip(room)
    return (await server.store.events.get([tip.extremities[-1].nid]))[tip.extremities[-1].nid]


async def renamed_by_one_who_was_kicked(server: RoomServer) -> tuple[RoomID, StoredEvent, Person, Person, Person]:
    """Return a room that bert has renamed, the event before that, and anna, bert and cleo, who are in it."""
    anna, bert, cleo = await server.users("anna", "bert", "cleo")
    room = await server.room(
        anna,
        members=[bert, cleo],
        power_levels={"users": {str(bert.user_id): 50}},
        state=[("m.room.name", "", {"name": "first"})],
    )
    before = await end_of(server, room)
    await server.send(room, bert, "m.room.name", {"name": "second"}, "")
    return room, before, anna, bert, cleo


@pytest.mark.parametrize("is_cold", [False, True], ids=["warm", "cold"])
@pytest_twisted.ensureDeferred
async def test_a_branch_that_wins_tells_the_values_that_it_brings_back(world: UserState, is_cold: bool) -> None:
    """The state after the event is then that of the room, and yet more has changed than the event says."""
    server = world.server
    room, before, anna, bert, cleo = await renamed_by_one_who_was_kicked(server)
    clients = [Client(cleo, 1, state_after=True), Client(cleo, 2), Client(bert, 3)]
    for client in clients:
        await client.sync(sync_of(world), server)
    await branch(server, room, before, member(anna, bert, "leave"))

    name = await server.door.state_event(room, "m.room.name")
    assert name is not None and name.event.content == {"name": "first"}
    sync = sync_of(world.again() if is_cold else world)
    for client in clients:
        await client.sync(sync, server)
    for client in clients[:2]:
        assert str(name.event_id) == client.rooms[room].state["m.room.name", ""]
    assert {str(room)} == clients[2].left
    await assert_sound(server, room)


@pytest_twisted.ensureDeferred
async def test_a_rejected_event_is_nothing_to_readers(world: UserState) -> None:
    server = world.server
    anna, bert = await server.users("anna", "bert")
    room = await server.room(anna)
    client = Client(anna, 1, state_after=True)
    await client.sync(sync_of(world), server)
    refused = await branch(server, room, await end_of(server, room), message(bert, "let me in"))

    assert (Flag.REJECTED, None) == (refused.flags, refused.position)
    assert {"next_batch"} == (await client.sync(sync_of(world), server)).keys()


@pytest_twisted.ensureDeferred
async def test_what_may_not_be_seen_on_another_branch_does_not_count_as_unread(world: UserState) -> None:
    server = world.server
    anna, bert = await server.users("anna", "bert")
    room = await server.room(anna, visibility="joined")
    alone = await server.say(room, anna, "alone")
    await server.join(room, bert)
    client = Client(bert, 1)
    await client.sync(sync_of(world), server)
    await branch(server, room, alone, message(anna, "still alone"))
    await server.say(room, anna, "to both")
    response = await client.sync(sync_of(world), server)

    told = response["rooms"]["join"][room]
    assert ["to both"] == bodies(told["timeline"]["events"])
    assert 1 == told["unread_notifications"]["notification_count"]


@pytest_twisted.ensureDeferred
async def test_who_has_left_still_sees_the_branches_that_came_while_they_were_there(rooms: RoomServer) -> None:
    anna, bert = await rooms.users("anna", "bert")
    room = await rooms.room(anna)
    early = await rooms.say(room, anna, "early")
    await rooms.join(room, bert)
    aside = await branch(rooms, room, early, message(anna, "aside"))
    reads = RoomReads(rooms)
    for has_left in (False, True):
        if has_left:
            await rooms.leave(room, bert)
            await branch(rooms, room, early, message(anna, "without them"))
        _, page = await reads.room(bert, room, "messages", {"dir": "b", "limit": 50})
        assert ["aside", "early"] == bodies(page["chunk"])
        status, _ = await reads.room(bert, room, f"event/{aside.event_id}")
        assert 200 == status


@pytest_twisted.ensureDeferred
async def test_the_state_at_a_point_of_the_timeline_is_the_room_s_of_then(rooms: RoomServer) -> None:
    room, before, anna, bert, cleo = await renamed_by_one_who_was_kicked(rooms)
    at = PaginationToken(rooms.feed.watermark)
    kick = await branch(rooms, room, before, member(anna, bert, "leave"))
    reads = RoomReads(rooms)

    async def joined(token: PaginationToken) -> set[str]:
        _, body = await reads.room(cleo, room, "members", {"at": str(token), "membership": "join"})
        return {event["state_key"] for event in body["chunk"]}

    for is_cold in (False, True):
        if is_cold:
            rooms.forget_memory()
        assert {str(each.user_id) for each in (anna, bert, cleo)} == await joined(at)
        assert {str(each.user_id) for each in (anna, cleo)} == await joined(PaginationToken(kick.position or 0))
        _, state = await reads.room(cleo, room, "state")
        assert ["first"] == [event["content"]["name"] for event in state if event["type"] == "m.room.name"]


@pytest_twisted.ensureDeferred
async def test_pages_and_context_go_through_branches_and_know_all_who_speak(rooms: RoomServer) -> None:
    anna, bert, cleo = await rooms.users("anna", "bert", "cleo")
    room = await rooms.room(anna)
    fork = await rooms.say(room, anna, "fork")
    left = await branch(rooms, room, fork, member(bert, bert, "join"))
    right = await branch(rooms, room, fork, member(cleo, cleo, "join"))
    middle = await branch(rooms, room, left, message(bert, "left"))
    await branch(rooms, room, right, message(cleo, "right"))
    reads = RoomReads(rooms)
    lazily = {"filter": {"lazy_load_members": True}, "limit": 3}
    _, page = await reads.room(anna, room, "messages", {"dir": "b", **lazily})
    _, context = await reads.room(anna, room, f"context/{middle.event_id}", lazily)

    everybody = {str(bert.user_id), str(cleo.user_id)}

    def members(events: list[dict[str, Any]]) -> set[str]:
        return {event["state_key"] for event in events if event["type"] == "m.room.member"}

    assert ["right", "left"] == bodies(page["chunk"])
    assert everybody == members(page["state"])
    shown = [*context["events_before"], context["event"], *context["events_after"]]
    assert everybody == {event["sender"] for event in shown} <= members(context["state"])


@pytest_twisted.ensureDeferred
async def test_an_inert_redaction_that_joins_branches_tells_the_state(world: UserState) -> None:
    """Nobody is shown it, and yet the room changes with it."""
    server = world.server
    room, before, anna, bert, cleo = await renamed_by_one_who_was_kicked(server)
    client = Client(cleo, 1, state_after=True)
    await client.sync(sync_of(world), server)
    content = {"redacts": "$unknown"}
    redaction = EventTemplate("m.room.redaction", content, anna.user_id, redacts=before.event_id.__class__("$unknown"))
    kick = await branch(server, room, before, member(anna, bert, "leave"))
    inert = await branch(server, room, [kick, await end_of(server, room)], redaction)

    assert Flag.INERT == inert.flags
    response = await client.sync(sync_of(world), server)
    known = {
        (event["type"], event["state_key"]): event for event in response["rooms"]["join"][room]["state_after"]["events"]
    }
    assert {"name": "first"} == known["m.room.name", ""]["content"]
    assert orjson.dumps(response).count(str(inert.event_id).encode()) == 0
