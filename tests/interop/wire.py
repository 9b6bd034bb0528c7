"""A wire to a server: a port that passes bytes on to another one, until a test cuts it.

A server that listens behind a wire has the wire's port in its name.  Cut, connections break and new ones are refused,
as with a server that is down; but clients of that server, who do not come through the wire, go on.
"""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.protocols.portforward import ProxyFactory, ProxyServer

from tests.support.played_server import pause
from tests.support.ports import free_port


class Wire:
    """Passes on what comes to `port` to `target_port` of the same address, once it is mended for the first time."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.port = free_port(address)
        self.target_port = free_port(address)
        self._listening: Any = None
        self._ends: set[Any] = set()

    @property
    def is_whole(self) -> bool:
        """Whether it passes anything on."""
        return self._listening is not None

    def attach(self) -> None:
        """Start to pass bytes on, unless it does."""
        if self._listening is None:
            factory = _WireFactory(self.address, self.target_port)
            factory.ends = self._ends
            self._listening = reactor.listenTCP(self.port, factory, interface=self.address)  # type: ignore[attr-defined]

    async def mend(self) -> None:
        """Pass bytes on again."""
        self.attach()

    async def cut(self) -> None:
        """Break all connections and refuse new ones."""
        listening, self._listening = self._listening, None
        if listening is not None:
            await listening.stopListening()
        for end in tuple(self._ends):
            end.transport.abortConnection()
        await pause()


class _End(ProxyServer):
    def connectionMade(self) -> None:
        self.factory.ends.add(self)
        super().connectionMade()

    def connectionLost(self, reason: Any) -> None:
        self.factory.ends.discard(self)
        super().connectionLost(reason)


class _WireFactory(ProxyFactory):
    protocol = _End
    ends: set[Any]
