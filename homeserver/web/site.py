"""The HTTP/1.1 server under a door: twisted.web with a stricter, bounded and leaner channel and request.

What differs from twisted.web as it comes:

- The head is parsed in one go by `http_head`, which refuses what could be read in two ways.
- The route is found as soon as the head is there, so a body that is too large is refused before it is read; a refused
  connection is read on for a moment without keeping anything, lest the refusal is lost in a reset.
- Who may use the endpoint is found out before a larger body is read; while that takes time, reading pauses.
- Bodies up to 256 KiB are kept in memory as far as they have come, larger ones in a temporary file, unless the route
  takes small ones only; all of them together are bounded (see `bodies`).
- Time limits are deadlines that one sweep per site looks at, not timers per request: a head must be complete in time
  however steadily its bytes drip, a body must keep up a minimum rate, and what is idle is closed.
- An answer is written in one piece, and straight to the socket when nothing waits before it.

Requests on one connection are worked on in order, one at a time, so pipelined answers are in order too.  If the root is
not a `JsonResource`, requests go through the tree of resources as ever.

Spec: RFC 9112 (HTTP/1.1), RFC 9110 8.6, 10.1.1, 15.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from functools import partial
from http import HTTPStatus
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Final

from twisted.internet.interfaces import IAddress, IDelayedCall, IProtocolFactory, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.internet.tcp import Server as TCPServer
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.http_headers import Headers as RawHeaders
from twisted.web.resource import IResource
from twisted.web.server import Request as ServerRequest
from twisted.web.server import Site
from zope.interface import implementer_only

from homeserver.errors import LimitExceeded, MatrixError, StorageUnavailable, TooLarge
from homeserver.runtime.clock import Clock, RealClock
from homeserver.web.bodies import BodyRoom
from homeserver.web.error_response import error_response
from homeserver.web.http_head import BadHead, Head, parse_head
from homeserver.web.json_resource import CORS_HEADERS, JsonResource
from homeserver.web.request import Headers, WebRequest
from homeserver.web.response import Answer, FileResponse, Response, TakenOver, json_response
from homeserver.web.sending import FileSender, finish_quietly

access_logger = logging.getLogger("homeserver.access")

_MEMORY_BYTES: Final = 1 << 18
# Where no body may be larger it is JSON, which is read as a whole: it stays in memory, and is counted there.
_WHOLE_BYTES: Final = 1 << 21
# A body that is larger, or of unknown length, is not read before it is known who sends it. Smaller ones are not worth
# another turn: nearly all of them come together with their head.
_UNCHECKED_BYTES: Final = 1 << 16
_FULL_RETRY_MS: Final = 2000
_SWEEP_S: Final = 2.0
_LINGER_S: Final = 2.0
_ABORT_S: Final = 15.0
_CHUNK_OVERHEAD_BYTES: Final = 1 << 14
_READ_AHEAD_BYTES: Final = 1 << 14

_CORS: Final = b"".join(f"{name}: {value}\r\n".encode("ascii") for name, value in CORS_HEADERS)
_REASONS: Final = {status.value: status.phrase.encode() for status in HTTPStatus}
_NEVER: Final = float("inf")


@dataclass(frozen=True, slots=True)
class SiteOptions:
    """Bounds of a listener.

    `min_body_bytes_per_s` counts from the end of the head, after a grace of `body_grace_s`.  Of the connections that
    wait for a next request `max_idle` are kept; above that those that have waited longest are closed, but none before
    `min_idle_s`.  `other_max_body_bytes` bounds bodies where the root is not a `JsonResource`.
    `max_bodies_memory_bytes` and `max_bodies_disk_bytes` bound the bodies of all requests together; `spool_dir` is
    where larger ones are written, None for the system's folder for temporary files, which may be in memory.
    """

    idle_timeout_s: float = 120.0
    min_idle_s: float = 5.0
    max_idle: int = 500
    head_timeout_s: float = 20.0
    body_grace_s: float = 30.0
    min_body_bytes_per_s: int = 1024
    write_timeout_s: float = 120.0
    max_head_bytes: int = 32_768
    other_max_body_bytes: int = 52_428_800
    max_bodies_memory_bytes: int = 64 * 1024**2
    max_bodies_disk_bytes: int = 2 * 1024**3
    spool_dir: Path | None = None
    access_log: bool = False


def make_site(
    resource: IResource, reactor: IReactorTime, options: SiteOptions | None = None, clock: Clock | None = None
) -> WebSite:
    """Return a factory to listen with, whose root is `resource`."""
    return WebSite(resource, reactor, options or SiteOptions(), RealClock(reactor) if clock is None else clock)


class SiteRequest(ServerRequest):
    """A request of a `WebSite`; lean where the root is a `JsonResource`, and twisted.web's own otherwise."""

    # A StrictChannel until the answer is sent or the client gone, None after that.
    channel: Any
    site: Any

    def __init__(self, channel: StrictChannel, head: Head) -> None:
        # Instead of twisted.web's, which asks the socket for its addresses and makes what few requests need.
        self.notifications = []
        self.channel = channel
        self.site = site = channel.site
        self.transport = channel.transport
        self.client = channel.peer
        self.host = channel.own_address
        self.received_cookies = {}
        self.cookies = []
        self.queued = False
        self._parsePOSTFormSubmission = True
        self._adapterCache: dict[str, Any] = {}
        self.method, self.uri, self.clientproto, headers = head[:4]
        self.path, _, query = self.uri.partition(b"?")
        self.requestHeaders = _headers(headers)
        self.responseHeaders = RawHeaders()
        self._memory: bytes = b""
        self._file: BinaryIO | None = None
        self._received = 0
        self._in_memory = 0
        self._on_disk = 0
        self._is_refused = False
        self._file_response: FileResponse | None = None
        door = site.door
        self._web: WebRequest | None = None
        if door is None:
            self._max_body_bytes = site.options.other_max_body_bytes
            if not head.persistent:
                self.responseHeaders.setRawHeaders(b"Connection", [b"close"])
            return
        self._web = web = WebRequest(
            self.method.decode("latin-1"),
            self.path.decode("latin-1"),
            query,
            Headers(headers),
            client_ip=door.client_ip(channel.peer, headers.get(b"X-Forwarded-For")),
            twisted_request=self,
        )
        self._refusal = door.admit(web, head.length)
        self._max_body_bytes = 0 if web.route is None else web.route.max_body_bytes

    def refusal(self, length: int | None) -> Response | None:
        """Return the answer if the body need not be read."""
        if self._web is not None:
            return self._refusal
        if length is not None and length > self._max_body_bytes:
            return error_response(TooLarge("the body is too large"), self._name())
        return None

    def wants_check(self) -> bool:
        """Return whether the endpoint asks who sends this."""
        route = None if self._web is None else self._web.route
        return route is not None and (route.auth is not None or route.limit is not None)

    def check(self, decide: Callable[[Response | None], object]) -> None:
        """Find out whether the sender may use the endpoint; see `JsonResource.check`."""
        self.site.door.check(self._web, decide)

    def take_whole(self, data: bytes) -> None:
        """Keep the whole body, of a length that was let pass; it came together with the head."""
        self._memory = data
        self._received = self._in_memory = len(data)
        self.site.bodies.memory_bytes += self._in_memory

    def handleContentChunk(self, data: bytes) -> None:
        """Keep a part of the body, or refuse the request when it gets too much."""
        if self._is_refused:
            return
        self._received += len(data)
        if self._received > self._max_body_bytes:
            self._refuse(TooLarge(f"the body is larger than {self._max_body_bytes} bytes"))
            return
        bodies: BodyRoom = self.site.bodies
        web = self._web
        is_known = web is not None and web.is_checked
        size = len(data)
        try:
            if self._received > _MEMORY_BYTES and self._max_body_bytes > _WHOLE_BYTES:
                added = self._received - self._on_disk
                if not bodies.has_disk(added, is_known):
                    self._refuse(_full())
                    return
                if not self._on_disk:
                    self._move_to_disk(bodies)
                assert self._file is not None
                self._file.write(data)
                bodies.disk_bytes += added
                self._on_disk += added
                return
        except OSError as fault:
            self._refuse(StorageUnavailable(f"a request body cannot be written: {fault}"))
            return
        if not bodies.has_memory(size, is_known):
            self._refuse(_full())
            return
        if self._file is not None:
            self._file.write(data)
        elif not self._memory:
            self._memory = data
        else:
            self._file = BytesIO()
            self._file.write(self._memory)
            self._file.write(data)
            self._memory = b""
        bodies.memory_bytes += size
        self._in_memory += size

    def _move_to_disk(self, bodies: BodyRoom) -> None:
        on_disk = bodies.new_file()
        earlier = self._file.getvalue() if isinstance(self._file, BytesIO) else self._memory
        self._file, self._memory = on_disk, b""
        bodies.memory_bytes -= self._in_memory
        self._in_memory = 0
        on_disk.write(earlier)

    def _refuse(self, error: MatrixError | StorageUnavailable) -> None:
        self._is_refused = True
        self._drop_body()
        self.channel.refuse(self, error_response(error, self._name()))

    def begin(self) -> None:
        """Work on the request: its body is complete."""
        web = self._web
        if web is None:
            self.content = self._file if self._file is not None else BytesIO(self._memory)
            self.content.seek(0, 2)
            self.parseCookies()  # type: ignore[no-untyped-call]
            self.requestReceived(self.method, self.uri, self.clientproto)  # type: ignore[no-untyped-call]
            return
        web.body_length = self._received
        if self._file is not None:
            web._body = self._file
        else:
            web._body = self._memory
            self._memory = b""
        self.site.door.start(web, self.answer)

    def answer(self, answer: Answer) -> None:
        """Send the answer and go on to the next request of the connection."""
        web = self._web
        channel = self.channel
        if isinstance(answer, TakenOver):
            self._drop_body()
            if channel is not None:
                self.site.channels.discard(channel)
            return
        if channel is None:
            if isinstance(answer, FileResponse):
                answer.file.close()
            return
        status = self.code = answer.status
        length = answer.length if isinstance(answer, FileResponse) else len(answer.body)
        if status == 204 or status == 304:
            described = b""
        else:
            described = b"Content-Type: %b\r\nContent-Length: %d\r\n" % (_value(answer.content_type), length)
        head = b"HTTP/1.1 %d %b\r\n%bDate: %b\r\n%b%b%b\r\n" % (
            status,
            _REASONS.get(status, b"Unknown"),
            described,
            self.site.date(),
            _CORS,
            _further(answer.headers) if answer.headers else b"",
            b"" if channel.persistent else b"Connection: close\r\n",
        )
        self.startedWriting = 1
        self.sentLength = length
        if isinstance(answer, FileResponse) and self.method != b"HEAD" and length:
            channel.send(head)
            self._file_response = answer
            assert web is not None
            FileSender(self, answer, partial(finish_quietly, self, web)).start()
            return
        if isinstance(answer, FileResponse):
            answer.file.close()
            channel.send(head)
        elif self.method == b"HEAD" or not described:
            channel.send(head)
        else:
            channel.send(head + answer.body)
        if web is not None:
            web.finished = True
        self.finish()

    def write(self, data: bytes) -> None:
        """Send a part of the body."""
        if self._file_response is not None:
            channel = self.channel
            if channel is not None:
                channel.progress()
                channel.write(data)
        else:
            super().write(data)  # type: ignore[no-untyped-call]

    def finish(self) -> None:
        """End the answer."""
        if self._web is None:
            self._release()
            super().finish()  # type: ignore[no-untyped-call]
            return
        if self.finished or self.channel is None:
            return
        self.finished = 1
        if self.site.options.access_log:
            self._log_access()
        channel = self.channel
        self._drop_body()
        # Breaks the circle, so that the request goes without waiting for the garbage collector.
        self._web = None
        self.channel = None
        channel.requestDone(self)
        notifications, self.notifications = self.notifications, []
        for waiter in notifications:
            waiter.callback(None)

    def connectionLost(self, reason: Failure) -> None:
        """Tell who waits that the client is gone."""
        web = self._web
        if web is None:
            self._release()
            super().connectionLost(reason)  # type: ignore[no-untyped-call]
            return
        self._disconnected = True
        self.channel = None
        self._drop_body()
        if self._file_response is not None:
            self._file_response.file.close()
        web.client_gone()
        notifications, self.notifications = self.notifications, []
        for waiter in notifications:
            waiter.errback(reason)

    def _drop_body(self) -> None:
        self._memory = b""
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._received:
            self._release()

    def _release(self) -> None:
        bodies: BodyRoom = self.site.bodies
        bodies.memory_bytes -= self._in_memory
        bodies.disk_bytes -= self._on_disk
        self._in_memory = self._on_disk = 0

    def _name(self) -> str:
        return f"{self.method.decode('latin-1')} {self.path.decode('latin-1')}"

    def _log_access(self) -> None:
        assert self._web is not None
        access_logger.info("%s %s %d %d", self._web.client_ip, self._name(), self.code, self.sentLength)


