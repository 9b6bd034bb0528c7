"""The handshake: what opens a stream, what does not, and how that is said.

Spec: RFC 6455, 4.2 "Server-Side Requirements", 4.4 (versions), 10.2 (origins); docs/stream.md, "Opening".
"""

from __future__ import annotations

import base64
import json

import pytest

from tests.hostile.client import Actor
from tests.stream_conformance.conftest import Talker
from tests.stream_conformance.sayings import assert_alive
from tests.support.stream_wire import PATH, Closed, Refused, Wire, connect, dial, head_bytes, upgrade_headers

pytestmark = pytest.mark.slow


def opened(talker: Talker, wire: Wire, changes: dict[str, str | None], line: str | None = None) -> int:
    """Send a handshake with headers changed or left out; return the status."""
    headers = {**upgrade_headers(talker.url, token=talker.token), **changes}
    wire.send(
        head_bytes(
            line or f"GET {PATH}?since={talker.since} HTTP/1.1",
            {name: value for name, value in headers.items() if value is not None},
        )
    )
    try:
        wire.read_upgrade(headers["Sec-WebSocket-Key"] or "")
    except Refused as refused:
        assert refused.json["errcode"].startswith("M_"), refused.body
        assert refused.headers["content-type"].startswith("application/json")
        return refused.status
    return 101


GOOD: dict[str, dict[str, str | None]] = {
    "as it should be": {},
    "WebSocket": {"Upgrade": "WebSocket"},
    "WEBSOCKET": {"Upgrade": "WEBSOCKET"},
    "keep-alive, Upgrade": {"Connection": "keep-alive, Upgrade"},
    "upgrade": {"Connection": "upgrade"},
    "UPGRADE ,keep-alive": {"Connection": "UPGRADE ,keep-alive"},
    "names in lower case": {
        "Sec-WebSocket-Version": None,
        "sec-websocket-version": "13",
        "Upgrade": None,
        "upgrade": "websocket",
    },
    "spaces around the key": {"Sec-WebSocket-Key": "  " + base64.b64encode(b"\x00" * 16).decode() + "  "},
    "several subprotocols": {"Sec-WebSocket-Protocol": "v2.m.json, m.json, soap"},
    "an unknown extension": {"Sec-WebSocket-Extensions": "x-webkit-deflate-frame, foo; bar=1; baz"},
    "other headers": {
        "User-Agent": "Mozilla/5.0",
        "Cookie": "a=b",
        "Pragma": "no-cache",
        "X-Any": "\x80".encode().hex(),
    },
    "origin: https": {"Origin": "https://app.element.io"},
    "origin: port": {"Origin": "http://localhost:8080"},
    "origin: null": {"Origin": "null"},
    "origin: file": {"Origin": "file://"},
    "origin: Electron": {"Origin": "vector://vector"},
    "origin: Capacitor": {"Origin": "capacitor://localhost"},
    "origin: extension": {"Origin": "moz-extension://1f2e3d4c-0000-4000-8000-000000000000"},
    "origin: rubbish": {"Origin": "%%%"},
}


@pytest.mark.parametrize("changes", GOOD.values(), ids=GOOD)
def test_a_right_handshake_opens_a_stream(talker: Talker, changes: dict[str, str | None]) -> None:
    with connect(talker.url) as wire:
        assert 101 == opened(talker, wire, {k: None if v is None else v for k, v in changes.items()})
        assert "m.json" == wire.headers["sec-websocket-protocol"]
        assert "sec-websocket-extensions" not in wire.headers
        assert_alive(wire)


BAD: dict[str, dict[str, str | None]] = {
    "no Upgrade": {"Upgrade": None},
    "another Upgrade": {"Upgrade": "h2c"},
    "an empty Upgrade": {"Upgrade": ""},
    "no Connection": {"Connection": None},
    "Connection: close": {"Connection": "close"},
    "Connection: keep-alive": {"Connection": "keep-alive"},
    "neither": {"Connection": None, "Upgrade": None},
    "no key": {"Sec-WebSocket-Key": None},
    "an empty key": {"Sec-WebSocket-Key": ""},
    "a short key": {"Sec-WebSocket-Key": base64.b64encode(b"x" * 15).decode()},
    "a long key": {"Sec-WebSocket-Key": base64.b64encode(b"x" * 17).decode()},
    "a key that is not base64": {"Sec-WebSocket-Key": "!" * 22 + "=="},
    "a key without its end": {"Sec-WebSocket-Key": "A" * 24},
    "a very long key": {"Sec-WebSocket-Key": "A" * 5_000},
    "no version": {"Sec-WebSocket-Version": None},
    "an empty version": {"Sec-WebSocket-Version": ""},
    "version 0": {"Sec-WebSocket-Version": "0"},
    "version 7": {"Sec-WebSocket-Version": "7"},
    "version 8": {"Sec-WebSocket-Version": "8"},
    "version 12": {"Sec-WebSocket-Version": "12"},
    "version 14": {"Sec-WebSocket-Version": "14"},
    "version 255": {"Sec-WebSocket-Version": "255"},
    "two versions": {"Sec-WebSocket-Version": "8, 13"},
    "no number": {"Sec-WebSocket-Version": "thirteen"},
    "other digits": {"Sec-WebSocket-Version": "\u0661\u0663"},
    "a huge version": {"Sec-WebSocket-Version": "9" * 5_000},
}


