"""A played stream: a real server of WebSocket or of lines on loopback that says what a test tells it to say.

    connection = await played.connection()          the next one, authenticated; `auth` are the parameters
    await connection.request()                      the next request
    connection.say({…}), connection.answer(request, {…}), connection.close(4401, "…"), connection.cut()

And `Hurried`, a reactor whose time runs faster, for clients that wait.
"""

from __future__ import annotations

import json
from collections import deque
from typing import Any, Final, TypeVar

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredQueue
from twisted.internet.protocol import Factory
from twisted.protocols.basic import LineOnlyReceiver
from zope.interface import directlyProvides, providedBy

T = TypeVar("T")
TIMEOUT_S: Final = 10.0
USER: Final = {"user_id": "@alice:test.example", "device_id": "ABC"}


class Hurried:
    """The reactor, but what waits for `haste` seconds waits for one. `waits` is what was waited for."""

    def __init__(self, haste: float = 20.0) -> None:
        self.haste = haste
        self.waits: list[float] = []
        directlyProvides(self, providedBy(reactor))

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)

    def callLater(self, delay: float, function: Any, *args: Any, **kwargs: Any) -> Any:
        self.waits.append(delay)
        return reactor.callLater(delay / self.haste, function, *args, **kwargs)  # type: ignore[attr-defined]

    def seconds(self) -> float:
        return reactor.seconds() * self.haste  # type: ignore[attr-defined]


def within(awaited: Deferred[T]) -> Deferred[T]:
    """Return the same with a time limit."""
    return awaited.addTimeout(TIMEOUT_S, reactor)  # type: ignore[arg-type]


class Connection:
    """What a test sees of one connection."""

    def __init__(self, wire: Any) -> None:
        self.wire = wire
        self.auth: dict[str, Any] = {}
        self.said: DeferredQueue[dict[str, Any]] = DeferredQueue()
        self.gone: Deferred[None] = Deferred()
        self.is_gone = False

    def heard(self, message: bytes) -> None:
        self.said.put(json.loads(message))

    def lost(self) -> None:
        self.is_gone = True
        self.gone.callback(None)

    async def admit(self) -> None:
        """Wait for the first message and answer it."""
        request = await self.request("auth")
        self.auth = request["params"]
        self.answer(request, USER)

    async def request(self, method: str | None = None) -> dict[str, Any]:
        """Return the next message of the client."""
        message = await within(self.said.get())
        assert method is None or method == message["method"]
        return message

    async def requests(self, number: int) -> list[dict[str, Any]]:
        """Return the next messages of the client."""
        return [await self.request() for _ in range(number)]

    def say(self, message: Any) -> None:
        self.wire.say(message if isinstance(message, bytes) else json.dumps(message).encode())

    def update(self, number: int, **more: Any) -> None:
        """Send an update."""
        self.say(update(number, **more))

    def answer(self, request: dict[str, Any], result: dict[str, Any]) -> None:
        self.say({"id": request["id"], "result": result})

    def refuse(self, request: dict[str, Any], errcode: str, **more: Any) -> None:
        self.say({"id": request["id"], "error": {"errcode": errcode, "error": "No", **more}})

    def close(self, code: int, reason: str = "") -> None:
        self.wire.close(code, reason)

    def cut(self) -> None:
        """Hang up without a word."""
        self.wire.transport.abortConnection()


def update(number: int, **more: Any) -> dict[str, Any]:
    """Return an update with one event, numbered."""
    event = {"type": "m.room.message", "event_id": f"${number}", "content": {"body": str(number)}}
    return {"next_batch": f"s{number}", "rooms": {"join": {"!room": {"timeline": {"events": [event]}}}}, **more}


class Played:
    """Listens; `url` is for the client."""

    def __init__(self, kind: str, *, tls: Any = None) -> None:
        self.is_lines = kind == "lines"
        self.refusals: deque[bytes] = deque()
        self.seen: list[dict[str, str]] = []
        self.attempts = 0
        self.host = "127.0.0.1"
        self.admitted: list[Connection] = []
        self._connections: DeferredQueue[Connection] = DeferredQueue()
        self._tls = tls
        self._number = 0
        self.listen()

    @property
    def url(self) -> str:
        scheme = ("tcp", "tls") if self.is_lines else ("http", "https")
        return f"{scheme[self._tls is not None]}://{self.host}:{self._number}"

    def listen(self) -> None:
        """Listen, at the same port as before."""
        factory: Any = _Lines() if self.is_lines else _WebSockets()
        factory.played = self
        listen: Any = reactor
        if self._tls is None:
            self._port = listen.listenTCP(self._number, factory, interface="127.0.0.1")
        else:
            self._port = listen.listenSSL(self._number, factory, self._tls, interface="127.0.0.1")
        self._number = self._port.getHost().port

    async def stop(self) -> None:
        """Listen no longer."""
        await self._port.stopListening()

    def arrived(self, wire: Any) -> Connection:
        connection = Connection(wire)
        self._connections.put(connection)
        return connection

    async def raw_connection(self) -> Connection:
        """Return the next connection, which has not been admitted."""
        return await within(self._connections.get())

    async def connection(self) -> Connection:
        """Return the next connection, admitted."""
        connection = await self.raw_connection()
        await connection.admit()
        self.admitted.append(connection)
        return connection


class _WebSocket(WebSocketServerProtocol):  # type: ignore[misc]
    connection: Connection | None = None

    def processHandshake(self) -> None:
        played = self.factory.played
        if b"\r\n\r\n" in self.data:
            played.attempts += 1
            if played.refusals:
                # In two pieces, as it may come.
                words = played.refusals.popleft()
                self.transport.write(words[:-3])
                reactor.callLater(0.01, self.transport.write, words[-3:])  # type: ignore[attr-defined]
                return
        super().processHandshake()

    def onConnect(self, request: Any) -> str:
        self.factory.played.seen.append(dict(request.headers))
        assert ["m.json"] == request.protocols
        assert "/_matrix/client/unstable/stream" == request.path
        return "m.json"

    def onOpen(self) -> None:
        self.connection = self.factory.played.arrived(self)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        assert self.connection is not None
        self.connection.heard(payload)

    def onClose(self, wasClean: bool, code: Any, reason: Any) -> None:
        if self.connection is not None:
            self.connection.lost()

    def say(self, message: bytes) -> None:
        self.sendMessage(message)

    def close(self, code: int, reason: str) -> None:
        self.sendCloseFrame(code=code, reasonUtf8=reason.encode())


class _WebSockets(WebSocketServerFactory):  # type: ignore[misc]
    noisy = False
    protocol = _WebSocket

    def __init__(self) -> None:
        super().__init__(reactor=reactor)
        self.setProtocolOptions(openHandshakeTimeout=0, closeHandshakeTimeout=0)


class _Line(LineOnlyReceiver):
    delimiter = b"\n"
    MAX_LENGTH = 2**20
    connection: Connection

    def connectionMade(self) -> None:
        self.factory.played.attempts += 1  # type: ignore[union-attr]
        self.connection = self.factory.played.arrived(self)  # type: ignore[union-attr]

    def lineReceived(self, line: bytes) -> None:
        self.connection.heard(line)

    def connectionLost(self, reason: Any = None) -> None:
        self.connection.lost()

    def say(self, message: bytes) -> None:
        self.transport.write(message + b"\r\n")

    def close(self, code: int, reason: str) -> None:
        errcode, _, error = reason.partition(": ")
        self.say(json.dumps({"close": {"code": code, "errcode": errcode, "error": error}}).encode())
        self.transport.loseConnection()


class _Lines(Factory):
    noisy = False
    protocol = _Line
