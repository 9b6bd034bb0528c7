"""Outgoing HTTP requests: the one place that makes them.

Every request has a time limit that covers all of it, from the look-up of the name to the last byte of the answer, and a
limit for the size of the answer. No cookies are kept. Redirects are followed only where the caller says how many; what
authorises a request is not sent on to another origin. Whatever goes wrong on the way is an `OutgoingFault`; an answer
is an answer, whatever its status.

Where a request may go is judged here, by the address that is connected to (see `connections`): private networks and
this machine are out of reach but for hosts that the operator has named, which the caller marks as trusted.

Compressed answers are not asked for and not decompressed: a few bytes could stand for many.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, TypeAlias
from urllib.parse import urljoin, urlsplit

from twisted.internet.defer import CancelledError, Deferred

from homeserver.config_values import UNREACHABLE_RANGES
from homeserver.errors import RemoteError

from .addresses import AddressRules
from .client_tls import ClientTLS
from .connections import IDLE_S, AddressDenied, Connections, Place
from .http1 import BadAnswer, ConnectionBroken
from .names import LookupFailed, NameNotFound, Names, SystemNames

CONNECT_TIMEOUT_S: Final = 10.0
USER_AGENT: Final = "Sennit"
# A request that must not be made twice takes no connection that may have been closed meanwhile.
FRESH_S: Final = 5.0
# LIMIT: of an answer that is an error, where the body of a good one goes elsewhere.
MAX_ERROR_BYTES: Final = 65_536
# A body that is received in pieces is joined at the end up to here; a longer one grows in place.
_JOINED_BYTES: Final = 1024 * 1024

Body: TypeAlias = bytes | bytearray

# RFC 9110, "Idempotent Methods".
_REPEATABLE: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
_METHOD: Final = re.compile(r"[A-Z]{1,20}")
_TARGET: Final = re.compile(r"/[!-~]*")
_HOST: Final = re.compile(r"[!-~]{1,300}")
_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE: Final = re.compile(r"[\t -~\x80-\xff]*")
_SECRET_HEADERS: Final = frozenset({"authorization", "cookie", "proxy-authorization"})
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


class OutgoingFault(RemoteError):
    """A request got no whole answer."""

    def __init__(self, server: str, message: str) -> None:
        super().__init__(server, message, temporary=True)


class OutgoingTimeout(OutgoingFault):
    """The answer did not come in time."""


class AnswerTooLarge(OutgoingFault):
    """The answer is over the limit."""


class Forbidden(OutgoingFault):
    """The address is one that is not to be contacted."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered; header names are in lower case, of several only the first is here."""

    status: int
    headers: Mapping[str, str]
    body: Body

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300


class Sink(Protocol):
    """Takes the body of a good answer as it comes. What it raises ends the request and goes to the caller."""

    def begin(self, headers: Mapping[str, str]) -> None:
        """The answer is good; its body follows. Called again if the request has to be repeated."""

    def write(self, piece: bytes) -> None:
        """A piece of the body."""


