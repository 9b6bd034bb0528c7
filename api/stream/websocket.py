"""The stream over WebSocket: the endpoint that upgrades the connection, and Autobahn behind one adapter.

Autobahn reads and writes: handshake, frames, fragments, compression, closing. Only whole uncompressed text messages,
which are what happens most, are read (see `frames`) and framed here.

docs/stream.md; RFC 6455, RFC 7692.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from autobahn.twisted.websocket import WebSocketServerFactory
from autobahn.wamp.types import TransportDetails
from autobahn.websocket.compress import PerMessageDeflateOffer, PerMessageDeflateOfferAccept

from homeserver.errors import BadRequest
from homeserver.runtime.clock import Clock
from homeserver.web.bodies import BodyRoom
from homeserver.web.request import WebRequest
from homeserver.web.response import TAKEN_OVER, HandlerResult
from homeserver.web.router import Route
from homeserver.web.takeover import take_over

from ..auth import token_of
from .door import StreamDoor
from .frames import read_whole_text
from .handshake import plain_head, refuse_handshake
from .session import BINARY, TOO_LARGE, TOO_MANY, Ending, Opening, Session
from .slimming import SlimProtocol, slim, with_settings
from .utf8 import Utf8
from .wire import TurnWrites, prepare, untaken_bytes, write_now

SUBPROTOCOL: Final = "m.json"
PATH: Final = "/_matrix/client/unstable/stream"
# Smaller messages do not get much smaller.
MIN_COMPRESSED_BYTES: Final = 1024
# Of a window of 4 KiB; the compressor lives for the time of one message.
WINDOW_BITS: Final = 12
MEMORY_LEVEL: Final = 5
CLOSE_S: Final = 3.0
MAX_REASON_BYTES: Final = 123
# LIMIT: unfinished messages of all connections; half of it for those who have shown no token. Short ones do not count.
MAX_BEGUN_BYTES: Final = 64 * 1024**2
FREE_BYTES: Final = 4096

_pack_short = struct.Struct("!BBH").pack
_pack_long = struct.Struct("!BBQ").pack
_TEXT: Final = 0x81
_DETAILS: Final = TransportDetails()
_FIRST_CONTROL: Final = 8


class StreamEndpoint:
    """`GET /_matrix/client/unstable/stream`."""

    def __init__(self, door: StreamDoor, factory: StreamFactory, clock: Clock) -> None:
        self._door = door
        self._factory = factory
        self._clock = clock

    def routes(self) -> list[Route]:
        """Return the route."""
        return [Route("GET", PATH, self.get_stream, cancel_when_gone=True)]

    async def get_stream(self, request: WebRequest) -> HandlerResult:
        """Make the connection a WebSocket with a session, or refuse."""
        unfit = refuse_handshake(request)
        if unfit is not None:
            return unfit
        refusal = self._door.refusal(request.client_ip)
        if refusal is not None:
            raise refusal
        wait = self._door.wait_s()
        if wait:
            await self._clock.sleep(wait)
            refusal = self._door.refusal(request.client_ip)
            if refusal is not None:
                raise refusal
        opening = _opening_of(request)
        token = token_of(request)
        protocol = self._factory.make()
        protocol.client_ip = request.client_ip
        protocol.user_agent = request.header("User-Agent")
        protocol.begin = self._door.begin
        if token is not None:
            requester = await self._door.requester_for(token)
            place, user = await self._door.prepare(requester, opening)

            def begin(connection: StreamProtocol) -> Session:
                session = self._door.begin(connection)
                self._door.open_prepared(session, requester, opening, place, user)
                return session

            protocol.begin = begin
        if not take_over(request, protocol, plain_head(request, SUBPROTOCOL)):
            raise BadRequest("A WebSocket cannot be opened here")
        return TAKEN_OVER


def _opening_of(request: WebRequest) -> Opening:
    state_after = "state_after" if request.query_bool("use_state_after") else None
    return Opening(request.query("since"), request.query("filter"), request.query("set_presence"), state_after)


class _Silent:
    """A log that nobody reads."""

    def debug(self, *_: Any, **__: Any) -> None:
        """Drop it."""

    info = warn = error = critical = trace = failure = debug


class StreamProtocol(SlimProtocol):
    """One WebSocket, as the `Connection` of a session."""

    __slots__ = (
        "_begun_bytes",
        "_counted_bytes",
        "_is_going_on",
        "_is_gone",
        "_is_paused",
        "begin",
        "client_ip",
        "session",
        "user_agent",
    )

    # What clients do wrong is told to them; Autobahn's own log would cost more than what it tells of.
    log = _Silent()
    has_pings = True
    client_ip: str
    user_agent: str | None
    session: Session | None
    transport: Any
    factory: Any
    _perMessageCompress: Any
    begin: Callable[[StreamProtocol], Session]

    def __init__(self) -> None:
        super().__init__()
        self.client_ip = ""
        self.user_agent = None
        self.session = None
        self._is_paused = False
        self._is_going_on = False
        self._is_gone = False
        # Of a message that has begun: what is here, and what of it is counted in the room for unfinished messages.
        self._begun_bytes = 0
        self._counted_bytes = 0

    def connectionMade(self) -> None:
        """Begin, without finding out about the transport: nobody asks, and only pyOpenSSL's TLS could say."""
        self._transport_details = _DETAILS
        self.peer = self.client_ip
        self._connectionMade()

    # -- from Autobahn -----------------------------------------------------------------------------------------------

    def onConnect(self, request: Any) -> str | None:
        """Choose the subprotocol."""
        return SUBPROTOCOL if SUBPROTOCOL in request.protocols else None

    def onOpen(self) -> None:
        """Begin the session: the handshake is done."""
        prepare(self.transport)
        self.transport.registerProducer(self, True)
        begin = self.begin
        del self.begin
        slim(self)
        self.utf8validator = Utf8()  # type: ignore[assignment]
        self.session = session = begin(self)
        session.wake()

    def dataReceived(self, data: bytes) -> None:
        """Take what was read: whole messages at once, the rest by Autobahn."""
        if self.state == self.STATE_OPEN and not (self.data or self.inside_message or self.current_frame):
            data = self._take_whole_messages(data)
        if data:
            super().dataReceived(data)

    def _take_whole_messages(self, data: bytes) -> bytes:
        """Give the session the whole messages that `data` begins with, and return the rest."""
        at = 0
        while at < len(data) and not self._is_paused and self.state == self.STATE_OPEN and self.session is not None:
            found = read_whole_text(data, at, self.factory.maxMessagePayloadSize)
            if found is None:
                break
            message, at = found
            self.session.received(message)
        return data[at:] if at else data

    def processData(self) -> bool:
        """Take a step through what was read, unless no more is taken for now.

        What is read at once may hold hundreds of small frames that inflate to the largest message.
        """
        if self._is_paused and self.state == self.STATE_OPEN:
            return False
        return super().processData()

    def onFrameBegin(self) -> None:
        """Begin a frame; of a message only while there may be messages."""
        if self._is_moot():
            self.inside_message = True
        else:
            super().onFrameBegin()

    def onFrameData(self, payload: bytes) -> Any:
        """Take a part of a frame."""
        # Nothing is not gathered: empty fragments may go on for ever.
        is_nothing = not payload and self.current_frame.opcode < _FIRST_CONTROL
        return None if is_nothing or self._is_moot() else super().onFrameData(payload)

    def onFrameEnd(self) -> Any:
        """End a frame."""
        if self._is_moot():
            self.inside_message = not self.current_frame.fin
            self.current_frame = None  # type: ignore[assignment]
            self.current_frame_masker = None
            return None
        return super().onFrameEnd()

    def _is_moot(self) -> bool:
        """Return whether a frame is of a message that nobody listens to: we have closed, and wait for the answer."""
        return self.state != self.STATE_OPEN and self.current_frame.opcode < _FIRST_CONTROL

    def onMessageBegin(self, isBinary: bool) -> None:
        """Note that a message has begun."""
        super().onMessageBegin(isBinary)
        if self.session is not None:
            self.session.begun()

    def onMessageFrameData(self, payload: bytes) -> None:
        """Keep a part of a message, if there is room."""
        super().onMessageFrameData(payload)
        begun_bytes = self._begun_bytes = self._begun_bytes + len(payload)
        if begun_bytes <= FREE_BYTES:
            return
        session, room = self.session, self.factory.room
        if session is not None and not room.has_memory(
            begun_bytes - self._counted_bytes, session.requester is not None
        ):
            session.end(Ending(TOO_MANY, "M_LIMIT_EXCEEDED", "The server has too many unfinished messages at once"))
        else:
            room.memory_bytes += begun_bytes - self._counted_bytes
            self._counted_bytes = begun_bytes

    def onMessageEnd(self) -> None:
        """Note that no message is unfinished, and take it."""
        self._forget_begun()
        super().onMessageEnd()

    def _forget_begun(self) -> None:
        self.factory.room.memory_bytes -= self._counted_bytes
        self._begun_bytes = self._counted_bytes = 0

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """Give the session a message."""
        session = self.session
        if session is None:
            return
        if isBinary:
            session.end(Ending(BINARY, None, "Messages are text"))
        else:
            session.received(payload)

    def onPong(self, payload: bytes) -> None:
        """Note a sign of life."""
        if self.session is not None:
            self.session.heard()

    def onPing(self, payload: bytes) -> None:
        """Answer, and note a sign of life."""
        if self.session is not None:
            self.session.heard()
        self.sendPong(payload)  # type: ignore[no-untyped-call]

    def _max_message_size_exceeded(self, *_: Any) -> None:
        self._fail_connection(TOO_LARGE, "M_TOO_LARGE: The message is too large")

    def _fail_connection(self, code: int = 1002, reason: str = "") -> None:
        """End a connection whose peer breaks the protocol; it gets a moment to read why."""
        if self.session is not None:
            self.session.is_closed = True
        super()._fail_connection(code, reason)
        self.factory.reactor.callLater(CLOSE_S, self.abort)

    def _closeConnection(self, abort: bool = False) -> None:
        """End the connection, with what is still to be written if the client takes that in time."""
        super()._closeConnection(abort)
        if not abort:
            self.factory.reactor.callLater(CLOSE_S, self.abort)

    def connectionLost(self, reason: Any = None) -> None:
        """Tell the session."""
        self._is_gone = True
        self._forget_begun()
        self.factory.writes.forget(self.transport)
        super().connectionLost(reason)
        session, self.session = self.session, None
        if session is not None:
            session.lost()

    # -- from the transport ------------------------------------------------------------------------------------------

    def pauseProducing(self) -> None:
        """Write nothing for now."""
        if self.session is not None:
            self.session.clogged()

    def resumeProducing(self) -> None:
        """Go on."""
        if self.session is not None:
            self.session.drained()

    def stopProducing(self) -> None:
        """Write nothing any more."""

    # -- from the session --------------------------------------------------------------------------------------------

    def send(self, message: bytes) -> None:
        """Send one message."""
        if self.state != self.STATE_OPEN:
            return
        length = len(message)
        if self._perMessageCompress is not None and length >= MIN_COMPRESSED_BYTES:
            self.sendMessage(message)  # type: ignore[no-untyped-call]
        elif length < 126:
            self.factory.writes.write(self.transport, bytes((_TEXT, length)) + message)
        elif length < 65_536:
            self.factory.writes.write(self.transport, _pack_short(_TEXT, 126, length) + message)
        else:
            self.factory.writes.write(self.transport, _pack_long(_TEXT, 127, length) + message)

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        """Write what Autobahn has made: without the texts that it would make for its log."""
        self.factory.writes.flush(self.transport)
        write_now(self.transport, data)

    def ping(self) -> None:
        """Ask for a sign of life."""
        self.sendPing()

    def close(self, ending: Ending) -> None:
        """Begin to close; the connection is cut where the client does not answer in time."""
        if self.state == self.STATE_OPEN:
            self.sendCloseFrame(
                ending.code, ending.reason.encode()[:MAX_REASON_BYTES].decode("utf-8", "ignore").encode()
            )
            # For the client's answer.
            self.transport.resumeProducing()
        # What is sent before has to go first, and a client that takes nothing may not hold it.
        self.factory.reactor.callLater(CLOSE_S, self.abort)

    def abort(self) -> None:
        """End it at once."""
        if not self._is_gone:
            self.transport.abortConnection()

    def pause(self) -> None:
        """Stop reading."""
        self._is_paused = True
        self.transport.pauseProducing()

    def resume(self) -> None:
        """Go on reading, with what was read already first."""
        self._is_paused = False
        self.transport.resumeProducing()
        if self.data and not self._is_going_on:
            # In another turn: this may be called from amid a frame.
            self._is_going_on = True
            self.factory.reactor.callLater(0, self._go_on)

    def _go_on(self) -> None:
        self._is_going_on = False
        if not self._is_gone:
            self.consumeData()

    def untaken_bytes(self) -> int | None:
        """Return how much the peer has not taken in yet."""
        return untaken_bytes(self.transport)


