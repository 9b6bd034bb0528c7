"""Whose devices need not be followed any more: members of rooms that the receiver was in, and of no others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import pytest_twisted

from homeserver.feed.streams.device_lists import DeviceListsStream
from homeserver.model.ids import RoomID
from tests.support.rooms import Person, RoomServer, rooms  # noqa: F401

Steps = Callable[[RoomServer, RoomID, Person, Person], Awaitable[None]]


async def _invited(server: RoomServer, room: RoomID, admin: Person, alice: Person) -> None:
    await server.invite(room, admin, alice)


async def _declined(server: RoomServer, room: RoomID, admin: Person, alice: Person) -> None:
    await server.invite(room, admin, alice)
    await server.leave(room, alice)


async def _knocked(server: RoomServer, room: RoomID, admin: Person, alice: Person) -> None:
    await server.knock(room, alice)


async def _took_back_the_knock(server: RoomServer, room: RoomID, admin: Person, alice: Person) -> None:
    await server.knock(room, alice)
    await server.leave(room, alice)


async def _banned(server: RoomServer, room: RoomID, admin: Person, alice: Person) -> None:
    await server.ban(room, admin, alice)


async def _left(server: RoomServer, room: RoomID, admin: Person, alice: Person) -> None:
    await server.invite(room, admin, alice)
    await server.join(room, alice)
    await server.leave(room, alice)


async def _banned_from_within(server: RoomServer, room: RoomID, admin: Person, alice: Person) -> None:
    await server.invite(room, admin, alice)
    await server.join(room, alice)
    await server.ban(room, admin, alice)


async def _left_and_invited(server: RoomServer, room: RoomID, admin: Person, alice: Person) -> None:
    await _left(server, room, admin, alice)
    await server.invite(room, admin, alice)


@pytest.mark.parametrize("is_cold", [False, True], ids=["from memory", "from the database"])
@pytest.mark.parametrize(
    ("steps", "is_told"),
    [
        pytest.param(_invited, False, id="invited"),
        pytest.param(_declined, False, id="declined"),
        pytest.param(_knocked, False, id="knocked"),
        pytest.param(_took_back_the_knock, False, id="took back the knock"),
        pytest.param(_banned, False, id="banned from outside"),
        pytest.param(_left, True, id="left"),
        pytest.param(_banned_from_within, True, id="banned from within"),
        pytest.param(_left_and_invited, True, id="left and invited again"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_who_was_never_in_a_room_is_not_told_its_members(
    rooms: RoomServer,  # noqa: F811
    steps: Steps,
    is_told: bool,
    is_cold: bool,
) -> None:
    """They are nobody's business outside, and no client follows their devices."""
    stream = DeviceListsStream(rooms.store, rooms.feed)
    admin, bob, alice = await rooms.users("admin", "bob", "alice")
    room = await rooms.room(admin, join_rule="knock")
    for person in (bob,):
        await rooms.invite(room, admin, person)
        await rooms.join(room, person)
    await rooms.user_feed(alice)
    since = rooms.feed.watermark
    await steps(rooms, room, admin, alice)
    if is_cold:
        rooms.forget_memory()
    told = await stream.between(await rooms.user_feed(alice), since, rooms.feed.watermark)
    assert (() if not is_told else tuple(sorted((admin.user_id, bob.user_id)))) == tuple(sorted(told.left))
