"""The checker finds nothing in rooms that the server made, and finds what is broken in them."""

from __future__ import annotations

import pytest
import pytest_twisted

from tests.support.graph_check import assert_sound
from tests.support.rooms import RoomServer


@pytest.mark.parametrize("version", ["10", "11", "12"])
@pytest_twisted.ensureDeferred
async def test_a_room_that_was_lived_in_is_sound(rooms: RoomServer, version: str) -> None:
    alice, bob, carol = await rooms.users("alice", "bob", "carol")
    room = await rooms.room(alice, members=[bob], version=version)
    await rooms.invite(room, bob, carol)
    first = await rooms.say(room, bob, "hello")
    await rooms.redact(room, bob, first)
    name = await rooms.send(room, alice, "m.room.name", {"name": "A room"}, "")
    await rooms.redact(room, alice, name)
    await rooms.ban(room, alice, bob)
    await rooms.join(room, carol, displayname="C")
    report = await assert_sound(rooms, room)
    assert report.events > 10
