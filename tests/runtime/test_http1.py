"""Answers are read whole or refused; nothing of one is taken for another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from homeserver.runtime.http1 import BadAnswer, Connection, ConnectionBroken


class _Transport(StringTransport):
    def abortConnection(self) -> None:
        self.disconnecting = True


class _Gathered:
    def __init__(self) -> None:
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.body = b""

    def begin(self, status: int, headers: Mapping[str, str], length: int | None) -> None:
        self.status, self.headers = status, headers

    def data(self, piece: bytes) -> None:
        self.body += piece


def _asked(*, is_head_only: bool = False) -> tuple[Connection, _Gathered, list[Any]]:
    connection = Connection()
    connection.makeConnection(_Transport())  # type: ignore[no-untyped-call]
    gathered, results = _Gathered(), []
    connection.exchange(b"GET / HTTP/1.1\r\n\r\n", None, gathered, is_head_only=is_head_only).addBoth(results.append)
    return connection, gathered, results


GOOD = [
    pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", True, id="length"),
    pytest.param(b"HTTP/1.1 200\r\ncontent-length:5 \r\n\r\nhello", True, id="no reason"),
    pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", True, id="length twice"),
    pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: Close\r\n\r\nhello", False, id="close"),
    pytest.param(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", False, id="1.0"),
    pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nA: b\r\n\r\n",
                 True, id="chunked"),
    pytest.param(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", True, id="interim"),
]  # fmt: skip


@pytest.mark.parametrize(("wire", "may_stay"), GOOD)
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_answer_is_read_in_pieces_of_any_size(wire: bytes, may_stay: bool, size: int) -> None:
    connection, gathered, results = _asked()
    for start in range(0, len(wire), size):
        connection.dataReceived(wire[start : start + size])
    assert ([None], 200, b"hello") == (results, gathered.status, gathered.body)
    assert may_stay == connection.is_free


@pytest.mark.parametrize(
    ("wire", "is_head_only"),
    [
        pytest.param(b"HTTP/1.1 204 No\r\n\r\n", False, id="204"),
        pytest.param(b"HTTP/1.1 304 No\r\nContent-Length: 7\r\n\r\n", False, id="304"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n", True, id="HEAD"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", False, id="empty"),
    ],
)
def test_answer_without_a_body_ends_with_its_head(wire: bytes, is_head_only: bool) -> None:
    connection, gathered, results = _asked(is_head_only=is_head_only)
    connection.dataReceived(wire)
    assert ([None], b"", True) == (results, gathered.body, connection.is_free)


def test_body_without_length_ends_with_the_connection() -> None:
    connection, gathered, results = _asked()
    connection.dataReceived(b"HTTP/1.1 200 OK\r\n\r\nhel")
    connection.dataReceived(b"lo")
    connection.connectionLost(Failure(ConnectionDone()))
    assert ([None], b"hello") == (results, gathered.body)


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(b"SSH-2.0-x\r\n", id="other protocol"),
        pytest.param(b"HTTP/2 200 OK\r\n\r\n", id="other version"),
        pytest.param(b"HTTP/1.1 99 OK\r\n\r\n", id="status"),
        pytest.param(b"HTTP/1.1 +20 OK\r\n\r\n", id="signed status"),
        pytest.param(b"HTTP/1.1 101 Switch\r\n\r\n", id="upgrade"),
        pytest.param(b"HTTP/1.1 100 C\r\n\r\n" * 20, id="interim without end"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", id="two lengths"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\n", id="two lengths in one"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n", id="signed length"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 0x5\r\n\r\n", id="hexadecimal length"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", id="both"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", id="encoding"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", id="folded"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n", id="space before the colon"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA: b\nC: d\r\n\r\n", id="bare line feed"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA: b\rC: d\r\n\r\n", id="bare return"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 300 + b"\r\n", id="many headers"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70_000, id="long header"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", id="chunk size"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", id="negative chunk"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n", id="long chunk"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 10_001, id="crumbs"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1;" * 2000, id="chunk extension"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"A: b\r\n" * 300, id="trailers"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\n\nHTTP/1.1 200\r\n\r\n",
                     id="bare line feed in a trailer"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nHTTP/1.1 200 OK\r\n\r\n",
                     id="an answer for a trailer"),
    ],
)  # fmt: skip
def test_answer_that_is_unclear_is_refused(wire: bytes) -> None:
    connection, _, results = _asked()
    connection.dataReceived(wire)
    assert BadAnswer is results[0].type
    assert not connection.is_free


@pytest.mark.parametrize(("status", "size", "is_free"), [(200, 10**6, True), (413, 10**6, False), (413, 100, True)])
def test_connection_is_not_kept_where_a_body_may_not_have_been_read(status: int, size: int, is_free: bool) -> None:
    """What the other side makes of the rest of it would be taken for the next answer."""
    connection = Connection()
    connection.makeConnection(_Transport())  # type: ignore[no-untyped-call]
    done = connection.exchange(b"PUT / HTTP/1.1\r\n\r\n", b"x" * size, _Gathered(), is_head_only=False)
    connection.dataReceived(b"HTTP/1.1 %d Said\r\nContent-Length: 2\r\n\r\n{}" % status)
    assert (True, is_free) == (done.called, connection.is_free)


def test_bytes_behind_an_answer_belong_to_nobody() -> None:
    connection, gathered, results = _asked()
    connection.dataReceived(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\nevil")
    assert ([None], b"ok", False) == (results, gathered.body, connection.is_free)


def test_bytes_that_nobody_asked_for_end_the_connection() -> None:
    connection = Connection()
    connection.makeConnection(_Transport())  # type: ignore[no-untyped-call]
    connection.dataReceived(b"HTTP/1.1 200 OK\r\n\r\n")
    assert not connection.is_free


@pytest.mark.parametrize(
    ("sent", "is_silent"), [(b"", True), (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nx", False)]
)
def test_broken_connection_says_whether_anything_had_come(sent: bytes, is_silent: bool) -> None:
    connection, _, results = _asked()
    connection.dataReceived(sent)
    connection.connectionLost(Failure(ConnectionLost()))
    assert (ConnectionBroken, is_silent) == (results[0].type, results[0].value.is_silent)


@given(st.lists(st.binary(max_size=60) | st.sampled_from([b"HTTP/1.1 200 OK\r\n", b"\r\n", b"Content-Length: 3\r\n",
       b"Transfer-Encoding: chunked\r\n", b"3\r\n", b"abc", b"0\r\n"]), max_size=12))  # fmt: skip
def test_any_bytes_are_an_answer_or_none(pieces: list[bytes]) -> None:
    connection, _, results = _asked()
    for piece in pieces:
        connection.dataReceived(piece)
    connection.connectionLost(Failure(ConnectionDone()))
    assert 1 == len(results)
    assert results[0] is None or results[0].check(BadAnswer, ConnectionBroken)
