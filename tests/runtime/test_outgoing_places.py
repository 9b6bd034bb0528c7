"""Requests go to the address that was checked, to nobody whose certificate is wrong, and carry no secrets elsewhere."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from homeserver.errors import Misconfigured
from homeserver.runtime.addresses import AddressRules
from homeserver.runtime.client_tls import ClientTLS
from homeserver.runtime.connections import Place
from homeserver.runtime.outgoing import AnswerTooLarge, Forbidden, Outgoing, OutgoingFault
from tests.support.certificates import Authority
from tests.support.outgoing import PlayedNames, PortsElsewhere
from tests.support.played_server import PlayedServer

ANYWHERE = AddressRules(())


class World:
    """Played servers, and what asks them."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        self.names = PlayedNames()
        self.reactor = PortsElsewhere()
        self.servers: list[PlayedServer] = []
        self.made: list[Outgoing] = []

    async def server(self, address: str = "127.0.0.2", *names: str) -> PlayedServer:
        server = PlayedServer(self.authority, address)
        certificate = self.authority.certificate

        class _Named:
            """Certificates for names in place of the address."""

            def certificate(self, *_: str) -> tuple[Path, Path]:
                return certificate(*names)

        if names:
            server._authority = _Named()  # type: ignore[assignment]
        await server.start()
        self.servers.append(server)
        return server

    def outgoing(self, *, rules: AddressRules | None = ANYWHERE, ca_files: Any = None) -> Outgoing:
        tls = ClientTLS(self.reactor, [self.authority.ca_file] if ca_files is None else ca_files)
        made = Outgoing(self.reactor, rules=rules, names=self.names, tls=tls)
        self.made.append(made)
        return made


@pytest_twisted.async_yield_fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """Nobody yet."""
    made = World(tmp_path / "ca")
    yield made
    for outgoing in made.made:
        await outgoing.stop()
    for server in made.servers:
        await server.stop()


async def _get(outgoing: Outgoing, url: str, **more: Any) -> Any:
    return await outgoing.request("GET", url, **{"timeout_s": 5.0, "max_bytes": 10_000, **more})


# -- addresses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    ["127.0.0.2", "[::1]", "[::ffff:127.0.0.2]", "[64:ff9b::7f00:2]", "[2002:7f00:2::]", "0.0.0.0", "[::]", "10.0.0.1",
     "169.254.169.254", "inside.org", "both.org", "2130706434", "0x7f000002", "0177.0.0.2", "127.2"],
)  # fmt: skip
@pytest_twisted.ensureDeferred
async def test_private_addresses_are_out_of_reach(world: World, host: str) -> None:
    server = await world.server()
    world.names.known_addresses |= {"inside.org": ["127.0.0.2"], "both.org": ["::1", "127.0.0.2"]}
    with pytest.raises(OutgoingFault):
        await _get(world.outgoing(rules=None), f"https://{host}:{server.port}/")
    assert ([], []) == (server.requests, world.reactor.connected)


@pytest_twisted.ensureDeferred
async def test_operators_hosts_are_reached_wherever_they_are(world: World) -> None:
    server = await world.server()
    await _get(world.outgoing(rules=None), f"https://127.0.0.2:{server.port}/", is_trusted=True)
    assert 1 == len(server.requests)


@pytest_twisted.ensureDeferred
async def test_name_is_looked_up_once_and_the_checked_address_is_used(world: World) -> None:
    server = await world.server("127.0.0.2", "rebind.org")
    rules = AddressRules(["127.0.0.3/32"])
    world.names.known_addresses["rebind.org"] = ["127.0.0.3", "127.0.0.2"]
    await _get(world.outgoing(rules=rules), f"https://rebind.org:{server.port}/")
    assert ["rebind.org"] == world.names.asked
    assert [("127.0.0.2", server.port)] == world.reactor.connected


