"""The stream over plain TCP or TLS: one JSON message a line, for programs that want no HTTP.

`LinesFactory` is listened with; each connection is a `LinesConnection`, the wire under a session. It cuts lines out of
what arrives, tells the session when the peer does not read, stops reading when the session says so, and closes with a
last line that says why. What a message means, who may send it and when a silent peer is gone is the session's.

What is bounded here: the length of a message, and the memory that unfinished messages of all connections take together.
While the session has reading stopped, what came in the same piece is kept uncut, so that a piece of thousands of tiny
lines costs no more than its bytes.

docs/stream.md is the specification.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.interfaces import IAddress, IProtocol, IPushProducer
from twisted.internet.protocol import ServerFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from homeserver.errors import LimitExceeded
from homeserver.runtime.clock import Clock, Scheduled
from homeserver.web.bodies import BodyRoom
from homeserver.web.response import encode_json

from .line_splitter import LineSplitter, LineTooLong
from .session import TOO_LARGE, TOO_MANY, Ending
from .wire import TurnWrites, is_encrypted, prepare, untaken_bytes, write_now

if TYPE_CHECKING:
    from .door import StreamDoor
    from .session import Session

# LIMIT: unfinished messages of all connections of a port; half of it for those who have not finished one yet.
MAX_BEGUN_BYTES: Final = 64 * 1024**2
# Not worth counting: smaller than the buffers that every connection has anyway.
_FREE_BYTES: Final = 4096
# How long a peer may take to read why it is closed.
CLOSE_S: Final = 5.0
_SWEEP_S: Final = 1.0

_BLANK: Final = b" \t\r\n"
_STARTS_OF_JSON: Final = b'{["-0123456789tfn'
_HTTP: Final = re.compile(rb"[A-Z]{3,10} ")


@implementer(IProtocol, IPushProducer)
class LinesConnection:
    """One connection; to the session its `Connection`, to Twisted a protocol and what produces for its transport.

    Not one of Twisted's `Protocol`s, whose attributes need a dictionary for each of ten thousand connections.
    """

    __slots__ = (
        "_factory",
        "_has_begun",
        "_has_spoken",
        "_held_bytes",
        "_is_closing",
        "_is_delivering",
        "_is_outside",
        "_is_paused",
        "_is_reading",
        "_session",
        "_splitter",
        "_transport",
        "client_ip",
    )

    has_pings = False
    user_agent: str | None = None

    def __init__(self, factory: LinesFactory) -> None:
        self._factory = factory
        self._splitter = LineSplitter(factory.max_message_bytes)
        # None before it is let in, and after the end.
        self._session: Session | None = None
        # None after the end.
        self._transport: Any = None
        self.client_ip = ""
        # Anything but blanks has come; a whole message has.
        self._has_begun = False
        self._has_spoken = False
        # Whether the session has reading stopped; whether this has to wait until there is a session.
        self._is_paused = False
        self._is_outside = False
        self._is_reading = True
        self._is_delivering = False
        self._is_closing = False
        # What is counted in the room for unfinished messages.
        self._held_bytes = 0

    # -- what the session calls --------------------------------------------------------------------------------------

    def send(self, message: bytes) -> None:
        """Send one message."""
        if self._transport is not None and not self._is_closing:
            self._factory.writes.write(self._transport, message + b"\n")

    def ping(self) -> None:
        """Ask for a sign of life."""
        self.send(b'{"method":"ping"}')

    def pause(self) -> None:
        """Read no more until `resume`, and deliver no more of what has been read."""
        self._is_paused = True
        self._regulate()

    def resume(self) -> None:
        """Deliver what was kept, and read on."""
        self._is_paused = False
        self._deliver()

    def close(self, ending: Ending) -> None:
        """Tell why in a last line, and close; abruptly if that is not taken in time."""
        transport = self._transport
        if transport is None or self._is_closing:
            return
        self._is_closing = True
        self._count(0)
        self._splitter = self._factory.no_splitter
        transport.unregisterProducer()
        if not self._is_reading:
            # To see the peer's end of it.
            transport.resumeProducing()
        self._factory.writes.flush(transport)
        write_now(transport, _last_line(ending))
        if is_encrypted(transport):
            transport.loseConnection()
        else:
            # A close with unread data pending would be a reset, which may overtake the last line on its way.
            transport.loseWriteConnection()
        self._factory.is_closing(self)

    def abort(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            self._is_closing = True
            self._transport.abortConnection()

    def untaken_bytes(self) -> int | None:
        """Return how much the peer has not taken in; None: not known."""
        return None if self._transport is None else untaken_bytes(self._transport)

    # -- what Twisted calls ------------------------------------------------------------------------------------------

    def makeConnection(self, transport: Any) -> None:
        """Come in, now or in a moment, or be sent away."""
        self._transport = transport
        host = getattr(transport.getPeer(), "host", None)
        self.client_ip = host if isinstance(host, str) else "127.0.0.1"
        prepare(transport)
        transport.registerProducer(self, True)
        try:
            wait_s = self._factory.door.wait_s()
        except LimitExceeded as error:
            self._refuse(error)
            return
        if wait_s <= 0:
            self._come_in()
        else:
            # Before a TLS handshake, which is most of the work for a connection.
            self._is_outside = True
            self._regulate()
            self._factory.later(wait_s, self._come_in)

    def connectionMade(self) -> None:
        """Nothing: all is done by `makeConnection`."""

    def dataReceived(self, data: bytes) -> None:
        """Take what the peer has sent."""
        if self._is_closing:
            return
        if not self._has_spoken:
            fault = self._first_fault(data)
            if fault is not None:
                self._end(Ending(4400, "M_NOT_JSON", fault))
                return
        if self._session is not None:
            self._session.heard()
        self._splitter.feed(data)
        self._deliver()

    def connectionLost(self, reason: Failure) -> None:
        """Forget the connection."""
        self._is_closing = True
        self._factory.writes.forget(self._transport)
        self._transport = None
        self._factory.is_closed(self)
        self._count(0)
        self._lose_session()

    def pauseProducing(self) -> None:
        """The peer does not read: Twisted's buffer is full."""
        if self._session is not None:
            self._session.clogged()

    def resumeProducing(self) -> None:
        """The peer has read: Twisted's buffer is empty."""
        if self._session is not None:
            self._session.drained()

    def stopProducing(self) -> None:
        """Nothing: `connectionLost` follows."""

    # -- private -----------------------------------------------------------------------------------------------------

    def _come_in(self) -> None:
        """Begin a session, if there is room for one."""
        if self._transport is None or self._is_closing:
            return
        refusal = self._factory.door.refusal(self.client_ip)
        if refusal is not None:
            self._refuse(refusal)
            return
        self._session = self._factory.door.begin(self)
        self._is_outside = False
        self._deliver()

    def _refuse(self, error: LimitExceeded) -> None:
        if is_encrypted(self._transport):
            # To tell why would take a handshake, and so nearly as much as letting it in.
            self.abort()
        else:
            self.close(Ending(4429, error.errcode, error.message))

    def _regulate(self) -> None:
        """Read if and only if what comes can be delivered."""
        is_wanted = not self._is_paused and not self._is_outside
        if is_wanted == self._is_reading or self._is_closing or self._transport is None:
            return
        self._is_reading = is_wanted
        if is_wanted:
            self._transport.resumeProducing()
        else:
            self._transport.pauseProducing()

    def _deliver(self) -> None:
        """Give the session what is complete, as long as it takes it."""
        if self._is_delivering or self._is_closing:
            return
        self._is_delivering = True
        try:
            while not (self._is_paused or self._is_outside or self._is_closing):
                message = self._splitter.take()
                if message is None:
                    break
                if not (message.isascii() or _is_utf8(message)):
                    self._end(Ending(1007, None, "A message is not UTF-8"))
                    return
                self._has_spoken = True
                assert self._session is not None
                self._session.received(message)
        except LineTooLong:
            most = self._factory.max_message_bytes
            self._end(Ending(TOO_LARGE, "M_TOO_LARGE", f"A message is larger than {most} bytes"))
            return
        finally:
            self._is_delivering = False
        if not self._is_closing:
            self._note_rest()
            self._regulate()

    def _note_rest(self) -> None:
        """Tell the session of a message that is not complete, and count what is kept of it."""
        splitter, session = self._splitter, self._session
        held_bytes = splitter.held_bytes
        if splitter.begun_bytes:
            if session is not None:
                session.begun()
            added = held_bytes - self._held_bytes
            room = self._factory.room
            if held_bytes > _FREE_BYTES and added > 0 and not room.has_memory(added, self._has_spoken):
                self._end(Ending(TOO_MANY, "M_LIMIT_EXCEEDED", "The server has too many unfinished messages at once"))
                return
        self._count(held_bytes)

    def _count(self, held_bytes: int) -> None:
        """Count what is kept now instead of what was kept."""
        counted = held_bytes if held_bytes > _FREE_BYTES else 0
        self._factory.room.memory_bytes += counted - self._held_bytes
        self._held_bytes = counted

    def _first_fault(self, data: bytes) -> str | None:
        """Return what is wrong with the very first bytes, if they are those of another protocol."""
        if b"\0" in data and data[:1] != b"\x16":
            return "There are NUL bytes; a message is a line of JSON in UTF-8"
        if self._has_begun:
            return None
        start = data.lstrip(_BLANK)
        if not start:
            return None
        self._has_begun = True
        if start[0] in _STARTS_OF_JSON:
            return None
        if start[0] == 0x16:
            return "This is TLS, but the port is one without; each line is a JSON object here"
        if _HTTP.match(start):
            return "This is no HTTP port; each line is a JSON object here"
        return "Each line is a JSON object"

    def _end(self, ending: Ending) -> None:
        """Close for a reason that the session does not know of."""
        self._lose_session()
        self.close(ending)

    def _lose_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.lost()


