"""Whole text messages are read as Autobahn reads them, and nothing else is."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.stream.frames import read_whole_text


def frame(payload: bytes, mask: bytes = b"\0\0\0\0", first: int = 0x81, masked: int = 0x80) -> bytes:
    length = len(payload)
    if length < 126:
        head = bytes((first, masked | length))
    elif length < 65_536:
        head = struct.pack("!BBH", first, masked | 126, length)
    else:
        head = struct.pack("!BBQ", first, masked | 127, length)
    return head + mask + bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))


@given(st.text(max_size=400), st.binary(min_size=4, max_size=4), st.binary(max_size=20), st.binary(max_size=20))
def test_a_whole_text_is_read_wherever_it_stands(text: str, mask: bytes, before: bytes, after: bytes) -> None:
    data = before + frame(text.encode(), mask) + after
    assert read_whole_text(data, len(before), 10_000) == (text.encode(), len(data) - len(after))


@given(st.binary(max_size=300), st.binary(min_size=4, max_size=4))
def test_what_is_not_utf8_is_left_alone(payload: bytes, mask: bytes) -> None:
    try:
        payload.decode()
    except UnicodeDecodeError:
        assert read_whole_text(frame(payload, mask), 0, 10_000) is None
    else:
        assert read_whole_text(frame(payload, mask), 0, 10_000) is not None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x81",
        frame(b"hello")[:-1],
        frame(b"x" * 200)[:-1],
        frame(b"hello", first=0x01),
        frame(b"hello", first=0x82),
        frame(b"hello", first=0x89),
        frame(b"hello", first=0xC1),
        frame(b"hello", masked=0),
        struct.pack("!BBH", 0x81, 0xFE, 5) + b"\0\0\0\0hello",
        frame(b"x" * 65_536),
        frame(b"x" * 1_001),
    ],
    ids=[
        "nothing",
        "half a head",
        "cut",
        "long and cut",
        "fragment",
        "binary",
        "ping",
        "compressed",
        "not masked",
        "length too long",
        "eight bytes of length",
        "too large",
    ],
)
def test_anything_else_is_left_alone(data: bytes) -> None:
    assert read_whole_text(data, 0, 1_000) is None


@given(st.binary(max_size=60))
def test_rubbish_raises_nothing(data: bytes) -> None:
    read_whole_text(data, 0, 1_000)
