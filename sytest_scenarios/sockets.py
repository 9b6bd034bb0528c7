"""Bytes as they are: connections over which a story sends what no HTTP client would send.

    async with raw_connection(scene) as wire:
        wire.send(b"GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
        check_equal([404], await wire.statuses(1), "the answer")

Spec: none; HTTP is RFC 9110 and RFC 9112.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import optionsForClientTLS
from twisted.python.failure import Failure

from .actors import sleep
from .clock import REACTOR
from .expect import Failed
from .scene import Scene

WITHIN_S: Final = 10.0
_STATUS: Final = re.compile(rb"HTTP/1\.[01] (\d{3})[ \r]")


class RawConnection(Protocol):
    """One connection: what came over it, and whether it is closed."""

    def __init__(self) -> None:
        self.came = b""
        self.is_closed = False

    def dataReceived(self, data: bytes) -> None:
        """Keep what comes."""
        self.came += data

    def connectionLost(self, reason: Failure | None = None) -> None:
        """Note that it is over."""
        self.is_closed = True

    def send(self, data: bytes) -> None:
        """Send these bytes; nothing happens if the server has closed."""
        if self.transport is not None and not self.is_closed:
            self.transport.write(data)

    def close(self) -> None:
        """Close it without another word."""
        if self.transport is not None and not self.is_closed:
            self.transport.abortConnection()  # type: ignore[attr-defined]

    async def statuses(self, count: int, *, within_s: float = WITHIN_S) -> list[int]:
        """Wait until so many answers have come, or the server closes, or the time is over; return their statuses."""
        deadline = time.monotonic() + within_s
        while True:
            found = [int(each) for each in _STATUS.findall(self.came)]
            if len(found) >= count or self.is_closed or time.monotonic() > deadline:
                return found
            await sleep(0.02)


@asynccontextmanager
async def raw_connection(scene: Scene) -> AsyncIterator[RawConnection]:
    """Connect to the client API of the first server, as long as the context lasts."""
    wire = await _connected(scene)
    try:
        yield wire
    finally:
        wire.close()


async def _connected(scene: Scene) -> RawConnection:
    parts = urlsplit(scene.server.url)
    is_tls = parts.scheme == "https"
    host, port = parts.hostname or "", parts.port or (443 if is_tls else 80)
    endpoint: IStreamClientEndpoint = HostnameEndpoint(REACTOR, host, port, timeout=WITHIN_S)
    if is_tls:
        endpoint = wrapClientTLS(optionsForClientTLS(host, scene.server.host.web.trust_root), endpoint)
    try:
        wire = await endpoint.connect(Factory.forProtocol(RawConnection))
    except ConnectError as error:
        raise Failed(f"a connection to {scene.server.url}", f"{type(error).__name__}: {error}") from None
    assert isinstance(wire, RawConnection)
    return wire
