"""Other servers are asked for keys within the time that the client gave, however many there are."""

from __future__ import annotations

from typing import Any, cast

import pytest
import pytest_twisted

from homeserver.errors import RemoteUnreachable
from homeserver.feed.streams.device_lists import DeviceListsStream
from homeserver.ports import RemoteServers
from homeserver.users import remote_keys
from homeserver.users.remote_devices import RemoteDevices
from homeserver.users.remote_keys import RemoteKeys
from tests.support.rooms import RoomServer

TIMEOUT_S = 10.0


class Dead:
    """Servers that do not answer: each costs the whole time."""

    def __init__(self, server: RoomServer) -> None:
        self._clock = server.clock
        self.asked: list[str] = []

    async def keys_query(self, server: str, wanted: Any, *, timeout_s: float) -> Any:
        self.asked.append(server)
        self._clock.advance(timeout_s)
        raise RemoteUnreachable(server, "silence")

    keys_claim = keys_query


@pytest.mark.parametrize("what", ["query", "claim"])
@pytest_twisted.ensureDeferred
async def test_one_request_does_not_wait_for_each_of_many_dead_servers(
    rooms: RoomServer, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_keys, "_AT_ONCE", 1)
    dead = Dead(rooms)
    servers = cast("RemoteServers", dead)
    stream = DeviceListsStream(rooms.store, rooms.feed)
    devices = RemoteDevices(rooms.store, rooms.feed, rooms.tasks, servers=servers, stream=stream)
    keys = RemoteKeys(rooms.store, rooms.clock, servers=servers, devices=devices)
    names = [f"dead{number}.example" for number in range(50)]
    wanted: Any = {name: {f"@u:{name}": {"D": "signed_curve25519"} if what == "claim" else []} for name in names}
    answer = await getattr(keys, what)(wanted, timeout_s=TIMEOUT_S)
    assert names[:1] == dead.asked
    assert {name: "M_UNAVAILABLE" for name in names} == {
        name: failure["errcode"] for name, failure in answer.failures.items()
    }
