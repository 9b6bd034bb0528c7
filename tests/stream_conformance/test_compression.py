"""permessage-deflate: what is agreed to, what is then sent, and what is broken or a bomb.

Spec: RFC 7692, 5.1, 7.1 (offers), 7.2 (payloads); docs/stream.md, "Compression".
"""

from __future__ import annotations

import itertools
import os
import re
import zlib
from collections.abc import Callable

import pytest

from tests.stream_conformance.conftest import Talker
from tests.stream_conformance.sayings import (
    MESSAGE_BYTES,
    REQUEST,
    assert_alive,
    assert_answered,
    assert_fails,
    ping_of,
)
from tests.support.stream_wire import (
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Wire,
    connect,
    deflated,
    extension_parameters,
    fragments,
    frame,
    upgrade_headers,
)

pytestmark = pytest.mark.slow

OpenStream = Callable[[str | None], Wire]
COMPRESSED = 4
OFFER = "permessage-deflate; client_max_window_bits"
MAX_BITS = 12


def squeezed(message: bytes, bits: int = 9) -> bytes:
    return frame(TEXT, deflated(message, bits=bits), reserved=COMPRESSED)


# -- offers ------------------------------------------------------------------------------------------------------------

SIMPLE = [
    "permessage-deflate",
    "permessage-deflate; client_max_window_bits",
    *(f"permessage-deflate; client_max_window_bits={bits}" for bits in range(8, 16)),
    *(f"permessage-deflate; server_max_window_bits={bits}" for bits in range(8, 16)),
    'permessage-deflate; client_max_window_bits="12"',
    "permessage-deflate;client_max_window_bits ; server_max_window_bits = 10",
]
COMBINED = [
    "; ".join(("permessage-deflate", *parts))
    for size in (1, 2, 3, 4)
    for parts in itertools.combinations(
        (
            "client_no_context_takeover",
            "server_no_context_takeover",
            "client_max_window_bits",
            "server_max_window_bits=11",
        ),
        size,
    )
]
# As browsers and libraries send them.
SEEN = [
    "permessage-deflate; client_max_window_bits, x-webkit-deflate-frame",
    "permessage-deflate; client_no_context_takeover; server_max_window_bits=9, permessage-deflate",
    "permessage-deflate; server_max_window_bits=99, permessage-deflate; client_max_window_bits",
    "permessage-bzip2, permessage-deflate; client_max_window_bits",
]


@pytest.mark.parametrize("offer", SIMPLE + COMBINED + SEEN)
def test_an_offer_is_taken_within_its_bounds_or_declined(talker: Talker, open_stream: OpenStream, offer: str) -> None:
    wire = open_stream(offer)
    header = wire.headers.get("sec-websocket-extensions")
    if header is not None:
        agreed = extension_parameters(header)
        known = {
            "client_no_context_takeover",
            "server_no_context_takeover",
            "client_max_window_bits",
            "server_max_window_bits",
        }
        assert agreed.keys() <= known
        # Spec: RFC 7692, 7.1.2.2: not in an answer to an offer without it.
        assert "client_max_window_bits" not in agreed or "client_max_window_bits" in offer
        # What the server itself does not use it need not say; the wire inflates each message for itself, in 4 KiB.
        assert "client_no_context_takeover" in agreed
        assert "server_no_context_takeover" in agreed or "server_no_context_takeover" not in offer
        if "client_max_window_bits" in offer:
            assert 8 <= int(agreed["client_max_window_bits"] or "") <= MAX_BITS
        asked = re.search(r"server_max_window_bits ?= ?([0-9]+)", offer)
        if asked is not None and "," not in offer:
            assert 8 <= int(agreed["server_max_window_bits"] or "") <= int(asked[1])
        wire.send(squeezed(REQUEST))
        assert_answered(wire)
        content = {"a": os.urandom(4000).hex() * 2}
        event = wire.call(
            f"big {os.urandom(8).hex()}", "send", {"room_id": talker.room_id, "event_type": "m.x", "content": content}
        )
        page = wire.call("page", "messages", {"room_id": talker.room_id, "dir": "b", "limit": 1})
        assert [event["result"]["event_id"]] == [found["event_id"] for found in page["result"]["chunk"]]
        assert wire.compressed
    assert_alive(wire)


