"""Lists of devices of other servers' users follow updates, are fetched anew after a gap, and cannot be flooded."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, cast

import orjson
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from homeserver.errors import MatrixError, RemoteUnreachable
from homeserver.feed.streams.device_lists import DeviceListsStream
from homeserver.model.canonical_json import encode_canonical
from homeserver.model.ids import UserID
from homeserver.ports import RemoteServers
from homeserver.users import remote_devices
from homeserver.users.remote_devices import RemoteDevices
from homeserver.users.remote_keys import RemoteKeys
from storage import device_lists as storage
from storage.device_lists import RemoteDevice
from storage.tables import e2ee
from tests.support.encryption import Keys
from tests.support.other_server import BOB, OTHER, OtherServer
from tests.support.played_server import until
from tests.support.rooms import RoomServer


@dataclass
class Elsewhere:
    """The other server as it answers."""

    devices: dict[str, Any] = field(default_factory=dict)
    stream_id: int = 1
    asked: list[str] = field(default_factory=list)
    hold: Deferred[None] | None = None
    is_down: bool = False

    async def user_devices(self, server: str, user_id: UserID) -> Any:
        self.asked.append("devices")
        devices = [{"device_id": each, "keys": keys} for each, keys in self.devices.items()]
        answer = {"user_id": user_id, "stream_id": self.stream_id, "devices": devices}
        await self._arrive(server)
        return orjson.loads(orjson.dumps(answer))

    async def keys_query(self, server: str, device_keys: Any, *, timeout_s: float) -> Any:
        self.asked.append("query")
        answer = {"device_keys": {user: dict(self.devices) for user in device_keys}}
        await self._arrive(server)
        return answer

    async def _arrive(self, server: str) -> None:
        if self.hold is not None:
            await self.hold
        if self.is_down:
            raise RemoteUnreachable(server, "down")


class World:
    """A room that a user of ours shares with one of another server."""

    def __init__(self, server: RoomServer) -> None:
        self.server = server
        self.elsewhere = Elsewhere()
        servers = cast("RemoteServers", self.elsewhere)
        self.stream = DeviceListsStream(server.store, server.feed)
        self.devices = RemoteDevices(server.store, server.feed, server.tasks, servers=servers, stream=self.stream)
        self.keys = RemoteKeys(server.store, server.clock, servers=servers, devices=self.devices)
        self.other = OtherServer(server.door, server.store)

    async def share(self) -> None:
        """Have the two meet."""
        self.alice = await self.server.user("alice")
        self.room = await self.server.room(self.alice)
        self.user = await self.server.user_feed(self.alice)
        await self.other.send(self.room, BOB, "m.room.member", {"membership": "join"}, BOB)
        await until(lambda: not self.server.tasks.names)

    async def query(self) -> Any:
        """Ask for the other user's keys as a client does."""
        answer = await self.keys.query({OTHER: {str(BOB): []}}, timeout_s=5)
        return orjson.loads(orjson.dumps({"found": answer.found, "failures": answer.failures}))

    async def update(self, stream_id: Any, *previous: Any, device: str = "D", **more: Any) -> None:
        """Have an update arrive."""
        content = {"user_id": BOB, "device_id": device, "stream_id": stream_id, "prev_id": list(previous)}
        content["keys"] = Keys(BOB, device).device(version=stream_id)
        await self.devices.on_device_list_update(OTHER, {**content, **more})

    async def rows(self) -> int:
        """Return how many devices are kept."""
        return len(await self.server.store.database.read(lambda tx: tx.all(e2ee.remote_devices.select())))

    async def lists(self) -> int:
        """Return of how many users something is known."""
        return len(await self.server.store.database.read(lambda tx: tx.all(e2ee.device_lists.select())))


@pytest_twisted.async_yield_fixture
async def world(database_url: str) -> AsyncIterator[World]:
    """A room shared with another server, whose user has one device."""
    server = await RoomServer.start(database_url)
    made = World(server)
    made.elsewhere.devices = {"D": Keys(BOB, "D").device(version=1)}
    await made.share()
    try:
        yield made
    finally:
        await server.stop()


