"""Servers that are no homeservers: each answers every connection in its own wrong way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol


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
    "is not gzip": lambda: Wrong(http("200 OK", b"not gzip", "Content-Encoding: gzip")),
}


@contextmanager
def wrong_server(make: Callable[[], Protocol]) -> Iterator[str]:
    """Run a wrong server on loopback, and give its URL."""
    factory = Factory.forProtocol(make)  # type: ignore[arg-type]
    made: list[Protocol] = []

    def build(address: Any) -> Protocol:
        protocol = make()
        made.append(protocol)
        return protocol

    factory.buildProtocol = build  # type: ignore[method-assign]
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")  # type: ignore[attr-defined]
    try:
        yield f"http://127.0.0.1:{port.getHost().port}"
    finally:
        port.stopListening()
        for each in made:
            if each.connected and each.transport is not None:
                each.transport.abortConnection()  # type: ignore[attr-defined]
