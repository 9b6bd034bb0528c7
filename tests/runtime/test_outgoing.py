"""Outgoing requests end: with an answer, or with a fault that says what happened."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater

from homeserver.runtime.backoff import Backoff
from homeserver.runtime.outgoing import AnswerTooLarge, Outgoing, OutgoingFault, OutgoingTimeout

Serve = Callable[[bytes], str]


class _Saying(Protocol):
    def dataReceived(self, data: bytes) -> None:
        self.factory.seen.append(data)  # type: ignore[union-attr]
        if self.factory.words is not None:  # type: ignore[union-attr]
            self.transport.write(self.factory.words)  # type: ignore[union-attr]
            self.transport.loseConnection()  # type: ignore[union-attr]


@pytest_twisted.async_yield_fixture
async def serve() -> AsyncIterator[Any]:
    """Listens and answers every request with the same bytes, or not at all for None."""
    ports = []

    def start(words: bytes | None) -> tuple[str, list[bytes]]:
        factory: Any = Factory.forProtocol(_Saying)
        factory.words, factory.seen = words, []
        ports.append(reactor.listenTCP(0, factory, interface="127.0.0.1"))  # type: ignore[attr-defined]
        return f"http://127.0.0.1:{ports[-1].getHost().port}/", factory.seen

    yield start
    for port in ports:
        await port.stopListening()


async def _get(url: str, **more: Any) -> Any:
    outgoing = Outgoing(reactor)
    try:
        return await outgoing.request("GET", url, **{"timeout_s": 5.0, "max_bytes": 1000, "is_trusted": True, **more})
    finally:
        await outgoing.stop()


@pytest_twisted.ensureDeferred
async def test_answer_of_any_status_is_returned(serve: Any) -> None:
    url, seen = serve(b"HTTP/1.1 404 Nothing\r\nX-Thing: one\r\nContent-Length: 5\r\n\r\nhello")
    answer = await _get(url, headers={"Authorization": "Bearer x"})
    assert (404, b"hello", "one", False) == (answer.status, answer.body, answer.headers["x-thing"], answer.is_success)
    assert b"Authorization: Bearer x\r\n" in seen[0]


@pytest_twisted.ensureDeferred
async def test_redirect_is_an_answer(serve: Any) -> None:
    url, seen = serve(b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n")
    assert 302 == (await _get(url)).status
    assert 1 == len(seen)


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        pytest.param(None, OutgoingTimeout, id="silence"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhell", OutgoingFault, id="broken off"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 5000, AnswerTooLarge, id="too large"),
        pytest.param(b"SSH-2.0-OpenSSH\r\n", OutgoingFault, id="not HTTP"),
        pytest.param(b"", OutgoingFault, id="closed"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", OutgoingFault, id="bad chunk"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_anything_but_an_answer_is_a_fault(serve: Any, words: bytes | None, fault: type[Exception]) -> None:
    url, _ = serve(words)
    with pytest.raises(fault):
        await _get(url, timeout_s=0.3)


@pytest.mark.parametrize("url", ["http://127.0.0.1/ä", "http://127.0.0.1/\n"])
@pytest_twisted.ensureDeferred
async def test_url_that_cannot_be_written_is_a_fault(url: str) -> None:
    with pytest.raises(OutgoingFault):
        await _get(url)


@pytest_twisted.ensureDeferred
async def test_compressed_answer_stays_as_it_is(serve: Any) -> None:
    url, seen = serve(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nhell")
    assert b"hell" == (await _get(url)).body
    assert b"accept-encoding" not in seen[0].lower()


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/", "http://no-such-host.invalid/", "gopher://127.0.0.1/", "http://"]
)
@pytest_twisted.ensureDeferred
async def test_server_that_is_not_there_is_a_fault(url: str) -> None:
    with pytest.raises(OutgoingFault):
        await _get(url)


@pytest_twisted.ensureDeferred
async def test_cancelled_request_ends_at_once_and_is_no_fault(serve: Any) -> None:
    url, seen = serve(None)
    work: Deferred[Any] = Deferred.fromCoroutine(_get(url, timeout_s=60.0))
    while not seen:
        await deferLater(reactor, 0.01)  # type: ignore[arg-type]
    work.cancel()
    with pytest.raises(CancelledError):
        await work


def test_waits_double_up_to_a_bound() -> None:
    backoff = Backoff(1.0, 60.0, chance=lambda: 1.0)
    assert [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0] == [backoff.next_s() for _ in range(8)]
    for _ in range(5000):
        backoff.next_s()
    assert 60.0 == backoff.next_s()
    backoff.reset()
    assert 1.0 == backoff.next_s()


def test_chance_takes_off_up_to_half() -> None:
    assert 5.0 == Backoff(10.0, 60.0, chance=lambda: 0.0).next_s()