def test_the_offer_of_browsers_is_taken(open_stream: OpenStream) -> None:
    wire = open_stream(OFFER)
    agreed = extension_parameters(wire.headers["sec-websocket-extensions"])
    assert int(agreed["client_max_window_bits"] or "") <= MAX_BITS


INVALID = [
    "permessage-deflate; unknown_parameter",
    "permessage-deflate; client_no_context_takeover=1",
    "permessage-deflate; server_no_context_takeover=true",
    "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
    "permessage-deflate; server_max_window_bits",
    "permessage-deflate; server_max_window_bits=",
    "permessage-deflate; server_max_window_bits=7",
    "permessage-deflate; server_max_window_bits=16",
    "permessage-deflate; server_max_window_bits=010",
    "permessage-deflate; server_max_window_bits=+10",
    "permessage-deflate; server_max_window_bits=ten",
    "permessage-deflate; server_max_window_bits=10; server_max_window_bits=11",
    "permessage-deflate; client_max_window_bits=7",
    "permessage-deflate; client_max_window_bits=16",
    "permessage-deflate; client_max_window_bits=012",
    "permessage-deflate; client_max_window_bits=" + "9" * 5_000,
]


@pytest.mark.parametrize("offer", INVALID, ids=lambda offer: offer[18:80])
def test_an_invalid_offer_is_declined(open_stream: OpenStream, offer: str) -> None:
    """Spec: RFC 7692, 7.1: "A server MUST decline"; the connection goes on without."""
    wire = open_stream(offer)
    assert "sec-websocket-extensions" not in wire.headers
    assert_alive(wire)


ODD = [
    "",
    ";",
    ",",
    ",,,",
    "=",
    ";;=;,=",
    "permessage-deflate;",
    "permessage-deflate; ",
    "permessage-deflate=1",
    'permessage-deflate; client_max_window_bits="',
    "permessage-bzip2; client_max_compress_level",
    "permessage-snappy",
    "permessage-brotli",
    "bbf-usp-protocol; eid=1",
    "\u00e9",
    "permessage-deflate" + ", permessage-deflate; unknown" * 200,
    "permessage-deflate" + "; client_max_window_bits" * 200,
    "x" * 8_000,
]


@pytest.mark.parametrize("offer", ODD, ids=lambda offer: ascii(offer)[:50])
def test_rubbish_instead_of_an_offer_does_no_harm(talker: Talker, offer: str) -> None:
    headers = upgrade_headers(talker.url, token=talker.token, offer=offer)
    with connect(talker.url) as wire:
        try:
            wire.upgrade(headers, f"since={talker.since}")
        except Exception as refused:
            assert getattr(refused, "status", None) == 400, refused
        else:
            assert_alive(wire)


def test_offers_may_be_in_two_lines(talker: Talker) -> None:
    """Spec: RFC 6455, 9.1."""
    headers = upgrade_headers(talker.url, token=talker.token, offer="x-unknown")
    with connect(talker.url) as wire:
        # Names of headers are the same in any case.
        wire.upgrade({**headers, "sec-websocket-extensions": OFFER}, f"since={talker.since}")
        assert "sec-websocket-extensions" in wire.headers
        assert_alive(wire)


# -- messages ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def packed(open_stream: OpenStream) -> Wire:
    """A stream with compression."""
    wire = open_stream(OFFER)
    assert "sec-websocket-extensions" in wire.headers
    return wire


