"""Names are looked up; that there is none is told apart from that nobody knows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import CannotListenError
from twisted.names import dns
from twisted.names.common import ResolverBase
from twisted.names.server import DNSServerFactory

from homeserver.runtime.names import LookupFailed, NameNotFound, Service, SystemNames

RECORDS = {
    b"_matrix-fed._tcp.good.org": [dns.Record_SRV(10, 5, 8448, b"m.good.org", 300), dns.Record_A("127.0.0.1")],
    b"_matrix-fed._tcp.many.org": [dns.Record_SRV(1, 1, port, b"m.org", 60) for port in range(1, 60)],
    b"_matrix-fed._tcp.empty.org": [],
}


class _Zone(ResolverBase):
    def _lookup(self, name: bytes, cls: int, type: int, timeout: Any) -> Deferred[Any]:
        if name == b"_matrix-fed._tcp.broken.org":
            return fail(RuntimeError("out of order"))
        if name == b"_matrix-fed._tcp.silent.org":
            return Deferred()
        if name not in RECORDS:
            return fail(dns.DomainError(name))
        answers = [dns.RRHeader(name, each.TYPE, cls, each.ttl or 300, each) for each in RECORDS[name]]
        return succeed((answers, [], []))


@pytest_twisted.async_yield_fixture
async def names() -> AsyncIterator[SystemNames]:
    """Look-ups that ask a name server of the test."""
    factory = DNSServerFactory(clients=[_Zone()])
    protocol = dns.DNSDatagramProtocol(factory)
    while True:
        datagrams = reactor.listenUDP(0, protocol, interface="127.0.0.1")  # type: ignore[attr-defined]
        number = datagrams.getHost().port
        try:
            streams = reactor.listenTCP(number, factory, interface="127.0.0.1")  # type: ignore[attr-defined]
        except CannotListenError:
            # Somebody has that port for streams.
            await datagrams.stopListening()
            continue
        break
    yield SystemNames(reactor, name_servers=[("127.0.0.1", number)])
    await datagrams.stopListening()
    await streams.stopListening()


@pytest_twisted.ensureDeferred
async def test_services_are_found(names: SystemNames) -> None:
    assert [Service(10, 5, 8448, "m.good.org", 300)] == await names.services("_matrix-fed._tcp.good.org")


@pytest_twisted.ensureDeferred
async def test_of_many_services_some_are_taken(names: SystemNames) -> None:
    assert 16 == len(await names.services("_matrix-fed._tcp.many.org"))


@pytest.mark.parametrize("host", ["missing.org", "empty.org"])
@pytest_twisted.ensureDeferred
async def test_name_without_services_is_told(names: SystemNames, host: str) -> None:
    with pytest.raises(NameNotFound):
        await names.services(f"_matrix-fed._tcp.{host}")


@pytest_twisted.ensureDeferred
async def test_name_server_that_does_not_know_is_told(names: SystemNames, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LookupFailed):
        await names.services("_matrix-fed._tcp.broken.org")
    monkeypatch.setattr("homeserver.runtime.names._QUESTIONS", (0, 0))
    quick = SystemNames(reactor, name_servers=[("127.0.0.1", 1)])
    with pytest.raises(LookupFailed):
        await quick.services("_matrix-fed._tcp.good.org")


@pytest_twisted.ensureDeferred
async def test_addresses_come_from_the_system() -> None:
    found = await SystemNames(reactor).addresses("localhost")
    assert {"127.0.0.1", "::1"} & set(found)


@pytest_twisted.ensureDeferred
async def test_host_without_address_is_told() -> None:
    with pytest.raises(NameNotFound):
        await SystemNames(reactor).addresses("no-such-host.invalid")
