"""The builder of rooms builds."""

import pytest_twisted

from tests.support.rooms import RoomServer, rooms  # noqa: F401


@pytest_twisted.ensureDeferred
async def test_a_room_is_built_and_survives_a_loss_of_memory(rooms: RoomServer) -> None:  # noqa: F811
    alice, bob = await rooms.users("alice", "bob")
    room = await rooms.room(alice, members=[bob])
    said = await rooms.say(room, bob, "hi")
    rooms.forget_memory()
    user = await rooms.user_feed(bob)
    window, is_limited = await rooms.timeline.window(room, said.room_nid, upto=rooms.feed.watermark, limit=2)
    assert {room: "join"} == {place.room_id: place.membership for place in user.rooms.values()}
    assert ["m.room.member", "m.room.message"] == [stored.event.type for stored in window]
    assert is_limited
