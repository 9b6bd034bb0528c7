"""Sessions on a whole server, with a wire that is played: order, turns, room on the wire, silence, rights, limits."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from api.stream.door import StreamDoor
from api.stream.session import MAX_IN_TURN, Ending, Opening, Session
from homeserver.app import Homeserver
from homeserver.config import Config
from homeserver.errors import LimitExceeded
from homeserver.model.ids import UserID
from homeserver.users.sessions import Login, Requester
from homeserver.web.request import Headers, WebRequest

SERVER = "stream.example"
RATE = {"per_second": 1e6, "burst_count": 1_000_000}


class Wire:
    """A connection that keeps what is sent."""

    def __init__(self, address: str = "192.0.2.1") -> None:
        self.client_ip = address
        self.user_agent: str | None = "test"
        self.has_pings = True
        self.sent: list[dict[str, Any]] = []
        self.pings = 0
        self.ending: Ending | None = None
        self.is_paused = False
        self.untaken = 0
        self.session: Session | None = None

    def send(self, message: bytes) -> None:
        assert self.ending is None
        self.sent.append(orjson.loads(message))

    def ping(self) -> None:
        self.pings += 1

    def close(self, ending: Ending) -> None:
        self.ending = ending

    def abort(self) -> None:
        self.ending = Ending(1006, None, "aborted")

    def pause(self) -> None:
        assert not self.is_paused
        self.is_paused = True

    def resume(self) -> None:
        assert self.is_paused
        self.is_paused = False

    def untaken_bytes(self) -> int | None:
        return self.untaken

    def say(self, method: str, request_id: Any = "1", **params: Any) -> None:
        """Send a request."""
        assert self.session is not None
        self.session.received(orjson.dumps({"id": request_id, "method": method, "params": params}))

    @property
    def answers(self) -> dict[Any, dict[str, Any]]:
        return {each["id"]: each for each in self.sent if "id" in each}

    @property
    def events(self) -> list[str]:
        """The event IDs of all timelines of joined rooms."""
        return [
            event["event_id"]
            for each in self.sent
            for room in each.get("rooms", {}).get("join", {}).values()
            for event in room["timeline"]["events"]
        ]


class World:
    """A server and its users."""

    def __init__(self, server: Homeserver) -> None:
        self.server = server
        built = server._parts
        assert built is not None and built.stream is not None
        self.parts = built
        self.door: StreamDoor = built.stream
        self.tokens: dict[str, Login] = {}
        self.wires: list[Wire] = []

    async def log_in(self, name: str) -> Login:
        user_id = UserID(f"@{name}:{SERVER}")
        if name not in self.tokens:
            await self.server.accounts.create(name, "a long password", admin=False)
        account = await self.parts.users.accounts.find(user_id)
        assert account is not None
        login = await self.parts.users.sessions.log_in(account)
        self.tokens[name] = login
        return login

    async def connect(self, login: Login, **params: Any) -> Wire:
        """Return an open connection."""
        wire = self.begin()
        wire.say("auth", "auth", access_token=login.tokens.access_token, **params)
        # The initial sync may come late, and then tells only the end of what has been said meanwhile.
        await until(lambda: wire.ending or any("next_batch" in each for each in wire.sent))
        return wire

    def begin(self, address: str = "192.0.2.1") -> Wire:
        wire = Wire(address)
        wire.session = self.door.begin(wire)
        self.wires.append(wire)
        return wire

    async def room(self, name: str) -> str:
        return str(await self.server.as_user(f"@{name}:{SERVER}").create_room(preset="public_chat", name="Room"))

    async def call(self, token: str, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Call an endpoint as HTTP would."""
        encoded = b"" if body is None else orjson.dumps(body)
        headers = Headers.of({"Authorization": f"Bearer {token}"})
        request = WebRequest(method, f"/_matrix/client/v3{path}", b"", headers, encoded)
        answer: Any = await self.server.client_resource().respond(request)
        assert answer.status == 200, answer.body
        return orjson.loads(answer.body)


