"""Requests that always end, whatever the other side does: with an answer, or with a sentence about what came.

No redirect is followed, no answer is longer than is told, nothing takes longer than is told, and what is no HTTP is
said to be none. Requests and answers go into the journal of the story.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlencode

from OpenSSL import SSL
from service_identity import VerificationError
from treq.client import HTTPClient
from twisted.internet import defer, error
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.ssl import Certificate, platformTrust, trustRootFromCertificates
from twisted.python.failure import Failure
from twisted.web._newclient import ParseError
from twisted.web.client import Agent, BrowserLikePolicyForHTTPS, HTTPConnectionPool, ResponseDone, ResponseFailed
from twisted.web.http import PotentialDataLoss

from .clock import REACTOR
from .expect import Failed, Refused, shown
from .journal import Exchange, Journal, cut

PATIENCE_S: Final = 20.0
LARGEST_ANSWER_BYTES: Final = 32 * 1024 * 1024
# Of all answers that come at once: many servers' worth of rubbish must not fill the memory.
LARGEST_ANSWERS_BYTES: Final = 64 * 1024 * 1024
# Shorter than servers keep a silent connection: a request is not sent into one that is just being closed.
IDLE_CONNECTION_S: Final = 4


class TooOften(Refused):
    """The server wants longer to be waited than a story can."""


class NoAnswer(Failed):
    """The server gave no answer to a request, or what is no HTTP."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer with its body, of whatever status."""

    request: str
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The JSON in it; Failed if it is none."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            raise Failed(f"JSON in the answer to {self.request}", f"{self.status} with {self._sight()}") from None

    @property
    def errcode(self) -> str | None:
        """The errcode, if it is an error as Matrix has them."""
        try:
            found = json.loads(self.body).get("errcode")
        except (ValueError, AttributeError, RecursionError):
            return None
        return found if isinstance(found, str) else None

    @property
    def retry_after_s(self) -> float | None:
        """How long to wait before the request may be made again, if it was made too often; at least a little."""
        if self.status != 429:
            return None
        try:
            found = json.loads(self.body)
            told = found["retry_after_ms"] / 1000 if "retry_after_ms" in found else float(self.headers["retry-after"])
        except (ValueError, LookupError, TypeError, RecursionError):
            return None
        return told + 0.01 if 0 <= told < float("inf") else None

    def good(self) -> dict[str, Any]:
        """Return the JSON object of a success; Refused or Failed otherwise."""
        wanted = f"{self.request} to succeed"
        if 300 <= self.status < 400:
            raise Failed(wanted, f"a redirect ({self.status}) to {shown(self.headers.get('location', 'nowhere'))}")
        if self.status != 200:
            errcode = self.errcode
            came = f"{self.status} {self._sight()}"
            if errcode is None:
                # An error that is no error of Matrix is no refusal that a story may expect.
                raise Refused(wanted, came, status=self.status, errcode=None, body=None)
            raise Refused(wanted, came, status=self.status, errcode=errcode, body=self.json)
        found = self.json
        if not isinstance(found, dict):
            raise Failed(f"a JSON object in the answer to {self.request}", self._sight())
        return found

    def _sight(self) -> str:
        return shown(cut(self.body)) if self.errcode is None else cut(self.body)[:600]


class Web:
    """The HTTP client of a run: it keeps connections, and trusts the given authority instead of those of the system."""

    def __init__(self, *, ca_file: str | None = None, patience_s: float = PATIENCE_S) -> None:
        self.patience_s = patience_s
        self.coming_bytes = 0
        self.pool = HTTPConnectionPool(REACTOR)
        self.pool.maxPersistentPerHost = 64
        self.pool.cachedConnectionTimeout = IDLE_CONNECTION_S
        self.trust_root: Any = platformTrust()
        if ca_file is not None:
            with open(ca_file, "rb") as file:
                self.trust_root = trustRootFromCertificates([Certificate.loadPEM(file.read())])
        policy = BrowserLikePolicyForHTTPS(self.trust_root)
        self._client = HTTPClient(Agent(REACTOR, policy, connectTimeout=5.0, pool=self.pool))

    async def request(
        self,
        journal: Journal,
        who: str,
        method: str,
        url: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        patience_s: float | None = None,
    ) -> Answer:
        """Ask, and return the answer; NoAnswer if none comes in time or it is no HTTP."""
        asked = "" if body is None else cut(body)
        exchange = Exchange(who, method, url, asked, time.time())
        journal.add(exchange)
        journal.under_way.append(exchange)
        began = time.monotonic()
        limit = self.patience_s if patience_s is None else patience_s
        name = f"{method} {_path(url)} ({who})"
        try:
            asking = Deferred.fromCoroutine(self._ask(method, url, body, headers or {}, name))
            answer = await asking.addTimeout(limit, REACTOR)
        except defer.TimeoutError:
            exchange.trouble = f"nothing whole within {limit:g} s"
        except Failed as failure:
            exchange.trouble = failure.came
        except Exception as trouble:
            late = time.monotonic() - began >= limit
            exchange.trouble = f"nothing whole within {limit:g} s" if late else said_of(trouble)
        else:
            exchange.status, exchange.answered = answer.status, cut(answer.body)
            journal.limited += answer.status == 429
            return answer
        finally:
            exchange.took_s = time.monotonic() - began
            journal.under_way.remove(exchange)
        raise NoAnswer(f"an answer to {name}", exchange.trouble)

    async def close(self) -> None:
        """Close the connections that are kept."""
        await self.pool.closeCachedConnections()

    async def _ask(self, method: str, url: str, body: bytes | None, headers: Mapping[str, str], name: str) -> Answer:
        said: dict[bytes | str, bytes | str] = {key: value for key, value in headers.items()}
        response = await self._client.request(
            method, url, data=body, headers=said, allow_redirects=False, unbuffered=True
        )
        coming = _Body(self, name)
        response.deliverBody(coming)
        try:
            await coming.whole
        finally:
            self.coming_bytes -= coming.size
        found = {
            key.decode("latin-1").lower(): values[-1].decode("latin-1")
            for key, values in response.headers.getAllRawHeaders()
        }
        return Answer(name, response.code, found, b"".join(coming.parts))