class StreamFactory(WebSocketServerFactory):
    """Makes the WebSockets of one server."""

    def __init__(self, reactor: Any, *, max_message_bytes: int, compression: bool) -> None:
        super().__init__(  # type: ignore[no-untyped-call]
            server="Sennit", protocols=[SUBPROTOCOL], reactor=reactor
        )
        self.setProtocolOptions(  # type: ignore[no-untyped-call]
            versions=[13],
            webStatus=False,
            maxFramePayloadSize=max_message_bytes,
            maxMessagePayloadSize=max_message_bytes,
            failByDrop=False,
            # Deadlines are the door's, for all connections together.
            openHandshakeTimeout=0,
            closeHandshakeTimeout=0,
            autoPingInterval=0,
            perMessageCompressionAccept=_accept_deflate(max_message_bytes) if compression else _accept_nothing,
        )
        self.room = BodyRoom(MAX_BEGUN_BYTES, 0)
        self.writes = TurnWrites(partial(reactor.callLater, 0))
        self._kind: Any = with_settings(StreamProtocol, self)

    def make(self) -> StreamProtocol:
        """Return the protocol of a new connection."""
        protocol: StreamProtocol = self._kind()
        protocol.factory = self
        return protocol


def _accept_nothing(offers: Sequence[object]) -> None:
    return None


def _accept_deflate(max_message_bytes: int) -> Callable[[Sequence[object]], PerMessageDeflateOfferAccept | None]:
    def accept(offers: Sequence[object]) -> PerMessageDeflateOfferAccept | None:
        for offer in offers:
            if isinstance(offer, PerMessageDeflateOffer):
                asked = offer.request_max_window_bits
                return PerMessageDeflateOfferAccept(  # type: ignore[no-untyped-call]
                    offer,
                    request_no_context_takeover=offer.accept_no_context_takeover,
                    request_max_window_bits=WINDOW_BITS if offer.accept_max_window_bits else 0,
                    no_context_takeover=True,
                    window_bits=min(asked, WINDOW_BITS) if asked else WINDOW_BITS,
                    mem_level=MEMORY_LEVEL,
                    max_message_size=max_message_bytes,
                )
        return None

    return accept
