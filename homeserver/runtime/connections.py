"""Connections to other servers: made to an address that was checked, and kept for a moment for the next request.

A name is looked up, each of its addresses is checked, and the connection is made to the very address that passed:
there is no second look-up that could give another one. Kept connections belong to an address, a port and a TLS name, so
none is used for a server that it was not checked for.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from twisted.internet.defer import CancelledError

from .addresses import AddressRules, is_host_name, literal_address
from .client_tls import ClientTLS, OneConnection, check_name
from .http1 import Connection
from .names import NameNotFound, Names

# Under the time after which common servers close an idle connection.
IDLE_S: Final = 30.0
# LIMIT: connections that are kept without work, to one place and to all.
IDLE_PER_PLACE: Final = 4
IDLE_ALL: Final = 512
# For how long looked-up addresses are used again; a kept connection to an address is then not found any more.
ADDRESSES_S: Final = 300.0
MAX_NAMES: Final = 10_000
# LIMIT: addresses that are tried for one request.
MAX_TRIED: Final = 6


class AddressDenied(Exception):
    """All addresses of the host are in ranges that are not to be contacted."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a request goes.

    `hosts` are tried in their order: a DNS name or an IP literal, and a port. `tls_name` is what the certificate must
    be for; None for no TLS. `is_trusted` hosts are named by the operator, and may have any address.
    """

    hosts: tuple[tuple[str, int], ...]
    tls_name: str | None
    verify: bool = True
    is_trusted: bool = False


class _Key(NamedTuple):
    address: str
    port: int
    tls_name: str | None
    verify: bool


class Connections:
    """Makes and keeps connections."""

    def __init__(
        self, reactor: Any, names: Names, rules: AddressRules, tls: ClientTLS, *, connect_timeout_s: float
    ) -> None:
        self._reactor = reactor
        self._names = names
        self._rules = rules
        self._tls = tls
        self._connect_timeout_s = connect_timeout_s
        self._looked_up: OrderedDict[str, tuple[float, tuple[str, ...]]] = OrderedDict()
        # Each with when it became free, the longest free first.
        self._idle: dict[_Key, list[tuple[float, Connection]]] = {}
        self._count = 0
        self._sweeper: Any = None

    async def get(self, place: Place, *, kept_s: float = IDLE_S) -> Connection:
        """Return a free connection: one that was free for at most `kept_s`, or a new one.

        Raises AddressDenied, NameNotFound, LookupFailed, or the connection's own error.
        """
        fault: Exception | None = None
        tried = 0
        is_denied = False
        for host, port in place.hosts:
            try:
                found = await self._addresses(host)
            except Exception as each:  # the next host may do
                fault = each
                continue
            addresses = found if place.is_trusted else tuple(each for each in found if self._rules.allows(each))
            is_denied = is_denied or len(addresses) < len(found)
            keys = [_Key(address, port, place.tls_name, place.verify) for address in addresses]
            for key in keys:
                kept = self._take(key, kept_s)
                if kept is not None:
                    return kept
            for key in keys:
                if tried == MAX_TRIED:
                    break
                tried += 1
                try:
                    connection = await self._open(key)
                except CancelledError:
                    raise
                except Exception as each:  # of any kind that sockets and TLS have: the next address may do
                    fault = each
                    continue
                self._prefer(host, key.address)
                return connection
        if fault is not None:
            raise fault
        if is_denied:
            raise AddressDenied("its addresses are not to be contacted")
        raise NameNotFound("no host to connect to")

    def give_back(self, connection: Connection) -> None:
        """Keep the connection for the next, if it may be used again."""
        key = connection.place
        if not isinstance(key, _Key) or not connection.is_free:
            return
        kept = self._idle.setdefault(key, [])
        kept.append((self._reactor.seconds(), connection))
        self._count += 1
        if len(kept) > IDLE_PER_PLACE or self._count > IDLE_ALL:
            self._drop(key, 0)
        if self._sweeper is None:
            self._sweeper = self._reactor.callLater(IDLE_S, self._sweep)

    def stop(self) -> None:
        """Close all that is kept."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for key in list(self._idle):
            while key in self._idle:
                self._drop(key, 0)

    # -- private -----------------------------------------------------------------------------------------------------

    async def _addresses(self, host: str) -> Sequence[str]:
        literal = literal_address(host)
        if literal is not None:
            return (literal,)
        if not is_host_name(host):
            raise NameNotFound(f"{host!r} is no host name")
        name = host.lower().removesuffix(".")
        now = self._reactor.seconds()
        known = self._looked_up.get(name)
        if known is not None and known[0] > now:
            return known[1]
        addresses = tuple(await self._names.addresses(name))
        self._looked_up[name] = (now + ADDRESSES_S, addresses)
        while len(self._looked_up) > MAX_NAMES:
            self._looked_up.popitem(last=False)
        return addresses

    def _prefer(self, host: str, address: str) -> None:
        """Try the address that answered first the next time."""
        name = host.lower().removesuffix(".")
        known = self._looked_up.get(name)
        if known is not None and known[1][0] != address:
            rest = tuple(each for each in known[1] if each != address)
            self._looked_up[name] = (known[0], (address, *rest))

    async def _open(self, key: _Key) -> Connection:
        name = key.tls_name
        check = None
        if name is not None:
            check = (lambda handle: check_name(name, handle)) if key.verify else (lambda handle: None)
        connection = Connection(check)
        factory: Any = OneConnection(connection)
        if name is not None:
            factory = self._tls.factory(connection, name, verify=key.verify)
        connector = self._reactor.connectTCP(key.address, key.port, factory, timeout=self._connect_timeout_s)
        ready = connection.ready
        timer = self._reactor.callLater(self._connect_timeout_s, ready.cancel)
        try:
            await ready
        except CancelledError as fault:
            connector.disconnect()
            connection.abort()
            if timer.active():
                raise
            raise TimeoutError("the connection takes too long") from fault
        finally:
            if timer.active():
                timer.cancel()
        connection.place = key
        return connection

    def _take(self, key: _Key, kept_s: float) -> Connection | None:
        kept = self._idle.get(key)
        if not kept:
            return None
        oldest = self._reactor.seconds() - kept_s
        found = None
        # The one that was used last is the likeliest to be open still.
        while kept and found is None:
            since, connection = kept[-1]
            if since < oldest:
                break
            kept.pop()
            self._count -= 1
            if connection.is_free:
                found = connection
        if not kept:
            self._idle.pop(key, None)
        return found

    def _drop(self, key: _Key, index: int) -> None:
        kept = self._idle[key]
        _, connection = kept.pop(index)
        self._count -= 1
        if not kept:
            del self._idle[key]
        connection.abort()

    def _sweep(self) -> None:
        self._sweeper = None
        oldest = self._reactor.seconds() - IDLE_S
        for key in list(self._idle):
            while (kept := self._idle.get(key)) and (kept[0][0] <= oldest or not kept[0][1].is_free):
                self._drop(key, 0)
        if self._idle:
            self._sweeper = self._reactor.callLater(IDLE_S / 3, self._sweep)
