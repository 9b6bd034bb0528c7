"""A played homeserver: a real TLS server on loopback that does what a test says, with a name and a key of its own.

    remote = await federation.play()                                 see tests.support.federation
    remote.answers["/_matrix/federation/v1/event/"] = lambda request: {"pdus": []}
    status, body = await remote.put(server.name, "/_matrix/federation/v1/send/1", {"pdus": [], …})
    assert […] == [each.path for each in remote.requests]

It serves its `key/v2/server`, and its requests are signed, so that to the server under test it is one like any other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from inspect import isawaitable
from typing import Any, Final

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.task import deferLater
from twisted.web.client import readBody
from twisted.web.http_headers import Headers
from twisted.web.iweb import IBodyProducer
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site
from zope.interface import implementer, implementer_only

from federation.x_matrix import build_x_matrix, encode_signed_request
from homeserver.model.base64 import encode_base64
from homeserver.model.canonical_json import encode_canonical
from homeserver.model.server_keys import build_server_keys
from homeserver.model.signing import SigningKey, generate_signing_key
from homeserver.runtime.clock import RealClock
from homeserver.runtime.tls import ReloadableTLS

from .certificates import Authority
from .ports import free_port

DAY_MS: Final = 24 * 3_600_000
TIMEOUT_S: Final = 30.0
NO_ANSWER: Final = object()
"""A handler of a played server returns this to never answer."""


# -- waiting ---------------------------------------------------------------------------------------------------------


async def pause(seconds: float = 0.0) -> None:
    """Let others work for a moment."""
    await deferLater(reactor, seconds, lambda: None)


async def until(
    condition: Callable[[], Any], *, timeout_s: float = 20.0, every_s: float = 0.02, what: str = "the condition"
) -> Any:
    """Return what `condition()` gives (it may be an awaitable) as soon as that is true; AssertionError if never."""
    clock = RealClock(reactor)
    deadline = clock.monotonic() + timeout_s
    while True:
        result = condition()
        if isawaitable(result):
            result = await result
        if result:
            return result
        if clock.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {timeout_s:g} s")
        await pause(every_s)


# -- requests --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PlayedAnswer:
    """What a server answered; unpacks into status and JSON."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def __iter__(self) -> Any:
        return iter((self.status, self.json))


class Browser:
    """Sends requests as they are told, to servers that the authority vouches for."""

    def __init__(self, authority: Authority) -> None:
        self._agent = authority.agent()

    async def request(
        self, method: str, url: str, body: bytes | None = None, headers: Mapping[str, str | list[str]] | None = None
    ) -> PlayedAnswer:
        """Return the whole answer; errors of the connection are Twisted's."""
        wanted = Headers()
        for name, value in (headers or {}).items():
            wanted.setRawHeaders(name, [value] if isinstance(value, str) else value)
        work = self._agent.request(
            method.encode(), url.encode("latin-1"), wanted, None if body is None else _Body(body)
        )
        response = await work.addTimeout(TIMEOUT_S, reactor)
        content = await readBody(response).addTimeout(TIMEOUT_S, reactor)
        shown = {
            name.decode().lower(): values[0].decode("latin-1") for name, values in response.headers.getAllRawHeaders()
        }
        return PlayedAnswer(response.code, content, shown)


@implementer(IBodyProducer)
class _Body:
    def __init__(self, body: bytes) -> None:
        self._body = body
        self.length = len(body)

    async def _write(self, consumer: Any) -> None:
        consumer.write(self._body)

    def startProducing(self, consumer: Any) -> Deferred[None]:
        return Deferred.fromCoroutine(self._write(consumer))

    def pauseProducing(self) -> None: ...

    def resumeProducing(self) -> None: ...

    def stopProducing(self) -> None: ...


# -- played servers --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PlayedRequest:
    """What was asked of a played server. `uri` is as it came, `path` the part before the query."""

    method: str
    uri: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return self.uri.partition("?")[0]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


PlayedHandler = Callable[[PlayedRequest], Any]