@pytest.mark.parametrize("changes", BAD.values(), ids=BAD)
def test_a_wrong_handshake_is_refused(talker: Talker, changes: dict[str, str | None]) -> None:
    with connect(talker.url) as wire:
        assert opened(talker, wire, changes) in (400, 426)


@pytest.mark.parametrize("version", ["0", "7", "8", "12", "14"])
def test_who_speaks_another_version_is_told_ours(talker: Talker, version: str) -> None:
    headers = {**upgrade_headers(talker.url, token=talker.token), "Sec-WebSocket-Version": version}
    with connect(talker.url) as wire:
        wire.send(head_bytes(f"GET {PATH} HTTP/1.1", headers))
        status, found = wire.read_head()
        assert status in (400, 426)
        assert "13" == found["sec-websocket-version"]


def test_who_asks_for_no_upgrade_is_told_of_it(talker: Talker) -> None:
    """Spec: RFC 9110, 15.5.22: a 426 names the protocol."""
    headers = upgrade_headers(talker.url, token=talker.token)
    with connect(talker.url) as wire:
        wire.send(
            head_bytes(f"GET {PATH} HTTP/1.1", {"Host": headers["Host"], "Authorization": f"Bearer {talker.token}"})
        )
        status, found = wire.read_head()
        assert status in (400, 426)
        assert status == 400 or "websocket" in found["upgrade"].lower()


@pytest.mark.parametrize(
    ("line", "statuses"),
    [
        (f"POST {PATH} HTTP/1.1", (400, 404, 405, 426)),
        (f"PUT {PATH} HTTP/1.1", (400, 404, 405, 426)),
        (f"GET {PATH} HTTP/1.0", (400, 426, 505)),
        (f"GET {PATH} HTTP/0.9", (400, 505)),
        (f"GET {PATH}/ HTTP/1.1", (404,)),
        (f"GET {PATH}s HTTP/1.1", (404,)),
        ("GET /_matrix/client/v3/stream HTTP/1.1", (404,)),
    ],
    ids=["POST", "PUT", "HTTP 1.0", "HTTP 0.9", "a slash", "another name", "another prefix"],
)
def test_only_one_request_opens_a_stream(talker: Talker, line: str, statuses: tuple[int, ...]) -> None:
    headers = upgrade_headers(talker.url, token=talker.token)
    with connect(talker.url) as wire:
        wire.send(head_bytes(line, headers))
        assert wire.read_head()[0] in statuses


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS"])
def test_other_methods_get_an_ordinary_answer(talker: Talker, method: str) -> None:
    with connect(talker.url) as wire:
        wire.send(head_bytes(f"{method} {PATH} HTTP/1.1", upgrade_headers(talker.url)))
        assert wire.read_head()[0] in (200, 204, 400, 404, 405, 426)


def test_an_upgrade_elsewhere_is_ignored(talker: Talker) -> None:
    """Spec: RFC 9110, 7.8: a server may ignore an Upgrade."""
    with connect(talker.url) as wire:
        wire.send(head_bytes("GET /_matrix/client/versions HTTP/1.1", upgrade_headers(talker.url)))
        assert 200 == wire.read_head()[0]


@pytest.mark.parametrize("name", ["Sec-WebSocket-Key", "Sec-WebSocket-Version", "Host"])
def test_a_header_that_may_be_there_once_is_refused_twice(talker: Talker, name: str) -> None:
    headers = upgrade_headers(talker.url, token=talker.token)
    with connect(talker.url) as wire:
        wire.send(head_bytes(f"GET {PATH} HTTP/1.1", headers)[:-2] + f"{name}: {headers[name]}\r\n\r\n".encode())
        assert wire.read_head()[0] in (400, 426)


def test_a_host_is_needed(talker: Talker) -> None:
    with connect(talker.url) as wire:
        assert 400 == opened(talker, wire, {"Host": None})


def test_a_list_of_subprotocols_may_be_in_two_lines(talker: Talker) -> None:
    """Spec: RFC 6455, 11.3.4."""
    headers = {**upgrade_headers(talker.url, token=talker.token), "Sec-WebSocket-Protocol": "soap"}
    with connect(talker.url) as wire:
        head = head_bytes(f"GET {PATH}?since={talker.since} HTTP/1.1", headers)[:-2]
        wire.send(head + b"Sec-WebSocket-Protocol: m.json\r\n\r\n")
        wire.read_upgrade(headers["Sec-WebSocket-Key"])
        assert "m.json" == wire.headers["sec-websocket-protocol"]
        assert_alive(wire)


@pytest.mark.parametrize(
    "protocol",
    [None, "soap", "M.JSON", "m.jsonx", "", ",", "m json", "x" * 5_000, ", ".join("abcdefgh")],
    ids=lambda value: ascii(value)[:20],
)
def test_no_subprotocol_is_claimed_that_was_not_offered(talker: Talker, protocol: str | None) -> None:
    with connect(talker.url) as wire:
        status = opened(talker, wire, {"Sec-WebSocket-Protocol": protocol})
        assert status in (101, 400)
        if status == 101:
            assert "sec-websocket-protocol" not in wire.headers
            assert_alive(wire)


