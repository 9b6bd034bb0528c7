"""Larger bodies: who sends them is asked before they are read, and all of them together are bounded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from twisted.internet.defer import Deferred

from homeserver.errors import LimitExceeded, UnknownToken
from homeserver.web.request import WebRequest
from homeserver.web.router import Route
from homeserver.web.site import SiteOptions
from tests.web.wire import Wire, door, head

MIB = 1024**2


async def size_of(request: WebRequest) -> dict[str, Any]:
    return {"size": len(request.body_bytes()), "by": request.requester}


ROUTES = (
    Route("POST", "/upload", size_of, auth="users", limit="uploads", max_body_bytes=8 * MIB),
    Route("POST", "/open", size_of, max_body_bytes=8 * MIB),
    Route("POST", "/json", size_of),
)


def refused(request: WebRequest, route: Route) -> None:
    raise UnknownToken("Unknown token")


def large(path: str = "/upload", size: int = MIB, *more: str) -> bytes:
    return head("POST", path, f"Content-Length: {size}", *more)


CHUNKED = head("POST", "/upload", "Transfer-Encoding: chunked")


@pytest.mark.parametrize("request_head", [large(), CHUNKED, large("/upload", MIB, "Expect: 100-continue")])
def test_a_large_body_of_a_stranger_is_refused_before_it_comes(request_head: bytes) -> None:
    connection = Wire(door(*ROUTES, authenticate=refused)).send(request_head)
    (reply,) = connection.replies()
    assert (401, "M_UNKNOWN_TOKEN") == (reply.status, orjson.loads(reply.body)["errcode"])
    assert "*" == reply.headers["Access-Control-Allow-Origin"]
    assert "close" == reply.headers["Connection"]
    connection.send(b"x" * 300_000)
    assert 1 == len(connection.replies())
    assert 0 == connection.site.bodies.memory_bytes == connection.site.bodies.disk_bytes


def test_a_large_body_over_the_rate_is_refused_before_it_comes() -> None:
    connection = Wire(door(*ROUTES, limit=lambda request, route: LimitExceeded(1500))).send(large())
    (reply,) = connection.replies()
    assert (429, "2", 1500) == (reply.status, reply.headers["Retry-After"], orjson.loads(reply.body)["retry_after_ms"])


def test_reading_pauses_until_the_token_has_been_looked_up() -> None:
    known: Deferred[str] = Deferred()
    connection = Wire(door(*ROUTES, authenticate=lambda request, route: known))
    connection.send(large("/upload", MIB, "Expect: 100-continue"), b"x" * 50_000)
    assert "paused" == connection.transport.producerState
    assert b"" == connection.transport.value()
    known.callback("@a:example.org")
    assert "producing" == connection.transport.producerState
    connection.send(b"x" * (MIB - 50_000))
    assert {"size": MIB, "by": "@a:example.org"} == orjson.loads(connection.replies()[-1].body)


def test_a_client_is_told_to_go_on_only_after_its_token_was_found_good() -> None:
    known: Deferred[str] = Deferred()
    connection = Wire(door(*ROUTES, authenticate=lambda request, route: known))
    connection.send(large("/upload", MIB, "Expect: 100-continue"))
    assert b"" == connection.transport.value()
    known.callback("@a:example.org")
    assert b"HTTP/1.1 100 Continue\r\n\r\n" == connection.transport.value()


def test_a_client_that_goes_while_its_token_is_looked_up_is_forgotten() -> None:
    known: Deferred[str] = Deferred()
    connection = Wire(door(*ROUTES, authenticate=lambda request, route: known)).send(large())
    connection.hang_up()
    known.callback("@a:example.org")
    assert b"" == connection.transport.value()


def test_the_steps_are_taken_once_whenever_they_are_taken() -> None:
    taken: list[str] = []
    root = door(
        *ROUTES,
        authenticate=lambda request, route: taken.append("authenticate"),
        limit=lambda request, route: taken.append("limit"),
    )
    for body in (b"x" * 10, b"x" * MIB):
        connection = Wire(root).send(large("/upload", len(body)))
        connection.send(body)
        assert 200 == connection.replies()[0].status
        assert ["authenticate", "limit"] == taken
        taken.clear()


def test_the_next_request_of_a_connection_is_asked_for_its_own_token() -> None:
    who = iter(["@a:example.org", "@b:example.org"])
    connection = Wire(door(*ROUTES, authenticate=lambda request, route: next(who)))
    for _ in range(2):
        connection.send(large("/upload", 100_000), b"x" * 100_000)
    assert ["@a:example.org", "@b:example.org"] == [orjson.loads(each.body)["by"] for each in connection.replies()]


def test_json_stays_in_memory_and_other_large_bodies_go_to_disk() -> None:
    for path, held in (("/json", (900_000, 0)), ("/open", (0, 900_000))):
        connection = Wire(door(*ROUTES)).send(large(path), b"x" * 900_000)
        assert held == (connection.site.bodies.memory_bytes, connection.site.bodies.disk_bytes)
        connection.send(b"x" * (MIB - 900_000))
        assert MIB == orjson.loads(connection.replies()[0].body)["size"]


@pytest.mark.parametrize("size", [100_000, 3 * MIB])
def test_the_room_of_a_body_is_given_back(size: int) -> None:
    connection = Wire(door(*ROUTES)).send(large("/open", size))
    for _ in range(0, size, 50_000):
        connection.send(b"x" * min(50_000, size))
    assert size == orjson.loads(connection.replies()[0].body)["size"]
    assert 0 == connection.site.bodies.memory_bytes == connection.site.bodies.disk_bytes


def test_the_room_of_a_broken_off_body_is_given_back() -> None:
    for so_far in (b"x" * 100_000, b"x" * MIB):
        connection = Wire(door(*ROUTES)).send(large("/open", 2 * MIB), so_far)
        bodies = connection.site.bodies
        assert len(so_far) == bodies.memory_bytes + bodies.disk_bytes
        connection.hang_up()
        assert 0 == bodies.memory_bytes == bodies.disk_bytes


@pytest.mark.parametrize(
    "options, first",
    [
        (SiteOptions(max_bodies_memory_bytes=400_000), 150_000),
        (SiteOptions(max_bodies_disk_bytes=2 * MIB), 900_000),
    ],
    ids=["memory", "disk"],
)
def test_of_the_whole_room_strangers_have_half(options: SiteOptions, first: int) -> None:
    connection = Wire(door(*ROUTES, authenticate=lambda request, route: "@a:example.org"), options)
    connection.send(large("/open", MIB), b"x" * first)
    late = connection.another().send(large("/open", MIB), b"x" * first)
    (reply,) = late.replies()
    assert (429, "M_LIMIT_EXCEEDED") == (reply.status, orjson.loads(reply.body)["errcode"])
    assert "Retry-After" in reply.headers
    known = connection.another().send(large("/upload", MIB), b"x" * first)
    assert [] == known.replies()
    # What comes in one piece is here already.
    whole = connection.another().send(large("/open", 200_000) + b"x" * 200_000)
    assert [200] == [each.status for each in whole.replies()]


def test_a_folder_that_takes_no_files_is_our_fault(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    connection = Wire(door(*ROUTES), SiteOptions(spool_dir=tmp_path / "nowhere"))
    connection.send(large("/open"), b"x" * 300_000)
    (reply,) = connection.replies()
    assert 503 == reply.status
    assert 0 == connection.site.bodies.memory_bytes == connection.site.bodies.disk_bytes
