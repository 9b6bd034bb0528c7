"""One HTTP/1.1 connection to another server: a request at a time, and a strict reader of its answers.

The reader takes nothing that two readers could understand differently: two lengths, a length beside a transfer
encoding, folded headers, a bare line feed. Whatever is wrong ends the connection. The body is handed on as it comes,
never gathered here, so that what it costs is up to the receiver.

Spec: RFC 9112.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

MAX_HEAD_BYTES: Final = 65_536
MAX_HEADERS: Final = 200
# LIMIT: answers such as "100 Continue" before the one that counts.
MAX_INTERIM: Final = 8
# LIMIT: of the line before a chunk, its extensions included.
MAX_CHUNK_LINE_BYTES: Final = 1024
# LIMIT: from so many chunks on, they have to be of this length on average; each costs as much as a kilobyte.
MAX_SMALL_CHUNKS: Final = 10_000
SMALL_CHUNK_BYTES: Final = 64
# Together with the head in one write, and so in one packet or TLS record.
SMALL_BODY_BYTES: Final = 65_536

_STATUS: Final = re.compile(r"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [^\x00-\x08\x0a-\x1f\x7f]*)?")
_HEADER: Final = re.compile(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")
_LENGTH: Final = re.compile(r"[0-9]{1,18}")
_TRAILER: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[^\x00-\x08\x0a-\x1f\x7f]*")
_CHUNK: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\x00-\x08\x0a-\x1f\x7f]*)?")

_IDLE, _HEAD, _FIXED, _UNTIL_CLOSE, _CHUNK_LINE, _CHUNK_DATA, _CHUNK_END, _TRAILERS, _ENDED = range(9)


class BadAnswer(Exception):
    """What came is no answer in HTTP."""


class ConnectionBroken(Exception):
    """The connection ended before the answer did; `is_silent` if nothing of the answer had come."""

    def __init__(self, message: str, *, is_silent: bool) -> None:
        super().__init__(message)
        self.is_silent = is_silent


class Receiver(Protocol):
    """Takes an answer; what it raises ends the connection and goes to who waits."""

    def begin(self, status: int, headers: Mapping[str, str], length: int | None) -> None:
        """The head has come: names in lower case, of several headers the first; `length` of the body where known."""

    def data(self, piece: bytes) -> None:
        """A piece of the body has come."""


@implementer(IHandshakeListener)
class Connection(TwistedProtocol):
    """A connection; `check` is called when TLS is set up and raises if the other side is not who it should be."""

    def __init__(self, check: Callable[[Any], None] | None = None) -> None:
        self._check = check
        self._state = _IDLE
        self._buffer = b""
        self._left = 0
        self._interim = 0
        self._chunks = self._chunked = 0
        self._is_head_only = False
        self._is_body_small = True
        self._has_answer_begun = False
        self._may_stay = False
        self._is_complete = False
        self._receiver: Receiver | None = None
        self._done: Deferred[None] | None = None
        self.ready: Deferred[Connection] = Deferred(lambda _: self.abort())
        self.is_open = False
        self.exchanges = 0
        # Where it leads; for whoever keeps it.
        self.place: object = None

    # -- life --------------------------------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        transport: Any = self.transport
        if hasattr(transport, "setTcpNoDelay"):
            transport.setTcpNoDelay(True)
        if self._check is None:
            self._opened()

    def handshakeCompleted(self) -> None:
        """Twisted says that the TLS handshake is done."""
        if self._check is None:
            return
        transport: Any = self.transport
        try:
            self._check(transport.getHandle())
        except Exception as fault:  # whatever a strange certificate leads to: it is not trusted
            self.abort()
            if not self.ready.called:
                self.ready.errback(BadAnswer(f"the certificate is not for this server: {type(fault).__name__}"))
            return
        self._opened()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.is_open = False
        state, self._state = self._state, _ENDED
        # Twisted fails where a TLS connection that is gone is aborted.
        self.transport = None
        if not self.ready.called:
            self.ready.errback(reason)
        if state == _UNTIL_CLOSE and reason.check(type(connectionDone.value)):
            # RFC 9112, "Message Body Length", 8: the end of the connection is the end of the body.
            self._finish(None)
        else:
            text = reason.getErrorMessage()
            self._finish(ConnectionBroken(f"the connection ended: {text}", is_silent=not self._has_answer_begun))

    def abort(self) -> None:
        """Close the connection at once."""
        self.is_open = False
        transport: Any = self.transport
        if transport is not None:
            transport.abortConnection()

    # -- one exchange ------------------------------------------------------------------------------------------------

    def exchange(self, head: bytes, body: bytes | None, receiver: Receiver, *, is_head_only: bool) -> Deferred[None]:
        """Send a request; fires when the whole answer has been received.

        Fails with BadAnswer, ConnectionBroken, or what the receiver raised. Cancelling closes the connection.
        """
        if self._state != _IDLE or not self.is_open:
            raise RuntimeError("the connection is not free")
        self._receiver = receiver
        self._is_head_only = is_head_only
        self._is_body_small = body is None or len(body) <= SMALL_BODY_BYTES
        self._has_answer_begun = self._may_stay = False
        self._interim = 0
        self._chunks = self._chunked = 0
        self._state = _HEAD
        self.exchanges += 1
        done: Deferred[None] = Deferred(lambda _: self.abort())
        self._done = done
        transport: Any = self.transport
        if not body:
            transport.write(head)
        elif len(body) <= SMALL_BODY_BYTES:
            transport.write(head + body)
        else:
            transport.write(head)
            transport.write(body)
        return done

    @property
    def is_free(self) -> bool:
        """Whether another request may be sent."""
        return self.is_open and self._state == _IDLE

    def dataReceived(self, data: bytes) -> None:
        if self._state == _ENDED or not data:
            return
        if self._state == _IDLE:
            # Nothing was asked.
            self.abort()
            return
        self._has_answer_begun = True
        try:
            while data and not self._is_complete:
                data = self._read(data)
        except Exception as fault:  # also what the receiver raises: it must reach who waits
            self._state = _ENDED
            self.abort()
            self._finish(fault)
            return
        if self._is_complete:
            # What comes behind the answer is nobody's, least of all the next request's.
            self._complete(is_clean=not data)

    # -- private -----------------------------------------------------------------------------------------------------

    def _opened(self) -> None:
        self.is_open = True
        if not self.ready.called:
            self.ready.callback(self)

    def _finish(self, fault: BaseException | None) -> None:
        done, self._done, self._receiver = self._done, None, None
        if done is None or done.called:
            return
        if fault is None:
            done.callback(None)
        else:
            done.errback(fault)

    def _read(self, data: bytes) -> bytes:
        """Take what belongs to the present state and return what is left."""
        if self._state == _FIXED or self._state == _CHUNK_DATA:
            piece = data if len(data) <= self._left else data[: self._left]
            self._left -= len(piece)
            self._hand_on(piece)
            if not self._left:
                if self._state == _FIXED:
                    self._is_complete = True
                else:
                    self._state = _CHUNK_END
            return data[len(piece) :] if len(piece) < len(data) else b""
        if self._state == _UNTIL_CLOSE:
            self._hand_on(data)
            return b""
        if self._state == _HEAD:
            return self._read_head(data)
        return self._read_line(data)

    def _hand_on(self, piece: bytes) -> None:
        if self._receiver is not None:
            self._receiver.data(piece)

    def _read_head(self, data: bytes) -> bytes:
        start = max(0, len(self._buffer) - 3)
        buffer = self._buffer + data if self._buffer else data
        end = buffer.find(b"\r\n\r\n", start)
        if end > MAX_HEAD_BYTES or (end < 0 and len(buffer) > MAX_HEAD_BYTES):
            raise BadAnswer("the head of the answer is too large")
        if end < 0:
            if not b"HTTP/1."[: len(buffer)] == buffer[:7]:
                raise BadAnswer("the answer is not HTTP")
            self._buffer = buffer
            return b""
        self._buffer = b""
        status, minor, headers, repeated = _parsed_head(buffer[:end].decode("latin-1"))
        if 100 <= status < 200:
            self._interim += 1
            if status == 101 or self._interim > MAX_INTERIM:
                raise BadAnswer("the answer does not come")
            return buffer[end + 4 :]
        connection = repeated.get("connection", "").lower()
        # An error may come before the other side has read all of a large body; whether it still will is not known, and
        # an answer to the rest of it would be taken for the next one.
        is_read = status < 400 or self._is_body_small
        self._may_stay = minor == 1 and "close" not in connection and is_read
        self._begin_body(status, headers, repeated)
        return buffer[end + 4 :]

    def _begin_body(self, status: int, headers: Mapping[str, str], repeated: Mapping[str, str]) -> None:
        encoding = repeated.get("transfer-encoding")
        length_text = repeated.get("content-length")
        length: int | None = None
        if length_text is not None:
            # RFC 9112, "Message Body Length", 5: the same length twice is still one.
            lengths = {text.strip(" \t") for text in length_text.split(",")}
            if len(lengths) != 1 or encoding is not None or not _LENGTH.fullmatch(only := lengths.pop()):
                raise BadAnswer("the length of the answer is unclear")
            length = int(only)
        if encoding is not None and encoding.strip(" \t").lower() != "chunked":
            raise BadAnswer("the answer has a transfer encoding that was not asked for")
        if self._is_head_only or status in (204, 304):
            length, encoding = 0, None
        if self._receiver is not None:
            self._receiver.begin(status, headers, length)
        if encoding is not None:
            self._state = _CHUNK_LINE
        elif length is None:
            self._state = _UNTIL_CLOSE
            self._may_stay = False
        elif length:
            self._state, self._left = _FIXED, length
        else:
            self._is_complete = True

    def _read_line(self, data: bytes) -> bytes:
        buffer = self._buffer + data if self._buffer else data
        end = buffer.find(b"\r\n")
        if end > MAX_CHUNK_LINE_BYTES or (end < 0 and len(buffer) > MAX_CHUNK_LINE_BYTES + 1):
            raise BadAnswer("a line of the answer is too long")
        if end < 0:
            self._buffer = buffer
            return b""
        self._buffer = b""
        line, rest = buffer[:end], buffer[end + 2 :]
        if self._state == _CHUNK_END:
            if line:
                raise BadAnswer("a chunk is longer than it says")
            self._state = _CHUNK_LINE
        elif self._state == _CHUNK_LINE:
            size = _CHUNK.fullmatch(line)
            if size is None:
                raise BadAnswer("a chunk does not say how long it is")
            self._left = int(size[1], 16)
            self._interim = 0
            self._chunks += 1
            self._chunked += self._left
            if self._chunks > MAX_SMALL_CHUNKS and self._chunked < self._chunks * SMALL_CHUNK_BYTES:
                raise BadAnswer("the answer comes in crumbs")
            self._state = _CHUNK_DATA if self._left else _TRAILERS
        elif not line:
            self._is_complete = True
        else:
            if _TRAILER.fullmatch(line) is None:
                raise BadAnswer("the answer has a malformed trailer")
            self._interim += 1
            if self._interim > MAX_HEADERS:
                raise BadAnswer("the answer has too many trailers")
        return rest

    def _complete(self, *, is_clean: bool) -> None:
        self._is_complete = False
        self._state = _IDLE
        if not (self._may_stay and is_clean):
            self._state = _ENDED
            self.is_open = False
            transport: Any = self.transport
            transport.loseConnection()
        self._finish(None)


def _parsed_head(text: str) -> tuple[int, int, dict[str, str], dict[str, str]]:
    """Return status, minor version, the headers (the first of each), and those that count together, joined."""
    lines = text.split("\r\n")
    if len(lines) > MAX_HEADERS:
        raise BadAnswer("the answer has too many headers")
    first = _STATUS.fullmatch(lines[0])
    if first is None:
        raise BadAnswer("the answer is not HTTP")
    headers: dict[str, str] = {}
    joined: dict[str, str] = {}
    for line in lines[1:]:
        header = _HEADER.fullmatch(line)
        if header is None:
            raise BadAnswer("the answer has a malformed header")
        name, value = header[1].lower(), header[2].rstrip(" \t")
        headers.setdefault(name, value)
        if name in ("content-length", "transfer-encoding", "connection"):
            joined[name] = f"{joined[name]},{value}" if name in joined else value
    return int(first[2]), int(first[1]), headers, joined
