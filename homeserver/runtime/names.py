"""Looking up names: addresses by the operating system, SRV records by DNS.

A `Names` is handed to whoever looks up, so that tests bring their own. Errors are of two kinds: there is no such name,
which is an answer, and the look-up failed, which says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as NoAnswer
from twisted.internet.interfaces import IResolutionReceiver
from twisted.names import dns
from twisted.names.client import Resolver
from twisted.names.error import DNSNameError, DomainError
from zope.interface import implementer

from .addresses import literal_address

LOOKUP_TIMEOUT_S: Final = 15.0
# LIMIT: of what is taken from one answer.
MAX_ADDRESSES: Final = 16
MAX_SERVICES: Final = 16
# Seconds to wait for the answer to each of three questions.
_QUESTIONS: Final = (1, 3, 6)


class NameNotFound(Exception):
    """There is no such name, or it has no record of this kind."""


class LookupFailed(Exception):
    """It could not be found out."""


@dataclass(frozen=True, slots=True)
class Service:
    """An SRV record; `ttl_s` is how long it may be remembered."""

    priority: int
    weight: int
    port: int
    target: str
    ttl_s: int


class Names(Protocol):
    """Looks up names."""

    async def addresses(self, host: str) -> Sequence[str]:
        """Return the addresses of a host, best first, at least one; NameNotFound, LookupFailed."""
        ...

    async def services(self, name: str) -> Sequence[Service]:
        """Return the SRV records of a name such as `_matrix-fed._tcp.example.org`; NameNotFound, LookupFailed."""
        ...


class SystemNames:
    """Asks the operating system's resolver in its threads, and the name servers that it is set up with."""

    def __init__(self, reactor: Any, *, name_servers: Sequence[tuple[str, int]] | None = None) -> None:
        """`name_servers`: addresses and ports of those that are asked for SRV records, in place of the system's."""
        self._reactor = reactor
        self._name_servers = name_servers
        self._dns: Resolver | None = None

    async def addresses(self, host: str) -> Sequence[str]:
        literal = literal_address(host)
        if literal is not None:
            # No thread is needed for it; they may all be waiting for names that nobody answers for.
            return [str(literal)]
        found = _Collected(self._reactor)
        self._reactor.nameResolver.resolveHostName(found, host, addressTypes=[IPv6Address, IPv4Address])
        addresses = await found.done
        if not addresses:
            # The system does not tell one from the other.
            raise NameNotFound(f"{host} has no address")
        return addresses

    async def services(self, name: str) -> Sequence[Service]:
        if self._dns is None:
            try:
                servers = self._name_servers
                self._dns = Resolver(
                    resolv="/etc/resolv.conf" if servers is None else None,
                    servers=None if servers is None else list(servers),
                    timeout=_QUESTIONS,
                    reactor=self._reactor,
                )
            except ValueError as fault:
                raise LookupFailed("no name server is known") from fault
        try:
            answers, _, _ = await self._dns.lookupService(name)
        except DNSNameError as fault:
            raise NameNotFound(f"{name} does not exist") from fault
        except (DomainError, NoAnswer, OSError, ValueError) as fault:
            raise LookupFailed(f"{name} cannot be looked up: {type(fault).__name__}") from fault
        found = [
            Service(int(each.payload.priority), int(each.payload.weight), int(each.payload.port),
                    each.payload.target.name.decode("ascii", "replace"), int(each.ttl))
            for each in answers
            if each.type == dns.SRV
        ]  # fmt: skip
        if not found:
            raise NameNotFound(f"{name} has no SRV record")
        return found[:MAX_SERVICES]


@implementer(IResolutionReceiver)
class _Collected:
    """Collects the addresses that Twisted's resolver finds."""

    def __init__(self, reactor: Any) -> None:
        self._found: list[str] = []
        # Cancelled by who has waited long enough; the thread that asks ends by itself.
        self.done: Deferred[list[str]] = Deferred(lambda _: None)
        self._timer = reactor.callLater(LOOKUP_TIMEOUT_S, self._finish)

    def resolutionBegan(self, resolutionInProgress: Any) -> None:
        """Nothing is done before there are addresses."""

    def addressResolved(self, address: Any) -> None:
        if address.host not in self._found and len(self._found) < MAX_ADDRESSES:
            self._found.append(address.host)

    def resolutionComplete(self) -> None:
        self._finish()

    def _finish(self) -> None:
        if self._timer.active():
            self._timer.cancel()
        if not self.done.called:
            self.done.callback(self._found)
