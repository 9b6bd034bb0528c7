"""One TCP or TLS connection as it is, byte by byte: for what no HTTP client says, and for seeing what comes back.

    async with Wire(scene.server) as wire:
        wire.send(b"GET /_matrix/client/versions HTTP/1.0\\r\\n\\r\\n")
        answer = await wire.answer()
        await wire.ended()

It writes down what it sends in the journal of the story; waiting ends within `WAIT_S`, with a sentence.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar
from urllib.parse import urlsplit

from twisted.internet import defer
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import optionsForClientTLS
from twisted.python.failure import Failure

from ..asking import sleep
from ..clock import REACTOR
from ..expect import Failed, shown
from ..http import Answer
from ..journal import Step, cut

if TYPE_CHECKING:
    from ..actors import Server

T = TypeVar("T")

WAIT_S: Final = 10.0
LARGEST_HEAD_BYTES: Final = 65_536
_STATUS: Final = re.compile(rb"HTTP/1\.[01] (\d{3})[ \r]")


@dataclass(frozen=True, slots=True)
class Place:
    """Where to connect to."""

    host: str
    port: int
    secure: bool = False


class Wire:
    """A connection to a server; `place` says where if it is not the client API's port."""

    def __init__(self, server: Server, place: Place | None = None, *, options: Any = None) -> None:
        found = urlsplit(server.url)
        secure = found.scheme == "https"
        self.place = place or Place(found.hostname or "", found.port or (443 if secure else 80), secure)
        self._server = server
        self._options = options
        self._protocol: _Protocol | None = None
        self.received = bytearray()
        """What came and was not taken yet."""
        self.is_over = False
        self._waiting: list[Deferred[None]] = []

    async def __aenter__(self) -> Self:
        """Connect; Failed if that does not succeed, for TLS with the whole handshake."""
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    async def open(self) -> None:
        """Connect."""
        place = self.place
        endpoint: Any = HostnameEndpoint(REACTOR, place.host, place.port, timeout=5)
        if place.secure:
            options = self._options or optionsForClientTLS(place.host, self._server.host.web.trust_root)
            endpoint = wrapClientTLS(options, endpoint)
        try:
            self._protocol = await endpoint.connect(_Factory(self))
        except Exception as trouble:
            said = f"{type(trouble).__name__}: {str(trouble)[:200]}"
            raise Failed(f"a connection to {place.host}:{place.port}", said) from None

    def send(self, content: bytes) -> None:
        """Send bytes."""
        self._server.journal.add(Step(f"sent as it is: {cut(content[:300])}", time.time()))
        self.transport.write(content)

    def close(self) -> None:
        """Close it, at once."""
        if self._protocol is not None and not self.is_over:
            self.transport.abortConnection()

    @property
    def transport(self) -> Any:
        """Twisted's transport: `pauseProducing`, `loseWriteConnection`, …"""
        assert self._protocol is not None
        return self._protocol.transport

    async def until(self, expected: str, look: Callable[[], T | None], *, within_s: float = WAIT_S) -> T:
        """Wait until `look` gives something else than None; it takes what it wants from `received`."""
        deadline = time.monotonic() + within_s
        while True:
            found = look()
            if found is not None:
                return found
            left_s = deadline - time.monotonic()
            if self.is_over or left_s <= 0:
                how = "the end of the connection" if self.is_over else f"nothing more within {within_s:g} s"
                raise Failed(expected, f"{how} after {shown(cut(bytes(self.received[-500:])))}")
            waiting: Deferred[None] = Deferred()
            self._waiting.append(waiting)
            try:
                await waiting.addTimeout(left_s, REACTOR)
            except defer.TimeoutError:
                pass

    async def line(self, *, within_s: float = WAIT_S) -> bytes:
        """Take a line, without its end."""
        return await self.until("a line", lambda: self.take_through(b"\n"), within_s=within_s)

    async def ended(self, *, within_s: float = WAIT_S) -> bytes:
        """Wait until the other side has closed, and return what came before that."""
        await self.until("the server to close the connection", lambda: self.is_over or None, within_s=within_s)
        return bytes(self.received)

    async def answer(self, *, of_head: bool = False, within_s: float = WAIT_S) -> Answer:
        """Take an HTTP answer; of a HEAD, or with an interim status (1xx), it has no body."""
        head = await self.until("an HTTP answer", lambda: self.take_through(b"\r\n\r\n"), within_s=within_s)
        first, *rest = head.decode("latin-1").split("\r\n")
        words = first.split(" ", 2)
        if not words[0].startswith("HTTP/1.") or len(words) < 2 or not words[1].isdigit():
            raise Failed("an HTTP answer", shown(first))
        headers = {name.strip().lower(): value.strip() for name, _, value in (each.partition(":") for each in rest)}
        status = int(words[1])
        if of_head or status < 200 or status in (204, 304):
            return Answer("a raw request", status, headers, b"")
        if headers.get("transfer-encoding", "").lower() == "chunked":
            body = await self._chunks(within_s)
        elif "content-length" in headers:
            size = int(headers["content-length"])
            body = await self.until(f"{size} bytes", lambda: self.take(size), within_s=within_s)
        else:
            body = await self.ended(within_s=within_s)
            self.received.clear()
        return Answer("a raw request", status, headers, body)

    async def statuses(self, count: int, *, within_s: float = WAIT_S) -> list[int]:
        """Wait until so many answers have begun, or the server closes, or the time is over; return their statuses."""
        deadline = time.monotonic() + within_s
        while True:
            found = [int(each) for each in _STATUS.findall(self.received)]
            if len(found) >= count or self.is_over or time.monotonic() > deadline:
                return found
            await sleep(0.02)

    def take(self, size: int) -> bytes | None:
        """Take so many bytes; None if there are fewer."""
        if len(self.received) < size:
            return None
        found = bytes(self.received[:size])
        del self.received[:size]
        return found

    def take_through(self, mark: bytes) -> bytes | None:
        """Take what is before a mark, and the mark; None if it has not come."""
        end = self.received.find(mark)
        if end < 0:
            return None
        found = bytes(self.received[:end])
        del self.received[: end + len(mark)]
        return found

    async def _chunks(self, within_s: float) -> bytes:
        parts: list[bytes] = []
        while True:
            size = int(await self.line(within_s=within_s), 16)
            part = await self.until("a chunk", lambda size=size: self.take(size + 2), within_s=within_s)  # type: ignore[misc]
            if not size:
                return b"".join(parts)
            parts.append(part[:-2])

    # -- from the protocol -------------------------------------------------------------------------------------------

    def came(self, content: bytes) -> None:
        """Take in what came."""
        self.received += content
        self._wake()

    def over(self) -> None:
        """Take note of the end."""
        self.is_over = True
        self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if not each.called:
                each.callback(None)


class _Protocol(Protocol):
    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def dataReceived(self, data: bytes) -> None:
        """Hand on what came."""
        self._wire.came(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell that it is over."""
        self._wire.over()


class _Factory(Factory):
    noisy = False

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def buildProtocol(self, addr: IAddress | None) -> _Protocol:
        """Return the one that there is."""
        return _Protocol(self._wire)