def _version(answer: Any, device: str = "D") -> Any:
    return answer["found"][BOB][device]["version"]


@pytest_twisted.ensureDeferred
async def test_list_follows_updates_once_it_was_fetched_by_its_version(world: World) -> None:
    before = world.server.feed.watermark
    await world.update(1)
    assert [BOB] == list((await world.stream.between(world.user, before, world.server.feed.watermark)).changed)
    assert [] == world.elsewhere.asked, "nobody here asked for the list"
    assert 1 == _version(await world.query())
    assert 1 == _version(await world.query())
    assert ["query"] == world.elsewhere.asked, "a list that is kept is not asked for"
    # Which version the answer was is not known: the first update fetches the list.
    world.elsewhere.devices["D"] = Keys(BOB, "D").device(version=2)
    world.elsewhere.stream_id = 2
    await world.update(2, 1)
    await until(lambda: not world.server.tasks.names)
    assert ["query", "devices"] == world.elsewhere.asked
    await world.update(3, 2)
    await world.update(3, 2)
    await world.update(1, 3)
    assert 3 == _version(await world.query())
    await world.update(4, 3, deleted=True)
    assert {BOB: {}} == (await world.query())["found"]
    assert ["query", "devices"] == world.elsewhere.asked


@pytest_twisted.ensureDeferred
async def test_gap_fetches_the_list_once_at_a_time(world: World) -> None:
    await world.query()
    world.elsewhere.stream_id = 5
    await world.update(5, 1)
    await until(lambda: not world.server.tasks.names)
    world.elsewhere.asked.clear()
    hold = world.elsewhere.hold = Deferred()
    for number in range(50):
        await world.update(100 + 2 * number, 99 + 2 * number, 7)
    assert ["devices"] == world.elsewhere.asked
    world.elsewhere.hold = None
    hold.callback(None)
    await until(lambda: not world.server.tasks.names)
    assert ["devices"] == world.elsewhere.asked
    # What was asked before the last update is not believed: whoever asks next asks the server.
    world.elsewhere.devices["D"] = Keys(BOB, "D").device(version=9)
    assert 9 == _version(await world.query())
    world.elsewhere.is_down = True
    assert 9 == _version(await world.query())
    await world.update(500, 400)
    await until(lambda: not world.server.tasks.names)
    assert {"found": {}, "failures": [OTHER]} == {**(answer := await world.query()), "failures": [*answer["failures"]]}


@pytest_twisted.ensureDeferred
async def test_list_that_begins_anew_is_fetched(world: World) -> None:
    """The other server's numbers start again where its database was lost."""
    world.elsewhere.stream_id = 700
    await world.query()
    await world.update(700, 1)
    await until(lambda: not world.server.tasks.names)
    world.elsewhere.asked.clear()
    await world.update(700)
    assert [] == world.elsewhere.asked
    world.elsewhere.devices = {"E": Keys(BOB, "E").device(version=3)}
    world.elsewhere.stream_id = 3
    await world.update(3, device="E")
    await until(lambda: not world.server.tasks.names)
    await world.update(4, 3, device="E")
    assert (4, ["devices"]) == (_version(await world.query(), "E"), world.elsewhere.asked)