@pytest.mark.parametrize("size", [26, 127, 1023, 1024, 65_536, MESSAGE_BYTES - 1, MESSAGE_BYTES])
def test_a_compressed_message_of_any_length_arrives(packed: Wire, size: int) -> None:
    packed.send(squeezed(ping_of(size)))
    assert_answered(packed)


def test_messages_may_go_uncompressed(packed: Wire) -> None:
    packed.text(REQUEST)
    assert_answered(packed)
    packed.send(squeezed(REQUEST))
    assert_answered(packed)
    packed.text(REQUEST)
    assert_answered(packed)


def test_short_messages_of_the_server_go_uncompressed(packed: Wire) -> None:
    for _ in range(3):
        packed.send(squeezed(REQUEST))
        assert_answered(packed)
    assert 0 == packed.compressed


def test_long_messages_of_the_server_go_compressed(packed: Wire, talker: Talker) -> None:
    content = {"a": "b" * 20_000}
    packed.call(
        f"big {os.urandom(8).hex()}", "send", {"room_id": talker.room_id, "event_type": "m.x", "content": content}
    )
    page = packed.call("page", "messages", {"room_id": talker.room_id, "dir": "b", "limit": 1})
    assert content == page["result"]["chunk"][0]["content"]
    assert packed.compressed


@pytest.mark.parametrize("size", [1, 2, 5, 13])
def test_a_compressed_message_may_come_in_fragments(packed: Wire, size: int) -> None:
    packed.send(fragments(TEXT, deflated(REQUEST), size, reserved=COMPRESSED))
    assert_answered(packed)
    assert_alive(packed)


def test_a_compressed_message_may_be_cut_anywhere_around_a_ping(packed: Wire) -> None:
    data = deflated(ping_of(300))
    for cut in range(len(data) + 1):
        packed.send(
            frame(TEXT, data[:cut], final=False, reserved=COMPRESSED)
            + frame(PING, b"between")
            + frame(CONTINUATION, data[cut:])
        )
        assert b"between" == packed.read_pong()
        assert_answered(packed)


