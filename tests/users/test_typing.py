"""Who is typing is told at once, ends in time, and never wakes a room too often."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted

from homeserver.errors import NotAllowed, NotJoined
from homeserver.users import typing
from homeserver.users.typing import COALESCE_S
from tests.support.rooms import Person
from tests.support.user_state import UserState


def _list(*people: Person) -> list[dict[str, Any]]:
    return [{"type": "m.typing", "content": {"user_ids": [person.user_id for person in people]}}]


@pytest_twisted.ensureDeferred
async def test_typing_is_told_and_ends_in_time(world: UserState) -> None:
    server = world.server
    alice, bob = await server.users("alice", "bob")
    room = await server.room(alice, members=[bob])
    user = await server.user_feed(alice)
    before = world.now
    await world.typing.set(world.requester(bob), room, bob.user_id, is_typing=True, timeout_ms=10_000)
    assert user.last_change > before
    with world.no_reads():
        assert _list(bob) == await world.told(world.typing_stream, alice, room, before)
        assert _list(bob) == await world.told(world.typing_stream, alice, room)
    middle = world.now
    assert [] == await world.told(world.typing_stream, alice, room, middle)
    server.clock.advance(9.9)
    assert middle == world.now
    server.clock.advance(0.2)
    assert user.last_change > middle
    assert _list() == await world.told(world.typing_stream, alice, room, middle)
    # Whoever begins now need not be told that nobody is typing.
    assert [] == await world.told(world.typing_stream, alice, room)


@pytest_twisted.ensureDeferred
async def test_renewal_moves_the_end_and_tells_nobody(world: UserState) -> None:
    server = world.server
    (alice,) = await server.users("alice")
    room = await server.room(alice)
    me = world.requester(alice)
    await world.typing.set(me, room, alice.user_id, is_typing=True, timeout_ms=1_000)
    server.clock.advance(0.9)
    told = world.now
    await world.typing.set(me, room, alice.user_id, is_typing=True, timeout_ms=1_000)
    server.clock.advance(0.9)
    assert told == world.now
    server.clock.advance(0.2)
    assert told < world.now


@pytest_twisted.ensureDeferred
async def test_changes_within_a_moment_are_told_together(world: UserState) -> None:
    server = world.server
    people = await server.users("alice", "bob", "carol")
    alice, bob, carol = people
    room = await server.room(alice, members=[bob, carol])
    before = world.now
    for person in people:
        await world.typing.set(world.requester(person), room, person.user_id, is_typing=True)
    await world.typing.set(world.requester(bob), room, bob.user_id, is_typing=False)
    assert _list(alice) == await world.told(world.typing_stream, alice, room, before)
    first = world.now
    server.clock.advance(COALESCE_S)
    assert first + 1 == world.now
    assert _list(alice, carol) == await world.told(world.typing_stream, alice, room, first)


@pytest_twisted.ensureDeferred
async def test_long_timeouts_and_crowds_are_bounded(world: UserState, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(typing, "MAX_TYPING", 1)
    server = world.server
    alice, bob = await server.users("alice", "bob")
    room = await server.room(alice, members=[bob])
    before = world.now
    for person in (alice, bob):
        await world.typing.set(world.requester(person), room, person.user_id, is_typing=True, timeout_ms=2**53 - 1)
    server.clock.advance(COALESCE_S)
    assert _list(alice) == await world.told(world.typing_stream, alice, room, before)
    server.clock.advance(typing.MAX_TIMEOUT_MS / 1000)
    assert _list() == await world.told(world.typing_stream, alice, room, before)


@pytest_twisted.ensureDeferred
async def test_who_leaves_has_stopped_typing(world: UserState) -> None:
    server = world.server
    alice, bob = await server.users("alice", "bob")
    room = await server.room(alice, members=[bob])
    await world.typing.set(world.requester(bob), room, bob.user_id, is_typing=True)
    before = world.now
    server.clock.advance(COALESCE_S)
    await server.leave(room, bob)
    assert _list() == await world.told(world.typing_stream, alice, room, before)


@pytest_twisted.ensureDeferred
async def test_only_members_type_and_only_for_themselves(world: UserState) -> None:
    server = world.server
    alice, bob = await server.users("alice", "bob")
    room = await server.room(alice)
    with pytest.raises(NotJoined):
        await world.typing.set(world.requester(bob), room, bob.user_id, is_typing=True)
    with pytest.raises(NotAllowed):
        await world.typing.set(world.requester(alice), room, bob.user_id, is_typing=True)


@pytest.mark.in_turns
@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"typing": True, "timeout": 30_000}, 200),
        ({"typing": True}, 200),
        ({"typing": False}, 200),
        ({}, 400),
        ({"typing": "yes"}, 400),
        ({"typing": True, "timeout": -1}, 400),
        ({"typing": True, "timeout": 1.5}, 400),
        ({"typing": True, "timeout": 2**60}, 400),
    ],
)
async def test_endpoint_checks_its_body(world: UserState, body: Any, status: int) -> None:
    (alice,) = await world.server.users("alice")
    room = await world.server.room(alice)
    path = f"/_matrix/client/v3/rooms/{room}/typing/{alice.user_id}"
    assert status == (await world.call("PUT", path, alice, body))[0]
