"""Devices of a user in a room whose members are not all known yet."""

from __future__ import annotations

import orjson
import pytest_twisted

from storage.outbox import load_edus
from tests.support.encrypted import EncryptedServer
from tests.support.residents import DAVE, JoiningServer, Residents, crowded
from tests.support.rooms import RoomServer


@pytest_twisted.ensureDeferred
async def test_servers_that_are_known_by_name_alone_are_told_of_a_new_device(rooms: RoomServer) -> None:
    """They are in the room, and may have fetched the list when the user came; nobody would tell them later."""
    world = EncryptedServer(rooms)
    phone = await world.log_in("dave", "PHONE")
    assert DAVE == phone.user_id
    await world.upload(phone)
    room = crowded("12")
    residents = Residents(room)
    residents.answers["get_state"] = residents.refuse(403, "M_FORBIDDEN")
    here = JoiningServer(rooms, residents)
    await here.membership.join(room.room_id, DAVE, servers=["a.example"])
    tip = await rooms.door.tip(room.room_id)
    assert tip.is_partial
    others = [server for server in tip.servers.names if server != phone.user_id.server_name]
    assert 1 < len(others)
    await world.upload(await world.log_in("dave", "TABLET"))
    for server in others:
        waiting = await world.database.read(lambda tx, server=server: load_edus(tx, server, 0, 100))
        told = {orjson.loads(edu.content)["device_id"] for edu in waiting if edu.kind == "m.device_list_update"}
        assert "TABLET" in told, server
    del residents.answers["get_state"]
    here.completion.hurry(room.room_id)
    assert await here.joining.completed(room.room_id, 5.0)
