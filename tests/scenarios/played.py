"""Servers that are no homeservers: each answers every connection in its own wrong way."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import DefaultOpenSSLContextFactory

from sytest_scenarios.authority import Authority


class Wrong(Protocol):
    """Answers whatever is asked with the same bytes."""

    def __init__(self, answer: bytes | None, *, hangs_up: bool = False, again: bool = False) -> None:
        self._answer = answer
        self._hangs_up = hangs_up
        self._again = again

    def dataReceived(self, data: bytes) -> None:
        """Answer."""
        assert self.transport is not None
        if self._answer is not None:
            self.transport.write(self._answer)
        if self._again and self.connected:
            self._pour()
        if self._hangs_up:
            self.transport.loseConnection()

    def _pour(self) -> None:
        """Write without end."""
        assert self.transport is not None
        if self.connected:
            self.transport.write(b"x" * 65536)
            reactor.callLater(0.001, self._pour)  # type: ignore[attr-defined]


class Trickling(Protocol):
    """Answers as it should, but a byte at a time, and takes its time."""

    def dataReceived(self, data: bytes) -> None:
        """Begin to answer."""
        self._rest = http("200 OK", b'{"versions": ["v1.11"]}', "Content-Type: application/json")
        self._trickle()

    def _trickle(self) -> None:
        if self.connected and self._rest:
            assert self.transport is not None
            self.transport.write(self._rest[:1])
            self._rest = self._rest[1:]
            reactor.callLater(1, self._trickle)  # type: ignore[attr-defined]


class Plausible(Protocol):
    """Tells its versions and makes accounts as a homeserver does; all else it answers in its own wrong way.

    Once `is_good` says no, it does so with everything.
    """

    def __init__(
        self, answer: bytes | None, *, hangs_up: bool = False, is_good: Callable[[], bool] = lambda: True
    ) -> None:
        self._answer = answer
        self._hangs_up = hangs_up
        self._is_good = is_good
        self._came = b""

    def dataReceived(self, data: bytes) -> None:
        """Answer each request that has come whole."""
        self._came += data
        while b"\r\n\r\n" in self._came:
            head, _, rest = self._came.partition(b"\r\n\r\n")
            size = re.search(rb"(?i)content-length: *(\d+)", head)
            length = int(size[1]) if size else 0
            if len(rest) < length:
                return
            self._came = rest[length:]
            self._respond(head.split()[1].partition(b"?")[0].decode(), rest[:length])

    def _respond(self, path: str, body: bytes) -> None:
        assert self.transport is not None
        good: dict[str, Any] | None = None
        if self._is_good():
            if path == "/_matrix/client/versions":
                good = {"versions": ["v1.11"], "unstable_features": {"org.sennit.stream": True}}
            elif path == "/_matrix/client/v3/register":
                name = json.loads(body).get("username", "somebody")
                good = {"user_id": f"@{name}:x", "access_token": f"token of {name}", "device_id": "DEVICE"}
        if good is not None:
            self.transport.write(http("200 OK", json.dumps(good).encode(), "Content-Type: application/json"))
            return
        if self._answer is not None:
            self.transport.write(self._answer)
        if self._hangs_up:
            self.transport.loseConnection()


class Streaming(Protocol):
    """Opens a WebSocket, sends a frame, and closes if that was a close."""

    def __init__(self, frame: bytes) -> None:
        self._frame = frame
        self._came = b""

    def dataReceived(self, data: bytes) -> None:
        """Answer the handshake."""
        assert self.transport is not None
        self._came += data
        if b"\r\n\r\n" in self._came:
            key = re.search(rb"(?i)sec-websocket-key: *(\S+)", self._came)
            self._came = b""
            if key is not None:
                accept = base64.b64encode(hashlib.sha1(key[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
                self.transport.write(_SWITCHING % accept + self._frame)
                if self._frame.startswith(b"\x88"):
                    self.transport.loseConnection()


_SWITCHING: Final = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: %s\r\nSec-WebSocket-Protocol: m.json\r\n\r\n"
)


def http(status: str, body: bytes, *headers: str) -> bytes:
    """Return an HTTP answer."""
    head = "".join(f"{each}\r\n" for each in (*headers, f"Content-Length: {len(body)}"))
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body


WRONG: Final[dict[str, Callable[[], Protocol]]] = {
    "never answers": lambda: Wrong(None),
    "answers rubbish": lambda: Wrong(b"\x00\xff\x17 no HTTP at all\r\n\r\n", hangs_up=True),
    "closes": lambda: Wrong(None, hangs_up=True),
    "closes in mid-answer": lambda: Wrong(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{", hangs_up=True),
    "redirects": lambda: Wrong(http("302 Found", b"", "Location: http://127.0.0.1:9/elsewhere")),
    "redirects to itself": lambda: Wrong(http("307 Temporary Redirect", b"", "Location: /")),
    "is a web site": lambda: Wrong(http("200 OK", b"<html>Welcome!</html>", "Content-Type: text/html")),
    "answers a list": lambda: Wrong(http("200 OK", b"[1, 2]", "Content-Type: application/json")),
    "answers nothing inside": lambda: Wrong(http("200 OK", b"{}", "Content-Type: application/json")),
    "answers deep JSON": lambda: Wrong(http("200 OK", b"[" * 200_000)),
    "is broken": lambda: Wrong(http("500 Internal Server Error", b"oops")),
    "never ends its answer": lambda: Wrong(b"HTTP/1.1 200 OK\r\n\r\n", again=True),
    "trickles": Trickling,
    "is not gzip": lambda: Wrong(http("200 OK", b"not gzip", "Content-Encoding: gzip")),
}


# Those that answer the opening of a WebSocket in a way that others do not need.
STREAMLESS: Final[dict[str, Callable[[], Protocol]]] = {"wrong key": lambda: Wrong(_SWITCHING % b"wrong")}

_REFUSED: Final = json.dumps({"errcode": "M_FORBIDDEN", "error": "No."}).encode()
_UNKNOWN: Final = json.dumps({"errcode": "M_UNRECOGNIZED", "error": "What?"}).encode()
# Of wrong types wherever a story may look.
_ODD: Final = json.dumps(
    dict.fromkeys(["next_batch", "room_id", "event_id", "rooms", "chunk", "content_uri", "flows", "joined"], 7)
).encode()
_SYNC: Final = json.dumps(
    {"next_batch": "s1", "room_id": "!r:x", "event_id": "$e", "content_uri": "mxc://x/y"}
).encode()

# Those that only make accounts, by what they answer else.
PLAUSIBLE: Final[dict[str, Callable[[], Protocol]]] = {
    "an empty object": lambda: Plausible(http("200 OK", b"{}", "Content-Type: application/json")),
    "a list": lambda: Plausible(http("200 OK", b"[{}]", "Content-Type: application/json")),
    "a page": lambda: Plausible(http("200 OK", b"<html>Welcome!</html>", "Content-Type: text/html")),
    "odd types": lambda: Plausible(http("200 OK", _ODD, "Content-Type: application/json")),
    "the same to all": lambda: Plausible(http("200 OK", _SYNC, "Content-Type: application/json")),
    "a failure": lambda: Plausible(http("500 Internal Server Error", b"oops")),
    "a refusal": lambda: Plausible(http("403 Forbidden", _REFUSED, "Content-Type: application/json")),
    "not found": lambda: Plausible(http("404 Not Found", _UNKNOWN, "Content-Type: application/json")),
    "a redirect": lambda: Plausible(http("302 Found", b"", "Location: /elsewhere")),
    "rubbish": lambda: Plausible(b"\x00\xff\r\n\r\n", hangs_up=True),
    "a close": lambda: Plausible(None, hangs_up=True),
    "nothing": lambda: Plausible(None),
}


@contextmanager
def wrong_server(make: Callable[[], Protocol], *, tls: Path | None = None) -> Iterator[str]:
    """Run a wrong server on loopback, and give its URL; in the folder `tls`, a certificate that nobody trusts."""
    factory = Factory.forProtocol(make)  # type: ignore[arg-type]
    made: list[Protocol] = []

    def build(address: Any) -> Protocol:
        protocol = make()
        made.append(protocol)
        return protocol

    factory.buildProtocol = build  # type: ignore[method-assign]
    if tls is None:
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")  # type: ignore[attr-defined]
    else:
        certificate, key = Authority(tls).certificate("127.0.0.1")
        context = DefaultOpenSSLContextFactory(str(key), str(certificate))
        port = reactor.listenSSL(0, factory, context, interface="127.0.0.1")  # type: ignore[attr-defined]
    try:
        yield f"{'http' if tls is None else 'https'}://127.0.0.1:{port.getHost().port}"
    finally:
        port.stopListening()
        for each in made:
            # After a handshake that failed there is nothing to end.
            if each.connected and each.transport is not None:
                with suppress(AttributeError):
                    each.transport.abortConnection()  # type: ignore[attr-defined]
