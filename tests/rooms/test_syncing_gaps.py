"""What a client that syncs is shown of a room's timeline in which something is missing, and once it is there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import pytest_twisted

from homeserver.model.event import Event
from storage.events import StoredEvent
from tests.support.elsewhere import ALICE, CAROL, Elsewhere
from tests.support.rooms import RoomServer

from .test_shared_rooms import SyncClient, crowded, join, state_ids


async def skip_to(server: RoomServer, room: Elsewhere, event: Event) -> StoredEvent:
    """Have the server take in an event without those before it."""
    state = room.state_before(event.prev_event_ids)
    here = set((await state_ids(server, room)).values())
    await server.door.receive_outliers(
        room.room_id, [room.checked(room.by_id[each]) for each in state.values() if each not in here]
    )
    return await server.door.receive_after_gap(room.room_id, room.checked(event), list(state.values()))


def bodies(room: Mapping[str, Any]) -> list[str]:
    return [each["content"]["body"] for each in room["timeline"]["events"] if each["type"] == "m.room.message"]


@pytest.mark.parametrize("is_cold", [False, True], ids=["warm", "cold"])
@pytest_twisted.ensureDeferred
async def test_timeline_begins_after_a_gap_and_is_limited(rooms: RoomServer, is_cold: bool) -> None:
    room = crowded("12")
    client = SyncClient(rooms, await rooms.user("dave"))
    await client.sync()
    await join(rooms, room)
    await client.sync()
    await room.give(rooms, room.say(ALICE, "before"))
    room.join(CAROL)
    room.say(CAROL, "missed")
    edge = await skip_to(rooms, room, room.say(CAROL, "edge"))
    await room.give(rooms, room.say(CAROL, "after"))
    if is_cold:
        rooms.forget_memory()
    shown = (await client.sync())["rooms"]["join"][room.room_id]
    assert (["edge", "after"], True) == (bodies(shown), shown["timeline"]["limited"])
    assert f"p{(edge.position or 0) - 1}" == shown["timeline"]["prev_batch"]
    assert CAROL in [each["state_key"] for each in shown["state"]["events"]]


@pytest_twisted.ensureDeferred
async def test_gap_that_is_filled_is_told_once_and_in_order(rooms: RoomServer) -> None:
    room = crowded("12")
    early, late = [SyncClient(rooms, await rooms.user("dave")) for _ in range(2)]
    await join(rooms, room)
    await early.sync()
    await late.sync()
    missed = [room.join(CAROL), room.say(CAROL, "missed")]
    await skip_to(rooms, room, room.say(CAROL, "edge"))
    assert ["edge"] == bodies((await early.sync())["rooms"]["join"][room.room_id])
    outcomes = await rooms.door.receive_history(
        room.room_id, room.last.event_id, [room.checked(each) for each in missed], {}
    )
    assert all(isinstance(each, StoredEvent) for each in outcomes)
    await room.give(rooms, room.say(CAROL, "after"))
    assert ["after"] == bodies((await early.sync())["rooms"]["join"][room.room_id])
    rooms.forget_memory()
    assert ["missed", "edge", "after"] == bodies((await late.sync())["rooms"]["join"][room.room_id])
