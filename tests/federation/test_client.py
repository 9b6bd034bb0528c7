"""What is asked of other servers is signed and well-formed; what they answer is read, or refused as what it is."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred

from federation.client import FederationClient
from federation.destinations import Destinations
from federation.discovery import Discovery
from federation.remote_media import RemoteFiles
from federation.transport import FederationTransport
from federation.x_matrix import encode_signed_request, parse_x_matrix
from homeserver.config import Federation
from homeserver.errors import RemoteError, RemoteProtocolError, RemoteRefused, RemoteUnreachable
from homeserver.model.base64 import decode_base64
from homeserver.model.ids import EventID, RoomAlias, RoomID, UserID
from homeserver.model.signing import generate_signing_key
from homeserver.ports import RemoteServers
from homeserver.runtime.addresses import AddressRules
from homeserver.runtime.client_tls import ClientTLS
from homeserver.runtime.clock import RealClock
from homeserver.runtime.outgoing import Outgoing
from homeserver.runtime.tasks import Tasks
from tests.storage.core import open_database
from tests.support.certificates import Authority
from tests.support.outgoing import PlayedNames
from tests.support.played_server import NO_ANSWER, PlayedRequest, PlayedServer, until

OURS = "ours.org"
KEY = generate_signing_key(b"\x07" * 32, "ours")
ROOM, EVENT, USER = RoomID("!röom/?#:a.org"), EventID("$e/v+ent"), UserID("@us/er:ours.org")
V1, V2 = "/_matrix/federation/v1", "/_matrix/federation/v2"


class World:
    """A client of ours and a played server `them`."""

    def __init__(self, folder: Path, database: Any, **config: Any) -> None:
        authority = Authority(folder / "ca")
        self.folder = folder
        self.clock = RealClock(reactor)
        self.tasks = Tasks(self.clock, "test")
        self.them = PlayedServer(authority, "127.0.0.2")
        self.elsewhere = PlayedServer(authority, "127.0.0.3")
        names = PlayedNames()
        tls = ClientTLS(reactor, [authority.ca_file])
        self.outgoing = Outgoing(reactor, rules=AddressRules(()), names=names, tls=tls)
        self.discovery = Discovery(self.outgoing, names, self.clock, lambda: 0.5)
        self.health = Destinations(database, self.clock, self.tasks, lambda: 0.5)
        self.configure()

    def configure(self, **config: Any) -> None:
        self.transport = FederationTransport(
            OURS, KEY, Federation(**config), self.clock,
            outgoing=self.outgoing, finder=self.discovery, destinations=self.health,
        )  # fmt: skip
        self.client: RemoteServers = FederationClient(
            self.transport, RemoteFiles(self.transport, self.outgoing, self.clock)
        )

    def answers(self, answer: Any, prefix: str = "/") -> None:
        self.them.answers[prefix] = answer if callable(answer) else lambda request: answer

    @property
    def last(self) -> PlayedRequest:
        return self.them.requests[-1]


@pytest_twisted.async_yield_fixture
async def world(tmp_path: Path, sqlite_url: str) -> AsyncIterator[World]:
    """Both, started."""
    database, threads = await open_database(sqlite_url)
    made = World(tmp_path, database)
    made.them.answers.clear()
    await made.them.start()
    await made.elsewhere.start()
    yield made
    await made.outgoing.stop()
    await made.them.stop()
    await made.elsewhere.stop()
    await made.tasks.stop()
    await database.stop()
    await threads.stop()


def _check_signed(request: PlayedRequest, server: str) -> None:
    says = parse_x_matrix(request.headers["authorization"])
    assert (OURS, server, KEY.key_id) == (says.origin, says.destination, says.key_id)
    signed = encode_signed_request(request.method, request.uri, OURS, server, request.body or None)
    KEY.verify_key.check(signed, decode_base64(says.signature))


CALLS: dict[str, tuple[Any, str, str, dict[str, str], Any, Any]] = {
    # what is called: call, method, path, query, answer, result
    "make_join": (
        lambda c, s: c.make_join(s, ROOM, USER, ["1", "11"]),
        "GET",
        f"{V1}/make_join/%21r%C3%B6om%2F%3F%23%3Aa.org/%40us%2Fer%3Aours.org",
        {"ver": "11"},
        {"room_version": "11", "event": {"type": "x"}},
        lambda r: (r.room_version, r.event) == ("11", {"type": "x"}),
    ),
    "make_leave": (
        lambda c, s: c.make_leave(s, ROOM, USER),
        "GET",
        f"{V1}/make_leave/",
        {},
        {"event": {}},
        lambda r: r.room_version == "1",
    ),
    "make_knock": (
        lambda c, s: c.make_knock(s, ROOM, USER, ["7"]),
        "GET",
        f"{V1}/make_knock/",
        {"ver": "7"},
        {"room_version": "7", "event": {}},
        lambda r: r.room_version == "7",
    ),
    "send_join": (
        lambda c, s: c.send_join(s, ROOM, EVENT, {"a": 1}, omit_members=True),
        "PUT",
        f"{V2}/send_join/%21r%C3%B6om%2F%3F%23%3Aa.org/%24e%2Fv%2Bent",
        {"omit_members": "true"},
        b'{"state":[{"a": 1.0}, 2],"auth_chain":[{"b":{}}],"event":{"e":1},"members_omitted":true,'
        b'"servers_in_room":["a.org","no server"]}',
        lambda r: (
            (list(r.state), r.auth_chain[0], r.event, r.members_omitted, r.servers_in_room)
            == ([b'{"a": 1.0}', b"2"], b'{"b":{}}', b'{"e":1}', True, ("a.org",))
        ),
    ),
    "send_leave": (
        lambda c, s: c.send_leave(s, ROOM, EVENT, {}),
        "PUT",
        f"{V2}/send_leave/",
        {},
        {},
        lambda r: r is None,
    ),
    "send_knock": (
        lambda c, s: c.send_knock(s, ROOM, EVENT, {}),
        "PUT",
        f"{V1}/send_knock/",
        {},
        {"knock_room_state": [{"type": "x"}]},
        lambda r: r == [{"type": "x"}],
    ),
    "invite": (
        lambda c, s: c.invite(s, ROOM, EVENT, {"z": 1}, "10", [{"type": "x"}]),
        "PUT",
        f"{V2}/invite/",
        {},
        b'{"event": {"z":1}}',
        lambda r: r == b'{"z":1}',
    ),
    "exchange": (
        lambda c, s: c.exchange_third_party_invite(s, ROOM, {}),
        "PUT",
        f"{V1}/exchange_third_party_invite/",
        {},
        {},
        lambda r: r is None,
    ),
    "get_event": (
        lambda c, s: c.get_event(s, EVENT),
        "GET",
        f"{V1}/event/%24e%2Fv%2Bent",
        {},
        b'{"pdus": [{"a" :1}]}',
        lambda r: r == b'{"a" :1}',
    ),
    "missing": (
        lambda c, s: c.get_missing_events(s, ROOM, earliest=[EVENT], latest=[EVENT], limit=2),
        "POST",
        f"{V1}/get_missing_events/",
        {},
        {"events": [1, 2, 3]},
        lambda r: list(r) == [b"2", b"3"],
    ),
    "backfill": (
        lambda c, s: c.backfill(s, ROOM, event_ids=[EVENT], limit=2),
        "GET",
        f"{V1}/backfill/",
        {"v": "$e/v+ent", "limit": "2"},
        {"pdus": [1, 2, 3]},
        lambda r: list(r) == [b"1", b"2"],
    ),
    "state": (
        lambda c, s: c.get_state(s, ROOM, EVENT),
        "GET",
        f"{V1}/state/",
        {"event_id": "$e/v+ent"},
        {"pdus": [{}], "auth_chain": []},
        lambda r: (len(r.state), len(r.auth_chain)) == (1, 0),
    ),
    "state_ids": (
        lambda c, s: c.get_state_ids(s, ROOM, EVENT),
        "GET",
        f"{V1}/state_ids/",
        {"event_id": "$e/v+ent"},
        {"pdu_ids": ["$a"], "auth_chain_ids": ["$b"]},
        lambda r: (r.state_ids, r.auth_chain_ids) == (("$a",), ("$b",)),
    ),
    "event_auth": (
        lambda c, s: c.get_event_auth(s, ROOM, EVENT),
        "GET",
        f"{V1}/event_auth/",
        {},
        {"auth_chain": [{}]},
        lambda r: r[0] == b"{}",
    ),
    "timestamp": (
        lambda c, s: c.timestamp_to_event(s, ROOM, 5, backwards=True),
        "GET",
        f"{V1}/timestamp_to_event/",
        {"ts": "5", "dir": "b"},
        {"event_id": "$a", "origin_server_ts": 4},
        lambda r: (r.event_id, r.origin_server_ts) == ("$a", 4),
    ),
    "directory": (
        lambda c, s: c.query_directory(s, RoomAlias("#ä b:a.org")),
        "GET",
        f"{V1}/query/directory",
        {"room_alias": "#ä b:a.org"},
        {"room_id": "!r:a.org", "servers": ["a.org", 1, "u@b"]},
        lambda r: (r.room_id, r.servers) == ("!r:a.org", ("a.org",)),
    ),
    "profile": (
        lambda c, s: c.query_profile(s, USER, "displayname"),
        "GET",
        f"{V1}/query/profile",
        {"user_id": str(USER), "field": "displayname"},
        {"displayname": "A"},
        lambda r: r == {"displayname": "A"},
    ),
    "public_rooms": (
        lambda c, s: c.public_rooms(s, {"limit": 1}),
        "POST",
        f"{V1}/publicRooms",
        {},
        {"chunk": []},
        lambda r: r == {"chunk": []},
    ),
    "hierarchy": (
        lambda c, s: c.hierarchy(s, ROOM, suggested_only=False),
        "GET",
        f"{V1}/hierarchy/",
        {"suggested_only": "false"},
        {"room": {}, "children": []},
        lambda r: r["room"] == {},
    ),
    "devices": (
        lambda c, s: c.user_devices(s, USER),
        "GET",
        f"{V1}/user/devices/",
        {},
        {"devices": []},
        lambda r: r == {"devices": []},
    ),
    "keys_query": (
        lambda c, s: c.keys_query(s, {USER: []}, timeout_s=9.0),
        "POST",
        f"{V1}/user/keys/query",
        {},
        {"device_keys": {}},
        lambda r: r == {"device_keys": {}},
    ),
    "keys_claim": (
        lambda c, s: c.keys_claim(s, {USER: {}}, timeout_s=9.0),
        "POST",
        f"{V1}/user/keys/claim",
        {},
        {"one_time_keys": {}},
        lambda r: r == {"one_time_keys": {}},
    ),
    "policy": (
        lambda c, s: c.ask_policy_server(s, {"type": "x"}),
        "POST",
        "/_matrix/policy/v1/sign",
        {},
        {"p.org": {}},
        lambda r: r == {"p.org": {}},
    ),
    "version": (
        lambda c, s: c.get_version(s),
        "GET",
        f"{V1}/version",
        {},
        {"server": {}},
        lambda r: r == {"server": {}},
    ),
}


@pytest.mark.parametrize("name", CALLS)
@pytest_twisted.ensureDeferred
async def test_endpoint_is_asked_signed_and_its_answer_read(world: World, name: str) -> None:
    call, method, path, query, answer, is_right = CALLS[name]
    world.answers(answer)
    result = await call(world.client, world.them.name)
    asked = world.last
    assert method == asked.method
    assert asked.uri.startswith(path)
    assert query == dict(parse_qsl(urlsplit(asked.uri).query))
    assert is_right(result), result
    assert world.them.name == asked.headers["host"]
    _check_signed(asked, world.them.name)


@pytest.mark.parametrize("name", [name for name in CALLS if name not in ("send_leave", "exchange")])
@pytest.mark.parametrize(
    "answer",
    [b"", b"[]", b"null", b"{", b"NaN", b'{"room":1}', b"[" * 100_000, b'{"pdus":' + b"[" * 100_000, b"\xff\xfe",
     b'{"pdus":{},"events":{},"state":{},"auth_chain":{},"event":[],"pdu_ids":[1],"auth_chain_ids":[]}'],
    ids=["empty", "list", "null", "broken", "NaN", "number", "deep", "deep inside", "not UTF-8", "types"],
)  # fmt: skip
@pytest_twisted.ensureDeferred
async def test_answer_of_another_shape_breaks_the_protocol_or_is_plain(world: World, name: str, answer: bytes) -> None:
    world.answers(answer)
    try:
        result = await CALLS[name][0](world.client, world.them.name)
    except RemoteProtocolError:
        return
    # Objects without a shape of their own are read by who asks; a bare event is checked by the gate.
    assert isinstance(result, (dict, bytes))


# -- older endpoints -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "unknown",
    [(404, {"errcode": "M_UNRECOGNIZED"}), (405, {"errcode": "M_UNRECOGNIZED"}), (405, b""), (404, b"<html>")],
)
@pytest_twisted.ensureDeferred
async def test_older_version_is_tried(world: World, unknown: Any) -> None:
    world.answers(unknown, V2)
    world.answers(b'[200, {"state":[1],"auth_chain":[2]}]', f"{V1}/send_join")
    world.answers(b"[200, {}]", f"{V1}/send_leave")
    world.answers(b'[200, {"event": {"a":1}}]', f"{V1}/invite")
    joined = await world.client.send_join(world.them.name, ROOM, EVENT, {}, omit_members=True)
    assert ([b"1"], [b"2"], None, False) == (
        list(joined.state), list(joined.auth_chain), joined.event, joined.members_omitted
    )  # fmt: skip
    await world.client.send_leave(world.them.name, ROOM, EVENT, {})
    event = {"unsigned": {"age": 1}}
    invited = await world.client.invite(world.them.name, ROOM, EVENT, event, "2", [{"type": "x"}])
    assert b'{"a":1}' == invited
    assert {"unsigned": {"age": 1, "invite_room_state": [{"type": "x"}]}} == world.last.json
    with pytest.raises(RemoteRefused):
        await world.client.invite(world.them.name, ROOM, EVENT, event, "3", [])


@pytest_twisted.ensureDeferred
async def test_refusal_is_no_reason_to_try_an_older_version(world: World) -> None:
    world.answers((403, {"errcode": "M_FORBIDDEN", "error": "no"}))
    with pytest.raises(RemoteRefused) as refused:
        await world.client.send_join(world.them.name, ROOM, EVENT, {}, omit_members=False)
    assert (403, "M_FORBIDDEN", "no", 1) == (
        refused.value.status, refused.value.errcode, refused.value.message, len(world.them.requests)
    )  # fmt: skip


# -- who is asked, and who answers -----------------------------------------------------------------------------------


async def _ask(world: World, **more: Any) -> Any:
    return await world.transport.request(world.them.name, "GET", "/x", **more)


@pytest.mark.parametrize(
    ("answer", "kind", "is_available"),
    [
        pytest.param((404, {"errcode": "M_NOT_FOUND"}), RemoteRefused, True, id="404"),
        pytest.param((429, {"errcode": "M_LIMIT_EXCEEDED"}), RemoteRefused, True, id="429"),
        pytest.param((500, {"errcode": "M_UNKNOWN"}), RemoteRefused, True, id="500 of a homeserver"),
        pytest.param((502, b"<html>"), RemoteRefused, False, id="502 of a proxy"),
        pytest.param((302, {}, {"Location": "/y"}), RemoteProtocolError, True, id="redirect"),
        pytest.param((200, b"x" * 2000), RemoteProtocolError, True, id="too large"),
        pytest.param(NO_ANSWER, RemoteUnreachable, False, id="silence"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_only_no_answer_is_a_failure_of_the_server(
    world: World, answer: Any, kind: type[RemoteError], is_available: bool
) -> None:
    world.configure(timeout_ms=300)
    world.answers(answer)
    with pytest.raises(kind):
        await _ask(world, max_bytes=1000)
    assert is_available == world.health.is_available(world.them.name)
    assert 1 == len(world.them.requests)


@pytest_twisted.ensureDeferred
async def test_dead_server_is_not_tried_again_at_once(world: World) -> None:
    await world.them.stop()
    with pytest.raises(RemoteUnreachable):
        await _ask(world)
    await world.them.start()
    for is_background in (False, True):
        with pytest.raises(RemoteUnreachable):
            await _ask(world, is_background=is_background)
    assert [] == world.them.requests
    world.health.woken(world.them.name)
    world.answers({})
    await _ask(world, is_background=True)


@pytest_twisted.ensureDeferred
async def test_impatience_is_no_failure_of_the_server(world: World) -> None:
    world.answers(NO_ANSWER)
    with pytest.raises(RemoteUnreachable):
        await _ask(world, timeout_s=0.2)
    assert world.health.is_available(world.them.name)


@pytest.mark.parametrize(
    ("config", "server"),
    [({}, OURS), ({}, OURS.upper()), ({"enabled": False}, None), ({"domain_whitelist": ("a.org",)}, None)],
    ids=["ourselves", "ourselves in another case", "without federation", "not on the list"],
)  # fmt: skip
@pytest_twisted.ensureDeferred
async def test_some_servers_are_never_asked(world: World, config: Any, server: str | None) -> None:
    world.configure(**config)
    with pytest.raises(RemoteUnreachable):
        await world.transport.request(server or world.them.name, "GET", "/x")
    assert [] == world.them.requests


@pytest_twisted.ensureDeferred
async def test_transaction_is_sent_as_it_is(world: World) -> None:
    world.answers({"pdus": {}})
    body = b'{"edus":[],"origin":"ours.org","origin_server_ts":1,"pdus":[]}'
    assert {"pdus": {}} == await world.transport.put_transaction(world.them.name, "t/1", body)
    assert (f"{V1}/send/t%2F1", body) == (world.last.uri, world.last.body)
    _check_signed(world.last, world.them.name)


@pytest_twisted.ensureDeferred
async def test_keys_are_asked_for_without_a_signature(world: World) -> None:
    world.answers({"server_keys": []})
    await world.transport.get_json(world.them.name, "/_matrix/key/v2/server", max_bytes=1000, timeout_s=5.0)
    await world.transport.post_json(
        world.them.name, "/_matrix/key/v2/query", {"server_keys": {"a.org": {}}}, max_bytes=1000, timeout_s=5.0
    )
    assert [False, False] == ["authorization" in request.headers for request in world.them.requests]
    assert {"server_keys": {"a.org": {}}} == world.last.json


@pytest_twisted.ensureDeferred
async def test_state_of_many_events_is_not_copied_before_it_is_read(world: World) -> None:
    events = [{"number": number, "pad": "x" * 300} for number in range(20_000)]
    world.answers(json.dumps({"state": events, "auth_chain": events[:10]}).encode())
    joined = await world.client.send_join(world.them.name, ROOM, EVENT, {}, omit_members=False)
    assert (20_000, 10) == (len(joined.state), len(joined.auth_chain))
    assert events[12_345] == json.loads(joined.state[12_345])
    assert [events[7]] == [json.loads(each) for each in joined.state[7:8]]


# -- files -----------------------------------------------------------------------------------------------------------

FILE = bytes(range(256)) * 3000


def _multipart(head: str, file: bytes) -> Any:
    body = (
        b"--e\r\nContent-Type: application/json\r\n\r\n{}\r\n--e\r\n"
        + head.encode()
        + b"\r\n\r\n"
        + file
        + b"\r\n--e--\r\n"
    )
    return 200, body, {"Content-Type": "multipart/mixed; boundary=e"}


async def _download(world: World, media_id: str = "abc", max_bytes: int = 1_000_000) -> Any:
    folder = world.folder / "media"
    folder.mkdir(exist_ok=True)
    return await world.client.download_media(
        world.them.name, media_id, max_bytes=max_bytes, timeout_s=5.0, folder=str(folder)
    )


@pytest_twisted.ensureDeferred
async def test_file_is_downloaded(world: World) -> None:
    world.answers(_multipart('Content-Type: image/png\r\nContent-Disposition: inline; filename="a"', FILE))
    media = await _download(world)
    assert (FILE, len(FILE)) == (Path(media.path).read_bytes(), media.length)
    assert ("image/png", 'inline; filename="a"') == (media.content_type, media.content_disposition)
    assert world.last.uri.startswith(f"{V1}/media/download/abc?timeout_ms=")
    _check_signed(world.last, world.them.name)


@pytest_twisted.ensureDeferred
async def test_file_that_lies_elsewhere_is_fetched_without_our_signature(world: World) -> None:
    world.answers(_multipart(f"Location: https://{world.elsewhere.name}/file?sig=x", b""))
    world.elsewhere.answers["/file"] = lambda request: (200, FILE, {"Content-Type": "text/plain"})
    media = await _download(world)
    assert (FILE, "text/plain") == (Path(media.path).read_bytes(), media.content_type)
    assert "authorization" not in world.elsewhere.requests[0].headers


@pytest_twisted.ensureDeferred
async def test_old_servers_are_asked_by_the_old_endpoint(world: World) -> None:
    world.answers((404, {"errcode": "M_UNRECOGNIZED"}))
    world.answers((200, FILE, {"Content-Type": "image/png"}), "/_matrix/media/v3/download/")
    media = await _download(world)
    assert (FILE, "image/png") == (Path(media.path).read_bytes(), media.content_type)
    assert "false" == dict(parse_qsl(urlsplit(world.last.uri).query))["allow_remote"]
    assert "authorization" not in world.last.headers


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param((404, {"errcode": "M_NOT_FOUND"}), id="not there"),
        pytest.param((200, FILE, {"Content-Type": "image/png"}), id="not multipart"),
        pytest.param(_multipart("", b"x" * 1_000_001), id="too large"),
        pytest.param(_multipart("Location: http://127.0.0.3/", b""), id="elsewhere without TLS"),
        pytest.param(_multipart("Location: file:///etc/passwd", b""), id="a file of ours"),
        pytest.param(_multipart("Location: https://127.0.0.3:1/", b""), id="nowhere"),
        pytest.param(
            (200, b"--e\r\n\r\n{}\r\n--e\r\n\r\nbroken", {"Content-Type": "multipart/mixed; boundary=e"}), id="cut"
        ),
    ],
)
@pytest_twisted.ensureDeferred
async def test_download_that_fails_leaves_nothing_behind(world: World, answer: Any) -> None:
    world.answers(answer)
    with pytest.raises(RemoteError):
        await _download(world)
    assert [] == list((world.folder / "media").iterdir())


@pytest.mark.parametrize("media_id", ["", "..", "../x", "a/b", "a%2fb", "a\0", "C:\\x", "ä", "x" * 300])
@pytest_twisted.ensureDeferred
async def test_strange_media_ids_are_not_asked_for(world: World, media_id: str) -> None:
    with pytest.raises(RemoteProtocolError):
        await _download(world, media_id)
    assert [] == world.them.requests


@pytest_twisted.ensureDeferred
async def test_cancelled_request_ends_the_connection(world: World) -> None:
    world.answers(NO_ANSWER)
    asking = Deferred.fromCoroutine(_ask(world))
    await until(lambda: world.them.requests)
    asking.cancel()
    with pytest.raises(CancelledError):
        await asking
    assert world.health.is_available(world.them.name)
