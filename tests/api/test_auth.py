"""Where a token may stand in a request."""

from __future__ import annotations

import pytest

from api.auth import token_of
from homeserver.errors import MissingToken
from homeserver.web.request import Headers, WebRequest


def _request(header: str | None, query: bytes = b"") -> WebRequest:
    headers = Headers({}) if header is None else Headers.of({"Authorization": header})
    return WebRequest("GET", "/", query, headers)


@pytest.mark.parametrize(
    ("header", "query", "token"),
    [
        ("Bearer abc", b"", "abc"),
        ("bearer abc", b"", "abc"),
        ("Bearer  abc ", b"", "abc"),
        ("Bearer abc", b"access_token=other", "abc"),
        (None, b"access_token=abc", "abc"),
        (None, b"access_token=a%2Bb", "a+b"),
        (None, b"since=1", None),
        (None, b"", None),
    ],
)
def test_token_is_found(header: str | None, query: bytes, token: str | None) -> None:
    assert token == token_of(_request(header, query))


@pytest.mark.parametrize("header", ["Basic abc", "Bearer", "X-Matrix origin=a", "", "Bearerabc"])
def test_other_schemes_are_no_token(header: str) -> None:
    with pytest.raises(MissingToken):
        token_of(_request(header, b"access_token=abc"))