class Outgoing:
    """Sends requests; keeps connections open for a moment for the next."""

    def __init__(
        self,
        reactor: Any,
        *,
        rules: AddressRules | None = None,
        names: Names | None = None,
        tls: ClientTLS | None = None,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> None:
        """Without `rules`, addresses that are not public are denied; without `names`, the system looks names up."""
        self._reactor = reactor
        self._connections = Connections(
            reactor,
            SystemNames(reactor) if names is None else names,
            AddressRules(UNREACHABLE_RANGES) if rules is None else rules,
            ClientTLS(reactor) if tls is None else tls,
            connect_timeout_s=connect_timeout_s,
        )

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        timeout_s: float,
        max_bytes: int,
        is_trusted: bool = False,
        redirects: int = 0,
        verify: bool = True,
        sink: Sink | None = None,
    ) -> Answer:
        """Send a request to a URL and return the whole answer; OutgoingFault, OutgoingTimeout, AnswerTooLarge.

        `is_trusted`: the operator has named this URL, it may lead anywhere (where a redirect leads may not).
        `redirects`: how many are followed, of GET alone; the one that is too many is the answer.
        """
        server = urlsplit(url).netloc.rpartition("@")[2]
        return await self._within(
            timeout_s,
            server,
            self._follow(method, url, dict(headers or {}), body, max_bytes, is_trusted, redirects, verify, sink),
        )

    async def send(
        self,
        place: Place,
        method: str,
        target: str,
        *,
        server: str,
        host: str,
        headers: Mapping[str, str],
        body: bytes | None = None,
        timeout_s: float,
        max_bytes: int,
        sink: Sink | None = None,
    ) -> Answer:
        """Send a request to a place that has been found already; `server` is how it is called in errors.

        `target` is path and query, `host` the Host header. With a `sink`, the body of an answer with status 200 goes
        there and that of the Answer is empty. The same faults as `request`.
        """
        return await self._within(
            timeout_s,
            server,
            self._exchange(place, server, method, target, host, headers, body, max_bytes, sink),
        )

    async def stop(self) -> None:
        """Close the connections that are kept."""
        self._connections.stop()

    # -- private -----------------------------------------------------------------------------------------------------

    async def _within(self, timeout_s: float, server: str, work: Any) -> Answer:
        """Await the work for so long, and say of all that can go wrong with it whose fault it is."""
        doing: Deferred[Answer] = Deferred.fromCoroutine(work)
        if doing.called:
            return await doing
        is_late = False

        def expire() -> None:
            nonlocal is_late
            is_late = True
            doing.cancel()

        timer = self._reactor.callLater(timeout_s, expire)
        try:
            return await doing
        except CancelledError as fault:
            if not is_late:
                # Somebody who waits for the answer waits no more: that is no fault of the server's.
                raise
            raise OutgoingTimeout(server, f"no answer within {timeout_s:g} s") from fault
        finally:
            if timer.active():
                timer.cancel()

    async def _follow(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        body: bytes | None,
        max_bytes: int,
        is_trusted: bool,
        redirects: int,
        verify: bool,
        sink: Sink | None,
    ) -> Answer:
        seen: set[str] = set()
        while True:
            seen.add(url)
            place, host, target = _parsed_url(url)
            place = replace(place, is_trusted=is_trusted, verify=verify)
            answer = await self._exchange(place, host, method, target, host, headers, body, max_bytes, sink)
            location = answer.headers.get("location")
            if answer.status not in _REDIRECTS or location is None or redirects == 0 or method != "GET":
                return answer
            redirects -= 1
            before, url = urlsplit(url), _joined(host, url, location)
            after = urlsplit(url)
            if url in seen:
                raise OutgoingFault(host, "the redirects go round in a circle")
            if before.scheme == "https" and after.scheme != "https":
                raise OutgoingFault(host, "a redirect leads away from HTTPS")
            if (before.scheme, before.netloc) != (after.scheme, after.netloc):
                headers = {name: value for name, value in headers.items() if name.lower() not in _SECRET_HEADERS}
            is_trusted = False

    async def _exchange(
        self,
        place: Place,
        server: str,
        method: str,
        target: str,
        host: str,
        headers: Mapping[str, str],
        body: bytes | None,
        max_bytes: int,
        sink: Sink | None,
    ) -> Answer:
        head = _head(server, method, target, host, headers, body)
        is_repeatable = method in _REPEATABLE
        kept_s = IDLE_S if is_repeatable else FRESH_S
        try:
            while True:
                connection = await self._connections.get(place, kept_s=kept_s)
                is_new = connection.exchanges == 0
                received = _Received(max_bytes, server, sink)
                try:
                    await connection.exchange(head, body, received, is_head_only=method == "HEAD")
                except ConnectionBroken as fault:
                    # A kept connection may have been closed at the very moment that it was used again.
                    if is_new or not (fault.is_silent and is_repeatable):
                        raise
                    kept_s = -1.0
                    continue
                finally:
                    self._connections.give_back(connection)
                return received.answer()
        except (CancelledError, OutgoingFault):
            raise
        except (BadAnswer, ConnectionBroken) as fault:
            raise OutgoingFault(server, str(fault)) from fault
        except AddressDenied as fault:
            raise Forbidden(server, str(fault)) from fault
        except (NameNotFound, LookupFailed) as fault:
            raise OutgoingFault(server, f"cannot be found: {fault}") from fault
        except _SinkFault as fault:
            raise fault.reason from fault
        except Exception as fault:  # of the many kinds of sockets and TLS: there is no connection
            raise OutgoingFault(server, f"cannot be reached: {_told(fault)}") from fault


