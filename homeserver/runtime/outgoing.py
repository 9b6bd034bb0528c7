"""Outgoing HTTP requests: the one place that makes them.

Every request has a time limit that covers all of it, from the connection to the last byte of the answer, and a limit
for the size of the answer. Redirects are not followed and no cookies are kept. Whatever goes wrong on the way is an
`OutgoingFault`; an answer is an answer, whatever its status.

Compressed answers are not asked for and not decompressed: a few bytes could stand for many. That is why this stands on
Twisted's agent and not on treq, which always does.

This does not judge where a request goes: whoever takes URLs from strangers has to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.error import ConnectError, ConnectionClosed, DNSLookupError
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from twisted.web.client import (
    Agent,
    HTTPConnectionPool,
    RequestGenerationFailed,
    RequestTransmissionFailed,
    ResponseDone,
    ResponseFailed,
    ResponseNeverReceived,
)
from twisted.web.error import SchemeNotSupported
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer

from homeserver.errors import RemoteError

CONNECT_TIMEOUT_S: Final = 10.0
# Under the time after which common servers close an idle connection.
IDLE_CONNECTION_S: Final = 30
CONNECTIONS_PER_HOST: Final = 4
USER_AGENT: Final = "Sennit"


class OutgoingFault(RemoteError):
    """A request got no whole answer."""

    def __init__(self, server: str, message: str) -> None:
        super().__init__(server, message, temporary=True)


class OutgoingTimeout(OutgoingFault):
    """The answer did not come in time."""


class AnswerTooLarge(OutgoingFault):
    """The answer is over the limit."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered; header names are in lower case, of several only the first is here."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300


class Outgoing:
    """Sends requests; keeps connections open for a moment for the next."""

    def __init__(self, reactor: Any, *, connect_timeout_s: float = CONNECT_TIMEOUT_S) -> None:
        self._reactor = reactor
        self._pool = HTTPConnectionPool(reactor, persistent=True)
        self._pool.cachedConnectionTimeout = IDLE_CONNECTION_S
        self._pool.maxPersistentPerHost = CONNECTIONS_PER_HOST
        self._agent = Agent(reactor, connectTimeout=connect_timeout_s, pool=self._pool)

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        timeout_s: float,
        max_bytes: int,
    ) -> Answer:
        """Send a request and return the whole answer; OutgoingFault, OutgoingTimeout, AnswerTooLarge."""
        server = urlsplit(url).netloc.rpartition("@")[2]
        work = Deferred.fromCoroutine(self._request(method, url, headers or {}, body, max_bytes, server))
        is_late = False

        def expire() -> None:
            nonlocal is_late
            is_late = True
            work.cancel()

        timer = self._reactor.callLater(timeout_s, expire)
        try:
            return await work
        except (CancelledError, ConnectTimeout) as fault:
            if not is_late and isinstance(fault, CancelledError):
                raise
            raise OutgoingTimeout(server, f"no answer within {timeout_s:g} s") from fault
        except (ResponseNeverReceived, ResponseFailed, RequestTransmissionFailed, RequestGenerationFailed) as fault:
            if is_late:
                raise OutgoingTimeout(server, f"no answer within {timeout_s:g} s") from fault
            if any(reason.check(CancelledError) for reason in _reasons(fault)):
                # Somebody who waits for the answer waits no more: that is no fault of the server's.
                raise CancelledError from fault
            reasons = "; ".join(reason.getErrorMessage() for reason in _reasons(fault))
            raise OutgoingFault(server, f"the connection failed: {reasons}") from fault
        except (ConnectError, ConnectionClosed, DNSLookupError) as fault:
            raise OutgoingFault(server, f"cannot be reached: {fault}") from fault
        except (SchemeNotSupported, ValueError) as fault:
            # Among them: header values and URLs that cannot be written, answers that are not HTTP.
            raise OutgoingFault(server, f"the request is not possible: {fault}") from fault
        finally:
            if timer.active():
                timer.cancel()

    async def stop(self) -> None:
        """Close the connections that are kept."""
        await self._pool.closeCachedConnections()

    async def _request(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, max_bytes: int, server: str
    ) -> Answer:
        wanted = Headers({"User-Agent": [USER_AGENT]})
        for name, value in headers.items():
            wanted.setRawHeaders(name, [value])
        producer = None if body is None else _Content(body)
        response: Any = await self._agent.request(method.encode("ascii"), url.encode("ascii"), wanted, producer)
        collected = _Body(max_bytes, server)
        response.deliverBody(collected)
        content = await collected.done
        shown = {
            name.decode("latin-1").lower(): values[0].decode("latin-1")
            for name, values in response.headers.getAllRawHeaders()
            if values
        }
        return Answer(response.code, shown, content)


@implementer(IBodyProducer)
class _Content:
    """The body of a request; it is in memory anyway, so it is written at once."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.length = len(body)

    def startProducing(self, consumer: Any) -> Deferred[None]:
        consumer.write(self._body)
        return succeed(None)

    def pauseProducing(self) -> None:
        """Nothing is left to be written."""

    def resumeProducing(self) -> None:
        """Nothing is left to be written."""

    def stopProducing(self) -> None:
        """Nothing is left to be written."""


class _Body(Protocol):
    """Collects the body of an answer up to a limit; giving up closes the connection."""

    def __init__(self, max_bytes: int, server: str) -> None:
        self._left = max_bytes
        self._server = server
        self._parts: list[bytes] = []
        self._fault: BaseException | None = None
        self.done: Deferred[bytes] = Deferred(self._cancel)

    def dataReceived(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            self._give_up(AnswerTooLarge(self._server, "the answer is too large"))
        elif self._fault is None:
            self._parts.append(data)

    def connectionLost(self, reason: Failure = Failure(ResponseDone())) -> None:  # noqa: B008
        if self.done.called:
            return
        if self._fault is not None:
            self.done.errback(self._fault)
        elif reason.check(ResponseDone, PotentialDataLoss):
            self.done.callback(b"".join(self._parts))
        else:
            self.done.errback(OutgoingFault(self._server, f"the answer broke off: {reason.getErrorMessage()}"))

    def _cancel(self, _: Deferred[bytes]) -> None:
        self._give_up(CancelledError())

    def _give_up(self, fault: BaseException) -> None:
        if self._fault is not None:
            return
        self._fault = fault
        self._parts.clear()
        transport: Any = self.transport
        abort = getattr(transport, "abortConnection", None) or getattr(transport, "loseConnection", None)
        if abort is not None:
            abort()


def _reasons(fault: Any) -> list[Failure]:
    return [reason for reason in getattr(fault, "reasons", None) or () if isinstance(reason, Failure)]
