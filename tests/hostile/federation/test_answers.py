"""What a bad server answers: without end, without sense, elsewhere, or not at all; and lies about the rooms it hosts.

Spec: hostile inputs 29, 34, 45, 50, 51, 57, 58.
"""

from __future__ import annotations

import gzip
import json
import resource
import time
from collections.abc import AsyncIterator, Callable
from itertools import count
from typing import Any
from urllib.parse import quote

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol

from homeserver.model.signing import generate_signing_key
from homeserver.runtime.tls import ReloadableTLS
from tests.support.federation import Federation, sqlite_url_in
from tests.support.played_server import NO_ANSWER, PlayedRequest, pause, until
from tests.support.ports import free_port

from .world import V1, World

_NUMBERS = count(1)
ADDRESS = "127.0.0.150"
MiB = 1024 * 1024


@pytest_twisted.async_yield_fixture(scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """A world whose server waits for others for a few seconds only."""
    federation = Federation(tmp_path_factory.mktemp("world"), sqlite_url_in)
    made = World(federation)
    try:
        ca_files = {"ca_files": [str(federation.authority.ca_file)], "ip_range_allowlist": ["127.0.0.0/8"]}
        await made.start(federation={**ca_files, "trusted_key_servers": [], "timeout_ms": 2_000})
        yield made
        await made.check_all()
    finally:
        made.stop()
        await federation.stop()


class Raw:
    """A server that writes bytes, whatever it is asked: `head`, and then `piece` without end where there is one."""

    def __init__(self, world: World, head: bytes, piece: bytes = b"") -> None:
        self.head, self.piece = head, piece
        self.sent = 0
        self.port = free_port(ADDRESS)
        self.name = f"{ADDRESS}:{self.port}"
        certificate, key = world.federation.authority.certificate(ADDRESS)
        raw = self

        class Talker(Protocol):
            def dataReceived(self, data: bytes) -> None:
                if raw.head is not None and not getattr(self, "begun", False):
                    self.begun = True
                    self.transport.write(raw.head)
                    if raw.piece:
                        self.transport.registerProducer(self, False)

            def resumeProducing(self) -> None:
                raw.sent += len(raw.piece)
                self.transport.write(raw.piece)

            def stopProducing(self) -> None: ...

        factory = Factory.forProtocol(Talker)
        factory.noisy = False
        self._listening = reactor.listenSSL(  # type: ignore[attr-defined]
            self.port, factory, ReloadableTLS(certificate, key), interface=ADDRESS
        )

    async def stop(self) -> None:
        await self._listening.stopListening()


OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def whole(body: bytes, *headers: bytes) -> bytes:
    return OK + b"".join(each + b"\r\n" for each in headers) + b"Content-Length: %d\r\n\r\n" % len(body) + body


def redirect(where: bytes) -> bytes:
    return b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + where + b"\r\n\r\n"


PIECE = b" " * 65_536
CHUNK = b"10000\r\n" + PIECE + b"\r\n"
RAW: dict[str, tuple[bytes, bytes]] = {
    "endless chunks": (OK + b"Transfer-Encoding: chunked\r\n\r\n", CHUNK),
    "endless body": (OK + b"\r\n", PIECE),
    "a body of a terabyte": (OK + b"Content-Length: 1000000000000\r\n\r\n", PIECE),
    "endless header": (OK + b"X: ", PIECE),
    "endless headers": (OK, b"A: b\r\n" * 1_000),
    "endless chunk size": (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"0" * 1_000),
    "endless trailers": (OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"A: b\r\n" * 1_000),
    "endless interim answers": (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early\r\nA: b\r\n\r\n" * 100),
    "endless first line": (b"HTTP/1.1 200 ", b"x" * 10_000),
    "gzip": (whole(gzip.compress(b'{"a":' + b" " * 10 * MiB + b"1}"), b"Content-Encoding: gzip"), b""),
    "nothing": (b"", b""),
    "half an answer": (OK + b"Content-Length: 100\r\n\r\n{", b""),
    "rubbish": (b"\x16\x03\x01\x00\xff rubbish\r\n\r\n", b""),
    "a page": (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>", b""),
    "two lengths": (OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x", b""),
    "length and chunks": (OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b""),
    "negative length": (OK + b"Content-Length: -1\r\n\r\n{}", b""),
    "odd status": (b"HTTP/1.1 099 Odd\r\nContent-Length: 2\r\n\r\n{}", b""),
    "HTTP/9": (b"HTTP/9.9 200 OK\r\nContent-Length: 2\r\n\r\n{}", b""),
    "switching protocols": (b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\n\r\n", b""),
    "answers that nobody asked for": (whole(b"{}") * 50, b""),
    "redirect inside": (redirect(b"http://169.254.169.254/latest/meta-data"), b""),
    "redirect to a file": (redirect(b"file:///etc/passwd"), b""),
    "redirect to itself": (redirect(b"/x"), b""),
    "deep": (whole(b"[" * 100_000), b""),
    "deep objects": (whole(b'{"a":' * 100_000), b""),
    "NaN": (whole(b'{"room_id":NaN,"servers":NaN,"displayname":NaN,"device_keys":NaN}'), b""),
    "half a character": (
        whole(b'{"room_id":"\\ud800","displayname":"\\ud800","servers":["\\ud800"],"chunk":["\\ud800"]}'),
        b"",
    ),
    "odd types": (
        whole(b'{"room_id":[],"servers":{},"displayname":{},"avatar_url":[1],"chunk":{},"device_keys":[]}'),
        b"",
    ),
    "no content": (b"HTTP/1.1 204 No\r\n\r\n", b""),
    "odd error": (b'HTTP/1.1 403 No\r\nContent-Length: 25\r\n\r\n{"errcode":[],"error":{}}', b""),
    "an error of a megabyte": (b"HTTP/1.1 500 No\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 10**6, b""),
    "limit exceeded for ever": (
        b"HTTP/1.1 429 No\r\nRetry-After: 99999999999\r\nContent-Length: 62\r\n\r\n"
        b'{"errcode":"M_LIMIT_EXCEEDED","error":"","retry_after_ms":1e99}',
        b"",
    ),
}
QUESTIONS: dict[str, Callable[[str], tuple[str, str, Any, dict[str, str]]]] = {
    "alias": lambda name: ("GET", f"/directory/room/{quote(f'#x:{name}', safe='')}", None, {}),
    "profile": lambda name: ("GET", f"/profile/{quote(f'@x:{name}', safe='')}", None, {}),
    "join": lambda name: ("POST", "/join/!x", {}, {"via": name}),
    "keys": lambda name: ("POST", "/keys/query", {"device_keys": {f"@x:{name}": []}, "timeout": 3_000}, {}),
    "claim": lambda name: ("POST", "/keys/claim", {"one_time_keys": {f"@x:{name}": {"D": "x"}}, "timeout": 3_000}, {}),
    "rooms": lambda name: ("GET", "/publicRooms", None, {"server": name}),
    "media": lambda name: ("GET", f"/_matrix/client/v1/media/download/{name}/x", None, {"timeout_ms": "3000"}),
}


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.parametrize("case", RAW)
async def test_whatever_is_answered_ends_soon_and_is_no_fault_of_ours(world: World, case: str) -> None:
    """All questions at once: each has its own bad server, which is then left alone."""
    raws = {name: Raw(world, *RAW[case]) for name in QUESTIONS}
    before, begin = peak_mib(), time.monotonic()
    try:
        running = []
        for name, raw in raws.items():
            method, path, content, query = QUESTIONS[name](raw.name)
            running.append((name, Deferred.fromCoroutine(world.alice.try_call(method, path, content, **query))))
        for name, asked in running:
            answer = await asked
            assert answer.status in (200, 400, 403, 404, 429, 502, 504), (name, answer)
            if answer.status == 200 and name in ("keys", "claim"):
                assert not answer.json.get("device_keys"), name
    finally:
        for raw in raws.values():
            await raw.stop()
    assert time.monotonic() - begin < 12
    assert peak_mib() - before < 150
    world.without_faults()


async def test_all_goes_on_after_that(world: World) -> None:
    await world.check_all()


# -- lies about rooms ------------------------------------------------------------------------------------------------


async def partial(world: World, names: list[str]) -> Any:
    """Return a room that alice has joined without its members, which `names` are said to be in."""
    scene = world.scene("12")
    world.reside(scene)

    def send_join(request: PlayedRequest) -> Any:
        answer = world.joined(scene, request)
        answer["state"] = [each for each in answer["state"] if each["type"] != "m.room.member"]
        return {**answer, "members_omitted": True, "servers_in_room": names}

    world.answers["send_join"] = send_join
    assert 200 == (await world.join(scene)).status
    return scene


async def test_members_that_are_never_delivered_keep_nobody_from_anything(world: World) -> None:
    world.forgive()
    scene = await partial(world, [world.evil.name, world.honest.name, "x", "", "a b", 7 * "x:"])
    world.answers["state"] = lambda request: NO_ANSWER
    world.answers["event"] = lambda request: NO_ANSWER
    await world.alice.say(scene.room_id, "hello")
    synced = await world.alice.sync()
    assert scene.room_id in synced["rooms"]["join"]
    marker = f"marker{next(_NUMBERS)}."
    for _ in range(3):
        answer = await world.send(*(scene.wire("m.room.message", scene.low, {"body": marker}) for _ in range(50)))
        assert answer.status in (200, 429)
    assert [] == world.stored(marker), "what is held is no event yet"
    await world.check()
    await world.alice.leave(scene.room_id)
    await world.check()


async def test_members_that_are_other_events_are_left_out(world: World) -> None:
    world.forgive()
    scene = await partial(world, [world.evil.name])
    marker = f"marker{next(_NUMBERS)}."
    bad = [
        scene.wire("m.room.name", scene.low, {"name": marker}, ""),
        scene.wire("m.room.member", scene.stranger, {"membership": "join", "x": marker}, scene.stranger, auth=[]),
        scene.wire("m.room.message", scene.low, {"body": marker}),
        {"type": "m.room.member", "state_key": [marker]},
        marker,
        None,
    ]
    chain = scene.chain(scene.state.values())
    world.answers["state"] = lambda request: {"pdus": [*bad, *scene.state_wires()], "auth_chain": [*bad, *chain]}

    async def is_complete() -> bool:
        return not (await world.server.parts.base.door.tip(scene.room_id)).is_partial

    world.server.parts.base.links.others.joining._completion.hurry(scene.room_id)
    await until(is_complete, timeout_s=15)
    assert [] == [event_id for event_id, flags in world.stored(marker) if not flags & 15]
    names = [each for each in await world.alice.state(scene.room_id) if marker in json.dumps(each)]
    assert [] == names
    await world.check()


async def test_two_hundred_thousand_ids_of_a_state_are_not_all_asked_for(world: World) -> None:
    world.forgive()
    scene = await world.joined_scene("12")
    ids = [f"${number:043d}" for number in range(200_000)]
    world.answers["get_missing_events"] = lambda request: {"events": []}
    body = json.dumps({"pdu_ids": ids, "auth_chain_ids": ids}).encode()
    world.answers["state_ids"] = lambda request: body
    world.answers["state"] = lambda request: {"pdus": [], "auth_chain": []}
    begin, before = time.process_time(), peak_mib()
    child = scene.wire("m.room.message", scene.low, {"body": "x"}, prev=[scene.unknown_id()])
    assert 200 == (await world.send(child)).status
    assert len(world.evil.requests) < 20
    assert time.process_time() - begin < 8
    # It pays for what it says, so that it cannot say it again and again.
    assert world.server.parts.base.links.backfill._fetching.budgets.of(world.evil.name).bytes > 400_000 * 40
    assert peak_mib() - before < 200
    await world.check()


async def test_an_auth_chain_of_invented_events_is_left(world: World) -> None:
    world.forgive()
    scene = await world.joined_scene("12")
    rubbish = [{"type": "m.room.member", "n": number} for number in range(50_000)]
    body = json.dumps({"auth_chain": rubbish}).encode()
    world.answers["event_auth"] = lambda request: body
    child = scene.wire("m.room.message", scene.low, {"body": "x"}, auth=[scene.unknown_id()])
    begin = time.process_time()
    assert 200 == (await world.send(child)).status
    assert time.process_time() - begin < 8
    await world.check()


async def test_ancestors_without_end_are_left_soon(world: World) -> None:
    """Each answer builds on events that nobody has, for as long as anybody asks."""
    world.forgive()
    scene = await world.joined_scene("12")
    stored = world.database.execute("SELECT count(*) FROM events").fetchone()[0]
    chain: dict[str, Any] = {}
    prev = scene.unknown_id()
    for _ in range(500):
        wire = scene.wire("m.room.message", scene.low, {"body": "ancestor"}, prev=[prev], depth=50)
        prev = scene.id_of(wire)
        chain[prev] = wire

    def step(request: PlayedRequest) -> Any:
        wanted = [chain[each]["prev_events"][0] for each in request.json["latest_events"] if each in chain]
        return {"events": [chain[each] for each in wanted if each in chain]}

    world.answers["get_missing_events"] = step
    head = chain[prev]
    assert 200 == (await world.send(head)).status
    assert len(world.evil.asked(f"{V1}/get_missing_events")) <= 12
    assert world.database.execute("SELECT count(*) FROM events").fetchone()[0] - stored < 50
    await world.check()


async def test_a_template_on_other_events_is_used_and_its_join_judged(world: World) -> None:
    """What the template builds on is the resident's to say; whether the answer holds is not."""
    world.forgive()
    scene = world.scene("12")
    world.reside(scene)
    world.answers["make_join"] = lambda request: scene.template(
        world.alice.user_id, "join", prev_events=[scene.unknown_id()], auth_events=[scene.unknown_id()], depth=1
    )
    answer = await world.join(scene)
    assert answer.status in (400, 403, 404, 502), answer
    assert scene.room_id not in (await world.alice.sync())["rooms"]["join"]
    await world.check()


# -- keys ------------------------------------------------------------------------------------------------------------


async def test_a_list_of_many_keys_is_refused_or_read_in_time(world: World) -> None:
    player = await world.federation.play()
    player.keys += [generate_signing_key(number.to_bytes(32, "big"), f"k{number}") for number in range(1, 500)]
    begin = time.process_time()
    published = player.published_keys()
    spent = time.process_time() - begin
    player.answers["/_matrix/key/v2/server"] = lambda request: published
    begin = time.process_time()
    answer = await player.put(world.server.name, f"{V1}/send/1", {"pdus": []})
    assert answer.status in (200, 401)
    assert time.process_time() - begin < spent + 3
    await world.check()


async def test_a_notary_is_asked_for_few_strangers(world: World) -> None:
    names: dict[str, Any] = {f"127.8.{number // 250}.{number % 250}:9": {} for number in range(10_000)}
    begin = time.monotonic()
    answer = await world.evil.post(world.server.name, "/_matrix/key/v2/query", {"server_keys": names})
    assert answer.status in (200, 400, 413, 429), answer
    assert time.monotonic() - begin < 15
    await world.check()


async def test_a_crowd_of_dead_servers_keeps_nobody_from_the_others(world: World) -> None:
    world.forgive()
    before, begin = peak_mib(), time.process_time()
    scene = await partial(
        world, [world.evil.name, *(f"127.7.{number // 250 % 250}.{number % 250}:9" for number in range(10_000))]
    )
    await world.alice.leave(scene.room_id)
    await pause(0.2)
    assert peak_mib() - before < 150
    assert time.process_time() - begin < 15
    await world.check()
