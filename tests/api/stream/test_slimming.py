"""WebSockets that were slimmed speak as before; Autobahn's own client talks to them over a real socket."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import pytest_twisted
from autobahn.twisted.websocket import (
    WebSocketClientFactory,
    WebSocketClientProtocol,
    WebSocketServerFactory,
    WebSocketServerProtocol,
)
from autobahn.websocket.compress import (
    PerMessageDeflateOffer,
    PerMessageDeflateOfferAccept,
    PerMessageDeflateResponse,
    PerMessageDeflateResponseAccept,
)
from twisted.internet.defer import Deferred

from api.stream.slimming import SlimProtocol, slim, with_settings

MAX_BYTES = 100_000
# Autobahn gives 5 s, which a busy machine may need.
HANDSHAKE_S = 60


class Heard:
    """What the server's side noted."""

    def __init__(self) -> None:
        self.open: list[weakref.ref[Any]] = []
        self.pings: list[bytes] = []
        self.pongs: list[bytes] = []
        self.closed: Deferred[tuple[bool, int | None, str | None]] = Deferred()


class _Echo:
    """What both kinds of protocol here do, slim or not."""

    factory: Any
    heard: Heard

    def onConnect(self: Any, request: Any) -> str:
        return "m.json"

    def onOpen(self: Any) -> None:
        slim(self)
        self.factory.heard.open.append(weakref.ref(self))

    def onMessage(self: Any, payload: bytes, isBinary: bool) -> None:
        if payload == b"close":
            self.sendClose(4401, "M_UNKNOWN_TOKEN")
        elif payload == b"ping":
            self.sendPing(b"are you there")
        else:
            self.sendMessage(payload, isBinary)

    def onPing(self: Any, payload: bytes) -> None:
        self.factory.heard.pings.append(payload)
        self.sendPong(payload)

    def onPong(self: Any, payload: bytes) -> None:
        self.factory.heard.pongs.append(payload)

    def onClose(self: Any, wasClean: bool, code: int | None, reason: str | None) -> None:
        self.factory.heard.closed.callback((wasClean, code, reason))


class SlimEcho(_Echo, SlimProtocol):
    __slots__ = ()


class PlainEcho(_Echo, WebSocketServerProtocol):
    """One that only lets go of what it no longer needs."""


class Talker(WebSocketClientProtocol):
    """The client; keeps what it gets."""

    factory: Any

    def onOpen(self) -> None:
        self.messages: list[tuple[bytes, bool]] = []
        self.pongs: list[bytes] = []
        self.awaited: Deferred[None] | None = None
        self.factory.opened.callback(self)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.messages.append((payload, isBinary))
        self._fire()

    def onPong(self, payload: bytes) -> None:
        self.pongs.append(payload)
        self._fire()

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        self.factory.closed.callback((wasClean, code, reason))

    def next(self) -> Deferred[None]:
        self.awaited = Deferred()
        return self.awaited

    def _fire(self) -> None:
        awaited, self.awaited = self.awaited, None
        if awaited is not None:
            awaited.callback(None)


class Pair:
    """A server on loopback and a client that is connected to it."""

    def __init__(self, kind: type, *, compression: bool) -> None:
        from twisted.internet import reactor

        self._reactor: Any = reactor
        server: Any = WebSocketServerFactory(protocols=["m.json"], reactor=reactor)  # type: ignore[no-untyped-call]
        server.setProtocolOptions(  # type: ignore[no-untyped-call]
            maxMessagePayloadSize=MAX_BYTES,
            failByDrop=False,
            openHandshakeTimeout=HANDSHAKE_S,
            perMessageCompressionAccept=_accept if compression else lambda _: None,
        )
        server.heard = self.heard = Heard()
        server.protocol = with_settings(kind, server) if issubclass(kind, SlimProtocol) else kind
        self.factory = server
        self.port = self._reactor.listenTCP(0, server, interface="127.0.0.1")
        url = f"ws://127.0.0.1:{self.port.getHost().port}"
        client: Any = WebSocketClientFactory(url, protocols=["m.json"], reactor=reactor)  # type: ignore[no-untyped-call]
        client.protocol = Talker
        client.setProtocolOptions(openHandshakeTimeout=HANDSHAKE_S)  # type: ignore[no-untyped-call]
        if compression:
            client.setProtocolOptions(  # type: ignore[no-untyped-call]
                perMessageCompressionOffers=[PerMessageDeflateOffer()],  # type: ignore[no-untyped-call]
                perMessageCompressionAccept=lambda response: (
                    PerMessageDeflateResponseAccept(response)  # type: ignore[no-untyped-call]
                    if isinstance(response, PerMessageDeflateResponse)
                    else None
                ),
            )
        client.opened, client.closed = Deferred(), Deferred()
        self.client = client

    def connect(self) -> Deferred[Any]:
        self._reactor.connectTCP("127.0.0.1", self.port.getHost().port, self.client)
        opened: Deferred[Any] = self.client.opened
        return opened

    @property
    def server_side(self) -> Any:
        (reference,) = self.heard.open
        return reference()

    def turn(self) -> Deferred[None]:
        turn: Deferred[None] = Deferred()
        self._reactor.callLater(0.01, turn.callback, None)
        return turn


