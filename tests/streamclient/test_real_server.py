"""The client against the server itself, which is stopped, killed and cut off meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from homeserver.streamclient import StreamClient, StreamEnded, StreamError, timeline_events, to_device_messages
from tests.support.ports import free_port

from .played_stream import Hurried
from .real_server import RealServer

LIMIT_S = 90.0


def within(work: Any) -> Deferred[Any]:
    return Deferred.fromCoroutine(work).addTimeout(LIMIT_S, reactor)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """A server on SQLite that runs; one for all tests, which leave it running."""
    folder = tmp_path_factory.mktemp("server")
    server = RealServer(folder, f"sqlite:///{folder / 'homeserver.db'}")
    pytest_twisted.blockon(Deferred.fromCoroutine(server.start()))
    yield server
    pytest_twisted.blockon(Deferred.fromCoroutine(server.close()))


@pytest_twisted.async_yield_fixture
async def any_server(tmp_path: Path, database_url: str) -> AsyncIterator[RealServer]:
    """A server that runs, on either database."""
    server = RealServer(tmp_path / "server", database_url)
    await server.start()
    yield server
    await server.close()


async def _room(owner: StreamClient, *guests: StreamClient) -> str:
    """Return the ID of a new public room in which all are; the guests have not been started."""
    answer = await owner.call("POST", "/createRoom", {"preset": "public_chat"})
    for guest in guests:
        await guest.join(answer["room_id"])
    room_id: str = answer["room_id"]
    return room_id


@pytest_twisted.ensureDeferred
async def test_two_people_talk(server: RealServer) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room_id = await _room(alice, bob)
    async with alice, bob:
        assert alice.user_id.startswith("@alice")
        # The first update is the initial sync, which is no news.
        reading = within(anext(bob.events()))
        while bob._inbox.reached is None:
            await deferLater(reactor, 0.01)  # type: ignore[arg-type]
        event_id = await alice.send(room_id, "hello")
        event = await reading
        assert (room_id, event_id, "hello") == (event["room_id"], event["event_id"], event["content"]["body"])


@pytest_twisted.ensureDeferred
async def test_every_method_is_known_to_the_server(server: RealServer) -> None:
    alice = await server.person("alice")
    room_id = await _room(alice)
    async with alice:
        event_id = await alice.send(room_id, "one", transaction_id="mine")
        assert event_id == await alice.send(room_id, "one", transaction_id="mine")
        assert await alice.state(room_id, "m.room.topic", {"topic": "a topic"})
        assert await alice.redact(room_id, event_id, "because")
        await alice.typing(room_id)
        await alice.receipt(room_id, event_id)
        await alice.read_markers(room_id, fully_read=event_id, read_private=event_id)
        await alice.presence("unavailable", "busy")
        assert (await alice.messages(room_id, limit=3))["chunk"][0]["type"] == "m.room.redaction"
        await alice.to_device("m.dummy", {alice.user_id: {"*": {"n": 1}}})
        await alice.set_filter({"room": {"timeline": {"limit": 3}}})
        await alice.set_filter(None)
        await alice.set_presence("online")
        await alice.ping()
        with pytest.raises(StreamError, match="M_FORBIDDEN"):
            await alice.send("!elsewhere:test.example", "hello")
        with pytest.raises(StreamError, match="M_UNRECOGNIZED"):
            await alice.request("org.example.dance")


@pytest_twisted.ensureDeferred
async def test_history_of_a_room_that_is_joined_is_no_news(server: RealServer) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room_id = await _room(alice)
    async with alice, bob:
        await alice.send(room_id, "before")
        await within(anext(bob.updates()))
        reading = bob.events()
        await bob.join(room_id)
        await alice.send(room_id, "after")
        joined, after = await within(anext(reading)), await within(anext(reading))
        assert ("m.room.member", "after") == (joined["type"], after["content"]["body"])


@pytest.mark.slow
@pytest_twisted.ensureDeferred
async def test_join_waits_for_a_server_that_restarts(server: RealServer) -> None:
    alice, bob = await server.person("alice"), await server.person("bob", reactor=Hurried(5.0))
    room_id = await _room(alice)
    async with bob:
        await server.stop()
        joining = within(bob.join(room_id))
        await server.start()
        assert room_id == await joining


@pytest_twisted.ensureDeferred
async def test_who_does_not_read_for_a_while_misses_nothing(server: RealServer) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    room_id = await _room(alice, bob)
    text = "x" * 30_000
    async with alice, bob:
        await within(anext(bob.updates()))
        for begin in range(0, 400, 20):
            sending = [within(alice.send(room_id, f"{number} {text}")) for number in range(begin, begin + 20)]
            await gatherResults(sending)
        # Twelve megabytes were said, and are not all here.
        assert bob._inbox._held_bytes < 6_000_000
        reading = bob.events()
        numbers = [(await within(anext(reading)))["content"]["body"].split()[0] for _ in range(400)]
        assert [str(number) for number in range(400)] == numbers


@pytest_twisted.ensureDeferred
async def test_messages_to_the_device_come_once(server: RealServer) -> None:
    alice, bob = await server.person("alice"), await server.person("bob")
    got: list[int] = []

    async def read(number: int) -> None:
        async for update in bob.updates():
            got.extend(message["content"]["n"] for message in to_device_messages(update))
            if len(got) >= number:
                return

    async with alice, bob:
        for number in range(250):
            await alice.to_device("m.dummy", {bob.user_id: {"*": {"n": number}}})
        await within(read(120))
        server.cut()
        await within(read(250))
        assert list(range(250)) == got


@pytest_twisted.ensureDeferred
async def test_session_that_logs_out_ends_the_stream(server: RealServer) -> None:
    alice = await server.person("alice")
    async with alice:
        await alice.call("POST", "/logout", {})
        with pytest.raises(StreamEnded) as end:
            async for _ in alice.updates():
                pass
        assert (4401, "M_UNKNOWN_TOKEN") == (end.value.code, end.value.errcode)


@pytest_twisted.ensureDeferred
async def test_lines_do_as_well(tmp_path: Path) -> None:
    port = free_port("127.0.0.1")
    more = f"[stream]\nlines_port = {port}\n"
    server = RealServer(tmp_path / "server", f"sqlite:///{tmp_path / 'homeserver.db'}", more)
    try:
        await server.start()
        alice = await server.person("alice")
        room_id = await _room(alice)
        async with StreamClient(f"tcp://127.0.0.1:{port}", alice.access_token, reactor=reactor) as client:
            await within(anext(client.updates()))
            event_id = await client.send(room_id, "hello")
            assert event_id == (await within(anext(client.events())))["event_id"]
            with pytest.raises(ValueError):
                await client.join(room_id)
    finally:
        await server.close()


@pytest_twisted.ensureDeferred
async def test_token_that_is_none_is_refused(server: RealServer) -> None:
    client = StreamClient(server.url, "sat_nonsense", reactor=reactor)
    with pytest.raises(StreamEnded, match="M_UNKNOWN_TOKEN"):
        await within(client.start())


@pytest_twisted.ensureDeferred
async def test_place_that_is_none_is_refused(server: RealServer) -> None:
    client = await server.person("alice", since="nonsense")
    with pytest.raises(StreamEnded, match="M_INVALID_PARAM"):
        await within(client.start())


@pytest_twisted.ensureDeferred
async def test_log_in_and_wrong_password(server: RealServer) -> None:
    async with await server.person("alice") as alice:
        name = alice.user_id
    with pytest.raises(StreamError, match="M_FORBIDDEN"):
        await StreamClient.log_in(server.url, name, "guess", reactor=reactor)
    client = await StreamClient.log_in(server.url, name, "a long secret", device_id="BOT", reactor=reactor)
    async with client:
        assert (name, "BOT") == (client.user_id, client.device_id)


class _Journal:
    """What somebody was told of a room; goes on from `since` with a new client whenever it is asked to."""

    def __init__(self, room_id: str) -> None:
        self.room_id = room_id
        self.bodies: list[str] = []

    async def keep(self, client: StreamClient, last: str) -> None:
        async for update in client.updates():
            for event in timeline_events(update):
                if event["room_id"] == self.room_id and event["type"] == "m.room.message":
                    self.bodies.append(event["content"]["body"])
            if self.bodies and self.bodies[-1] == last:
                return


@pytest.mark.slow
@pytest.mark.deep_on("mariadb")
@pytest_twisted.ensureDeferred
async def test_nothing_is_lost_or_doubled_over_restarts_kills_and_cuts(any_server: RealServer) -> None:
    hurried = Hurried(5.0)
    alice, bob = [await any_server.person(name, reactor=hurried) for name in ("alice", "bob")]
    room_id = await _room(alice, bob)
    sent: list[str] = []
    is_over = False

    async def talk(name: str) -> None:
        number = 0
        while not is_over:
            number += 1
            await alice.send(room_id, f"{name}-{number}")
            sent.append(f"{name}-{number}")
            await deferLater(reactor, 0.01)  # type: ignore[arg-type]

    async with alice, bob:
        journals = _Journal(room_id), _Journal(room_id)
        keeping = [within(journals[0].keep(alice, "last")), within(journals[1].keep(bob, "last"))]
        talking = [within(talk(name)) for name in ("a", "b", "c", "d")]
        for step in ("cut", "stop", "cut", "kill", "cut"):
            so_far = len(sent)
            while len(sent) < so_far + 50:
                await deferLater(reactor, 0.05)  # type: ignore[arg-type]
            if step == "cut":
                any_server.cut()
            else:
                await any_server.stop(kill=step == "kill")
                await any_server.start()
        is_over = True
        await gatherResults(talking)
        await alice.send(room_id, "last")
        await gatherResults(keeping)
        history: list[str] = []
        start = None
        while True:
            page = await alice.messages(room_id, start=start, limit=100)
            history += [event["content"]["body"] for event in page["chunk"] if event["type"] == "m.room.message"]
            start = page.get("end")
            if start is None:
                break
    history.reverse()
    assert sorted([*sent, "last"]) == sorted(history)
    assert history == journals[0].bodies
    assert history == journals[1].bodies
    for name in "abcd":
        # Who waits for each answer is never overtaken by themselves.
        own = [body for body in history if body.startswith(f"{name}-")]
        assert [f"{name}-{number}" for number in range(1, len(own) + 1)] == own
