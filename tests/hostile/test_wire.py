"""Raw bytes on a socket: requests that two readers could read differently, and clients that never finish.

Spec: RFC 9112, 2.2, 6.1, 6.3, 11.2 (request smuggling).
"""

from __future__ import annotations

import re
import socket
import time
from contextlib import closing
from urllib.parse import urlsplit

import pytest

from tests.hostile.conftest import Bystander
from tests.support.server import RunningServer

pytestmark = pytest.mark.slow

LOGIN = b"POST /_matrix/client/v3/login HTTP/1.1\r\nHost: test.example\r\n"
VERSIONS = b"GET /_matrix/client/versions HTTP/1.1\r\nHost: test.example\r\n"
STATUS = re.compile(rb"HTTP/1\.1 ([0-9]{3})")
# What a smuggled request would be answered with.
HIDDEN = b"GET /_matrix/client/v3/hidden HTTP/1.1\r\nHost: test.example\r\n\r\n"

AMBIGUOUS: dict[str, bytes] = {
    "two lengths": LOGIN + b"Content-Length: 2\r\nContent-Length: 60\r\n\r\n{}" + HIDDEN,
    "a list of lengths": LOGIN + b"Content-Length: 2, 60\r\n\r\n{}" + HIDDEN,
    "length and chunked": LOGIN + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "chunked, then identity": LOGIN + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + HIDDEN,
    "chunked twice": LOGIN + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "unknown coding": LOGIN + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "vertical tab": LOGIN + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "space before the colon": LOGIN + b"Content-Length : 2\r\n\r\n{}" + HIDDEN,
    "folded line": LOGIN + b"Content-Length:\r\n 2\r\n\r\n{}" + HIDDEN,
    "plus": LOGIN + b"Content-Length: +2\r\n\r\n{}" + HIDDEN,
    "hexadecimal": LOGIN + b"Content-Length: 0x2\r\n\r\n{}" + HIDDEN,
    "negative": LOGIN + b"Content-Length: -2\r\n\r\n{}" + HIDDEN,
    "underscore": LOGIN + b"Content-Length: 0_2\r\n\r\n{}" + HIDDEN,
    "other digits": LOGIN + b"Content-Length: \xd9\xa2\r\n\r\n{}" + HIDDEN,
    "bare CR": VERSIONS + b"X: a\rb\r\n\r\n" + HIDDEN,
    "NUL in a header": VERSIONS + b"X: a\x00b\r\n\r\n" + HIDDEN,
    "chunk size with sign": LOGIN + b"Transfer-Encoding: chunked\r\n\r\n+2\r\n{}\r\n0\r\n\r\n" + HIDDEN,
    "chunk size with 0x": LOGIN + b"Transfer-Encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n" + HIDDEN,
    "chunk without its end": LOGIN + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}0\r\n\r\n" + HIDDEN,
    "no host": b"GET /_matrix/client/versions HTTP/1.1\r\n\r\n" + HIDDEN,
    "two hosts": VERSIONS + b"Host: other.example\r\n\r\n" + HIDDEN,
    "no version": b"GET /_matrix/client/versions\r\n\r\n" + HIDDEN,
    "HTTP/2.0": b"GET /_matrix/client/versions HTTP/2.0\r\nHost: a\r\n\r\n" + HIDDEN,
    "space in the path": b"GET /_matrix/client/ versions HTTP/1.1\r\nHost: a\r\n\r\n" + HIDDEN,
    "odd method": b"G\x00T /_matrix/client/versions HTTP/1.1\r\nHost: a\r\n\r\n" + HIDDEN,
    "TLS": bytes.fromhex("1603010200010001fc0303") + b"\x00" * 100 + b"\r\n\r\n",
    "headers without end": VERSIONS + b"X: " + b"a" * 200_000,
    "many headers": VERSIONS + b"".join(b"X%d: a\r\n" % n for n in range(5_000)) + b"\r\n",
    "long path": b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
}


def exchange(running: RunningServer, request: bytes, wait_s: float = 5.0) -> bytes:
    """Send bytes, and return all that comes until the server closes or is silent."""
    parts = urlsplit(running.url)
    with closing(socket.create_connection((parts.hostname or "", parts.port or 0), timeout=wait_s)) as connection:
        received = b""
        try:
            connection.sendall(request)
            while True:
                piece = connection.recv(65_536)
                if not piece:
                    return received
                received += piece
        except TimeoutError:
            return received + b"(silence)"
        except OSError:
            return received


@pytest.mark.parametrize("request_bytes", AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_what_could_be_read_differently_is_refused_and_ends_the_connection(
    running: RunningServer, bystander: Bystander, request_bytes: bytes
) -> None:
    answer = exchange(running, request_bytes)
    statuses = STATUS.findall(answer)
    assert len(statuses) <= 1, answer
    assert all(status.startswith(b"4") or status in (b"501", b"505") for status in statuses), answer
    assert b"(silence)" not in answer
    bystander.check()


def test_pipelined_requests_are_answered_in_order(running: RunningServer) -> None:
    paths = [b"/_matrix/client/versions", b"/_matrix/client/v3/publicRooms", b"/nothing", b"/_matrix/client/v3/login"]
    request = b"".join(b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % path for path in paths)
    answer = exchange(running, request[:-2] + b"Connection: close\r\n\r\n")
    statuses = STATUS.findall(answer)
    assert [b"200", b"401", b"404", b"200"] == statuses


def test_slow_clients_keep_nobody_else_waiting(running: RunningServer, bystander: Bystander) -> None:
    parts = urlsplit(running.url)
    slow = []
    try:
        for number in range(300):
            connection = socket.create_connection((parts.hostname or "", parts.port or 0), timeout=5)
            connection.sendall(VERSIONS[: 5 + number % 40] if number % 2 else LOGIN + b"Content-Length: 1000\r\n\r\n{")
            slow.append(connection)
        began = time.monotonic()
        for _ in range(5):
            bystander.check()
        assert time.monotonic() - began < 5
    finally:
        for connection in slow:
            connection.close()
    bystander.check()


def test_who_vanishes_from_a_long_poll_leaves_nothing_behind(running: RunningServer, bystander: Bystander) -> None:
    parts = urlsplit(running.url)
    token = str(bystander.actor.token).encode()
    for _ in range(50):
        with closing(socket.create_connection((parts.hostname or "", parts.port or 0), timeout=5)) as connection:
            connection.sendall(
                b"GET /_matrix/client/v3/sync?timeout=30000&since=%s HTTP/1.1\r\n" % bystander.since.encode()
                + b"Host: a\r\nAuthorization: Bearer %s\r\n\r\n" % token
            )
    bystander.check()
