"""Finding where a server answers: from its name to hosts, a port, a TLS name and a Host header.

What a name says by itself is a pure plan (`plan_for`). Only a name without a port, that is no address, is looked up:
first its well-known file, then SRV records. What was found is remembered for as long as whoever said it allows, within
our bounds; that there is nothing is remembered too, longer each time. Concurrent questions share one look-up.

The well-known file is a stranger's: it is small, its redirects are counted, and what it says is only believed if it is
a server name that could be connected to; otherwise it is as if it were not there.

Addresses are neither looked up nor judged here: `runtime.connections` does that for every connection.

Spec: server-server API, "Resolving server names".
"""

from __future__ import annotations

import logging
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import orjson
from twisted.internet.defer import Deferred

from homeserver.errors import BadIdentifier, RemoteUnreachable
from homeserver.model.ids import ServerName
from homeserver.runtime.addresses import is_host_name, literal_address
from homeserver.runtime.clock import Clock
from homeserver.runtime.names import LookupFailed, NameNotFound, Names, Service
from homeserver.runtime.outgoing import Answer, Outgoing, OutgoingFault

logger = logging.getLogger(__name__)

DEFAULT_PORT: Final = 8448
WELL_KNOWN_PATH: Final = "/.well-known/matrix/server"
WELL_KNOWN_TIMEOUT_S: Final = 20.0
MAX_WELL_KNOWN_BYTES: Final = 65_536
MAX_REDIRECTS: Final = 8
# Spec: "The recommended sensible default is 24 hours", "a maximum cache time for responses: 48 hours is recommended".
DEFAULT_CACHE_S: Final = 24 * 3600.0
MAX_CACHE_S: Final = 48 * 3600.0
# Whoever forbids caching would have us ask before every request.
MIN_CACHE_S: Final = 300.0
# Spec: "Errors are recommended to be cached for up to an hour, and servers are encouraged to exponentially back off".
FIRST_ERROR_S: Final = 60.0
MAX_ERROR_S: Final = 3600.0
SRV_BOUNDS_S: Final = (60.0, 3600.0)
# LIMIT: server names that are remembered, good or bad.
MAX_REMEMBERED: Final = 20_000
MAX_TARGETS: Final = 4