@pytest_twisted.ensureDeferred
async def test_bad_updates_change_nothing(world: World) -> None:
    await world.query()
    await world.update(1, 1)
    await until(lambda: not world.server.tasks.names)
    eve = UserID("@eve:" + OTHER)
    good = {"user_id": BOB, "device_id": "D", "stream_id": 2, "prev_id": [1], "keys": Keys(BOB, "D").device()}
    bad: list[dict[str, Any]] = [
        {"stream_id": "2"},
        {"stream_id": 2**63},
        {"stream_id": 1.5},
        {"prev_id": ["1"]},
        {"prev_id": list(range(1000))},
        {"device_id": "x" * 300},
        {"device_id": 5},
        {"keys": []},
        {"keys": Keys(eve, "D").device()},
        {"keys": Keys(BOB, "E").device()},
        {"keys": Keys(BOB, "D").device(n=0.5)},
        {"keys": Keys(BOB, "D").device(n="x" * 100_000)},
    ]
    for more in bad:
        with pytest.raises(MatrixError):
            await world.devices.on_device_list_update(OTHER, {**good, **more})
    await world.devices.on_device_list_update(OTHER, {"user_id": eve, "device_id": "D", "stream_id": 1})
    assert 1 == _version(await world.query())
    assert 1 == await world.rows()
    with pytest.raises(MatrixError):
        await world.devices.on_signing_key_update(OTHER, {"user_id": BOB, "master_key": {"user_id": eve}})


@pytest_twisted.ensureDeferred
async def test_what_another_server_answers_is_sifted(world: World) -> None:
    good = Keys(BOB, "D").device()
    world.elsewhere.devices = {
        "D": good,
        "E": good,
        "F": [],
        "": Keys(BOB, "").device(),
        "G": Keys("@eve:" + OTHER, "G").device(),
        "H": Keys(BOB, "H").device(n=1.5),
    }
    assert ["D"] == list((await world.query())["found"][BOB])
    assert 1 == await world.rows()


@pytest_twisted.ensureDeferred
async def test_list_is_forgotten_when_no_room_is_shared(world: World) -> None:
    await world.query()
    assert 1 == await world.rows()
    await world.other.send(world.room, BOB, "m.room.member", {"membership": "leave"}, BOB)
    await until(lambda: not world.server.tasks.names)
    assert 0 == await world.rows()
    await world.query()
    assert 0 == await world.rows(), "of whom shares no room nothing is kept"
    assert 0 == await world.lists()
    await world.other.send(world.room, BOB, "m.room.member", {"membership": "join"}, BOB)
    await until(lambda: not world.server.tasks.names)
    await world.query()
    assert (1, 1) == (await world.rows(), await world.lists())


@pytest_twisted.ensureDeferred
async def test_lists_that_a_crash_has_left_are_swept(world: World) -> None:
    await world.query()
    stranger = await world.server.store.interner.user(UserID("@stranger:" + OTHER))
    device = RemoteDevice(stranger, "D", b"{}", None)
    await world.server.store.database.write(lambda tx: storage.keep_remote_list(tx, stranger, [device], 1))
    assert (2, 2) == (await world.rows(), await world.lists())
    await world.devices.sweep()
    assert (1, 1) == (await world.rows(), await world.lists())
    assert 1 == _version(await world.query())
    assert ["query"] == world.elsewhere.asked, "what is shared stays"


@pytest.mark.parametrize("bound", ["MAX_DEVICES", "MAX_BYTES"])
@pytest_twisted.ensureDeferred
async def test_devices_of_one_user_are_bounded(world: World, bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(encode_canonical(Keys(BOB, "E0").device(version=10)))
    monkeypatch.setattr(remote_devices, bound, 5 if bound == "MAX_DEVICES" else 5 * size + 10)
    await world.query()
    await world.update(1, 1)
    await until(lambda: not world.server.tasks.names)
    world.elsewhere.asked.clear()
    for number in range(8):
        await world.update(10 + number, 9 + number if number else 1, device=f"E{number}")
    await until(lambda: not world.server.tasks.names)
    assert 5 >= await world.rows()
    # What is not kept whole is asked for by whoever needs it, not with each update.
    assert len(world.elsewhere.asked) <= 1
    world.elsewhere.devices = {f"F{number}": Keys(BOB, f"F{number}").device(version=10) for number in range(20)}
    assert 5 <= len((await world.query())["found"][BOB]) <= 6
    assert 5 <= await world.rows() <= 6
