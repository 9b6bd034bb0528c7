"""What a handler reads from a request."""

from __future__ import annotations

from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.errors import BadJson, InvalidParam, MatrixError, MissingParam, NotJson
from homeserver.web.request import Headers, UnsupportedEncoding, WebRequest, parse_json_object


def of_query(query: bytes) -> WebRequest:
    return WebRequest("GET", "/x", query)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"{}x",
        b"{} {}",
        b"\xef\xbb\xbf{}",
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":1e400}',
        b'{"a":"\xff"}',
        b'{"a":"\xed\xa0\x80"}',
        b'{"a":"\\ud800"}',
        b"{'a':1}",
        b'{"a":01}',
        b'{"a":' * 5000 + b"1" + b"}" * 5000,
        b"[" * 100_000,
        b'{"a":' + b"9" * 5000 + b"}",
    ],
)
def test_what_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(NotJson):
        parse_json_object(body)


@pytest.mark.parametrize("body", [b"[]", b'"x"', b"null", b"1", b"true"])
def test_json_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(BadJson):
        parse_json_object(body)


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_json_may_be_two_hundred_deep(opening: bytes, closing: bytes) -> None:
    parse_json_object(b'{"x":' + opening * 199 + b"1" + closing * 199 + b"}")
    with pytest.raises(BadJson):
        parse_json_object(b'{"x":' + opening * 201 + b"1" + closing * 201 + b"}")


def test_broad_json_is_not_deep() -> None:
    assert len(parse_json_object(b'{"x":[' + b"[]," * 5000 + b"[]]}")["x"]) == 5001


def test_of_equal_keys_the_last_counts() -> None:
    assert parse_json_object(b'{"a":1,"a":2}') == {"a": 2}


@given(st.binary(max_size=200))
def test_any_body_is_an_object_or_refused(body: bytes) -> None:
    try:
        assert isinstance(parse_json_object(body), dict)
    except MatrixError:
        pass


def test_an_empty_body_is_an_object_only_where_allowed() -> None:
    assert WebRequest("POST", "/x").json_or_empty() == {}
    with pytest.raises(NotJson):
        WebRequest("POST", "/x").json()


def test_a_body_in_a_file_is_read_from_its_start() -> None:
    file = BytesIO(b'{"a":1}')
    file.seek(0, 2)
    request = WebRequest("POST", "/x", body=file, body_length=7)
    assert request.body_file.read() == b'{"a":1}'
    assert request.json() == {"a": 1}


def test_compressed_bodies_are_refused() -> None:
    with pytest.raises(UnsupportedEncoding):
        WebRequest("POST", "/x", headers=Headers.of({"content-encoding": "gzip"}), body=b"{}").json()


def test_headers_are_found_in_any_case() -> None:
    headers = Headers.of({"x-forwarded-for": "a"})
    assert headers.get("X-FORWARDED-FOR") == "a"
    assert headers.get_all("X-Forwarded-For") == ["a"]
    assert headers.get("Other") is None


def test_queries_are_decoded_once() -> None:
    request = of_query(b"a=%2525&b=x+y&c=&d=1&d=2&caf%C3%A9=%F0%9F%98%80&e")
    assert [request.query(name) for name in ("a", "b", "c", "café", "e", "f")] == ["%25", "x y", "", "😀", "", None]
    assert request.query_all("d") == ["1", "2"]
    with pytest.raises(MissingParam):
        request.require_query("f")


@pytest.mark.parametrize("query", [b"a=%FF", b"a=\xff", b"&".join([b"a=1"] * 1001)])
def test_queries_that_are_not_utf8_or_too_long_are_refused(query: bytes) -> None:
    with pytest.raises(InvalidParam):
        of_query(query).query("a")


@pytest.mark.parametrize(("text", "expected"), [(b"10", 10), (b"1000", 100), (b"-0", 0)])
def test_integers_are_read(text: bytes, expected: int) -> None:
    assert expected == of_query(b"limit=" + text).query_int("limit", 5, 0, 100)


@pytest.mark.parametrize("text", [b"", b"x", b"-1", b"1.0", b"1_0", b"%D9%A1", b"+5", b" 5", b"9" * 5000])
def test_other_integers_are_refused(text: bytes) -> None:
    with pytest.raises(InvalidParam):
        of_query(b"limit=" + text).query_int("limit", 5, 0, 100)


def test_booleans_are_read() -> None:
    request = of_query(b"a=true&b=false&c=1")
    assert (request.query_bool("a"), request.query_bool("b"), request.query_bool("d", True)) == (True, False, True)
    with pytest.raises(InvalidParam):
        request.query_bool("c")


def test_whoever_asks_late_learns_at_once_that_the_client_is_gone() -> None:
    request = WebRequest("GET", "/x")
    seen: list[int] = []
    request.on_disconnect(lambda: seen.append(1))
    request.client_gone()
    request.client_gone()
    request.on_disconnect(lambda: seen.append(2))
    assert seen == [1, 2]