class LinesFactory(ServerFactory):
    """Makes the connections of a port, and watches those that have been told that they end."""

    noisy = False

    def __init__(self, door: StreamDoor, max_message_bytes: int, clock: Clock) -> None:
        self.door = door
        self.max_message_bytes = max_message_bytes
        self.room = BodyRoom(MAX_BEGUN_BYTES, 0)
        # What closing connections have instead of a splitter of their own.
        self.no_splitter = LineSplitter(0)
        self._clock = clock
        self.writes = TurnWrites(partial(self.later, 0))
        # Each with when its time is up, the earliest first.
        self._closing: dict[LinesConnection, float] = {}
        self._sweeping: Scheduled | None = None

    def buildProtocol(self, addr: IAddress | None) -> LinesConnection:  # type: ignore[override]
        """Return a new connection."""
        return LinesConnection(self)

    def later(self, seconds: float, work: Callable[[], object]) -> None:
        """Call `work` in another turn of the reactor, after `seconds`."""
        self._clock.call_later(seconds, work)

    def is_closing(self, connection: LinesConnection) -> None:
        """Watch a connection that has been told that it ends."""
        self._closing[connection] = self._clock.monotonic() + CLOSE_S
        if self._sweeping is None:
            self._sweeping = self._clock.call_later(_SWEEP_S, self._sweep)

    def is_closed(self, connection: LinesConnection) -> None:
        """Forget a connection that is gone."""
        self._closing.pop(connection, None)

    def _sweep(self) -> None:
        self._sweeping = None
        now = self._clock.monotonic()
        for connection in [each for each, deadline in self._closing.items() if deadline <= now]:
            del self._closing[connection]
            connection.abort()
        if self._closing:
            self._sweeping = self._clock.call_later(_SWEEP_S, self._sweep)


def _is_utf8(message: bytes) -> bool:
    try:
        message.decode()
    except UnicodeDecodeError:
        return False
    return True


def _last_line(ending: Ending) -> bytes:
    close: dict[str, object] = {"code": ending.code}
    if ending.errcode is not None:
        close["errcode"] = ending.errcode
    close["error"] = ending.error
    return encode_json({"close": close}) + b"\n"