@pytest.mark.parametrize("size", [1_000, 8_000])
def test_long_headers_are_no_fault(talker: Talker, size: int) -> None:
    with connect(talker.url) as wire:
        assert 101 == opened(talker, wire, {"Cookie": "a" * size})


@pytest.mark.parametrize("data", [b"X: " + b"a" * 100_000, b"".join(b"X%d: a\r\n" % n for n in range(500))])
def test_huge_headers_are_refused(talker: Talker, data: bytes) -> None:
    with connect(talker.url) as wire:
        head = head_bytes(f"GET {PATH} HTTP/1.1", upgrade_headers(talker.url, token=talker.token))
        wire.send(head[:-2] + data + b"\r\n\r\n")
        try:
            assert wire.read_head()[0] in (400, 413, 431)
        except Closed:
            # The rest of the head was still on its way, and a reset took the answer with it.
            pass


@pytest.mark.parametrize(
    "extra", ["Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n"], ids=["length", "chunked"]
)
def test_the_body_of_a_handshake_is_not_taken_for_frames(talker: Talker, extra: str) -> None:
    headers = upgrade_headers(talker.url, token=talker.token)
    with connect(talker.url) as wire:
        head = head_bytes(f"GET {PATH}?since={talker.since} HTTP/1.1", headers)[:-2] + extra.encode() + b"\r\n"
        wire.send(head + (b"hello" if "Length" in extra else b"5\r\nhello\r\n0\r\n\r\n"))
        try:
            wire.read_upgrade(headers["Sec-WebSocket-Key"])
            assert_alive(wire)
        except Refused as refused:
            assert refused.status == 400


# -- who asks ----------------------------------------------------------------------------------------------------------


def refusal(talker: Talker, query: str = "", **changes: str | None) -> Refused:
    """Return how a handshake was refused."""
    headers = {**upgrade_headers(talker.url), **{name: value for name, value in changes.items() if value is not None}}
    with connect(talker.url) as wire, pytest.raises(Refused) as caught:
        wire.upgrade(headers, query)
    return caught.value


@pytest.mark.parametrize(
    "token",
    ["x", "sat_", "x" * 600, "x" * 10_000, "\u00e9", "sat_a b", "' OR 1=1 --", "sat_%00"],
    ids=lambda t: ascii(t)[:20],
)
def test_a_token_that_was_never_good_is_refused(talker: Talker, token: str) -> None:
    refused = refusal(talker, Authorization=f"Bearer {token}")
    assert (401, "M_UNKNOWN_TOKEN") == (refused.status, refused.json["errcode"])


@pytest.mark.parametrize("token", ["x", "%00", "%C3%A9", "x" * 10_000, "a%20b"], ids=lambda t: t[:20])
def test_a_token_in_the_query_that_was_never_good_is_refused(talker: Talker, token: str) -> None:
    refused = refusal(talker, query=f"access_token={token}")
    assert (401, "M_UNKNOWN_TOKEN") == (refused.status, refused.json["errcode"])


@pytest.mark.parametrize("value", ["Basic dTpw", "Bearer", "Bearer ", "bearer", "", "\u00e9"], ids=ascii)
def test_an_authorization_that_is_none_does_not_let_in(talker: Talker, value: str) -> None:
    """It is refused, or the stream waits for `auth` and hears nothing else."""
    headers = {**upgrade_headers(talker.url), "Authorization": value}
    with connect(talker.url) as wire:
        try:
            wire.upgrade(headers)
        except Refused as refused:
            assert refused.status == 401
        else:
            wire.request(1, "ping")
            assert 4400 == wire.ending().code


def test_the_token_may_be_in_the_query(talker: Talker) -> None:
    with dial(talker.url, query=f"access_token={talker.token}&since={talker.since}") as wire:
        assert_alive(wire)


def test_the_token_may_come_in_the_first_message(talker: Talker) -> None:
    with dial(talker.url) as wire:
        answer = wire.call("a", "auth", {"access_token": talker.token, "since": talker.since})
        assert {"user_id": talker.actor.user_id, "device_id": talker.actor.device_id} == answer["result"]
        assert_alive(wire)


def test_the_query_counts_with_a_token_in_the_first_message_or_not_at_all(talker: Talker) -> None:
    with dial(talker.url, query=f"since={talker.since}") as wire:
        assert "result" in wire.call("a", "auth", {"access_token": talker.token})
        assert_alive(wire)


def test_versions_tells_of_the_stream(talker: Talker) -> None:
    answer = Actor(talker.url, "anybody").send("GET", "/_matrix/client/versions")
    assert answer.json["unstable_features"]["org.sennit.stream"] is True


def test_a_refusal_does_not_tell_the_token(talker: Talker) -> None:
    refused = refusal(talker, Authorization="Bearer sat_secretsecretsecret")
    assert "secretsecret" not in json.dumps(refused.json)
