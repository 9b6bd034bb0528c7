"""A server name leads where the specification says, and nowhere else.

Spec: server-server API, "Resolving server names".
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred, gatherResults

from federation.discovery import (
    DEFAULT_CACHE_S,
    MAX_CACHE_S,
    MIN_CACHE_S,
    Discovery,
    Route,
    cache_s,
    order_services,
    parse_well_known,
    plan_for,
)
from homeserver.errors import RemoteUnreachable
from homeserver.runtime.addresses import AddressRules
from homeserver.runtime.client_tls import ClientTLS
from homeserver.runtime.clock import ManualClock
from homeserver.runtime.names import LookupFailed, Service
from homeserver.runtime.outgoing import Outgoing
from tests.support.certificates import Authority
from tests.support.outgoing import PlayedNames, PortsElsewhere
from tests.support.played_server import NO_ANSWER, PlayedServer

# -- what a name says by itself --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "route"),
    [
        ("1.2.3.4", Route((("1.2.3.4", 8448),), "1.2.3.4", "1.2.3.4")),
        ("1.2.3.4:08448", Route((("1.2.3.4", 8448),), "1.2.3.4", "1.2.3.4:08448")),
        ("[::1]", Route((("::1", 8448),), "::1", "[::1]")),
        ("[::1]:1", Route((("::1", 1),), "::1", "[::1]:1")),
        ("a.org:443", Route((("a.org", 443),), "a.org", "a.org:443")),
        ("A.org.:443", Route((("A.org.", 443),), "A.org", "A.org.:443")),
        ("a.org", None),
    ],
)
def test_address_or_port_needs_no_look_up(name: str, route: Route | None) -> None:
    assert route == plan_for(name).route


@pytest.mark.parametrize(
    "name",
    ["", "a.org:0", "a.org:65536", "a.org:99999", "a.org:", "a.org:1:2", "u@a.org", "a.org/x", "https://a.org", "ä.org",
     "2130706433", "0x7f.1", "0177.0.0.1:80", "1.2.3", "[::1", "[1.2.3.4]x", "[12345]", "a..org", "a b", "a.org\n"],
)  # fmt: skip
def test_name_that_leads_nowhere_is_refused(name: str) -> None:
    with pytest.raises(ValueError):
        plan_for(name)


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"null", b"{}", b'{"m.server": 1}', b'{"m.server": "a.org:0"}', b'{"m.server": "a.org:99999"}',
     b'{"m.server": "a.org/path"}', b'{"m.server": "https://a.org"}', b'{"m.server": "u@a.org"}', b'{"m.server": ""}',
     b'{"m.server": "2130706433"}', b"\xff", b"[" * 50_000],
)  # fmt: skip
def test_bad_delegation_is_none(body: bytes) -> None:
    with pytest.raises(ValueError):
        parse_well_known(body)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("", DEFAULT_CACHE_S),
        ("public", DEFAULT_CACHE_S),
        ("max-age=3600", 3600),
        ("public, Max-Age=3600", 3600),
        ("max-age=0", MIN_CACHE_S),
        ("max-age=99999999999", MAX_CACHE_S),
        ("max-age=999999999999999999999", DEFAULT_CACHE_S),
        ("max-age=-1", DEFAULT_CACHE_S),
        ("no-store", MIN_CACHE_S),
        ("no-cache, max-age=3600", MIN_CACHE_S),
    ],
)
def test_time_in_the_cache_is_bounded(header: str, seconds: float) -> None:
    assert seconds == cache_s({"cache-control": header})


def test_services_go_by_priority_and_then_by_weighted_chance() -> None:
    first, heavy, light, last = (
        Service(p, w, 1, t, 60) for p, w, t in [(1, 0, "a"), (2, 90, "b"), (2, 10, "c"), (3, 0, "d")]
    )
    given = [last, heavy, light, first]
    assert [first, heavy, light, last] == order_services(given, [0.5] * 4)
    assert [first, light, heavy, last] == order_services(given, [0.05] * 4)


# -- with look-ups ---------------------------------------------------------------------------------------------------


class World:
    """A web server for example.org, and a discovery that asks it."""

    def __init__(self, folder: Path) -> None:
        authority = Authority(folder)
        self.web = PlayedServer(authority, "127.0.0.2")
        self.web._authority = self  # type: ignore[assignment]
        self._authority = authority
        self.clock = ManualClock()
        self.names = PlayedNames({"example.org": ["127.0.0.2"], "other.org": ["127.0.0.2"]})
        reactor = PortsElsewhere({443: self.web.port})
        tls = ClientTLS(reactor, [authority.ca_file])
        self.outgoing = Outgoing(reactor, rules=AddressRules(()), names=self.names, tls=tls)
        self.discovery = Discovery(self.outgoing, self.names, self.clock, lambda: 0.5)

    def certificate(self, *_: str) -> Any:
        return self._authority.certificate("example.org", "other.org")

    def says(self, delegated: Any, **headers: str) -> None:
        """Have the well-known file say so."""
        self.web.answers["/.well-known"] = lambda request: (200, {"m.server": delegated}, headers)

    async def finds(self, server: str = "example.org") -> tuple[Any, ...]:
        route = await self.discovery.find(server)
        return route.hosts, route.tls_name, route.host


@pytest_twisted.async_yield_fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """Nothing but the name."""
    made = World(tmp_path)
    await made.web.start()
    yield made
    await made.outgoing.stop()
    await made.web.stop()


AT_8448 = ((("example.org", 8448),), "example.org", "example.org")
FED, OLD = "_matrix-fed._tcp.", "_matrix._tcp."


@pytest.mark.parametrize(
    ("delegated", "expected"),
    [
        pytest.param("1.2.3.4", ((("1.2.3.4", 8448),), "1.2.3.4", "1.2.3.4"), id="3.1 address"),
        pytest.param("[::2]:99", ((("::2", 99),), "::2", "[::2]:99"), id="3.1 address and port"),
        pytest.param("m.org:99", ((("m.org", 99),), "m.org", "m.org:99"), id="3.2 port"),
        pytest.param("srv.org", ((("x.org", 5),), "srv.org", "srv.org"), id="3.3 SRV"),
        pytest.param("old.org", ((("y.org", 6),), "old.org", "old.org"), id="3.4 deprecated SRV"),
        pytest.param("m.org", ((("m.org", 8448),), "m.org", "m.org"), id="3.5 neither"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_delegated_name_is_resolved_in_its_turn(world: World, delegated: str, expected: Any) -> None:
    world.names.known_services |= {
        FED + "srv.org": [Service(1, 1, 5, "x.org", 60)],
        OLD + "srv.org": [Service(1, 1, 7, "z.org", 60)],
        OLD + "old.org": [Service(1, 1, 6, "y.org", 60)],
        FED + "example.org": [Service(1, 1, 8, "wrong.org", 60)],
    }
    world.says(delegated)
    assert expected == await world.finds()
    # Spec: the file is only asked of the name itself, never of the one that it delegates to.
    assert ["/.well-known/matrix/server"] == [request.path for request in world.web.requests]


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param((404, {}), id="none"),
        pytest.param((500, {}), id="error"),
        pytest.param((200, b"<html>"), id="not JSON"),
        pytest.param((200, {"m.server": "m.org:0"}), id="port 0"),
        pytest.param((200, {"m.server": "m.org:99999"}), id="port 99999"),
        pytest.param((200, {"m.server": "m.org/path"}), id="path"),
        pytest.param((200, {"m.server": "u@m.org"}), id="user"),
        pytest.param((200, {"m.server": ["m.org"]}), id="other type"),
        pytest.param((200, b'{"m.server": "m.org"}' + b" " * 70_000), id="too large"),
        pytest.param((302, {}, {"Location": "/.well-known/matrix/server"}), id="self-redirect"),
        pytest.param((302, {}, {"Location": "http://example.org/"}), id="redirect without TLS"),
        pytest.param((302, {}, {"Location": "file:///etc/passwd"}), id="redirect to a file"),
    ],
)
@pytest.mark.parametrize(
    ("services", "expected"),
    [
        pytest.param({FED: [Service(1, 1, 5, "x.org", 60)]}, ((("x.org", 5),), "example.org", "example.org"), id="4"),
        pytest.param({OLD: [Service(1, 1, 6, "y.org", 60)]}, ((("y.org", 6),), "example.org", "example.org"), id="5"),
        pytest.param({FED: LookupFailed("x"), OLD: LookupFailed("x")}, AT_8448, id="6 no answer"),
        pytest.param({FED: [Service(1, 1, 0, "x.org", 60), Service(1, 1, 5, "", 60)]}, AT_8448, id="6 useless"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_without_delegation_the_name_itself_counts(
    world: World, answer: Any, services: Any, expected: Any
) -> None:
    world.names.known_services = {prefix + "example.org": found for prefix, found in services.items()}
    world.web.answers["/.well-known"] = lambda request: answer
    assert expected == await world.finds()


@pytest_twisted.ensureDeferred
async def test_redirects_are_followed_within_bounds(world: World) -> None:
    world.web.answers["/.well-known"] = lambda request: (301, {}, {"Location": "https://other.org/there"})
    world.web.answers["/there"] = lambda request: {"m.server": "m.org:1"}
    assert "m.org:1" == (await world.finds())[2]
    world.discovery = Discovery(world.outgoing, world.names, world.clock, lambda: 0.5)
    world.web.requests.clear()
    world.web.answers["/.well-known"] = lambda request: (301, {}, {"Location": f"{request.uri}x"})
    assert AT_8448 == await world.finds()
    assert 9 == len(world.web.requests)


@pytest_twisted.ensureDeferred
async def test_file_is_asked_for_again_when_its_time_is_over(world: World) -> None:
    world.says("m.org:1", **{"Cache-Control": "max-age=3600"})
    await world.finds()
    world.says("m.org:2")
    world.clock.advance(3599)
    assert "m.org:1" == (await world.finds())[2]
    world.clock.advance(2)
    assert "m.org:2" == (await world.finds())[2]


@pytest_twisted.ensureDeferred
async def test_good_file_counts_while_its_web_server_is_down_but_not_for_ever(world: World) -> None:
    world.says("m.org:1", **{"Cache-Control": "max-age=3600"})
    await world.finds()
    world.web.answers["/.well-known"] = lambda request: (503, {})
    world.clock.advance(3601)
    assert "m.org:1" == (await world.finds())[2]
    world.clock.advance(MAX_CACHE_S)
    assert AT_8448 == await world.finds()


@pytest_twisted.ensureDeferred
async def test_missing_file_is_asked_for_less_and_less_often(world: World) -> None:
    asked = []
    for minutes in (0, 0.9, 0.2, 1.9, 0.2, 3.9, 0.2, 59, 61):
        world.clock.advance(minutes * 60)
        await world.finds()
        asked.append(len(world.web.requests))
    assert [1, 1, 2, 2, 3, 3, 4, 5, 6] == asked


@pytest_twisted.ensureDeferred
async def test_concurrent_questions_share_a_look_up(world: World) -> None:
    world.says("m.org:1")
    routes = await gatherResults([Deferred.fromCoroutine(world.discovery.find("example.org")) for _ in range(20)])
    assert {"m.org:1"} == {route.host for route in routes}
    assert 1 == len(world.web.requests)


@pytest_twisted.ensureDeferred
async def test_who_goes_away_takes_the_answer_from_nobody(world: World) -> None:
    world.says("m.org:1")
    first, second = (Deferred.fromCoroutine(world.discovery.find("example.org")) for _ in range(2))
    first.cancel()
    with pytest.raises(CancelledError):
        await first
    assert "m.org:1" == (await second).host


@pytest_twisted.ensureDeferred
async def test_name_that_leads_nowhere_is_unreachable(world: World) -> None:
    with pytest.raises(RemoteUnreachable):
        await world.finds("example.org:0")
    assert [] == world.web.requests


@pytest_twisted.ensureDeferred
async def test_forgotten_server_is_looked_up_anew(world: World) -> None:
    world.says("m.org:1")
    await world.finds()
    world.says("m.org:2")
    world.discovery.forget("example.org")
    assert "m.org:2" == (await world.finds())[2]
    world.web.answers["/.well-known"] = lambda request: NO_ANSWER
    world.discovery.forget("nobody.org")