_MAX_AGE: Final = re.compile(r"(?:^|,)\s*max-age\s*=\s*\"?([0-9]{1,12})\"?\s*(?:,|$)", re.IGNORECASE)
_NO_CACHE: Final = re.compile(r"(?:^|,)\s*(?:no-cache|no-store)\s*(?:,|=|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Route:
    """How to reach a server: hosts and ports in the order to try, the name of the certificate, the Host header."""

    hosts: tuple[tuple[str, int], ...]
    tls_name: str
    host: str


@dataclass(frozen=True, slots=True)
class NamePlan:
    """What a server name says by itself. `route` is None where look-ups have to say more about `hostname`."""

    hostname: str
    route: Route | None


class Finder(Protocol):
    """Finds servers; `Discovery` does, and tests bring their own."""

    def known(self, server: str) -> Route | None:
        """Return how to reach a server if that need not be looked up."""
        ...

    def forget(self, server: str) -> None:
        """Look the server up anew the next time."""
        ...

    async def find(self, server: str) -> Route:
        """Return how to reach a server; RemoteUnreachable."""
        ...


def plan_for(server: str) -> NamePlan:
    """Return what a server name, or the name that it delegates to, says by itself; ValueError if nothing.

    Spec: "Resolving server names", 1 and 2, and 3.1 and 3.2 for the name that is delegated to.
    """
    try:
        name = ServerName.parse(server)
    except BadIdentifier as fault:
        raise ValueError("not a server name") from fault
    hostname, port = _split(name)
    address = literal_address(hostname)
    if address is not None:
        return NamePlan(hostname, Route(((address, DEFAULT_PORT if port is None else port),), address, str(name)))
    if hostname.startswith("[") or not is_host_name(hostname):
        raise ValueError("not a host name")
    if port is not None:
        return NamePlan(hostname, Route(((hostname, port),), _without_dot(hostname), str(name)))
    return NamePlan(hostname, None)


def parse_well_known(body: bytes | bytearray) -> str:
    """Return the server name that a well-known file delegates to, or raise ValueError."""
    wire = orjson.loads(body)
    name = wire.get("m.server") if isinstance(wire, dict) else None
    if not isinstance(name, str):
        raise ValueError("there is no m.server in it")
    plan_for(name)
    return name


def cache_s(headers: Mapping[str, str]) -> float:
    """Return for how many seconds a well-known answer with these headers is used."""
    control = headers.get("cache-control", "")
    if _NO_CACHE.search(control):
        return MIN_CACHE_S
    max_age = _MAX_AGE.search(control)
    if max_age is None:
        return DEFAULT_CACHE_S
    return min(MAX_CACHE_S, max(MIN_CACHE_S, float(max_age[1])))


def order_services(services: Sequence[Service], choose: Sequence[float]) -> list[Service]:
    """Return the records in the order to try; `choose` are numbers from 0 to 1, as many as there are records.

    RFC 2782: the lowest priority first, among equals by chance, weighted.
    """
    ordered: list[Service] = []
    chances = iter(choose)
    for priority in sorted({service.priority for service in services}):
        left = sorted((each for each in services if each.priority == priority), key=lambda each: each.weight)
        while left:
            mark = next(chances) * sum(each.weight for each in left)
            index = 0
            while index < len(left) - 1 and mark > left[index].weight:
                mark -= left[index].weight
                index += 1
            ordered.append(left.pop(index))
    return ordered


@dataclass(slots=True)
class _WellKnown:
    """What is remembered of a well-known file: where it leads, or None, until when, since when, failures in a row."""

    delegated: str | None
    until: float
    good_since: float
    failures: int


class Discovery:
    """Finds servers by the specification's steps, and remembers."""

    def __init__(self, outgoing: Outgoing, names: Names, clock: Clock, chance: Any, *, verify: Any = None) -> None:
        """`chance()` gives a number from 0 to 1. `verify(hostname)` tells whether its certificate has to be good."""
        self._outgoing = outgoing
        self._names = names
        self._clock = clock
        self._chance = chance
        self._verify = verify if verify is not None else lambda hostname: True
        self._well_known: OrderedDict[str, _WellKnown] = OrderedDict()
        self._routes: OrderedDict[str, tuple[float, Route]] = OrderedDict()
        self._asking: dict[str, list[Deferred[Route]]] = {}

    def known(self, server: str) -> Route | None:
        """Return how to reach a server if that need not be looked up."""
        known = self._routes.get(server)
        return known[1] if known is not None and known[0] > self._clock.monotonic() else None

    async def find(self, server: str) -> Route:
        """Return how to reach a server; RemoteUnreachable if its name leads nowhere."""
        known = self.known(server)
        if known is not None:
            return known
        try:
            plan = plan_for(server)
        except ValueError as fault:
            raise RemoteUnreachable(server, f"cannot be found: {fault}") from fault
        if plan.route is not None:
            self._remember(server, MAX_CACHE_S, plan.route)
            return plan.route
        return await self._shared(server, plan.hostname)

    def forget(self, server: str) -> None:
        """Look the server up anew the next time, as it was not where it should be."""
        if self._routes.pop(server, None) is None:
            return
        known = self._well_known.get(_without_dot(plan_for(server).hostname).lower())
        if known is not None and known.delegated is not None:
            # That there is no file stays known; a good one is read again, and counts on while its server is down.
            known.until = 0.0

    # -- private -----------------------------------------------------------------------------------------------------

    async def _shared(self, server: str, hostname: str) -> Route:
        waiting = self._asking.get(server)
        mine: Deferred[Route] = Deferred(lambda _: None)
        if waiting is not None:
            waiting.append(mine)
            return await mine
        self._asking[server] = [mine]
        # Not cancelled with who asks first: others may wait for the same. Every step of it ends by itself.
        work = Deferred.fromCoroutine(self._look_up(server, hostname))
        work.addBoth(self._answer, server)
        return await mine

    def _answer(self, result: Any, server: str) -> None:
        for waiter in self._asking.pop(server):
            if not waiter.called:
                waiter.callback(result)

    async def _look_up(self, server: str, hostname: str) -> Route:
        delegated, well_known_s = await self._delegation(hostname)
        route: Route | None = None
        name = hostname
        if delegated is not None:
            # Spec: 3.1 to 3.5, by the same rules as for the name itself.
            plan = plan_for(delegated)
            name, route = plan.hostname, plan.route
        route_s = MAX_CACHE_S
        if route is None:
            services, route_s = await self._services(name)
            hosts = tuple((service.target, service.port) for service in services) or ((name, DEFAULT_PORT),)
            # Spec: "The target server must present a valid certificate for <hostname>", not for the SRV target.
            route = Route(hosts, _without_dot(name), name)
        self._remember(server, min(well_known_s, route_s), route)
        return route

    async def _delegation(self, hostname: str) -> tuple[str | None, float]:
        """Return where the well-known file of a host leads, or None, and for how many seconds that counts."""
        key = _without_dot(hostname).lower()
        now = self._clock.monotonic()
        known = self._well_known.get(key)
        if known is None or known.until <= now:
            known = await self._ask_well_known(key, known)
            self._well_known[key] = known
            self._well_known.move_to_end(key)
            while len(self._well_known) > MAX_REMEMBERED:
                self._well_known.popitem(last=False)
        return known.delegated, max(1.0, known.until - now)

    async def _ask_well_known(self, hostname: str, before: _WellKnown | None) -> _WellKnown:
        answer: Answer | None = None
        try:
            answer = await self._outgoing.request(
                "GET",
                f"https://{hostname}{WELL_KNOWN_PATH}",
                headers={"Accept": "application/json"},
                timeout_s=WELL_KNOWN_TIMEOUT_S,
                max_bytes=MAX_WELL_KNOWN_BYTES,
                redirects=MAX_REDIRECTS,
                verify=self._verify(hostname),
            )
            if answer.status == 200:
                delegated = parse_well_known(answer.body)
                now = self._clock.monotonic()
                return _WellKnown(delegated, now + cache_s(answer.headers), now, 0)
        except (OutgoingFault, ValueError) as fault:
            logger.debug("The well-known file of %s: %s", hostname, fault)
        now = self._clock.monotonic()
        failures = 1 if before is None else before.failures + 1
        until = now + min(MAX_ERROR_S, FIRST_ERROR_S * 2.0 ** min(failures - 1, 10))
        is_passing = answer is None or answer.status >= 500
        if before is not None and before.delegated is not None and is_passing and now < before.good_since + MAX_CACHE_S:
            # The web server is out of order for a while: that moves no Matrix server.
            return _WellKnown(before.delegated, until, before.good_since, failures)
        return _WellKnown(None, until, now, failures)

    async def _services(self, hostname: str) -> tuple[list[Service], float]:
        """Return the usable SRV records of a host in the order to try, maybe none, and for how long they count."""
        name = _without_dot(hostname).lower()
        none_s = SRV_BOUNDS_S[1]
        # Spec: 3.3 and 4, then the deprecated 3.4 and 5.
        for prefix in ("_matrix-fed._tcp.", "_matrix._tcp."):
            try:
                found = await self._names.services(prefix + name)
            except NameNotFound:
                continue
            except LookupFailed as fault:
                logger.debug("SRV records of %s: %s", name, fault)
                none_s = SRV_BOUNDS_S[0]
                continue
            usable = [each for each in found if 0 < each.port < 65_536 and is_host_name(each.target)]
            if usable:
                shortest = min(each.ttl_s for each in usable)
                ordered = order_services(usable, [self._chance() for _ in usable])
                return ordered[:MAX_TARGETS], min(max(shortest, SRV_BOUNDS_S[0]), SRV_BOUNDS_S[1])
        return [], none_s

    def _remember(self, server: str, seconds: float, route: Route) -> None:
        self._routes[server] = (self._clock.monotonic() + seconds, route)
        self._routes.move_to_end(server)
        while len(self._routes) > MAX_REMEMBERED:
            self._routes.popitem(last=False)


def _split(name: str) -> tuple[str, int | None]:
    """Return host (IPv6 in brackets) and port of a server name; ValueError for a port that there is not."""
    host, colon, digits = name.rpartition(":")
    if not colon or name.endswith("]"):
        return name, None
    port = int(digits)
    if not 0 < port < 65_536:
        raise ValueError("there is no such port")
    return host, port


def _without_dot(hostname: str) -> str:
    return hostname.removesuffix(".")
