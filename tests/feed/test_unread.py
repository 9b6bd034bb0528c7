"""What counts as unread."""

from __future__ import annotations

import pytest_twisted

from homeserver.model.ids import RoomID
from tests.support.rooms import Person, rooms  # noqa: F401
from tests.support.user_state import UserState, world  # noqa: F401


async def count(world: UserState, person: Person, room: RoomID) -> int:  # noqa: F811
    user = await world.server.user_feed(person)
    counts = await world.unread.counts(user, [user.rooms[room]], world.now, by_thread=False)
    return counts[room].notifications


@pytest_twisted.ensureDeferred
async def test_what_was_redacted_is_not_unread(world: UserState) -> None:  # noqa: F811
    server = world.server
    alice, bob = await server.users("alice", "bob")
    room = await server.room(alice, members=[bob])
    await server.say(room, alice, "one")
    said = await server.say(room, alice, "two")
    assert 2 == await count(world, bob, room)
    await server.redact(room, alice, said)
    assert 1 == await count(world, bob, room)
    assert 1 == await count(world.again(), bob, room)


@pytest_twisted.ensureDeferred
async def test_what_was_redacted_before_it_was_counted_is_not_unread(world: UserState) -> None:  # noqa: F811
    server = world.server
    alice, bob = await server.users("alice", "bob")
    room = await server.room(alice, members=[bob])
    assert 0 == await count(world, bob, room)
    await server.redact(room, alice, await server.say(room, alice))
    assert 0 == await count(world, bob, room)


@pytest_twisted.ensureDeferred
async def test_who_sends_an_event_has_read_what_was_before(world: UserState) -> None:  # noqa: F811
    """Spec: client-server API, "Marking notifications as read"."""
    server = world.server
    alice, bob = await server.users("alice", "bob")
    room = await server.room(alice, members=[bob])
    await server.say(room, alice, "one")
    assert 1 == await count(world, bob, room)
    await server.say(room, alice, "two")
    await server.say(room, bob, "I have seen both")
    assert 0 == await count(world, bob, room)
    assert 0 == await count(world.again(), bob, room)
    await server.say(room, alice, "three")
    assert 1 == await count(world, bob, room)
    assert 1 == await count(world.again(), bob, room)


@pytest_twisted.ensureDeferred
async def test_who_changes_their_name_has_read_nothing(world: UserState) -> None:  # noqa: F811
    server = world.server
    alice, bob = await server.users("alice", "bob")
    room = await server.room(alice, members=[bob])
    await server.say(room, alice, "one")
    await server.join(room, bob, displayname="Robert")
    assert 1 == await count(world, bob, room)


@pytest_twisted.ensureDeferred
async def test_who_answers_in_a_thread_has_read_that_thread(world: UserState) -> None:  # noqa: F811
    server = world.server
    alice, bob = await server.users("alice", "bob")
    room = await server.room(alice, members=[bob])
    root = await server.say(room, alice, "root")
    thread = {"m.relates_to": {"rel_type": "m.thread", "event_id": root.event_id}}
    await server.say(room, alice, "in the thread", **thread)
    assert 2 == await count(world, bob, room)
    await server.say(room, bob, "so am I", **thread)
    assert 1 == await count(world, bob, room)
    await server.say(room, bob, "and here")
    assert 0 == await count(world, bob, room)
