"""A connection to a `WebSite` without a socket: bytes in, bytes out, and a clock that stands still."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock as TwistedClock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from homeserver.runtime.clock import ManualClock
from homeserver.web.json_resource import JsonResource
from homeserver.web.router import Route, Router
from homeserver.web.site import SiteOptions, StrictChannel, make_site


class Transport(StringTransport):
    """Counts writes; closing is noted, and takes effect when `Wire.hang_up` says so."""

    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True
        self.disconnecting = True


@dataclass
class Reply:
    """One parsed answer."""

    status: int
    headers: dict[str, str]
    body: bytes


class Wire:
    """One connection."""

    def __init__(self, root: Any, options: SiteOptions | None = None, peer: str = "192.0.2.7") -> None:
        self.clock = ManualClock(twisted=TwistedClock())
        self.site = make_site(root, self.clock.twisted, options, self.clock)
        self.site.startFactory()
        self._connect(peer)

    def another(self, peer: str = "192.0.2.8") -> Wire:
        """Return a further connection to the same site."""
        wire = object.__new__(Wire)
        wire.clock, wire.site = self.clock, self.site
        wire._connect(peer)
        return wire

    def _connect(self, peer: str) -> None:
        channel = self.site.buildProtocol(IPv4Address("TCP", peer, 4242))
        assert isinstance(channel, StrictChannel)
        self.channel = channel
        self.transport = Transport(peerAddress=IPv4Address("TCP", peer, 4242))
        channel.makeConnection(self.transport)

    def send(self, *pieces: bytes) -> Wire:
        for piece in pieces:
            self.channel.dataReceived(piece)
        return self

    def hang_up(self) -> None:
        self.channel.connectionLost(Failure(ConnectionDone()))

    def replies(self) -> list[Reply]:
        """Return all answers so far; those to HEAD must not be among them."""
        rest = self.transport.value()
        found = []
        while rest:
            head, _, rest = rest.partition(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            headers = dict(line.split(": ", 1) for line in lines[1:])
            length = int(headers.get("Content-Length", "0"))
            found.append(Reply(int(lines[0].split()[1]), headers, rest[:length]))
            rest = rest[length:]
        return found


def door(*routes: Route, **options: Any) -> JsonResource:
    return JsonResource(Router(routes), **options)


def head(method: str, path: str, *lines: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: example.org", *lines, "", ""]).encode("latin-1")