def stored_blocks() -> bytes:
    deflater = zlib.compressobj(0, zlib.DEFLATED, -9)
    return (deflater.compress(ping_of(5000)) + deflater.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\0\0\xff\xff")


def several_blocks() -> bytes:
    deflater = zlib.compressobj(9, zlib.DEFLATED, -9)
    data = b""
    for flush, piece in zip((zlib.Z_FULL_FLUSH, zlib.Z_SYNC_FLUSH), (REQUEST[:9], REQUEST[9:]), strict=True):
        data += deflater.compress(piece) + deflater.flush(flush)
    return data.removesuffix(b"\0\0\xff\xff")


def fixed_block() -> bytes:
    deflater = zlib.compressobj(9, zlib.DEFLATED, -9, 8, zlib.Z_FIXED)
    return (deflater.compress(REQUEST) + deflater.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\0\0\xff\xff")


def last_block() -> bytes:
    # Spec: RFC 7692, 7.2.3.4 "Using a DEFLATE Block with BFINAL Set to 1".
    deflater = zlib.compressobj(9, zlib.DEFLATED, -9)
    return deflater.compress(REQUEST) + deflater.flush(zlib.Z_FINISH) + b"\0"


def with_tail() -> bytes:
    # Spec: RFC 7692, 7.2.3.5: an empty block more is no fault.
    return deflated(REQUEST) + b"\0\0\xff\xff" + b"\0"


WAYS = {
    "stored blocks": stored_blocks,
    "several blocks": several_blocks,
    "a fixed code": fixed_block,
    "a block that says it is the last": last_block,
    "an empty block at the end": with_tail,
}


@pytest.mark.parametrize("make", WAYS.values(), ids=WAYS)
def test_every_way_to_deflate_is_read(packed: Wire, make: Callable[[], bytes]) -> None:
    packed.send(frame(TEXT, make(), reserved=COMPRESSED))
    assert_answered(packed)
    assert_alive(packed)


def test_a_compressed_empty_message_is_an_empty_message(packed: Wire) -> None:
    # Spec: RFC 7692, 7.2.3.6.
    packed.send(frame(TEXT, b"\0", reserved=COMPRESSED))
    assert "M_NOT_JSON" == packed.answer(None)["error"]["errcode"]
    assert_alive(packed)


# -- faults ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE, CONTINUATION])
def test_only_the_first_frame_of_a_message_says_that_it_is_compressed(packed: Wire, opcode: int) -> None:
    if opcode == CONTINUATION:
        packed.send(frame(TEXT, b"{", final=False))
    packed.send(frame(opcode, b"", reserved=COMPRESSED))
    assert_fails(packed, 1002)


@pytest.mark.parametrize("reserved", [1, 2, 3, 5, 6, 7])
def test_the_other_bits_stay_reserved(packed: Wire, reserved: int) -> None:
    packed.send(frame(TEXT, deflated(REQUEST), reserved=reserved))
    assert_fails(packed, 1002)


def test_nothing_is_inflated_that_was_not_agreed_to(wire: Wire) -> None:
    wire.send(squeezed(REQUEST))
    assert_fails(wire, 1002)


CORRUPT = {
    "text": REQUEST,
    "FF": b"\xff" * 20,
    "a block of an unknown type": b"\x07",
    "a stored block with a wrong length": b"\x00\x05\x00\x00\x00hello",
    "a distance before the beginning": bytes.fromhex("4b0402"),
    "a flipped bit": bytes([*deflated(b"x" + os.urandom(0) + bytes(range(64)) * 9)[:-9], 0xEE, 0xEE, 0xEE]),
    "rubbish after the last block": last_block() + b"\xff\xff\xff\xff rubbish",
}


@pytest.mark.parametrize("data", CORRUPT.values(), ids=CORRUPT)
def test_what_cannot_be_inflated_is_refused(packed: Wire, data: bytes) -> None:
    """It closes the stream; what can be inflated after all is answered as what it is."""
    packed.send(frame(TEXT, data, reserved=COMPRESSED))
    try:
        answer = packed.reply()
    except Exception as closed:
        assert getattr(closed, "code", None) in (1002, 1007), closed
    else:
        assert {"id": "n", "result": {}} == answer or "M_NOT_JSON" == answer["error"]["errcode"]


def test_nothing_is_remembered_from_one_message_to_the_next(packed: Wire) -> None:
    deflater = zlib.compressobj(9, zlib.DEFLATED, -9)
    text = REQUEST + os.urandom(60).hex().encode()
    for _ in range(2):
        data = deflater.compress(text) + deflater.flush(zlib.Z_SYNC_FLUSH)
        packed.send(frame(TEXT, data.removesuffix(b"\0\0\xff\xff"), reserved=COMPRESSED))
    assert "M_NOT_JSON" == packed.answer(None)["error"]["errcode"]
    assert_fails(packed, 1002, 1007)


def test_compressed_text_is_utf_8(packed: Wire) -> None:
    packed.send(squeezed(b'{"id":"\xff","method":"ping"}'))
    assert_fails(packed, 1007)


def test_a_compressed_message_may_not_end_inside_a_character(packed: Wire) -> None:
    packed.send(squeezed(REQUEST + b"\xe2\x82"))
    assert_fails(packed, 1007)


@pytest.mark.parametrize("size", [MESSAGE_BYTES + 1, 2 * MESSAGE_BYTES, 50 * MESSAGE_BYTES])
@pytest.mark.parametrize("piece", [None, 100], ids=["one frame", "fragments"])
def test_what_inflates_to_too_much_is_refused(packed: Wire, size: int, piece: int | None) -> None:
    data = deflated(ping_of(size))
    packed.send(fragments(TEXT, data, piece or len(data), reserved=COMPRESSED))
    assert assert_fails(packed, 1009).startswith("M_TOO_LARGE")
