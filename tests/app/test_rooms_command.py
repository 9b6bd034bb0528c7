"""`sennit rooms`: one line for each room."""

from __future__ import annotations

import io
from pathlib import Path

import pytest_twisted

from homeserver.config import Config
from homeserver.rooms_command import show_rooms
from tests.support.residents import DAVE, JoiningServer, Residents, crowded
from tests.support.rooms import SERVER, RoomServer
from tests.support.rooms import rooms as rooms


def _shown(rooms: RoomServer, folder: Path) -> list[str]:
    url = rooms.store.database.url.render_as_string(hide_password=False)
    server = {"name": SERVER, "data_dir": str(folder)}
    out = io.StringIO()
    config = Config.from_mapping({"server": server, "database": {"url": url}})
    assert 0 == show_rooms(config, out=out, now_ms=rooms.clock.now_ms() + 180_000)
    return out.getvalue().splitlines()


@pytest_twisted.ensureDeferred
async def test_rooms_are_listed_with_what_is_missing(rooms: RoomServer, tmp_path: Path) -> None:
    assert ["0 rooms"] == _shown(rooms, tmp_path)
    alice, bob = await rooms.users("alice", "bob")
    mine = await rooms.room(alice, members=[bob], state=[("m.room.name", "", {"name": "my\nroom"})])
    room = crowded("11")
    residents = Residents(room)
    residents.answers["get_state"] = residents.refuse(500, "M_UNKNOWN")
    await JoiningServer(rooms, residents).membership.join(room.room_id, DAVE, servers=["a.example"])
    assert [
        " MEMBERS  SERVERS  ENDS VERSION  ROOM",
        f"       2        1     1 12       {mine} my\\u{{a}}room",
        f"       1        4     1 11       {room.room_id} [1 gap in the history] "
        "[members are still missing, for 3 min; joined through a.example]",
        "2 rooms",
    ] == _shown(rooms, tmp_path)
