"""Ways in, against a played server: a small real one on loopback that answers what a test says."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from homeserver.chat.http import ChatError, Http, Refused, Unreachable, normal_url
from homeserver.chat.login import check_registration, check_server, log_in, log_out, register

LOGGED_IN = {"user_id": "@ann:x", "device_id": "D", "access_token": "secret"}
TOKEN_FLOW = {"flows": [{"stages": ["m.login.registration_token"]}], "session": "s1", "params": {}}
BOTH_FLOW = {"flows": [{"stages": ["m.login.registration_token", "m.login.dummy"]}], "session": "s1"}


class Played(Resource):
    """Gives its answers one after another, and keeps what it was asked."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[tuple[int, object]] = []
        self.asked: list[tuple[str, Any]] = []
        self.url = ""

    def render(self, request: Request) -> bytes:
        body = request.content.read() if request.content is not None else b""
        self.asked.append((request.uri.decode(), json.loads(body) if body else None))
        status, answer = self.answers.pop(0)
        request.setResponseCode(status)
        return answer if isinstance(answer, bytes) else json.dumps(answer).encode()


@pytest_twisted.async_yield_fixture
async def played() -> AsyncIterator[Played]:
    server = Played()
    port = reactor.listenTCP(0, Site(server), interface="127.0.0.1")  # type: ignore[attr-defined]
    server.url = f"http://127.0.0.1:{port.getHost().port}"
    yield server
    await port.stopListening()


def _never() -> str:
    raise AssertionError("no token was to be asked for")


@pytest_twisted.ensureDeferred
async def test_login_makes_a_session(played: Played) -> None:
    played.answers = [(200, LOGGED_IN)]
    session = await log_in(Http(played.url, reactor), "ann", "pw")
    assert ("@ann:x", "D", "secret", played.url) == (
        session.user_id,
        session.device_id,
        session.access_token,
        session.url,
    )
    assert "secret" not in repr(session)


@pytest_twisted.ensureDeferred
async def test_open_registration_needs_no_token(played: Played) -> None:
    played.answers = [(401, {"flows": [{"stages": ["m.login.dummy"]}], "session": "s1"}), (200, LOGGED_IN)]
    await register(Http(played.url, reactor), "@ann:x", "pw", _never)
    [_first, (_path, body)] = played.asked
    assert ("ann", {"type": "m.login.dummy", "session": "s1"}) == (body["username"], body["auth"])


@pytest_twisted.ensureDeferred
async def test_account_is_asked_for_before_the_password(played: Played) -> None:
    played.answers = [(401, BOTH_FLOW), (403, {"errcode": "M_FORBIDDEN", "error": "Registration is closed"})]
    http = Http(played.url, reactor)
    await check_registration(http, "@ann:x")
    with pytest.raises(ChatError, match="Registration is closed"):
        await check_registration(http, "ann")
    assert [{"username": "ann"}] * 2 == [body for _path, body in played.asked]


@pytest_twisted.ensureDeferred
async def test_token_is_asked_for_where_the_server_wants_one(played: Played) -> None:
    played.answers = [
        (401, BOTH_FLOW),
        (401, {**BOTH_FLOW, "completed": ["m.login.registration_token"]}),
        (200, LOGGED_IN),
    ]
    await register(Http(played.url, reactor), "ann", "pw", lambda: "friend")
    assert [
        {"type": "m.login.registration_token", "session": "s1", "token": "friend"},
        {"type": "m.login.dummy", "session": "s1"},
    ] == [body["auth"] for _path, body in played.asked[1:]]


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ([(401, TOKEN_FLOW), (401, {**TOKEN_FLOW, "errcode": "M_FORBIDDEN", "error": "Bad token\x1b"})], "Bad token␛."),
        ([(401, {"flows": [{"stages": ["m.login.recaptcha"]}, 3, {}], "session": "s"})], "only in a browser"),
        ([(401, {"flows": {}, "completed": 1})], "only in a browser"),
        ([(401, TOKEN_FLOW)] * 4, "did not accept"),
        ([(403, {"errcode": "M_FORBIDDEN", "error": "Registration is closed"})], "Registration is closed."),
        ([(400, {"errcode": "M_USER_IN_USE"})], "The server says M_USER_IN_USE."),
        ([(429, {"errcode": "M_LIMIT_EXCEEDED", "error": "x", "retry_after_ms": 1500})], "try again in 2 s."),
        ([(200, {"user_id": 3})], "no Matrix server"),
        ([(200, b"<html>")], "no Matrix server"),
        ([(502, b"<html>")], "HTTP 502"),
    ],
    ids=range(10),
)
@pytest_twisted.ensureDeferred
async def test_what_stands_in_the_way_is_told(played: Played, answers: list[tuple[int, object]], told: str) -> None:
    played.answers = list(answers)
    with pytest.raises(ChatError) as caught:
        await register(Http(played.url, reactor), "ann", "pw", lambda: "friend")
    assert told in str(caught.value)


@pytest.mark.parametrize(
    "answer", [{}, {"unstable_features": []}, {"unstable_features": {"org.sennit.stream": 1}}], ids=str
)
@pytest_twisted.ensureDeferred
async def test_server_without_a_stream_is_told(played: Played, answer: object) -> None:
    played.answers = [(200, answer)]
    with pytest.raises(ChatError, match="no live stream"):
        await check_server(Http(played.url, reactor))


@pytest_twisted.ensureDeferred
async def test_session_that_has_ended_already_is_logged_out(played: Played) -> None:
    played.answers = [(401, {"errcode": "M_UNKNOWN_TOKEN"}), (500, {"errcode": "M_UNKNOWN"})]
    http = Http(played.url, reactor, access_token="t")
    await log_out(http)
    with pytest.raises(Refused):
        await log_out(http)


@pytest_twisted.ensureDeferred
async def test_server_that_is_not_there_is_told() -> None:
    with pytest.raises(Unreachable, match="Nothing answers at http://127"):
        await check_server(Http("http://127.0.0.1:1", reactor))


@pytest_twisted.ensureDeferred
async def test_connection_that_breaks_is_told(played: Played) -> None:
    class Breaking(Played):
        def render(self, request: Request) -> Any:
            request.transport.abortConnection()  # type: ignore[union-attr]
            return 1

    port = reactor.listenTCP(0, Site(Breaking()), interface="127.0.0.1")  # type: ignore[attr-defined]
    with pytest.raises(Unreachable, match="broke"):
        await check_server(Http(f"http://127.0.0.1:{port.getHost().port}", reactor))
    stopped: Deferred[None] = port.stopListening()
    await stopped


@pytest.mark.parametrize(
    ("typed", "url"),
    [
        ("http://127.0.0.1:8008/", "http://127.0.0.1:8008"),
        ("localhost:8008", "http://localhost:8008"),
        ("127.0.0.1", "http://127.0.0.1"),
        ("[::1]:8008", "http://[::1]:8008"),
        ("example.org", "https://example.org"),
        (" https://example.org/matrix/ ", "https://example.org/matrix"),
    ],
)
def test_addresses_of_servers(typed: str, url: str) -> None:
    assert url == normal_url(typed)


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "http://",
        "ftp://x",
        "http://x:99999",
        "http://x:port",
        "http://a@b",
        "http://x?y",
        "http://x#y",
        "http://[",
        "a b",
        "x\x1b",
    ],
    ids=ascii,
)
def test_what_is_no_address_of_a_server_is_told(typed: str) -> None:
    with pytest.raises(ChatError, match="no address of a server"):
        normal_url(typed)
