"""What goes up: requests that wait for their turn and for their answer, across connections."""

from __future__ import annotations

import json
import logging
import secrets
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

from twisted.internet.defer import Deferred

from .errors import StreamEnded, StreamError

# docs/stream.md, "What the client sends": more are not read by the server, and then it would not see our pongs either.
IN_FLIGHT: Final = 16
MAX_REQUEST_BYTES: Final = 256 * 1024

_log = logging.getLogger("homeserver.streamclient")


@dataclass(slots=True, eq=False)
class _Request:
    id: str
    message: bytes
    answer: Deferred[dict[str, Any]]
    is_kept: bool = field(default=True)
    """Whether it is asked again on the next connection."""


class Requests:
    """Requests in the order in which they were made; the answers come as they like.

    IDs are never used again, by this client or any other: for the server, those of `send` are transaction IDs.
    """

    def __init__(self, answered: Callable[[], None]) -> None:
        """`answered()` is called when fewer answers are awaited than before, or more."""
        self._prefix = secrets.token_urlsafe(12)
        self._numbers = count(1)
        self._changed = answered
        self._send: Callable[[bytes], None] | None = None
        self._open: dict[str, _Request] = {}
        self._unsent: deque[_Request] = deque()
        self._in_flight: set[str] = set()
        self._end: StreamEnded | None = None

    @property
    def are_awaited(self) -> bool:
        """Whether the server owes us an answer."""
        return bool(self._in_flight)

    def new_id(self) -> str:
        """Return an ID that nobody else uses."""
        return f"{self._prefix}.{next(self._numbers)}"

    async def ask(self, method: str, params: Mapping[str, Any] | None, request_id: str | None = None) -> dict[str, Any]:
        """Return the answer, which may take connections to come; raises StreamError if it is a refusal.

        Who stops waiting (cancels) gives the request up: it may or may not happen.
        """
        if self._end is not None:
            raise self._end.with_traceback(None)
        request_id = self.new_id() if request_id is None else request_id
        if request_id in self._open:
            raise ValueError(f"there is a request with the ID {request_id!r} already")
        message = encode(request_id, method, params)
        if len(message) > MAX_REQUEST_BYTES:
            raise StreamError("M_TOO_LARGE", "The request is too large for the stream; use HTTP")
        request = _Request(request_id, message, Deferred(lambda _: self._forget(request)))
        self._add(request)
        return await request.answer

    def tell(self, method: str, params: Mapping[str, Any]) -> None:
        """Make a request whose answer matters to nobody, and which is void when the connection is lost."""
        if self._end is None:
            request_id = self.new_id()
            answer: Deferred[dict[str, Any]] = Deferred()
            answer.addErrback(lambda failure: _log.warning("%s was refused: %s", method, failure.value))
            self._add(_Request(request_id, encode(request_id, method, params), answer, is_kept=False))

    def connected(self, send: Callable[[bytes], None]) -> None:
        """Make all requests without an answer, again or for the first time, in their order."""
        self._send = send
        self._unsent.extend(self._open.values())
        self._pump()

    def disconnected(self, *, was_too_large: bool = False) -> None:
        """Keep what is to be asked again. If a message was too large for the server, it was the largest."""
        self._send = None
        self._unsent.clear()
        sent = [self._open[each] for each in self._in_flight if each in self._open]
        self._in_flight.clear()
        self._open = {request.id: request for request in self._open.values() if request.is_kept}
        if was_too_large and sent:
            largest = max(sent, key=lambda request: len(request.message))
            self._open.pop(largest.id, None)
            largest.answer.errback(StreamError("M_TOO_LARGE", "The request is too large for this server; use HTTP"))

    def answered(self, message: Mapping[str, Any]) -> None:
        """Hand an answer to who waits for it."""
        request_id = message.get("id")
        if not isinstance(request_id, str):
            _log.warning("the server could not read a request: %.500r", message.get("error"))
            return
        self._in_flight.discard(request_id)
        request = self._open.pop(request_id, None)
        self._pump()
        self._changed()
        if request is None:
            return
        # Last, for what waits goes on at once.
        result = message.get("result")
        if "error" in message or not isinstance(result, dict):
            request.answer.errback(StreamError.from_body(message.get("error")))
        else:
            request.answer.callback(result)

    def end(self, error: StreamEnded) -> None:
        """Refuse all requests, those that wait and those to come."""
        if self._end is not None:
            return
        self._end = error
        self.disconnected()
        given_up, self._open = self._open, {}
        for request in given_up.values():
            request.answer.errback(error)

    def _add(self, request: _Request) -> None:
        self._open[request.id] = request
        if self._send is not None:
            self._unsent.append(request)
            self._pump()
            self._changed()

    def _forget(self, request: _Request) -> None:
        self._open.pop(request.id, None)

    def _pump(self) -> None:
        while self._send is not None and self._unsent and len(self._in_flight) < IN_FLIGHT:
            request = self._unsent.popleft()
            if request.id in self._open:
                self._in_flight.add(request.id)
                self._send(request.message)


def encode(request_id: str, method: str, params: Mapping[str, Any] | None) -> bytes:
    """Return a request as it goes over the wire; ValueError or TypeError if it cannot be JSON."""
    message: dict[str, Any] = {"id": request_id, "method": method}
    if params:
        message["params"] = dict(params)
    # ASCII only, so that half a surrogate pair passes too, for the server to refuse.
    return json.dumps(message, separators=(",", ":"), allow_nan=False).encode("ascii")