class StrictChannel(http.HTTPChannel):
    """One connection: heads, bodies and the order of answers.

    Takes the place of the line-by-line reading of `HTTPChannel`, but keeps its producer side: back-pressure in both
    directions, and who may register to be asked for data.
    """

    site: WebSite
    transport: Any
    peer: IAddress
    own_address: IAddress
    requests: list[SiteRequest]

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._unread = b""
        self._searched = 0
        self._is_advancing = False
        self._is_discarding = False
        self._is_closing = False
        self._wire_bytes = 0
        self.deadline = _NEVER
        self._is_kept = False

    def connectionMade(self) -> None:
        """Begin to count the time."""
        super().connectionMade()  # type: ignore[no-untyped-call]
        transport = self.transport
        self.peer = transport.getPeer()
        self.own_address = transport.getHost()
        # Only a plain TCP transport may be written to directly; TLS is a protocol of its own in between.
        self._is_plain = type(transport) is TCPServer
        self.deadline = self.site.seconds() + self.site.options.head_timeout_s
        self.site.channels.add(self)

    def dataReceived(self, data: bytes) -> None:
        """Take what the client sent."""
        if self._is_discarding:
            return
        self._unread = self._unread + data if self._unread else data
        if not self._is_advancing:
            self._advance()
        if self._handlingRequest and len(self._unread) > _READ_AHEAD_BYTES and not self._waitingForTransport:
            self._networkProducer.pauseProducing()

    def _advance(self) -> None:
        """Work on what has come, until it is used up or an answer is being waited for."""
        self._is_advancing = True
        try:
            while self._unread and not (self._handlingRequest or self._is_discarding or self._waitingForTransport):
                decoder = self._transferDecoder
                if decoder is not None:
                    self._read_body(decoder)
                elif not self._read_head():
                    return
        finally:
            self._is_advancing = False

    def _read_head(self) -> bool:
        """Take one head from what is unread; return False if it is not complete."""
        unread = self._unread
        options = self.site.options
        if unread.startswith(b"\r\n"):
            # Spec: RFC 9112, 2.2: an empty line before the request line is let pass.
            unread = self._unread = unread[2:]
            self._searched = 0
            if not unread:
                return False
        end = unread.find(b"\r\n\r\n", max(0, self._searched - 3))
        if end < 0 or end > options.max_head_bytes:
            if end >= 0 or len(unread) > options.max_head_bytes:
                self._refuse_head(BadHead(431, "the head is too large"))
                return False
            if unread.count(b"\n", self._searched) != unread.count(b"\r\n", max(0, self._searched - 1)):
                self._refuse_head(BadHead(400, "lines must end in CR LF"))
                return False
            if not self._searched:
                self.deadline = self.site.seconds() + options.head_timeout_s
            self._searched = len(unread)
            return False
        self._searched = 0
        try:
            head = parse_head(unread[:end])
        except BadHead as bad:
            self._refuse_head(bad)
            return False
        self._unread = unread[end + 4 :]
        self._take(head)
        return True

    def _take(self, head: Head) -> None:
        self.persistent = head.persistent
        request = SiteRequest(self, head)
        self.requests.append(request)
        length = head.length
        refusal = request.refusal(length)
        if refusal is not None:
            if length is not None and len(self._unread) >= length:
                self._unread = self._unread[length:]
                self._handlingRequest = True
                self.deadline = _NEVER
                request.answer(refusal)
            else:
                self.refuse(request, refusal)
            return
        if length is not None and len(self._unread) >= length:
            if length:
                request.take_whole(self._unread[:length])
                self._unread = self._unread[length:]
            self._begin(request)
            return
        if (length is None or length > _UNCHECKED_BYTES) and request.wants_check():
            # Pauses reading, as while a handler is at work.
            self._handlingRequest = True
            self.deadline = _NEVER
            request.check(partial(self._checked, request, head))
        else:
            self._await_body(request, head)

    def _checked(self, request: SiteRequest, head: Head, refusal: Response | None) -> None:
        """Read the body, or refuse it."""
        self._handlingRequest = False
        if len(self._unread) > _READ_AHEAD_BYTES and not self._waitingForTransport:
            self._networkProducer.resumeProducing()
        if refusal is not None:
            self.refuse(request, refusal)
            return
        self._await_body(request, head)
        if self._unread and not self._is_advancing:
            self._advance()

    def _await_body(self, request: SiteRequest, head: Head) -> None:
        length = head.length
        if head.expects_continue and not self._unread:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.deadline = self.site.seconds() + self.site.options.body_grace_s
        self._wire_bytes = 0
        # twisted.web's decoders are private, but they are the ones that its own channel would use here.
        if length is None:
            self._transferDecoder = http._ChunkedTransferDecoder(request.handleContentChunk, self._finishRequestBody)
        else:
            self._transferDecoder = http._IdentityTransferDecoder(
                length, request.handleContentChunk, self._finishRequestBody
            )

    def _read_body(self, decoder: Any) -> None:
        data, self._unread = self._unread, b""
        request = self.requests[-1]
        before = request._received
        self._wire_bytes += len(data)
        try:
            decoder.dataReceived(data)
        except http._MalformedChunkedDataError:
            self._refuse_head(BadHead(400, "the chunks of the body are not well-formed"))
            return
        if self._transferDecoder is None or self._is_discarding:
            return
        # Tiny chunks cost us far more than whoever sends them.
        if self._wire_bytes > 3 * request._received + _CHUNK_OVERHEAD_BYTES:
            self._refuse_head(BadHead(400, "the chunks of the body are too small"))
            return
        self.deadline += (request._received - before) / self.site.options.min_body_bytes_per_s
        latest = self.site.seconds() + self.site.options.body_grace_s
        if self.deadline > latest:
            self.deadline = latest

    def _finishRequestBody(self, data: bytes) -> None:
        self._transferDecoder = None
        if self._is_discarding:
            return
        self._unread = data
        self._begin(self.requests[-1])

    def _begin(self, request: SiteRequest) -> None:
        self._handlingRequest = True
        # How long the work takes is not for the client to answer for.
        self.deadline = _NEVER
        request.begin()

    def requestDone(self, request: SiteRequest) -> None:
        """Go on after an answer."""
        self.requests.remove(request)
        self._handlingRequest = False
        if not self.persistent:
            self._close_gently() if self._is_discarding else self.close()
            return
        self.deadline = self.site.seconds() + self.site.options.idle_timeout_s
        self._is_kept = True
        if len(self._unread) > _READ_AHEAD_BYTES and not self._waitingForTransport:
            self._networkProducer.resumeProducing()
        if self._unread and not self._is_advancing:
            self._advance()

    @property
    def is_idle(self) -> bool:
        """Whether the last request is answered, and nothing of a next one has come."""
        return self._is_kept and not (
            self._handlingRequest or self._unread or self._transferDecoder or self._is_closing
        )

    def resumeProducing(self) -> None:
        """Go on: the transport has room again."""
        super().resumeProducing()  # type: ignore[no-untyped-call]
        if self._unread and not self._is_advancing:
            self._advance()

    def send(self, data: bytes) -> None:
        """Write to the client; at once if nothing is waiting to be written."""
        transport = self.transport
        if self._is_plain and not transport.dataBuffer and not transport._tempDataBuffer and transport.connected:
            # Saves two changes of the poll set and a turn of the reactor.
            written = transport.writeSomeData(data)
            if isinstance(written, int) and written >= 0:
                if written < len(data):
                    transport.write(data[written:])
                return
        # Also after an error: writing meets it again, and there it is dealt with.
        transport.write(data)

    def detach(self) -> tuple[Any, bytes]:
        """Give the connection away: return the transport, and what has been read of what follows the request."""
        transport, unread = self.transport, self._unread
        self._stop_reading()
        self.deadline = _NEVER
        self.site.channels.discard(self)
        for request in self.requests:
            request.channel = request.transport = None
        self.requests.clear()
        transport.unregisterProducer()
        if len(unread) > _READ_AHEAD_BYTES:
            self._networkProducer.resumeProducing()
        # What is left here must not keep the connection in memory, nor the other way round.
        self.transport = None
        self._networkProducer = None  # type: ignore[assignment]
        return transport, unread

    def progress(self) -> None:
        """Note that the client has read a part of a long answer."""
        self.deadline = self.site.seconds() + self.site.options.write_timeout_s

    def refuse(self, request: SiteRequest, refusal: Response) -> None:
        """Answer a request whose body is not read, and end the connection."""
        self._stop_reading()
        self._handlingRequest = True
        request.answer(refusal)

    def _refuse_head(self, bad: BadHead) -> None:
        self._stop_reading()
        answer = json_response({"errcode": "M_UNKNOWN", "error": f"Bad request: {bad.reason}"}, bad.status)
        self.send(
            b"HTTP/1.1 %d %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\nDate: %b\r\n%b"
            b"Connection: close\r\n\r\n%b"
            % (bad.status, _REASONS.get(bad.status, b""), len(answer.body), self.site.date(), _CORS, answer.body)
        )
        self._close_gently()

    def _stop_reading(self) -> None:
        self.persistent = False
        self._is_discarding = True
        self._transferDecoder = None
        self._unread = b""

    def _close_gently(self) -> None:
        # A close with unread data pending would be a reset, which may overtake the answer on its way.
        self.deadline = self.site.seconds() + _LINGER_S
        half_close = getattr(self.transport, "loseWriteConnection", None)
        if half_close is not None and self._is_plain:
            half_close()

    def close(self) -> None:
        """End the connection when all is written, whatever still comes."""
        self._stop_reading()
        self._is_closing = True
        self.deadline = self.site.seconds() + _ABORT_S
        self.loseConnection()  # type: ignore[no-untyped-call]

    def expire(self) -> None:
        """End the connection: its time is up."""
        if self._is_closing:
            self.deadline = _NEVER
            self.transport.abortConnection()
        else:
            self.close()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Forget the connection."""
        self.site.channels.discard(self)
        super().connectionLost(reason)  # type: ignore[no-untyped-call]


# Without twisted.web's IProtocolNegotiationFactory: for the sake of HTTP/2 Twisted would change the TLS context when a
# connection exists already, which pyOpenSSL 26 refuses. `runtime.tls` says what is spoken when it makes the context.
@implementer_only(IProtocolFactory)
class WebSite(Site):
    """The factory of a listener; made by `make_site`."""

    protocol = StrictChannel

    def __init__(self, resource: IResource, reactor: IReactorTime, options: SiteOptions, clock: Clock) -> None:
        super().__init__(resource, requestFactory=SiteRequest, reactor=reactor)  # type: ignore[no-untyped-call]
        # The channel has deadlines of its own.
        self.timeOut = None
        self.options = options
        self.door: JsonResource | None = resource if isinstance(resource, JsonResource) else None
        self.channels: set[StrictChannel] = set()
        self.bodies = BodyRoom(options.max_bodies_memory_bytes, options.max_bodies_disk_bytes, options.spool_dir)
        self.seconds = clock.monotonic
        self._clock = clock
        self._date_second = -1
        self._date = b""
        self._sweeping: IDelayedCall | None = None

    def date(self) -> bytes:
        """Return the time as the Date header has it."""
        second = self._clock.now_ms() // 1000
        if second != self._date_second:
            self._date_second = second
            self._date = formatdate(second, usegmt=True).encode("ascii")
        return self._date

    def startFactory(self) -> None:
        """Begin to watch the deadlines."""
        if self.door is None:
            super().startFactory()
        self._sweeping = self.reactor.callLater(_SWEEP_S, self._sweep)

    def stopFactory(self) -> None:
        """Stop watching; called when the port is closed, while connections may go on."""
        if self.door is None:
            super().stopFactory()
        if not self.channels:
            self._stop_sweeping()

    def close_idle(self) -> None:
        """Close the connections that wait for nothing, and let the others end with their answer; for a stop."""
        for channel in tuple(self.channels):
            if channel.requests:
                channel.persistent = False
            else:
                channel.close()
        self._stop_sweeping()

    def _sweep(self) -> None:
        self._sweeping = self.reactor.callLater(_SWEEP_S, self._sweep)
        now = self.seconds()
        for channel in [channel for channel in self.channels if channel.deadline < now]:
            channel.expire()
        if len(self.channels) > self.options.max_idle:
            self._shed_idle(now)
        if not self.channels and not self.numPorts:
            self._stop_sweeping()

    def _shed_idle(self, now: float) -> None:
        """Close those that have been idle for longest, as far as there are too many: over TLS each has 25 KiB."""
        idle = sorted((channel for channel in self.channels if channel.is_idle), key=lambda channel: channel.deadline)
        latest = now + self.options.idle_timeout_s - self.options.min_idle_s
        for channel in idle[: max(0, len(idle) - self.options.max_idle)]:
            if channel.deadline > latest:
                break
            channel.expire()

    def _stop_sweeping(self) -> None:
        if self._sweeping is not None and self._sweeping.active():
            self._sweeping.cancel()
        self._sweeping = None


def _headers(raw: dict[bytes, list[bytes]]) -> RawHeaders:
    headers = RawHeaders()
    # Parsed and canonical already; adding them one by one would do that again.
    headers._rawHeaders = raw
    return headers


def _full() -> LimitExceeded:
    # Not 503: Matrix clients know what to do with 429, and when.
    return LimitExceeded(_FULL_RETRY_MS, "The server has too many request bodies at once")


def _further(headers: Mapping[str, str]) -> bytes:
    return b"".join(b"%b: %b\r\n" % (_value(name), _value(value)) for name, value in headers.items())


def _value(text: str) -> bytes:
    value = text.encode("latin-1", "replace")
    if b"\r" in value or b"\n" in value or b"\0" in value:
        value = value.replace(b"\r", b" ").replace(b"\n", b" ").replace(b"\0", b" ")
    return value