def _accept(offers: Any) -> Any:
    for offer in offers:
        if isinstance(offer, PerMessageDeflateOffer):
            return PerMessageDeflateOfferAccept(  # type: ignore[no-untyped-call]
                offer, request_no_context_takeover=True, no_context_takeover=True
            )
    return None


KINDS = pytest.mark.parametrize("kind", [SlimEcho, PlainEcho], ids=["slots", "dictionary"])
COMPRESSION = pytest.mark.parametrize("compression", [False, True], ids=["plain", "deflated"])


@KINDS
@COMPRESSION
@pytest_twisted.inlineCallbacks
def test_every_kind_of_frame_comes_through_again_and_again(kind: type, compression: bool) -> Any:
    pair = Pair(kind, compression=compression)
    client = yield pair.connect()
    expected = []
    for _ in range(2):
        for payload, is_binary, fragment in [
            (b"", False, None),
            ("Grüße".encode(), False, None),
            (b"x" * 125, False, None),
            (b"x" * 126, False, None),
            (b"x" * 70_000, False, None),
            (b"fragments, many of them", False, 3),
            (bytes(range(256)), True, None),
        ]:
            waited = client.next()
            client.sendMessage(payload, is_binary, fragmentSize=fragment)
            yield waited
            expected.append((payload, is_binary))
        waited = client.next()
        client.sendPing(b"ping")
        yield waited
        client.sendMessage(b"ping")
        yield pair.turn()
        yield pair.turn()
    client.sendClose(4001, "enough")
    client_end = yield pair.client.closed
    server_end = yield pair.heard.closed
    yield pair.port.stopListening()
    assert expected == client.messages
    assert [b"ping"] * 2 == client.pongs == pair.heard.pings
    assert [b"are you there"] * 2 == pair.heard.pongs
    assert (True, 4001, "enough") == server_end
    assert client_end[0]


@KINDS
@pytest_twisted.inlineCallbacks
def test_the_server_closes_with_code_and_reason(kind: type) -> Any:
    pair = Pair(kind, compression=False)
    client = yield pair.connect()
    client.sendMessage(b"close")
    ends = yield pair.client.closed
    yield pair.heard.closed
    yield pair.port.stopListening()
    assert (True, 4401, "M_UNKNOWN_TOKEN") == ends


@pytest.mark.parametrize(
    ("payload", "code"), [(b"\xff\xfe", 1007), (b"x" * (MAX_BYTES + 1), 1009)], ids=["not UTF-8", "too large"]
)
@pytest_twisted.inlineCallbacks
def test_bad_messages_end_the_connection_with_their_code(payload: bytes, code: int) -> Any:
    pair = Pair(SlimEcho, compression=False)
    client = yield pair.connect()
    client.sendMessage(payload)
    ends = yield pair.client.closed
    yield pair.heard.closed
    yield pair.port.stopListening()
    assert code == ends[1]


@pytest_twisted.inlineCallbacks
def test_an_open_connection_has_no_dictionary_and_keeps_no_compressor() -> Any:
    """Fails when another version of Autobahn has more attributes: they belong into the slots then."""
    pair = Pair(SlimEcho, compression=True)
    client = yield pair.connect()
    for payload, fragment in [(b"x" * 5000, None), (b"y" * 50, 7)]:
        waited = client.next()
        client.sendMessage(payload, fragmentSize=fragment)
        yield waited
    waited = client.next()
    client.sendPing(b"ping")
    yield waited
    protocol = pair.server_side
    assert {} == vars(protocol)
    assert not hasattr(protocol, "http_headers")
    deflate = protocol._perMessageCompress
    assert (None, None) == (deflate._compressor, deflate._decompressor)
    del protocol
    client.sendClose()
    yield pair.heard.closed
    yield pair.port.stopListening()


@pytest_twisted.inlineCallbacks
def test_a_closed_connection_is_freed_without_the_garbage_collector() -> Any:
    pair = Pair(SlimEcho, compression=True)
    client = yield pair.connect()
    waited = client.next()
    client.sendMessage(b"hello")
    yield waited
    gc.collect()
    gc.disable()
    try:
        client.sendClose(1000)
        yield pair.heard.closed
        yield pair.turn()
        assert None is pair.server_side
    finally:
        gc.enable()
        yield pair.port.stopListening()


def test_settings_are_those_of_the_factory() -> None:
    factory = WebSocketServerFactory()  # type: ignore[no-untyped-call]
    factory.setProtocolOptions(  # type: ignore[no-untyped-call]
        maxMessagePayloadSize=77, perMessageCompressionAccept=lambda offers: ("accepted", offers)
    )
    protocol: Any = with_settings(SlimEcho, factory)()
    assert 77 == protocol.maxMessagePayloadSize
    assert ("accepted", 1) == protocol.perMessageCompressionAccept(1)
    assert "maxMessagePayloadSize" not in vars(protocol)
