"""One connection as a wire: messages go up and come down, reading can be paused, and in the end it is lost.

There are two, WebSocket and lines, and a `Listener` hears both in the same way. Timers are ours: Autobahn's would be
those of the global reactor.
"""

from __future__ import annotations

import json
import logging
import re
from typing import Any, Final, Protocol, cast

from autobahn.twisted import websocket
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.python.failure import Failure

from .address import Address, Trust, endpoint
from .loss import Loss

PATH: Final = "/_matrix/client/unstable/stream"
SUBPROTOCOL: Final = "m.json"
# LIMIT: of an HTTP answer in place of a WebSocket.
MAX_REFUSAL_BYTES: Final = 65_536
CLOSE_TIMEOUT_S: Final = 3.0
_STATUS: Final = re.compile(r"[1-9][0-9]{2}")
_NUMBER: Final = re.compile(rb"[0-9]{1,12}")

# Autobahn is annotated in parts only.
_ClientFactory: Any = websocket.WebSocketClientFactory
_ClientProtocol: Any = websocket.WebSocketClientProtocol

_log = logging.getLogger("homeserver.streamclient")


class Listener(Protocol):
    """What a wire tells."""

    def opened(self) -> None:
        """Messages can be sent."""

    def heard(self) -> None:
        """Something has come."""

    def received(self, message: bytes) -> None:
        """A message has come."""

    def lost(self, loss: Loss) -> None:
        """The connection is gone, or came to nothing; the last that is heard."""


class Wire(Protocol):
    """What is told a wire."""

    def send(self, message: bytes) -> None:
        """Send one message of JSON, or not, if the connection is about to be lost."""

    def ping(self) -> None:
        """Give a sign of life that has to be answered."""

    def pause(self) -> None:
        """Stop reading. A few messages may still come."""

    def resume(self) -> None:
        """Go on reading."""

    def close(self) -> None:
        """Say goodbye, and hang up after some seconds if nobody answers."""

    def abort(self) -> None:
        """Hang up."""


class Wires:
    """Makes wires to one address."""

    def __init__(
        self, reactor: Any, address: Address, trust: Trust, *, user_agent: str | None, max_message_bytes: int
    ) -> None:
        self._endpoint = endpoint(reactor, address, trust)
        self._factory: Any
        if address.is_lines:
            self._factory = _LinesFactory(reactor, max_message_bytes)
        else:
            self._factory = _WebSocketFactory(reactor, address, user_agent, max_message_bytes)

    async def connect(self, listener: Listener) -> Wire:
        """Return a new wire, which may not be open yet. Raises what the endpoint raises."""
        self._factory.listener = listener
        return cast(Wire, await self._endpoint.connect(self._factory))


class _Quiet:
    """Autobahn's log, for debugging only: what matters of it is told as a loss."""

    def _say(self, text: str, **facts: Any) -> None:
        _log.debug("%s %s", text, facts)

    # Formatting these would cost more than all the rest.
    def debug(self, text: str, **facts: Any) -> None:
        """Say nothing."""

    trace = debug
    info = warn = warning = error = critical = failure = _say


class _WebSocketFactory(_ClientFactory):  # type: ignore[misc]
    noisy = False
    log = _Quiet()
    listener: Listener

    def __init__(self, reactor: Any, address: Address, user_agent: str | None, max_message_bytes: int) -> None:
        scheme = "wss" if address.is_secure else "ws"
        super().__init__(
            f"{scheme}://{address.netloc}{address.path}{PATH}",
            protocols=[SUBPROTOCOL],
            useragent=user_agent,
            reactor=reactor,
        )
        # Autobahn writes it without the brackets of an IPv6 address.
        self.host = address.netloc.rpartition(":")[0]
        self.setProtocolOptions(
            openHandshakeTimeout=0,
            closeHandshakeTimeout=0,
            serverConnectionDropTimeout=0,
            # The parser of JSON looks at that.
            utf8validateIncoming=False,
            maxMessagePayloadSize=max_message_bytes,
        )

    def buildProtocol(self, addr: Any) -> WebSocketWire:
        wire = WebSocketWire(self.reactor, self.listener)
        wire.factory = self
        return wire


