"""An invite that came before its room gets another number with it, and is still shown."""

from __future__ import annotations

import pytest
import pytest_twisted

from homeserver.errors import AuthRuleBroken
from homeserver.model.ids import UserID
from homeserver.rooms.outside import OutsideRooms
from tests.support.elsewhere import ALICE
from tests.support.rooms import SERVER, RoomServer

from .test_shared_rooms import SyncClient, crowded, join

EVE = UserID(f"@eve:{SERVER}")


@pytest_twisted.ensureDeferred
async def test_invite_is_shown_after_the_join_of_another_has_failed(rooms: RoomServer) -> None:
    room = crowded("12", 3)
    room.add("m.room.join_rules", ALICE, {"join_rule": "invite"}, "")
    invite = room.member(ALICE, EVE, "invite")
    outside = OutsideRooms(rooms.store, rooms.feed, rooms.door._lanes, rooms.clock, SERVER)
    await SyncClient(rooms, await rooms.user("eve")).sync()
    await outside.take_invite(room.version, room.checked(invite), [])
    with pytest.raises(AuthRuleBroken):
        await join(rooms, room)
    shown = await SyncClient(rooms, await rooms.user("eve")).sync()
    assert [room.room_id] == list(shown["rooms"]["invite"])
