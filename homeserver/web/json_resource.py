"""A door: the resource that takes requests through router, authentication, rate limit and handler to an answer.

It is a leaf `Resource`, to be the root of a `web.site.WebSite` (the fast way: the site recognizes it, refuses oversized
bodies before they are read, and writes an answer in one piece) or to hang anywhere in a host application's `Site`.
`respond` is the same walk without a transport, for tests.

A handler is a coroutine.  The driver below runs it without a Deferred of its own, because most requests are answered
without waiting for anything; each runs in a context of its own, so context variables do not leak between requests.

Spec: client-server API, "Web Browser Clients", "Standard error response".
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextvars import Context, copy_context
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import Any, BinaryIO, Final, TypeAlias, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IAddress
from twisted.python.failure import Failure
from twisted.web.http import Request as TwistedRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from homeserver.errors import LimitExceeded, MatrixError, TooLarge
from homeserver.web.error_response import error_response
from homeserver.web.request import Headers, WebRequest
from homeserver.web.response import Answer, FileResponse, Response, TakenOver, encode_json
from homeserver.web.router import Route, Router
from homeserver.web.sending import FileSender, finish_quietly

logger = logging.getLogger(__name__)

# Whatever the two callbacks return, they may return it at once or as an awaitable.
Authenticate: TypeAlias = Callable[[WebRequest, Route], Any]
# Returns None, at once or as an awaitable, or raises.
Readmit: TypeAlias = Callable[[WebRequest, Route], "Awaitable[None] | None"]
Limit: TypeAlias = Callable[[WebRequest, Route], "LimitExceeded | Awaitable[LimitExceeded | None] | None"]

# Spec: client-server API, "Web Browser Clients": on all answers.
CORS_HEADERS: Final = (
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
    ("Access-Control-Allow-Headers", "X-Requested-With, Content-Type, Authorization"),
    ("Access-Control-Expose-Headers", "Retry-After, Content-Disposition, ETag"),
)

_PREFLIGHT: Final = Response(204, headers={"Access-Control-Max-Age": "86400"})


class JsonResource(Resource):
    """All routes of one door.

    - `authenticate(request, route)` gives the requester, for routes whose `auth` is not None; it raises to refuse.
    - `limit(request, route)` returns (or raises) a `LimitExceeded`, for routes whose `limit` is not None; it comes
      after `authenticate`, so it may count by requester.
    - `readmit(request, route)` raises if the requester of a long poll has lost the right to its answer by the time that
      there is one.
    """

    isLeaf = True

    def __init__(
        self,
        router: Router,
        *,
        authenticate: Authenticate | None = None,
        limit: Limit | None = None,
        readmit: Readmit | None = None,
        x_forwarded: bool = False,
        trusted_proxies: tuple[str, ...] = (),
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.router = router
        self._authenticate = authenticate
        self._limit = limit
        self._readmit = readmit
        self._trust: tuple[str, ...] | None = trusted_proxies if x_forwarded else None
        self._has_warned = False

    # -- without a transport ---------------------------------------------------------------------------------------

    async def respond(self, request: WebRequest) -> Answer:
        """Return the answer to `request`; never raises, but for a handler that is cancelled as its client is gone."""
        refusal = self.admit(request, request.body_length)
        if refusal is not None:
            return refusal
        answer = await self._walk(request)
        request.finished = True
        return answer

    async def call(self, request: WebRequest) -> Answer:
        """Return the answer of the route that `request` has been given, with its arguments; it came on another way."""
        answer = await self._walk(request)
        request.finished = True
        return answer

    # -- for transports --------------------------------------------------------------------------------------------

    def admit(self, request: WebRequest, body_length: int | None) -> Response | None:
        """Find the route, before the body is there; return the answer if there is nothing to read a body for.

        Sets `request.route` and `request.args`. `body_length` is None when it is not announced.
        """
        if request.method == "OPTIONS":
            return _PREFLIGHT
        try:
            match = self.router.match(request.method, request.path)
            route = match.route
            if body_length is not None and body_length > route.max_body_bytes:
                raise TooLarge(f"the body is larger than {route.max_body_bytes} bytes")
        except MatrixError as error:
            return error_response(error, f"{request.method} {request.path}")
        request.route = route
        request.args = match.args
        return None

    def check(self, request: WebRequest, decide: Callable[[Response | None], object]) -> None:
        """Run the authenticate and limit steps of a request that was admitted, before its body is read.

        `decide(refusal)` is called once, at once if nothing has to be waited for, unless the client goes; None: go on.
        """
        _Run(self._check(request), request, decide).step()

    def start(self, request: WebRequest, deliver: Callable[[Answer], object]) -> None:
        """Run the handler of a request that was admitted; `deliver(answer)` is called once, unless the client goes."""
        _Run(self._walk(request), request, deliver).step()

    def render(self, request: TwistedRequest) -> int:
        """Answer a request of any `Site`."""
        web = WebRequest(
            request.method.decode("latin-1"),
            request.path.decode("latin-1"),
            request.uri.partition(b"?")[2],
            Headers(dict(request.requestHeaders.getAllRawHeaders())),
            body=_memory_or_file(request),
            body_length=_length(request),
            client_ip=self.client_ip(
                request.getClientAddress(), request.requestHeaders.getRawHeaders(b"X-Forwarded-For")
            ),
            twisted_request=request,
        )
        request.notifyFinish().addErrback(lambda _: web.client_gone())
        refusal = self.admit(web, web.body_length)
        if refusal is not None:
            _deliver_plainly(request, web, refusal)
        else:
            self.start(web, lambda answer: _deliver_plainly(request, web, answer))
        return NOT_DONE_YET

    def client_ip(self, peer: IAddress, forwarded: Sequence[bytes] | None) -> str:
        """Return the address of the client, which a proxy may name if this door trusts it.

        From the right, the first address that is not a trusted proxy's: what stands further left anybody may write.
        """
        host = getattr(peer, "host", None)
        # Unix sockets have no address; whoever may open one is local.
        address = host if isinstance(host, str) else "127.0.0.1"
        if self._trust is None or not forwarded:
            return address
        if not _is_trusted(address, self._trust):
            if not self._has_warned:
                # All who come through an unknown proxy count as one for the rate limits; its operator should know.
                self._has_warned = True
                logger.warning(
                    "The X-Forwarded-For header from %s is ignored; if that is your reverse proxy, "
                    "add its address to trusted_proxies of the listener",
                    address,
                )
            return address
        for hop in reversed(b",".join(forwarded[-20:]).split(b",")[-20:]):
            named = _address(hop.strip())
            if named is None:
                break
            address = named
            if not _is_trusted(address, self._trust):
                break
        return address

    # -- the walk --------------------------------------------------------------------------------------------------

    async def _check(self, request: WebRequest) -> Response | None:
        try:
            await self._let_in(request, cast(Route, request.route))
            return None
        except CancelledError as error:
            if request.disconnected:
                raise
            return error_response(error, f"{request.method} {request.path}")
        except Exception as error:
            return error_response(error, f"{request.method} {request.path}")

    async def _let_in(self, request: WebRequest, route: Route) -> None:
        if route.auth is not None and self._authenticate is not None:
            requester = self._authenticate(request, route)
            request.requester = (await requester) if hasattr(type(requester), "__await__") else requester
        if route.limit is not None and self._limit is not None:
            refusal = self._limit(request, route)
            if refusal is not None:
                if not isinstance(refusal, LimitExceeded):
                    refusal = await refusal
                if refusal is not None:
                    raise refusal
        request.is_checked = True

    async def _walk(self, request: WebRequest) -> Answer:
        route = cast(Route, request.route)
        try:
            if not request.is_checked:
                await self._let_in(request, route)
            result = await route.handler(request)
            if route.is_long_poll and self._readmit is not None and request.requester is not None:
                waiting_for = self._readmit(request, route)
                if waiting_for is not None:
                    await waiting_for
            if type(result) is dict:
                return Response(200, encode_json(result))
            if not isinstance(result, Response | FileResponse | TakenOver):
                raise TypeError(f"the handler of {route.method} {route.path_template} returned {type(result)!r}")
            return result
        except CancelledError as error:
            if request.disconnected:
                raise
            return error_response(error, f"{request.method} {request.path}")
        except Exception as error:
            return error_response(error, f"{request.method} {request.path}")


class _Run:
    """Drives one coroutine; Twisted's own way costs a Deferred and several frames even when nothing waits."""

    __slots__ = ("_context", "_coroutine", "_deliver", "_request", "_waiting_for")

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, Answer | None],
        request: WebRequest,
        deliver: Callable[[Any], object],
    ) -> None:
        self._coroutine = coroutine
        self._request = request
        self._deliver = deliver
        self._context: Context = copy_context()
        self._waiting_for: Deferred[Any] | None = None

    def step(self, result: object = None) -> None:
        """Go on with `result`, which may be a Failure, until the coroutine waits or ends."""
        try:
            if isinstance(result, Failure):
                waiting_for = self._context.run(result.throwExceptionIntoGenerator, self._coroutine)
            else:
                waiting_for = self._context.run(self._coroutine.send, None)
        except StopIteration as end:
            # Callbacks that are no longer wanted would keep request and coroutine in a circle.
            self._request._on_disconnect = None
            if not self._request.disconnected:
                self._deliver(end.value)
            elif isinstance(end.value, FileResponse):
                end.value.file.close()
            return
        except CancelledError:
            return  # the client is gone
        first = self._waiting_for is None
        self._waiting_for = waiting_for
        if first:
            route = self._request.route
            if route is not None and route.cancel_when_gone:
                self._request.on_disconnect(self._cancel)
        waiting_for.addBoth(self._resume)

    def _resume(self, result: object) -> None:
        # The coroutine takes a good result from the Deferred itself, which is in the midst of calling us.
        self.step(result)

    def _cancel(self) -> None:
        if self._waiting_for is not None:
            self._waiting_for.cancel()