@asynccontextmanager
async def running(folder: Path, database_url: str) -> AsyncIterator[World]:
    config = Config.from_mapping(
        {
            "server": {"name": SERVER, "data_dir": str(folder)},
            "database": {"url": database_url},
            "registration": {"bcrypt_rounds": 4},
            "federation": {"enabled": False},
            "limits": {"message": RATE, "connections": {"per_second": 10, "burst_count": 5}},
            "stream": {"sessions_per_address": 3, "sessions_per_user": 2, "max_sessions": 5},
        }
    )
    server = Homeserver(config, reactor=reactor)
    await server.start(listen=False)
    world = World(server)
    try:
        yield world
    finally:
        for wire in world.wires:
            if wire.session is not None:
                wire.session.lost()
        await server.stop()


@pytest_twisted.async_yield_fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A server on SQLite: sessions know nothing of databases."""
    async with running(tmp_path, f"sqlite:///{tmp_path / 'a.db'}") as found:
        yield found


@pytest_twisted.async_yield_fixture
async def any_world(tmp_path: Path, database_url: str) -> AsyncIterator[World]:
    async with running(tmp_path, database_url) as found:
        yield found


async def until(condition: Any) -> None:
    """Wait until something is so."""
    for _ in range(3_000):
        if condition():
            return
        await deferLater(reactor, 0.01)  # type: ignore[arg-type]
    raise AssertionError("it did not come to that")


@pytest_twisted.ensureDeferred
async def test_the_answer_to_auth_comes_before_the_first_update(world: World) -> None:
    login = await world.log_in("alice")
    wire = await world.connect(login)
    await until(lambda: len(wire.sent) >= 2)
    assert wire.sent[0] == {"id": "auth", "result": {"user_id": f"@alice:{SERVER}", "device_id": login.device_id}}
    assert "next_batch" in wire.sent[1]


@pytest.mark.parametrize(
    "message",
    [
        b"hello",
        b"[]",
        b'{"id": 1, "method": "ping"}',
        b'{"id": 1, "method": "auth"}',
        b'{"id": 1, "method": "auth", "params": {"access_token": 7}}',
        b'{"id": 1, "method": "auth", "params": {"access_token": "x", "since": "yesterday"}}',
    ],
    ids=["text", "list", "other method", "no params", "no text", "since"],
)
@pytest_twisted.ensureDeferred
async def test_a_first_message_that_is_no_good_auth_ends_it(world: World, message: bytes) -> None:
    wire = world.begin()
    assert wire.session is not None
    wire.session.received(message)
    assert wire.ending is not None and wire.ending.code == 4400


@pytest_twisted.ensureDeferred
async def test_an_unknown_token_ends_it(world: World) -> None:
    wire = world.begin()
    wire.say("auth", access_token="nobody")
    await until(lambda: wire.ending)
    assert wire.ending is not None and (wire.ending.code, wire.ending.errcode) == (4401, "M_UNKNOWN_TOKEN")


@pytest_twisted.ensureDeferred
async def test_messages_of_one_connection_keep_their_order(any_world: World) -> None:
    wire = await any_world.connect(await any_world.log_in("alice"))
    room = await any_world.room("alice")
    content = {"msgtype": "m.text", "body": "x"}
    for number in range(40):
        wire.say("send", number, room_id=room, event_type="m.room.message", content=content)
    await until(lambda: len(wire.answers) == 41)
    sent = [wire.answers[number]["result"]["event_id"] for number in range(40)]
    await until(lambda: sent[-1] in wire.events)
    assert [each for each in wire.events if each in sent] == sent


@pytest_twisted.ensureDeferred
async def test_a_repeated_send_happens_once(any_world: World) -> None:
    login = await any_world.log_in("alice")
    room = await any_world.room("alice")
    answers = []
    for _ in range(2):
        wire = await any_world.connect(login)
        wire.say("send", "t1", room_id=room, event_type="m.room.message", content={"body": "x", "msgtype": "m.text"})
        await until(lambda wire=wire: "t1" in wire.answers)
        answers.append(wire.answers["t1"]["result"])
    assert answers[0] == answers[1]


@pytest_twisted.ensureDeferred
async def test_reading_stops_while_enough_is_being_worked_on(world: World) -> None:
    wire = await world.connect(await world.log_in("alice"))
    room = await world.room("alice")
    for number in range(20):
        wire.say("send", number, room_id=room, event_type="m.room.message", content={})
    assert wire.is_paused
    await until(lambda: len(wire.answers) == 21)
    assert not wire.is_paused


@pytest_twisted.ensureDeferred
async def test_nobody_takes_more_than_a_turn(world: World) -> None:
    wire = await world.connect(await world.log_in("alice"))
    for number in range(3 * MAX_IN_TURN):
        wire.say("ping", number)
    assert MAX_IN_TURN - 1 <= len(wire.answers) <= MAX_IN_TURN + 1
    assert wire.is_paused
    await until(lambda: len(wire.answers) == 3 * MAX_IN_TURN + 1)
    assert not wire.is_paused


@pytest_twisted.ensureDeferred
async def test_nothing_is_sent_while_the_wire_is_full_and_all_of_it_afterwards(world: World) -> None:
    login = await world.log_in("alice")
    room = await world.room("alice")
    wire = await world.connect(login)
    await until(lambda: wire.events)
    assert wire.session is not None
    wire.session.clogged()
    before = len(wire.sent)
    sent = [str(await world.server.as_user(f"@alice:{SERVER}").send(room, str(number))) for number in range(5)]
    wire.say("ping", "later")
    await deferLater(reactor, 0.05)  # type: ignore[arg-type]
    assert len(wire.sent) == before and wire.is_paused
    wire.session.drained()
    await until(lambda: sent[-1] in wire.events)
    assert [each for each in wire.events if each in sent] == sent
    assert "later" in wire.answers and not wire.is_paused
    # Together, in one update.
    assert len([each for each in wire.sent[before:] if "next_batch" in each]) == 1


@pytest_twisted.ensureDeferred
async def test_silence_brings_a_ping_and_then_the_end(world: World) -> None:
    wire = await world.connect(await world.log_in("alice"))
    assert wire.session is not None
    now = world.door.now()
    wire.session.look(now + 44)
    assert wire.pings == 0
    wire.session.look(now + 46)
    wire.session.look(now + 50)
    assert wire.pings == 1
    wire.session.look(now + 91)
    assert wire.ending is not None and wire.ending.code == 4408


@pytest_twisted.ensureDeferred
async def test_a_slow_reader_is_not_taken_for_gone(world: World) -> None:
    wire = await world.connect(await world.log_in("alice"))
    assert wire.session is not None
    now = world.door.now()
    for minute in range(1, 30):
        wire.untaken = 1_000_000 - 1_000 * minute
        wire.session.look(now + 60 * minute)
    assert wire.ending is None
    # It stops.
    wire.session.look(now + 60 * 31)
    wire.session.look(now + 60 * 33)
    assert wire.ending is not None and wire.ending.code == 4408


@pytest_twisted.ensureDeferred
async def test_a_message_that_never_ends_and_an_auth_that_never_comes_end_it(world: World) -> None:
    now = world.door.now()
    waiting = world.begin()
    assert waiting.session is not None
    waiting.session.look(now + 9)
    assert waiting.ending is None
    waiting.session.look(now + 11)
    assert waiting.ending is not None and waiting.ending.code == 4408

    wire = await world.connect(await world.log_in("alice"))
    assert wire.session is not None
    wire.session.begun()
    wire.session.heard()
    wire.session.look(world.door.now() + 31)
    assert wire.ending is not None and wire.ending.code == 4408


@pytest_twisted.ensureDeferred
async def test_logging_out_ends_the_connections_of_that_device_alone(any_world: World) -> None:
    first, second = await any_world.log_in("alice"), await any_world.log_in("alice")
    one, other = await any_world.connect(first), await any_world.connect(second)
    await any_world.call(first.tokens.access_token, "POST", "/logout")
    await until(lambda: one.ending)
    assert one.ending is not None and (one.ending.code, one.ending.errcode) == (4401, "M_UNKNOWN_TOKEN")
    other.say("ping", "still")
    await until(lambda: "still" in other.answers)
    assert other.ending is None


@pytest_twisted.ensureDeferred
async def test_a_fresh_token_of_the_same_device_is_taken_and_no_other(world: World) -> None:
    alice, bob = await world.log_in("alice"), await world.log_in("bob")
    wire = await world.connect(alice)
    wire.say("auth", "again", access_token=alice.tokens.access_token)
    wire.say("auth", "other", access_token=bob.tokens.access_token)
    wire.say("auth", "none", access_token="nobody")
    await until(lambda: len(wire.answers) == 4)
    assert wire.answers["again"]["result"]["user_id"] == f"@alice:{SERVER}"
    assert wire.answers["other"]["error"]["errcode"] == "M_INVALID_PARAM"
    assert wire.answers["none"]["error"]["errcode"] == "M_UNKNOWN_TOKEN"
    assert wire.ending is None


@pytest_twisted.ensureDeferred
async def test_a_connection_that_is_gone_leaves_nothing_behind(world: World) -> None:
    login = await world.log_in("alice")
    wire = await world.connect(login)
    user = world.parts.base.feed.find_user(f"@alice:{SERVER}")
    assert user is not None and user.followers == (wire.session,)
    assert wire.session is not None
    wire.session.lost()
    assert user.followers == () and world.door.count == 0
    assert not world.door._by_user and not world.door._by_address


@pytest_twisted.ensureDeferred
async def test_connections_are_bounded_by_user_by_address_and_in_all(world: World) -> None:
    login = await world.log_in("alice")
    open_ones = [await world.connect(login) for _ in range(2)]
    third = await world.connect(login)
    assert [each.ending for each in open_ones] == [None, None]
    assert third.ending is not None and third.ending.code == 4429
    # Those of one address, the refused one too until it is gone.
    assert isinstance(world.door.refusal("192.0.2.1"), LimitExceeded)
    assert world.door.refusal("192.0.2.2") is None
    for _ in range(2):
        world.begin("192.0.2.2")
    assert isinstance(world.door.refusal("192.0.2.3"), LimitExceeded)


@pytest_twisted.ensureDeferred
async def test_thousands_at_once_are_let_in_at_the_rate_or_sent_away(world: World) -> None:
    waits: list[float] = []
    with pytest.raises(LimitExceeded) as refused:
        for _ in range(3_000):
            waits.append(world.door.wait_s())
    assert waits[:5] == [0.0] * 5
    # Ten a second, for the five seconds that anybody waits.
    assert 50 <= len(waits) <= 60
    assert 4.8 <= waits[-1] <= 5.0
    assert refused.value.retry_after_ms is not None and refused.value.retry_after_ms > 5_000


@pytest_twisted.ensureDeferred
async def test_a_filter_changes_what_comes_next(world: World) -> None:
    login = await world.log_in("alice")
    room = await world.room("alice")
    wire = await world.connect(login)
    await until(lambda: wire.events)
    wire.say("sync", "less", filter={"room": {"timeline": {"types": ["m.room.topic"]}}})
    await until(lambda: "less" in wire.answers)
    speaker = world.server.as_user(f"@alice:{SERVER}")
    unseen = str(await speaker.send(room, "unseen"))
    place = wire.session._place if wire.session is not None else None
    assert place is not None
    await until(lambda: place.position == world.parts.base.feed.watermark)
    wire.say("sync", "all", filter=None)
    await until(lambda: "all" in wire.answers)
    seen = str(await speaker.send(room, "seen"))
    await until(lambda: seen in wire.events)
    assert unseen not in wire.events


@pytest_twisted.ensureDeferred
async def test_all_connections_are_told_when_the_server_stops(world: World) -> None:
    wire = await world.connect(await world.log_in("alice"))
    done: Deferred[None] = Deferred.fromCoroutine(world.door.stop())  # type: ignore[arg-type]
    assert wire.ending is not None and wire.ending.code == 1001
    assert wire.session is not None
    wire.session.lost()
    await done


@pytest_twisted.ensureDeferred
async def test_who_is_connected_is_online_and_says_otherwise_by_sync(world: World) -> None:
    login = await world.log_in("alice")
    await world.room("alice")
    path = f"/presence/@alice:{SERVER}/status"
    token = login.tokens.access_token
    assert (await world.call(token, "GET", path))["presence"] == "offline"
    wire = await world.connect(login)
    assert (await world.call(token, "GET", path))["presence"] == "online"
    wire.say("sync", "away", set_presence="unavailable")
    await until(lambda: "away" in wire.answers)
    assert (await world.call(token, "GET", path))["presence"] == "unavailable"


@pytest_twisted.ensureDeferred
async def test_who_is_logged_out_while_a_stream_is_opened_is_not_let_in(world: World) -> None:
    login = await world.log_in("alice")
    requester = await world.door.requester_for(login.tokens.access_token)
    opening = Opening(None, None, None, None)
    place, user = await world.door.prepare(requester, opening)
    await world.call(login.tokens.access_token, "POST", "/logout")
    wire = world.begin()
    assert wire.session is not None
    world.door.open_prepared(wire.session, requester, opening, place, user)
    wire.session.wake()
    await until(lambda: wire.ending)
    assert wire.ending is not None and (wire.ending.code, wire.ending.errcode) == (4401, "M_UNKNOWN_TOKEN")
    assert wire.sent == []


@pytest_twisted.ensureDeferred
async def test_of_several_looks_at_the_rights_the_newest_counts(world: World) -> None:
    login = await world.log_in("alice")
    wire = await world.connect(login)
    session = wire.session
    assert session is not None and session.requester is not None
    sessions, requester = world.parts.users.sessions, session.requester
    answers: list[Deferred[Requester]] = []

    async def renewed(_: Requester) -> Requester:
        answers.append(Deferred())
        return await answers[-1]

    sessions.renewed = renewed  # type: ignore[method-assign]
    world.door.check(session)
    world.door.check(session)
    for answer, is_suspended in zip(answers, (False, True), strict=True):
        answer.callback(replace(requester, is_suspended=is_suspended))
    assert session.requester.is_suspended
    assert not world.door._checks
    wire.say("ping", "still")
    assert "still" in wire.answers


@pytest_twisted.ensureDeferred
async def test_a_full_inbox_goes_on_after_the_connection_was_lost(world: World) -> None:
    alice, bob = await world.log_in("alice"), await world.log_in("bob")
    first = await world.connect(alice)
    await until(lambda: len(first.sent) >= 2)
    since = first.sent[1]["next_batch"]
    assert first.session is not None
    first.session.lost()
    for number in range(120):
        messages = {f"@alice:{SERVER}": {alice.device_id: {"n": number}}}
        path = f"/sendToDevice/m.test/{number}"
        await world.call(bob.tokens.access_token, "PUT", path, {"messages": messages})
    second = await world.connect(alice, since=since)
    await until(lambda: any("to_device" in each for each in second.sent))
    told = next(each for each in second.sent if "to_device" in each)
    assert len(told["to_device"]["events"]) == 100 and second.session is not None
    second.session.lost()
    # Nothing happens any more, and the rest comes all the same.
    third = await world.connect(alice, since=told["next_batch"])
    await until(lambda: any("to_device" in each for each in third.sent))
    rest = next(each for each in third.sent if "to_device" in each)
    events = [*told["to_device"]["events"], *rest["to_device"]["events"]]
    assert [event["content"]["n"] for event in events] == list(range(120))


@pytest_twisted.ensureDeferred
async def test_logging_in_anew_on_a_device_ends_its_connections(any_world: World) -> None:
    """Spec: "the server will invalidate any access and refresh tokens previously assigned to that device"."""
    login = await any_world.log_in("alice")
    wire = await any_world.connect(login)
    account = await any_world.parts.users.accounts.find(UserID(f"@alice:{SERVER}"))
    assert account is not None
    await any_world.parts.users.sessions.log_in(account, device_id=login.device_id)
    assert wire.ending is not None and wire.ending.code == 4401


@pytest_twisted.ensureDeferred
async def test_a_sent_message_is_in_no_circle_that_only_the_garbage_collector_could_free(world: World) -> None:
    wire = await world.connect(await world.log_in("alice"))
    room = await world.room("alice")

    async def send(first: int, count: int) -> None:
        for number in range(first, first + count):
            wire.say("send", number, room_id=room, event_type="m.room.message", content={"body": "x"})
            await until(lambda number=number: number in wire.answers)
        wire.sent.clear()

    await send(0, 10)
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        await send(10, 10)
        gc.collect()
        found = {type(each).__name__ for each in gc.garbage}
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not found & {"Event", "StoredEvent", "Judged", "Prepared", "WebRequest", "Response", "Deferred"}
