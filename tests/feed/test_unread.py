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