class _SinkFault(Exception):
    """The sink has raised."""

    def __init__(self, reason: BaseException) -> None:
        super().__init__(str(reason))
        self.reason = reason


class _Received:
    """Gathers an answer up to a limit, or hands it to a sink."""

    __slots__ = ("_body", "_headers", "_is_good", "_left", "_server", "_sink", "_size", "_status")

    def __init__(self, max_bytes: int, server: str, sink: Sink | None) -> None:
        self._left = max_bytes
        self._server = server
        self._sink = sink
        self._is_good = False
        self._status = 0
        self._headers: Mapping[str, str] = {}
        self._body: Body = b""

    def begin(self, status: int, headers: Mapping[str, str], length: int | None) -> None:
        self._status, self._headers = status, headers
        if self._sink is not None:
            self._is_good = status == 200
            if not self._is_good:
                self._left = min(self._left, MAX_ERROR_BYTES)
        if length is not None and length > self._left:
            raise AnswerTooLarge(self._server, "the answer is too large")
        if self._is_good and self._sink is not None:
            try:
                self._sink.begin(headers)
            except Exception as fault:
                raise _SinkFault(fault) from fault

    def data(self, piece: bytes) -> None:
        self._left -= len(piece)
        if self._left < 0:
            raise AnswerTooLarge(self._server, "the answer is too large")
        if self._is_good and self._sink is not None:
            try:
                self._sink.write(piece)
            except Exception as fault:
                raise _SinkFault(fault) from fault
        elif not self._body:
            self._body = piece
        elif isinstance(self._body, bytearray):
            # Grows in place; pieces that are joined at the end would be there twice.
            self._body += piece
        else:
            self._body = bytearray(self._body)
            self._body += piece

    def answer(self) -> Answer:
        body = self._body
        return Answer(self._status, self._headers, bytes(body) if len(body) <= _JOINED_BYTES else body)


def _head(server: str, method: str, target: str, host: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
    """Return the head of a request; OutgoingFault if something in it would end a line or a word too soon."""
    if not (_METHOD.fullmatch(method) and _TARGET.fullmatch(target) and _HOST.fullmatch(host)):
        raise OutgoingFault(server, "the request is not possible: no such method, target or host")
    lines = [f"{method} {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {USER_AGENT}\r\n"]
    for name, value in headers.items():
        if not (_NAME.fullmatch(name) and _VALUE.fullmatch(value)):
            raise OutgoingFault(server, "the request is not possible: a header cannot be written")
        lines.append(f"{name}: {value}\r\n")
    if body is not None or method in ("POST", "PUT"):
        lines.append(f"Content-Length: {len(body or b'')}\r\n")
    lines.append("\r\n")
    return "".join(lines).encode("latin-1")


def _parsed_url(url: str) -> tuple[Place, str, str]:
    """Return where a URL leads, its Host header, and the target of the request."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as fault:
        raise OutgoingFault(url[:100], f"the request is not possible: {fault}") from fault
    server = parts.netloc.rpartition("@")[2]
    if parts.scheme not in ("http", "https") or not host or port == 0:
        raise OutgoingFault(server, "the request is not possible: this is no address of a web server")
    if "@" in parts.netloc:
        raise OutgoingFault(server, "the request is not possible: there is a user in the address")
    is_tls = parts.scheme == "https"
    place = Place(((host, port if port is not None else 443 if is_tls else 80),), host if is_tls else None)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return place, server, target


def _joined(server: str, url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError as fault:
        raise OutgoingFault(server, "a redirect leads nowhere") from fault


def _told(fault: Exception) -> str:
    """Return what an error of a socket or of TLS says, in words."""
    # OpenSSL's errors are a list of (library, function, reason).
    stack = fault.args[0] if fault.args else None
    if isinstance(stack, list):
        return "; ".join(str(each[-1]) for each in stack if isinstance(each, tuple) and each) or "TLS failed"
    return str(fault) or type(fault).__name__
