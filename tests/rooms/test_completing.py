"""What becomes of a room that is completed while others read it, and is told the same members twice."""

from __future__ import annotations

import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from tests.support.rooms import SERVER, RoomServer

from .test_shared_rooms import crowded, join


@pytest_twisted.ensureDeferred
async def test_members_that_are_told_twice_count_once(rooms: RoomServer) -> None:
    room = crowded("12", 6)
    await join(rooms, room, is_partial=True)
    left = [room.checked(each) for each in room.members_left]  # type: ignore[attr-defined]
    await rooms.door.complete_state(room.room_id, left, is_last=False)
    await rooms.door.complete_state(room.room_id, left)
    tip = await rooms.door.tip(room.room_id)
    counts = {server: tip.servers.count(server) for server in tip.servers.names}
    assert counts == {"a.example": 1, "b.example": 3, "c.example": 3, SERVER: 1}


@pytest_twisted.ensureDeferred
async def test_who_begins_to_sync_while_a_room_becomes_complete_is_not_kept_waiting(rooms: RoomServer) -> None:
    room = crowded("12", 3)
    await join(rooms, room, is_partial=True)
    earlier = rooms.store.positions.allocate()
    await rooms.door.complete_state(room.room_id, [room.checked(each) for each in room.members_left])  # type: ignore[attr-defined]
    reading = Deferred.fromCoroutine(rooms.user_feed(await rooms.user("dave")))
    # Long enough for that read to end too: it waits for what it has seen to be published.
    for _ in range(50):
        await rooms.store.database.read(lambda tx: None)
    earlier.abandon()
    user = await reading.addTimeout(5, reactor)  # type: ignore[arg-type]
    assert user.rooms[room.room_id].since == rooms.store.positions.watermark


@pytest_twisted.ensureDeferred
async def test_state_that_is_dropped_while_it_is_read_is_not_kept(rooms: RoomServer) -> None:
    room = crowded("12", 3)
    stored = await join(rooms, room)
    group = stored.state_group or 0
    rooms.forget_memory()
    reading = Deferred.fromCoroutine(rooms.store.states.get(group))
    rooms.store.states.drop([group])
    await reading
    assert rooms.store.states.find(group) is None