class WebSocketWire(_ClientProtocol):  # type: ignore[misc]
    """A WebSocket."""

    log = _Quiet()

    def __init__(self, clock: IReactorTime, listener: Listener) -> None:
        super().__init__()
        self._clock = clock
        self._listener = listener
        self._goodbye: Any = None
        self._answer: tuple[bytes, bytes] | None = None
        self._distrust: Loss | None = None

    # -- what the client tells ----------------------------------------------------------------------------------------

    def send(self, message: bytes) -> None:
        # Autobahn would raise; what is not answered is asked again.
        if self.state == self.STATE_OPEN:
            self.sendMessage(message)

    def ping(self) -> None:
        self.sendPing()

    def pause(self) -> None:
        self.transport.pauseProducing()

    def resume(self) -> None:
        self.transport.resumeProducing()

    def close(self) -> None:
        if self.state == self.STATE_OPEN:
            self.sendClose(1000)
            self._hang_up_later()
        else:
            self.abort()

    def abort(self) -> None:
        self.transport.abortConnection()

    # -- what Twisted and Autobahn tell -------------------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        self._listener.heard()
        super().dataReceived(data)

    def processHandshake(self) -> None:
        head, found, body = self.data.partition(b"\r\n\r\n")
        if not found:
            if len(self.data) > MAX_REFUSAL_BYTES:
                self.failHandshake("the answer has no end")
        elif head.split(None, 2)[1:2] == [b"101"]:
            try:
                super().processHandshake()
            except ValueError as fault:
                self.failHandshake(f"the answer is no WebSocket's: {fault}")
        else:
            # Autobahn would throw away what the server says about it.
            self._answer = head, body
            if len(body) >= min(_number(head, b"content-length") or 0, MAX_REFUSAL_BYTES):
                self.failHandshake("refused")

    def onOpen(self) -> None:
        self._listener.opened()

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        if not isBinary:
            self._listener.received(payload)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        loss = Loss.of_failure(reason)
        self._distrust = loss if loss.is_distrust else None
        super().connectionLost(reason)

    def onCloseFrame(self, code: int | None, reasonRaw: bytes | None) -> bool | None:
        self._hang_up_later()
        return cast("bool | None", super().onCloseFrame(code, reasonRaw))

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        if self._goodbye is not None and self._goodbye.active():
            self._goodbye.cancel()
        if self._distrust is not None:
            self._listener.lost(self._distrust)
        elif self._answer is not None:
            self._listener.lost(_loss_of_answer(*self._answer))
        elif self.remoteCloseCode is not None:
            self._listener.lost(Loss.of_close(self.remoteCloseCode, self.remoteCloseReason))
        else:
            self._listener.lost(Loss(reason or "the connection was lost"))

    def _hang_up_later(self) -> None:
        if self._goodbye is None:
            self._goodbye = self._clock.callLater(CLOSE_TIMEOUT_S, self.abort)


class _LinesFactory(Factory):
    noisy = False
    listener: Listener

    def __init__(self, clock: IReactorTime, max_message_bytes: int) -> None:
        self._clock = clock
        self._max_message_bytes = max_message_bytes

    def buildProtocol(self, addr: Any) -> LinesWire:
        return LinesWire(self._clock, self.listener, self._max_message_bytes)


class LinesWire(TwistedProtocol):
    """A message a line."""

    transport: Any

    def __init__(self, clock: IReactorTime, listener: Listener, max_message_bytes: int) -> None:
        self._clock = clock
        self._listener = listener
        self._max_message_bytes = max_message_bytes
        self._begun = bytearray()
        self._goodbye: Any = None

    # -- what the client tells ----------------------------------------------------------------------------------------

    def send(self, message: bytes) -> None:
        self.transport.write(message + b"\n")

    def ping(self) -> None:
        # Lines have no pings from the client; nobody waits for the answer to this.
        self.send(b'{"id":"ping","method":"ping"}')

    def pause(self) -> None:
        self.transport.pauseProducing()

    def resume(self) -> None:
        self.transport.resumeProducing()

    def close(self) -> None:
        if self._goodbye is None:
            self._goodbye = self._clock.callLater(CLOSE_TIMEOUT_S, self.abort)
        self.transport.loseConnection()

    def abort(self) -> None:
        self.transport.abortConnection()

    # -- what Twisted tells -------------------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        self._listener.opened()

    def dataReceived(self, data: bytes) -> None:
        self._listener.heard()
        begin = 0
        while (end := data.find(b"\n", begin)) >= 0:
            self._begun += data[begin:end]
            if len(self._begun) > self._max_message_bytes:
                break
            line, self._begun = bytes(self._begun), bytearray()
            begin = end + 1
            if line.strip():
                self._listener.received(line)
        self._begun += data[begin:]
        if len(self._begun) > self._max_message_bytes:
            self.abort()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._goodbye is not None and self._goodbye.active():
            self._goodbye.cancel()
        self._listener.lost(Loss.of_failure(reason))


def _loss_of_answer(head: bytes, body: bytes) -> Loss:
    """Return what an HTTP answer in place of a WebSocket says."""
    words = head.partition(b"\r\n")[0].decode("latin-1").split(None, 2)
    status = int(words[1]) if len(words) > 1 and _STATUS.fullmatch(words[1]) else None
    try:
        told = json.loads(body[:MAX_REFUSAL_BYTES])
    except (ValueError, RecursionError):
        told = None
    told = told if isinstance(told, dict) else {}
    errcode, error, wait_ms = told.get("errcode"), told.get("error"), told.get("retry_after_ms")
    if not isinstance(wait_ms, int):
        # RFC 9110, "Retry-After": seconds, or a date, which nobody sends here.
        seconds = _number(head, b"retry-after")
        wait_ms = None if seconds is None else seconds * 1000
    return Loss(
        error if isinstance(error, str) else " ".join(words[1:]),
        status=status,
        errcode=errcode if isinstance(errcode, str) else None,
        retry_after_ms=wait_ms,
    )


def _number(head: bytes, name: bytes) -> int | None:
    """Return the value of a header where it is a number."""
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.strip().lower() == name and _NUMBER.fullmatch(value.strip()):
            return int(value)
    return None
