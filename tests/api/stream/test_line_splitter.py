"""Lines come out of bytes the same way, in whatever pieces those arrive."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.stream.line_splitter import LineSplitter, LineTooLong

MOST = 12

# Short lines around the bound, with many ends of lines among them.
bytes_of_lines = st.lists(st.sampled_from([b"\n", b"\r", b"\r\n", b" ", b"{}", b"abc", b"\xff", b"x" * 7])).map(
    b"".join
)
cuts = st.lists(st.integers(min_value=0, max_value=200))


def _expected(whole: bytes) -> tuple[list[bytes], bool]:
    """Return the lines by the rule, and whether one is too long."""
    *lines, rest = whole.split(b"\n")
    found: list[bytes] = []
    for line in lines:
        line = line.lstrip(b" \t\r").removesuffix(b"\r")
        if len(line) > MOST:
            return found, True
        if line:
            found.append(line)
    return found, len(rest.lstrip(b" \t\r")) > MOST + 1


def _split(pieces: list[bytes]) -> tuple[list[bytes], bool]:
    splitter = LineSplitter(MOST)
    found: list[bytes] = []
    try:
        for piece in pieces:
            splitter.feed(piece)
            while (line := splitter.take()) is not None:
                found.append(line)
    except LineTooLong:
        return found, True
    return found, False


def _pieces(whole: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({min(place, len(whole)) for place in places} | {len(whole)})
    return [whole[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


@given(bytes_of_lines, cuts)
def test_any_pieces_give_the_same_lines(whole: bytes, places: list[int]) -> None:
    assert _expected(whole) == _split(_pieces(whole, places))


@given(bytes_of_lines, cuts)
def test_lines_may_be_taken_when_all_has_come(whole: bytes, places: list[int]) -> None:
    """As when reading is paused: what came meanwhile is kept uncut."""
    splitter = LineSplitter(MOST)
    for piece in _pieces(whole, places):
        splitter.feed(piece)
    assert len(whole) == splitter.held_bytes
    found: list[bytes] = []
    too_long = False
    try:
        while (line := splitter.take()) is not None:
            found.append(line)
    except LineTooLong:
        too_long = True
    assert _expected(whole) == (found, too_long)


@pytest.mark.parametrize(
    ("line", "is_taken"),
    [(b"x" * MOST + b"\n", True), (b"x" * MOST + b"\r\n", True), (b"x" * (MOST + 1) + b"\n", False)],
    ids=["longest", "longest-crlf", "longer"],
)
def test_the_end_of_a_line_does_not_count(line: bytes, is_taken: bool) -> None:
    for pieces in ([line], [line[i : i + 1] for i in range(len(line))]):
        assert is_taken != _split(pieces)[1]


def test_a_line_without_end_is_given_up_as_soon_as_it_is_too_long() -> None:
    splitter = LineSplitter(MOST)
    with pytest.raises(LineTooLong):
        for _ in range(MOST + 2):
            splitter.feed(b"x")
            splitter.take()


def test_a_quarter_of_a_million_pieces_take_no_longer_than_their_bytes() -> None:
    """The time grows with the bytes, not with their square: else this would take minutes."""
    splitter = LineSplitter(1 << 18)
    for _ in range(1 << 18):
        splitter.feed(b"x")
        assert splitter.take() is None
    splitter.feed(b"\n")
    assert b"x" * (1 << 18) == splitter.take()


def test_blanks_begin_no_line() -> None:
    splitter = LineSplitter(MOST)
    for _ in range(100):
        splitter.feed(b" \t\r")
        assert (None, 0) == (splitter.take(), splitter.begun_bytes)
    splitter.feed(b"{}\n")
    assert b"{}" == splitter.take()


def test_nothing_is_kept_between_lines() -> None:
    splitter = LineSplitter(MOST)
    splitter.feed(b"{}\n\n")
    assert b"{}" == splitter.take()
    assert splitter.take() is None
    assert 0 == splitter.held_bytes
