"""The HTTP/1.1 server: framing, order, bounds, time limits."""

from __future__ import annotations

from contextvars import ContextVar
from io import BytesIO
from typing import Any

import orjson
import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.web.resource import Resource
from twisted.web.static import Data

from homeserver.errors import NotAllowed
from homeserver.web.request import WebRequest
from homeserver.web.response import TAKEN_OVER, FileResponse, Response
from homeserver.web.router import Route
from homeserver.web.site import SiteOptions
from tests.web.wire import Wire, door, head


async def echo(request: WebRequest) -> dict[str, Any]:
    return {"path": request.path, "body": request.body_bytes().decode("latin-1"), "ip": request.client_ip}


async def echo_json(request: WebRequest) -> dict[str, Any]:
    return request.json()


ROUTES = (
    Route("GET", "/get", echo),
    Route("PUT", "/put", echo, max_body_bytes=1000),
    Route("PUT", "/json", echo_json),
    Route("PUT", "/large", echo, max_body_bytes=10_000_000),
)


def wire(**options: Any) -> Wire:
    return Wire(door(*ROUTES), SiteOptions(**options))


def test_a_request_is_answered_in_one_write_with_cors_and_length() -> None:
    connection = wire().send(head("GET", "/get"))
    (reply,) = connection.replies()
    assert reply.status == 200
    assert reply.headers["Access-Control-Allow-Origin"] == "*"
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.headers["Date"].endswith("GMT")
    assert not connection.transport.disconnecting


def test_a_request_may_come_byte_by_byte() -> None:
    request = b"\r\n" + head("PUT", "/put", "Content-Length: 5") + b"hello"
    connection = wire().send(*[request[i : i + 1] for i in range(len(request))])
    assert orjson.loads(connection.replies()[0].body)["body"] == "hello"


def test_chunked_bodies_are_put_together() -> None:
    connection = wire().send(
        head("PUT", "/put", "Transfer-Encoding: Chunked"), b"5\r\nhello\r\n1;x=y\r\n!\r\n0\r\n\r\n"
    )
    assert orjson.loads(connection.replies()[0].body)["body"] == "hello!"


def test_pipelined_requests_are_answered_in_order_though_the_first_waits() -> None:
    waiting: Deferred[None] = Deferred()

    async def slow(_: WebRequest) -> dict[str, Any]:
        await waiting
        return {"slow": True}

    connection = Wire(door(*ROUTES, Route("GET", "/slow", slow)))
    connection.send(head("GET", "/slow") + head("GET", "/get") + head("PUT", "/put", "Content-Length: 2") + b"hi")
    assert connection.replies() == []
    waiting.callback(None)
    assert [orjson.loads(reply.body).get("path", "slow") for reply in connection.replies()] == ["slow", "/get", "/put"]


def test_ten_thousand_pipelined_requests_do_not_recurse() -> None:
    connection = wire().send(head("GET", "/get") * 10_000)
    assert connection.transport.value().count(b"HTTP/1.1 200 OK") == 10_000


def test_reading_pauses_while_too_much_is_pipelined() -> None:
    waiting: Deferred[None] = Deferred()

    async def slow(_: WebRequest) -> dict[str, Any]:
        await waiting
        return {}

    connection = Wire(door(*ROUTES, Route("GET", "/slow", slow)))
    connection.send(head("GET", "/slow"), head("GET", "/get") * 500)
    assert connection.transport.producerState == "paused"
    waiting.callback(None)
    assert connection.transport.producerState == "producing"
    assert len(connection.replies()) == 501