@pytest_twisted.ensureDeferred
async def test_next_address_is_tried_and_preferred_from_then_on(world: World) -> None:
    server = await world.server("127.0.0.2", "two.org")
    world.names.known_addresses["two.org"] = ["127.0.0.250", "127.0.0.2"]
    outgoing = world.outgoing()
    await _get(outgoing, f"https://two.org:{server.port}/")
    await outgoing.stop()
    world.reactor.connected.clear()
    await _get(outgoing, f"https://two.org:{server.port}/")
    assert [("127.0.0.2", server.port)] == world.reactor.connected


# -- certificates ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "names", "is_good"),
    [
        pytest.param("127.0.0.2", ("127.0.0.2",), True, id="address"),
        pytest.param("127.0.0.2", ("127.0.0.3",), False, id="other address"),
        pytest.param("127.0.0.2", ("a.org",), False, id="name for an address"),
        pytest.param("a.org", ("a.org",), True, id="name"),
        pytest.param("A.org", ("a.org",), True, id="name in another case"),
        pytest.param("a.org", ("b.org",), False, id="other name"),
        pytest.param("x.a.org", ("*.a.org",), True, id="wildcard"),
        pytest.param("a.org", ("127.0.0.2",), False, id="address for a name"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_certificate_has_to_be_for_the_name(
    world: World, host: str, names: tuple[str, ...], is_good: bool
) -> None:
    server = await world.server("127.0.0.2", *names)
    world.names.known_addresses |= {"a.org": ["127.0.0.2"], "x.a.org": ["127.0.0.2"]}
    url = f"https://{host}:{server.port}/"
    if is_good:
        await _get(world.outgoing(), url)
    else:
        with pytest.raises(OutgoingFault, match="certificate"):
            await _get(world.outgoing(), url)
        await _get(world.outgoing(), url, verify=False)
    assert 1 == len(server.requests)


@pytest_twisted.ensureDeferred
async def test_unknown_authority_is_not_trusted(world: World) -> None:
    server = await world.server()
    with pytest.raises(OutgoingFault, match="certificate verify failed"):
        await _get(world.outgoing(ca_files=[]), f"https://127.0.0.2:{server.port}/")
    assert [] == server.requests


@pytest_twisted.ensureDeferred
async def test_connection_that_was_not_verified_is_not_used_for_who_wants_it_verified(world: World) -> None:
    server = await world.server("127.0.0.2", "b.org")
    outgoing = world.outgoing()
    url = f"https://127.0.0.2:{server.port}/"
    await _get(outgoing, url, verify=False)
    with pytest.raises(OutgoingFault):
        await _get(outgoing, url)


def test_file_without_certificates_is_a_mistake_of_the_operator(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(Misconfigured, match=r"ca\.pem"):
        ClientTLS(None, [tmp_path / "ca.pem"])


# -- connections -----------------------------------------------------------------------------------------------------


async def _send(outgoing: Outgoing, server: PlayedServer, method: str = "GET", **more: Any) -> Any:
    place = Place(((server.address, server.port),), server.address)
    options = {"headers": {}, "timeout_s": 5.0, "max_bytes": 10_000, **more}
    return await outgoing.send(place, method, "/x", server=server.name, host=server.name, **options)


@pytest_twisted.ensureDeferred
async def test_connection_is_used_again(world: World) -> None:
    server, outgoing = await world.server(), world.outgoing()
    for _ in range(3):
        await _send(outgoing, server)
    assert 1 == len(world.reactor.connected)


@pytest.mark.parametrize("method", ["GET", "PUT"])
@pytest_twisted.ensureDeferred
async def test_request_on_a_closed_connection_is_made_again(world: World, method: str) -> None:
    server, outgoing = await world.server(), world.outgoing()
    await _send(outgoing, server)
    await server.stop()
    await server.start()
    await _send(outgoing, server, method, body=b"{}")
    assert 2 == len(world.reactor.connected)


@pytest_twisted.ensureDeferred
async def test_large_bodies_pass_both_ways(world: World) -> None:
    server, outgoing = await world.server(), world.outgoing()
    server.answers["/x"] = lambda request: b"y" * len(request.body)
    answer = await _send(outgoing, server, "PUT", body=b"x" * 5_000_000, max_bytes=5_000_000)
    assert b"y" * 5_000_000 == answer.body


@pytest_twisted.ensureDeferred
async def test_sink_gets_good_answers_only(world: World) -> None:
    server, outgoing = await world.server(), world.outgoing()
    pieces: list[bytes] = []

    class Sink:
        def begin(self, headers: Any) -> None:
            pieces.append(headers["x-kind"].encode())

        def write(self, piece: bytes) -> None:
            pieces.append(piece)

    server.answers["/x"] = lambda request: (200, b"file", {"X-Kind": "good"})
    good = await _send(outgoing, server, sink=Sink())
    server.answers["/x"] = lambda request: (404, {"errcode": "M_NOT_FOUND"})
    bad = await _send(outgoing, server, sink=Sink())
    assert ([b"good", b"file"], b"") == (pieces, good.body)
    assert b"M_NOT_FOUND" in bad.body


@pytest_twisted.ensureDeferred
async def test_answer_is_bounded(world: World) -> None:
    server, outgoing = await world.server(), world.outgoing()
    server.answers["/x"] = lambda request: b"y" * 101
    with pytest.raises(AnswerTooLarge):
        await _send(outgoing, server, max_bytes=100)


@pytest.mark.parametrize(
    "headers", [{"A": "b\r\nC: d"}, {"A\r\nB": "c"}, {"": "x"}, {"A": "\0"}], ids=["value", "name", "empty", "NUL"]
)
@pytest_twisted.ensureDeferred
async def test_header_cannot_end_its_line(world: World, headers: dict[str, str]) -> None:
    server = await world.server()
    with pytest.raises(OutgoingFault):
        await _send(world.outgoing(), server, headers=headers)
    assert [] == server.requests


# -- redirects -------------------------------------------------------------------------------------------------------


def _to(where: str | Callable[[Any], str]) -> Any:
    return lambda request: (302, {}, {"Location": where if isinstance(where, str) else where(request)})


@pytest_twisted.ensureDeferred
async def test_secrets_stay_with_their_origin(world: World) -> None:
    first, second = await world.server("127.0.0.2"), await world.server("127.0.0.3")
    first.answers = {"/a": _to("/b"), "/b": _to(f"https://{second.name}/c")}
    second.answers = {"/c": lambda request: {"here": True}}
    headers = {"Authorization": "X-Matrix secret", "Cookie": "a=b", "Accept": "text/plain"}
    answer = await _get(world.outgoing(), f"https://{first.name}/a", headers=headers, redirects=2)
    assert b'{"here":true}' == answer.body.replace(b" ", b"")
    assert ["X-Matrix secret"] * 2 == [each.headers["authorization"] for each in first.requests]
    [last] = second.requests
    assert ("text/plain", False, False) == (
        last.headers["accept"], "authorization" in last.headers, "cookie" in last.headers
    )  # fmt: skip


@pytest.mark.parametrize(
    "location",
    ["/a", "http://127.0.0.2/", "file:///etc/passwd", "https://user@127.0.0.2/", "https://", "https://[::1", "gopher://x/"],
)  # fmt: skip
@pytest_twisted.ensureDeferred
async def test_redirects_lead_no_other_way(world: World, location: str) -> None:
    server = await world.server()
    server.answers = {"/a": _to(location)}
    with pytest.raises(OutgoingFault):
        await _get(world.outgoing(), f"https://{server.name}/a", redirects=5)
    assert 1 == len(server.requests)


@pytest_twisted.ensureDeferred
async def test_trust_does_not_follow_a_redirect(world: World) -> None:
    server = await world.server()
    server.answers = {"/a": _to("https://127.0.0.3:1/")}
    with pytest.raises(Forbidden):
        await _get(world.outgoing(rules=None), f"https://{server.name}/a", redirects=5, is_trusted=True)


@pytest_twisted.ensureDeferred
async def test_one_redirect_too_many_is_the_answer(world: World) -> None:
    server = await world.server()
    server.answers = {"/a": _to(lambda request: request.uri + "x")}
    answer = await _get(world.outgoing(), f"https://{server.name}/a", redirects=8)
    assert (302, 9) == (answer.status, len(server.requests))
