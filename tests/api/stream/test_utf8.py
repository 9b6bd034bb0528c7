"""UTF-8 in pieces: the same verdict as Python's decoder, at the first byte from which nothing good can come."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from api.stream.utf8 import Utf8

# Bytes near the borders of the grammar, so that most draws are nearly right.
BYTES = st.lists(
    st.sampled_from(
        bytes.fromhex("00 41 7f 80 8f 90 9f a0 bf c0 c1 c2 df e0 e1 ed ee ef f0 f1 f4 f5 ff"),
    ),
    max_size=12,
).map(bytes)


def verdict(data: bytes) -> tuple[bool, bool]:
    """Return (may become UTF-8, is UTF-8), found by trying what could come next."""
    endings = (b"", *(b"\x80" * n for n in (1, 2, 3)), *(b"\xbf" * n for n in (1, 2, 3)))
    endings += tuple(bytes([first]) + b"\x80" * n for first in (0x90, 0x9F, 0xA0, 0x8F) for n in (0, 1, 2))
    found = []
    for ending in endings:
        try:
            (data + ending).decode()
        except UnicodeDecodeError:
            continue
        found.append(ending)
    return bool(found), b"" in found


@given(BYTES)
def test_the_verdict_is_the_same_after_every_byte(data: bytes) -> None:
    looked = Utf8()
    for end in range(1, len(data) + 1):
        is_good, is_whole, *_ = looked.validate(data[end - 1 : end])
        assert verdict(data[:end]) == (is_good, is_good and is_whole), data[:end]
        if not is_good:
            return


@given(st.text(), st.integers(1, 7))
def test_every_text_is_good_in_pieces_of_any_size(text: str, size: int) -> None:
    looked = Utf8()
    data = text.encode("utf-8", "replace")
    last = (True, True, 0, 0)
    for at in range(0, len(data), size):
        last = looked.validate(data[at : at + size])
        assert last[0]
    assert last[1]


def test_a_new_message_begins_anew() -> None:
    looked = Utf8()
    assert (True, False) == looked.validate(b"\xe2\x82")[:2]
    looked.reset()
    assert (True, True) == looked.validate(b"x")[:2]
    looked.validate(b"\xe2")
    looked.reset()
    assert not looked.validate(b"\x82\xac")[0]