HEAD = b"PUT /put HTTP/1.1\r\nHost: a\r\n"


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        pytest.param(HEAD + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\nx", 400, id="two lengths"),
        pytest.param(HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, id="both"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n", 501, id="two codings"),
        pytest.param(HEAD + b"Transfer-Encoding: identity\r\n\r\n", 501, id="identity"),
        pytest.param(HEAD + b"Transfer-Encoding : chunked\r\n\r\n", 400, id="space before colon"),
        pytest.param(HEAD + b"Transfer-Encoding: \x0bchunked\r\n\r\n", 400, id="vertical tab"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 501, id="twice"),
        pytest.param(HEAD + b"Content-Length: +5\r\n\r\nhello", 400, id="plus"),
        pytest.param(HEAD + b"Content-Length: 0x5\r\n\r\nhello", 400, id="hex length"),
        pytest.param(HEAD + b"Content-Length: -1\r\n\r\n", 400, id="negative"),
        pytest.param(HEAD + b"Content-Length: 1, 1\r\n\r\nx", 400, id="list of lengths"),
        pytest.param(HEAD + b"Content-Length: \r\n\r\n", 400, id="empty length"),
        pytest.param(HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", 400, id="endless length"),
        pytest.param(HEAD + b"Content-Length: 99999999999\r\n\r\n", 413, id="huge length"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n", 400, id="chunk plus"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n", 400, id="chunk hex"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n", 400, id="chunk bare LF"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n", 400, id="chunk without end"),
        pytest.param(b"GET /get HTTP/1.1\nHost: a\n\n", 400, id="bare LF"),
        pytest.param(b"GET /get HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", 400, id="one bare LF"),
        pytest.param(b"GET /get HTTP/1.1\r\nHost: a\rX: y\r\n\r\n", 400, id="bare CR"),
        pytest.param(b"GET /get HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 400, id="folding"),
        pytest.param(b"GET /get HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n", 400, id="NUL"),
        pytest.param(b"GET /get HTTP/1.1\r\nHost: a\r\nnocolon\r\n\r\n", 400, id="no colon"),
        pytest.param(b"GET /get HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n", 400, id="no name"),
        pytest.param(b"GET /get HTTP/1.1\r\n\r\n", 400, id="no host"),
        pytest.param(b"GET /get HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400, id="two hosts"),
        pytest.param(b"GET  /get HTTP/1.1\r\nHost: a\r\n\r\n", 400, id="two spaces"),
        pytest.param(b"GET /g et HTTP/1.1\r\nHost: a\r\n\r\n", 400, id="space in target"),
        pytest.param(b"G@T /get HTTP/1.1\r\nHost: a\r\n\r\n", 400, id="method"),
        pytest.param(b"GET /get\r\nHost: a\r\n\r\n", 400, id="HTTP/0.9"),
        pytest.param(b"GET /get HTTP/2.0\r\nHost: a\r\n\r\n", 505, id="HTTP/2"),
        pytest.param(b"GET get HTTP/1.1\r\nHost: a\r\n\r\n", 400, id="no slash"),
        pytest.param(b"GET http://b/get HTTP/1.1\r\nHost: a\r\n\r\n", 400, id="other host in target"),
        pytest.param(b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 400, id="connect"),
        pytest.param(b"GET /get HTTP/1.1\r\nHost: a\r\nExpect: tea\r\n\r\n", 417, id="expectation"),
        pytest.param(b"GET /get HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 101 + b"\r\n", 431, id="many headers"),
        pytest.param(b"GET /get HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 100_000 + b"\r\n\r\n", 431, id="large header"),
        pytest.param(b"GET /" + b"y" * 100_000, 431, id="endless target"),
        pytest.param(b"PUT /put HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400, id="chunked in 1.0"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused_and_ends_the_connection(request_bytes: bytes, status: int) -> None:
    smuggled = head("GET", "/get")
    connection = wire().send(request_bytes + smuggled)
    assert [status] == [reply.status for reply in connection.replies()]
    assert connection.replies()[0].headers["Connection"] == "close"
    connection.send(smuggled)
    assert len(connection.replies()) == 1


def test_absolute_targets_lose_their_host() -> None:
    connection = wire().send(b"GET http://Example.org/get HTTP/1.1\r\nHost: example.org\r\n\r\n")
    assert orjson.loads(connection.replies()[0].body)["path"] == "/get"


def test_http_1_0_is_answered_and_closed() -> None:
    connection = wire().send(b"GET /get HTTP/1.0\r\n\r\n")
    assert connection.replies()[0].status == 200
    assert connection.transport.disconnecting


def test_connection_close_is_obeyed() -> None:
    connection = wire().send(head("GET", "/get", "Connection: Close") + head("GET", "/get"))
    assert len(connection.replies()) == 1
    assert connection.transport.disconnecting


def test_a_body_that_is_announced_too_large_is_refused_before_it_comes() -> None:
    connection = wire().send(head("PUT", "/put", "Content-Length: 1001"))
    (reply,) = connection.replies()
    assert (reply.status, orjson.loads(reply.body)["errcode"]) == (413, "M_TOO_LARGE")


def test_a_body_at_the_limit_is_read() -> None:
    connection = wire().send(head("PUT", "/put", "Content-Length: 1000"), b"x" * 1000)
    assert connection.replies()[0].status == 200


def test_a_chunked_body_is_refused_once_it_is_too_large_and_the_rest_is_not_kept() -> None:
    connection = wire().send(head("PUT", "/put", "Transfer-Encoding: chunked"), b"1f4\r\n" + b"x" * 500 + b"\r\n")
    assert connection.replies() == []
    connection.send(b"fffffff\r\n", *[b"x" * 65536] * 20)
    (reply,) = connection.replies()
    assert reply.status == 413
    assert connection.channel._unread == b""


def test_tiny_chunks_are_refused() -> None:
    connection = wire().send(head("PUT", "/large", "Transfer-Encoding: chunked"), *[b"1\r\nx\r\n" * 10_000] * 2)
    assert [reply.status for reply in connection.replies()] == [400]


@pytest.mark.parametrize("size", [262_144, 262_145, 3_000_000])
def test_large_bodies_arrive_whole(size: int) -> None:
    body = bytes(range(256)) * (size // 256 + 1)
    pieces = [body[:size][i : i + 65_536] for i in range(0, size, 65_536)]
    connection = wire().send(head("PUT", "/large", f"Content-Length: {size}"), *pieces)
    assert orjson.loads(connection.replies()[0].body)["body"].encode("latin-1") == body[:size]


def test_expect_continue_is_told_to_go_on_unless_it_is_refused() -> None:
    accepted = wire().send(head("PUT", "/put", "Content-Length: 2", "Expect: 100-continue"))
    assert accepted.transport.value() == b"HTTP/1.1 100 Continue\r\n\r\n"
    refused = wire().send(head("PUT", "/put", "Content-Length: 2000", "Expect: 100-continue"))
    assert refused.replies()[0].status == 413


def test_an_unknown_endpoint_with_a_small_body_keeps_the_connection() -> None:
    connection = wire().send(head("PUT", "/nothing", "Content-Length: 2") + b"{}" + head("GET", "/get"))
    assert [404, 200] == [reply.status for reply in connection.replies()]


def test_head_is_get_without_the_body() -> None:
    connection = wire().send(head("HEAD", "/get"))
    answer, _, body = connection.transport.value().partition(b"\r\n\r\n")
    assert body == b""
    assert b"Content-Length: " in answer


@pytest.mark.parametrize("path", ["/get", "/nowhere", "*"])
def test_options_is_answered_anywhere_without_running_anything(path: str) -> None:
    (reply,) = wire().send(head("OPTIONS", path)).replies()
    assert reply.status == 204
    assert reply.headers["Access-Control-Allow-Headers"] == "X-Requested-With, Content-Type, Authorization"
    assert "Content-Length" not in reply.headers


def test_a_wrong_method_names_the_right_ones() -> None:
    (reply,) = wire().send(head("DELETE", "/get")).replies()
    assert (reply.status, reply.headers["Allow"]) == (405, "GET, HEAD, OPTIONS")
    assert orjson.loads(reply.body)["errcode"] == "M_UNRECOGNIZED"


# -- time ------------------------------------------------------------------------------------------------------------


def test_a_dripping_head_is_cut_off() -> None:
    connection = wire(head_timeout_s=20)
    for _ in range(12):
        connection.send(b"G")
        connection.clock.advance(2)
    assert connection.transport.disconnecting


def test_a_stalled_body_is_cut_off_and_aborted_if_it_will_not_go() -> None:
    connection = wire(body_grace_s=30)
    connection.send(head("PUT", "/put", "Content-Length: 500"))
    for _ in range(18):
        connection.send(b"x")
        connection.clock.advance(2)
    assert connection.transport.disconnecting
    assert not connection.transport.aborted
    for _ in range(10):
        connection.clock.advance(2)
    assert connection.transport.aborted


def test_an_idle_connection_is_closed() -> None:
    connection = wire(idle_timeout_s=60).send(head("GET", "/get"))
    for _ in range(29):
        connection.clock.advance(2)
    assert not connection.transport.disconnecting
    for _ in range(3):
        connection.clock.advance(2)
    assert connection.transport.disconnecting


def test_of_too_many_idle_connections_those_are_closed_that_waited_longest() -> None:
    first = wire(max_idle=2, min_idle_s=5)
    connections = [first, first.another(), first.another(), first.another()]
    for connection in connections:
        connection.clock.advance(0.5)
        connection.send(head("GET", "/get"))
    # One goes on: it is not idle.
    connections[1].send(b"GET /ge")
    first.clock.advance(2)
    assert not any(connection.transport.disconnecting for connection in connections)
    for _ in range(3):
        first.clock.advance(2)
    assert [True, False, False, False] == [connection.transport.disconnecting for connection in connections]


def test_a_long_poll_is_not_idle() -> None:
    async def forever(_: WebRequest) -> dict[str, Any]:
        await Deferred()
        return {}

    connection = Wire(door(Route("GET", "/poll", forever))).send(head("GET", "/poll"))
    for _ in range(200):
        connection.clock.advance(2)
    assert not connection.transport.disconnecting


def test_a_refused_connection_is_closed_after_a_moment() -> None:
    connection = wire().send(b"nonsense\r\n\r\n")
    assert not connection.transport.disconnecting
    connection.clock.advance(2)
    connection.clock.advance(2)
    assert connection.transport.disconnecting


def test_a_site_without_port_and_connections_leaves_no_timer() -> None:
    connection = wire().send(head("GET", "/get"))
    connection.site.close_idle()
    connection.hang_up()
    connection.site.stopFactory()
    assert connection.clock.twisted.getDelayedCalls() == []


# -- clients that go away --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cancel", "expected"), [(True, ["gone", "cancelled"]), (False, ["gone", "finished"])])
def test_a_handler_is_cancelled_when_its_client_goes_only_if_its_route_says_so(
    cancel: bool, expected: list[str]
) -> None:
    seen: list[str] = []
    waiting: Deferred[None] = Deferred()

    async def poll(request: WebRequest) -> dict[str, Any]:
        request.on_disconnect(lambda: seen.append("gone"))
        try:
            await waiting
        except CancelledError:
            seen.append("cancelled")
            raise
        seen.append("finished")
        return {}

    connection = Wire(door(Route("GET", "/poll", poll, cancel_when_gone=cancel))).send(head("GET", "/poll"))
    connection.hang_up()
    if not waiting.called:
        waiting.callback(None)
    assert sorted(expected) == sorted(seen)
    assert connection.replies() == []
    assert connection.site.channels == set()


def test_what_a_handler_waits_for_may_fail_and_be_caught() -> None:
    first: Deferred[None] = Deferred()
    second: Deferred[None] = Deferred()

    async def waits(_: WebRequest) -> dict[str, Any]:
        try:
            await first
        except ValueError:
            await second
        return {}

    connection = Wire(door(Route("GET", "/waits", waits))).send(head("GET", "/waits"))
    first.errback(ValueError())
    assert connection.replies() == []
    second.errback(NotAllowed("no"))
    assert [403] == [reply.status for reply in connection.replies()]


def test_context_variables_stay_in_their_request() -> None:
    variable: ContextVar[str] = ContextVar("variable", default="unset")
    waiting: Deferred[None] = Deferred()

    async def sets(_: WebRequest) -> dict[str, Any]:
        variable.set("set")
        await waiting
        return {"variable": variable.get()}

    connection = Wire(door(Route("GET", "/sets", sets))).send(head("GET", "/sets"))
    assert variable.get() == "unset"
    waiting.callback(None)
    assert orjson.loads(connection.replies()[0].body) == {"variable": "set"}


# -- files and other answers -----------------------------------------------------------------------------------------


def test_a_file_is_sent_piece_by_piece_and_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytes(range(256)) * 1000
    file = BytesIO(content)

    async def download(_: WebRequest) -> FileResponse:
        return FileResponse(file, len(content), "image/png", {"X-Name": "a\r\nSet-Cookie: b"})

    # The pull producer is driven by the cooperator of the global reactor; here it is asked by hand.
    producers: list[Any] = []
    monkeypatch.setattr(
        "homeserver.web.site.StrictChannel.registerProducer", lambda self, producer, _: producers.append(producer)
    )
    connection = Wire(door(Route("GET", "/file", download), *ROUTES)).send(head("GET", "/file") + head("GET", "/get"))
    while not file.closed:
        producers[0].resumeProducing()
    first, second = connection.replies()
    assert first.body == content
    assert first.headers["X-Name"] == "a  Set-Cookie: b"
    assert second.status == 200


def test_a_file_is_closed_when_the_client_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    file = BytesIO(b"x" * 1_000_000)

    async def download(_: WebRequest) -> FileResponse:
        return FileResponse(file, 1_000_000, "image/png")

    monkeypatch.setattr("homeserver.web.site.StrictChannel.registerProducer", lambda *_: None)
    connection = Wire(door(Route("GET", "/file", download))).send(head("GET", "/file"))
    connection.hang_up()
    assert file.closed


def test_a_connection_that_is_taken_over_is_left_alone() -> None:
    async def upgrade(request: WebRequest) -> Any:
        assert request.twisted_request is not None
        return TAKEN_OVER

    connection = Wire(door(Route("GET", "/socket", upgrade))).send(head("GET", "/socket"))
    assert connection.transport.value() == b""
    assert connection.site.channels == set()


def test_an_internal_fault_says_nothing_of_itself(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(_: WebRequest) -> Response:
        raise ZeroDivisionError("secret")

    async def nothing(_: WebRequest) -> Any:
        return None

    connection = Wire(door(Route("GET", "/broken", broken), Route("GET", "/nothing", nothing)))
    connection.send(head("GET", "/broken"), head("GET", "/nothing"))
    for reply in connection.replies():
        assert reply.status == 500
        assert orjson.loads(reply.body) == {"errcode": "M_UNKNOWN", "error": "Internal server error"}
    assert "secret" in caplog.text


def test_authentication_may_refuse_at_once_or_later() -> None:
    async def later(request: WebRequest, route: Route) -> str:
        raise NotAllowed("no")

    def at_once(request: WebRequest, route: Route) -> str:
        return "somebody"

    async def who(request: WebRequest) -> dict[str, Any]:
        return {"requester": request.requester}

    route = Route("GET", "/who", who, auth=True)
    assert Wire(door(route, authenticate=later)).send(head("GET", "/who")).replies()[0].status == 403
    accepted = Wire(door(route, authenticate=at_once)).send(head("GET", "/who")).replies()[0]
    assert orjson.loads(accepted.body) == {"requester": "somebody"}


@pytest.mark.parametrize(
    ("x_forwarded", "peer", "header", "expected"),
    [
        (True, "127.0.0.1", "203.0.113.9", "203.0.113.9"),
        (True, "127.0.0.1", "6.6.6.6, 203.0.113.9", "203.0.113.9"),
        (True, "127.0.0.1", "203.0.113.9, 10.0.0.1", "203.0.113.9"),
        (True, "127.0.0.1", "203.0.113.9, rubbish", "127.0.0.1"),
        (True, "127.0.0.1", "2001:DB8::1", "2001:db8::1"),
        (True, "192.0.2.7", "203.0.113.9", "192.0.2.7"),
        (False, "127.0.0.1", "203.0.113.9", "127.0.0.1"),
    ],
)
def test_only_trusted_proxies_name_the_client(x_forwarded: bool, peer: str, header: str, expected: str) -> None:
    root = door(*ROUTES, x_forwarded=x_forwarded, trusted_proxies=("10.0.0.0/8",))
    connection = Wire(root, peer=peer).send(head("GET", "/get", f"X-Forwarded-For: {header}"))
    assert orjson.loads(connection.replies()[0].body)["ip"] == expected


def test_an_unknown_proxy_is_told_to_the_operator_once(caplog: pytest.LogCaptureFixture) -> None:
    """Its users would share one rate limit, and nobody would know why."""
    root = door(*ROUTES, x_forwarded=True)
    for _ in range(2):
        Wire(root, peer="172.18.0.2").send(head("GET", "/get", "X-Forwarded-For: 203.0.113.9"))
    warnings = [record.getMessage() for record in caplog.records if "X-Forwarded-For" in record.getMessage()]
    assert 1 == len(warnings) and "172.18.0.2" in warnings[0] and "trusted_proxies" in warnings[0]


def test_a_tree_of_resources_works_as_root_too() -> None:
    root = Resource()
    root.putChild(b"page", Data(b"<p>hello</p>", "text/html"))
    tree = Resource()
    root.putChild(b"tree", tree)
    matrix = door(Route("PUT", "/tree/door/json", echo_json))
    tree.putChild(b"door", matrix)
    connection = Wire(root).send(
        head("GET", "/page"),
        head("PUT", "/tree/door/json", "Content-Length: 7") + b'{"a":1}',
        head("PUT", "/tree/door/other", "Content-Length: 2") + b"{}",
        head("GET", "/page", "Connection: close"),
    )
    replies = connection.replies()
    assert [reply.body for reply in replies[:2]] == [b"<p>hello</p>", b'{"a":1}']
    assert [200, 200, 404, 200] == [reply.status for reply in replies]
    assert replies[1].headers["Access-Control-Allow-Origin"] == "*"
    assert connection.transport.disconnecting