class PlayedServer:
    """A server with a name and a key of its own that does what the test says.

    - `answers`: path prefix -> handler; the longest that fits is called with the `PlayedRequest`. It returns a value
      (200 and its JSON), bytes, `(status, value)`, `(status, value, headers)`, `NO_ANSWER`, or an awaitable of these.
      Without a handler the answer is 404 `M_UNRECOGNIZED`. `key/v2/server` is there unless it is replaced.
    - `requests`: what was asked, in order.
    - `keys`: the signing keys that it publishes; the first signs.
    """

    def __init__(self, authority: Authority, address: str) -> None:
        self.address = address
        self.port = free_port(address)
        self.name = f"{address}:{self.port}"
        self.keys: list[SigningKey] = [generate_signing_key(self.name.encode().ljust(32, b"\0")[:32], "played")]
        self.answers: dict[str, PlayedHandler] = {"/_matrix/key/v2/server": lambda request: self.published_keys()}
        self.requests: list[PlayedRequest] = []
        self.faults: list[BaseException] = []
        self._authority = authority
        self._browser = Browser(authority)
        self._port: Any = None
        self._site: _PlayedSite | None = None

    @property
    def key(self) -> SigningKey:
        """The key that it signs with."""
        return self.keys[0]

    def user(self, localpart: str) -> str:
        """Return the ID of a user of this server."""
        return f"@{localpart}:{self.name}"

    def published_keys(self, *, valid_ms: int = DAY_MS) -> dict[str, Any]:
        """Return its signed list of keys."""
        return build_server_keys(self.name, self.keys, {}, RealClock(reactor).now_ms() + valid_ms)

    # -- being asked -------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen; again after `stop` under the same name."""
        certificate, key = self._authority.certificate(self.address)
        self._site = _PlayedSite(_Played(self), reactor=reactor)
        self._port = reactor.listenSSL(self.port, self._site, ReloadableTLS(certificate, key), interface=self.address)  # type: ignore[attr-defined]

    async def stop(self) -> None:
        """Stop listening and break all connections."""
        port, self._port = self._port, None
        if port is not None:
            await port.stopListening()
        if self._site is not None:
            for channel in tuple(self._site.channels):
                channel._channel.transport.abortConnection()
        await pause()

    def asked(self, prefix: str) -> list[PlayedRequest]:
        """Return the requests whose path begins so."""
        return [request for request in self.requests if request.path.startswith(prefix)]

    async def answer(self, request: PlayedRequest) -> tuple[int, Any, Mapping[str, str]]:
        """Return what it answers to a request: status, value or bytes or NO_ANSWER, further headers."""
        fitting = [prefix for prefix in self.answers if request.path.startswith(prefix)]
        if not fitting:
            return 404, {"errcode": "M_UNRECOGNIZED", "error": "not played"}, {}
        result = self.answers[max(fitting, key=len)](request)
        if isawaitable(result):
            result = await result
        if isinstance(result, tuple):
            status, value, *headers = result
            return status, value, headers[0] if headers else {}
        return 200, result, {}

    # -- asking ------------------------------------------------------------------------------------------------------

    async def get(self, server: str, uri: str, **more: Any) -> PlayedAnswer:
        """Send a signed GET."""
        return await self.request("GET", server, uri, **more)

    async def put(self, server: str, uri: str, content: Any = None, **more: Any) -> PlayedAnswer:
        """Send a signed PUT."""
        return await self.request("PUT", server, uri, {} if content is None else content, **more)

    async def post(self, server: str, uri: str, content: Any = None, **more: Any) -> PlayedAnswer:
        """Send a signed POST."""
        return await self.request("POST", server, uri, {} if content is None else content, **more)

    async def request(
        self,
        method: str,
        server: str,
        uri: str,
        content: Any = None,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str | list[str]] | None = None,
        **signing: Any,
    ) -> PlayedAnswer:
        """Send a signed request to the server of that name, which is its address as well.

        `body` is sent in place of the canonical form of `content`; `headers` replace those made here; `signing` goes to
        `authorization`.
        """
        signed = None if content is None else encode_canonical(content)
        all_headers: dict[str, str | list[str]] = {
            "Authorization": self.authorization(method, server, uri, signed, **signing)
        }
        sent = signed if body is None else body
        if sent is not None:
            all_headers["Content-Type"] = "application/json"
        all_headers.update(headers or {})
        return await self._browser.request(method, f"https://{server}{uri}", sent, all_headers)

    def authorization(
        self,
        method: str,
        server: str,
        uri: str,
        body: bytes | None,
        *,
        origin: str | None = None,
        destination: str | None = None,
        key: SigningKey | None = None,
    ) -> str:
        """Return the Authorization header of a request; what is given instead of the truth is signed as well."""
        origin = self.name if origin is None else origin
        destination = server if destination is None else destination
        key = self.key if key is None else key
        signature = key.sign(encode_signed_request(method, uri, origin, destination, body))
        return build_x_matrix(origin, destination, key.key_id, encode_base64(signature))


# Without the negotiation of protocols, which would change the TLS context after its first connection.
@implementer_only(IProtocolFactory)
class _PlayedSite(Site):
    """Knows which connections are open."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.channels: set[Any] = set()

    def buildProtocol(self, addr: Any) -> Any:
        channel: Any = super().buildProtocol(addr)
        self.channels.add(channel)
        tell_channel = channel.connectionLost

        def lost(reason: Any) -> None:
            self.channels.discard(channel)
            tell_channel(reason)

        channel.connectionLost = lost
        return channel


class _Played(Resource):
    isLeaf = True

    def __init__(self, server: PlayedServer) -> None:
        super().__init__()
        self._server = server

    def render(self, request: Request) -> int:
        played = PlayedRequest(
            request.method.decode("latin-1"),
            request.uri.decode("latin-1"),
            {
                name.decode("latin-1").lower(): values[-1].decode("latin-1")
                for name, values in request.requestHeaders.getAllRawHeaders()
            },
            request.content.read(),
        )
        self._server.requests.append(played)
        gone: list[object] = []
        request.notifyFinish().addBoth(gone.append)
        Deferred.fromCoroutine(self._answer(request, played, gone))
        return NOT_DONE_YET

    async def _answer(self, request: Request, played: PlayedRequest, gone: list[object]) -> None:
        try:
            status, value, headers = await self._server.answer(played)
        except Exception as fault:
            self._server.faults.append(fault)
            status, value, headers = 500, {"errcode": "M_UNKNOWN", "error": repr(fault)}, {}
        if gone or value is NO_ANSWER:
            return
        request.setResponseCode(status)
        request.setHeader("Content-Type", "application/json")
        for name, text in headers.items():
            request.setHeader(name, text)
        request.write(value if isinstance(value, bytes) else json.dumps(value).encode())
        request.finish()
