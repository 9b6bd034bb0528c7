"""Names and ports for requests of tests: names lead to loopback, and port 443 to where the test listens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet import reactor

from homeserver.runtime.names import NameNotFound, Service


class PlayedNames:
    """Looks names up in two dictionaries; a value that is an exception is raised. `asked` lists the look-ups."""

    def __init__(
        self,
        addresses: Mapping[str, Sequence[str] | Exception] | None = None,
        services: Mapping[str, Sequence[Service] | Exception] | None = None,
    ) -> None:
        self.known_addresses = dict(addresses or {})
        self.known_services = dict(services or {})
        self.asked: list[str] = []

    async def addresses(self, host: str) -> Sequence[str]:
        return self._found(self.known_addresses, host)

    async def services(self, name: str) -> Sequence[Service]:
        return self._found(self.known_services, name)

    def _found(self, known: Mapping[str, Any], name: str) -> Any:
        self.asked.append(name)
        found = known.get(name)
        if found is None:
            raise NameNotFound(name)
        if isinstance(found, Exception):
            raise found
        return found


class PortsElsewhere:
    """The reactor, but for TCP connections to some ports, which go to others; `connected` lists where to."""

    def __init__(self, ports: Mapping[int, int] | None = None) -> None:
        self.ports = dict(ports or {})
        self.connected: list[tuple[str, int]] = []

    def connectTCP(self, host: str, port: int, *arguments: Any, **options: Any) -> Any:
        self.connected.append((host, port))
        return reactor.connectTCP(host, self.ports.get(port, port), *arguments, **options)  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)
