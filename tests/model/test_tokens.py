from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.errors import InvalidParam
from homeserver.model.tokens import MAX_POSITION, PaginationToken, StreamToken

BAD = [
    "", "s", "p", "s+1", "s01", "s-0", "p-0", "s 1", "s1 ", "p1_2", "s1_2", "x1", "1", "s٣", "p²", "p--1", "s1.0",
    "t1-2", f"s{MAX_POSITION + 1}", f"p-{MAX_POSITION + 1}", "s" + "9" * 5000, "s-1", None, 1, ["s1"], "\ud800",
]  # fmt: skip


@given(st.integers(0, MAX_POSITION))
def test_a_stream_token_is_read_back(position: int) -> None:
    assert StreamToken(position) == StreamToken.parse(str(StreamToken(position)))


@given(st.integers(-MAX_POSITION, MAX_POSITION))
def test_a_pagination_token_is_read_back(position: int) -> None:
    assert PaginationToken(position) == PaginationToken.parse(str(PaginationToken(position)))


@pytest.mark.parametrize("text", BAD)
@pytest.mark.parametrize("kind", [StreamToken, PaginationToken])
def test_garbage_is_refused(kind: type[StreamToken | PaginationToken], text: Any) -> None:
    with pytest.raises(InvalidParam):
        kind.parse(text)


def test_a_stream_token_is_accepted_as_a_pagination_token_but_not_the_reverse() -> None:
    assert PaginationToken.of(StreamToken(5)) == PaginationToken.parse("s5")
    with pytest.raises(InvalidParam):
        StreamToken.parse("p5")


@given(st.text(max_size=24) | st.from_regex(r"[sp]-?[0-9]{0,20}", fullmatch=True))
def test_every_token_has_one_text(text: str) -> None:
    try:
        token = StreamToken.parse(text)
    except InvalidParam:
        return
    assert text == str(token)


def test_tokens_are_ordered_by_position() -> None:
    assert sorted([PaginationToken(3), PaginationToken(-4)]) == [PaginationToken(-4), PaginationToken(3)]