class _Body(Protocol):
    """The body of an answer as it comes; the connection ends with the wish for it."""

    def __init__(self, web: Web, name: str) -> None:
        self.parts: list[bytes] = []
        self.size = 0
        self.whole: Deferred[None] = Deferred(lambda _: self._break_off())
        self._web = web
        self._name = name

    def dataReceived(self, data: bytes) -> None:
        """Take in a part of it."""
        if self.whole.called:
            return
        self.size += len(data)
        self._web.coming_bytes += len(data)
        self.parts.append(data)
        if self.size > LARGEST_ANSWER_BYTES or self._web.coming_bytes > LARGEST_ANSWERS_BYTES:
            self.whole.errback(Failed(f"an answer to {self._name}", f"more than {self.size} bytes"))
            self._break_off()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell that it is whole, or that the connection has broken off before."""
        if self.whole.called:
            return
        # Without a length, the end of the connection is the end of the body.
        if reason.check(ResponseDone, PotentialDataLoss):
            self.whole.callback(None)
        else:
            self.whole.errback(reason)

    def _break_off(self) -> None:
        assert self.transport is not None
        self.transport.loseConnection()


def url_of(base: str, path: str, query: Mapping[str, Any]) -> str:
    """Return the URL of a path with a query; None is left out, True is `true`, a list is a parameter each."""
    said = {
        key: ("true" if value else "false") if isinstance(value, bool) else value
        for key, value in query.items()
        if value is not None
    }
    return f"{base}{path}{'?' + urlencode(said, doseq=True) if said else ''}"


def path_of(*parts: str) -> str:
    """Return a path of these parts, each quoted."""
    return "".join(f"/{quote(each, safe='')}" for each in parts)


def _path(url: str) -> str:
    rest = url.partition("://")[2]
    return rest[rest.find("/") :].partition("?")[0] if "/" in rest else "/"


def said_of(trouble: BaseException) -> str:
    """Return what came instead of an answer, in words."""
    if isinstance(trouble, ResponseFailed) and trouble.reasons:
        # Of several, as in a body that is broken off, the first is the cause.
        trouble = trouble.reasons[0].value or trouble
        if isinstance(trouble, error.ConnectionDone | error.ConnectionLost):
            return "a closed connection instead of an answer"
    if isinstance(trouble, error.ConnectionRefusedError):
        return "a refused connection"
    if isinstance(trouble, error.DNSLookupError):
        return f"no address of that name ({str(trouble)[:200]})"
    if isinstance(trouble, error.TimeoutError | error.TCPTimedOutError):
        return "no connection in time"
    if isinstance(trouble, SSL.Error | VerificationError):
        return f"no trust in its certificate, or no TLS ({_of_tls(trouble)}); --ca-file names another authority"
    if isinstance(trouble, ParseError):
        return f"no HTTP ({str(trouble)[:200]})"
    return f"{type(trouble).__name__}: {str(trouble)[:200]}"


def _of_tls(trouble: BaseException) -> str:
    """Return the reasons that OpenSSL gives, without where in its source they are."""
    told = trouble.args[0] if trouble.args else None
    if isinstance(told, list):
        return "; ".join(str(each[-1]) for each in told if isinstance(each, tuple)) or "the connection broke off"
    return f"{type(trouble).__name__}: {str(trouble)[:200]}"
