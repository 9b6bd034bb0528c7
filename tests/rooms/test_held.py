"""Events that wait on the disk: one room does not keep another from going on."""

from __future__ import annotations

from collections.abc import Sequence

import pytest_twisted

from homeserver.errors import StorageUnavailable
from homeserver.model.ids import EventID, RoomID
from homeserver.model.receipt_of_events import CheckedEvent
from homeserver.rooms.held import Held
from homeserver.rooms.inbound import Inbound
from tests.support.elsewhere import ALICE, Elsewhere
from tests.support.played_rooms import PlayedKeys
from tests.support.rooms import RoomServer


@pytest_twisted.ensureDeferred
async def test_room_with_trouble_does_not_keep_others_waiting(rooms: RoomServer) -> None:
    inbound = Inbound(PlayedKeys(), rooms.threads, rooms.identity)
    held = Held(rooms.store, rooms.door, inbound, rooms.tasks, rooms.clock)
    tried: set[RoomID] = set()

    async def take_in(
        origin: str, room_id: RoomID, events: Sequence[CheckedEvent], *, relay: bool = False
    ) -> tuple[dict[EventID, str | None], list[CheckedEvent]]:
        tried.add(room_id)
        raise StorageUnavailable("there is trouble")

    elsewhere = [Elsewhere("11", name) for name in ("first", "second", "third", "fourth")]
    for number, room in enumerate(elsewhere):
        await room.all_to(rooms)
        tip = await rooms.door.tip(room.room_id)
        checked = [room.checked(room.say(ALICE))]
        if number < 2:
            await held.hold_partial(tip, "a.example", checked)
        else:
            await held.hold_missing(tip, "a.example", checked)
    rooms.clock.advance(120.0)
    held._take_in = take_in
    await held.try_again()
    assert {room.room_id for room in elsewhere} == tried