# -- any Site's requests ---------------------------------------------------------------------------------------------


def _memory_or_file(request: TwistedRequest) -> BinaryIO | bytes:
    return b"" if request.content is None else cast(BinaryIO, request.content)


def _length(request: TwistedRequest) -> int:
    if request.content is None:
        return 0
    length = int(request.content.seek(0, 2))
    request.content.seek(0)
    return length


def _deliver_plainly(request: TwistedRequest, web: WebRequest, answer: Answer) -> None:
    if isinstance(answer, TakenOver):
        return
    request.setResponseCode(answer.status)
    for name, value in CORS_HEADERS:
        request.setHeader(name, value)
    if answer.status != 204:
        request.setHeader("Content-Type", answer.content_type)
    for name, value in answer.headers.items():
        request.setHeader(name, value)
    if isinstance(answer, FileResponse):
        request.setHeader("Content-Length", str(answer.length))
        if request.method == b"HEAD":
            answer.file.close()
            web.finished = True
            request.finish()
        else:
            FileSender(request, answer, lambda: finish_quietly(request, web)).start()
        return
    if answer.status != 204:
        request.setHeader("Content-Length", str(len(answer.body)))
    web.finished = True
    if answer.body and request.method != b"HEAD":
        request.write(answer.body)
    request.finish()


# -- addresses -------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def _is_trusted(address: str, trusted: tuple[str, ...]) -> bool:
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    if mapped is not None:
        parsed = mapped
    return parsed.is_loopback or any(parsed in ip_network(net, strict=False) for net in trusted)


@lru_cache(maxsize=1024)
def _address(text: bytes) -> str | None:
    try:
        return str(ip_address(text.decode("ascii")))
    except ValueError:
        return None
