"""Frames: how long they are, what their bits say, and how they are cut up on the way.

Spec: RFC 6455, 5.2 "Base Framing Protocol", 5.1 (masks), 7.4.1 (codes), 10.4.
"""

from __future__ import annotations

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
    BINARY,
    CLOSE,
    CONTINUATION,
    PATH,
    PING,
    PONG,
    TEXT,
    Wire,
    close_payload,
    connect,
    frame,
    head_bytes,
    upgrade_headers,
)

pytestmark = pytest.mark.slow

SIZES = [len(REQUEST), 124, 125, 126, 127, 128, 129, 65_534, 65_535, 65_536, 65_537, 131_072, MESSAGE_BYTES]


@pytest.mark.parametrize("size", SIZES)
def test_a_message_of_any_length_arrives(wire: Wire, size: int) -> None:
    wire.text(ping_of(size))
    assert_answered(wire)


@pytest.mark.parametrize("size", [1, *range(50, 110), 254, 255])
def test_an_answer_of_any_length_has_the_shortest_head(wire: Wire, size: int) -> None:
    # The wire raises if it has not.
    assert {"id": "n" * size, "result": {}} == wire.call("n" * size, "ping")


def test_large_frames_of_the_server_are_in_order_too(talker: Talker, wire: Wire) -> None:
    for size in (65_000 - 7_000, 60_000):
        sent = wire.call(
            f"large {size}", "send", {"room_id": talker.room_id, "event_type": "m.x", "content": {"a": "x" * size}}
        )
        assert "result" in sent
    page = wire.call("page", "messages", {"room_id": talker.room_id, "dir": "b", "limit": 2})
    assert [60_000, 58_000] == [len(event["content"]["a"]) for event in page["result"]["chunk"]]


@pytest.mark.parametrize("size", [MESSAGE_BYTES + 1, 2**31 - 1, 2**31, 2**32, 2**48, 2**63 - 1])
def test_a_length_over_the_limit_is_refused_before_the_payload_comes(wire: Wire, size: int) -> None:
    wire.send(frame(TEXT, length=size))
    # An answer would be taken for a part of the payload.
    closed = wire.close_frame()
    assert (1009, True) == (closed.code, closed.reason.startswith("M_TOO_LARGE"))


def test_a_message_one_byte_over_the_limit_is_refused(wire: Wire) -> None:
    wire.text(ping_of(MESSAGE_BYTES + 1))
    assert assert_fails(wire, 1009).startswith("M_TOO_LARGE")


@pytest.mark.parametrize("size", [2**63, 2**64 - 1])
def test_the_highest_bit_of_a_length_is_zero(wire: Wire, size: int) -> None:
    wire.send(frame(TEXT, length=size))
    assert wire.close_frame().code in (1002, 1009)


@pytest.mark.parametrize(
    ("size", "width"), [(0, 2), (26, 2), (125, 2), (0, 8), (26, 8), (125, 8), (126, 8), (65_535, 8)], ids=str
)
def test_a_length_that_is_not_the_shortest_is_refused(wire: Wire, size: int, width: int) -> None:
    wire.send(frame(TEXT, ping_of(size)[:size], width=width))
    assert_fails(wire, 1002)


@pytest.mark.parametrize("opcode", [TEXT, CONTINUATION, BINARY, PING, PONG, CLOSE])
@pytest.mark.parametrize("reserved", range(1, 8))
def test_reserved_bits_are_refused(wire: Wire, opcode: int, reserved: int) -> None:
    wire.send(frame(opcode, b"", reserved=reserved))
    assert_fails(wire, 1002)


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
@pytest.mark.parametrize("payload", [b"", REQUEST], ids=["empty", "full"])
@pytest.mark.parametrize("final", [True, False], ids=["final", "more"])
def test_reserved_opcodes_are_refused(wire: Wire, opcode: int, payload: bytes, final: bool) -> None:
    wire.send(frame(TEXT, REQUEST) + frame(opcode, payload, final=final) + frame(PING, b"after"))
    assert_answered(wire)
    assert_fails(wire, 1002)
    assert [] == wire.pongs


@pytest.mark.parametrize("opcode", [TEXT, PING, PONG, CLOSE])
@pytest.mark.parametrize("payload", [b"", b"{}"], ids=["empty", "full"])
def test_a_frame_without_a_mask_is_refused(wire: Wire, opcode: int, payload: bytes) -> None:
    wire.send(frame(opcode, payload, mask=None))
    assert_fails(wire, 1002)


@pytest.mark.parametrize("mask", [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\1", b"\x80\0\0\0"], ids=bytes.hex)
@pytest.mark.parametrize("size", [len(REQUEST), 27, 28, 29, 30, 4096])
def test_any_mask_is_taken_off(wire: Wire, mask: bytes, size: int) -> None:
    wire.send(frame(TEXT, ping_of(size), mask=mask))
    assert_answered(wire)


@pytest.mark.parametrize("payload", [b"", b"\x00", b"{}", REQUEST], ids=["empty", "NUL", "object", "request"])
def test_a_binary_message_closes_the_stream(wire: Wire, payload: bytes) -> None:
    wire.send(frame(BINARY, payload))
    assert_fails(wire, 1003)


def test_an_empty_message_is_no_json_and_harms_nobody(wire: Wire) -> None:
    wire.send(frame(TEXT))
    answer = wire.answer(None)
    assert "M_NOT_JSON" == answer["error"]["errcode"]
    assert_alive(wire)


FAULTS = {
    "a mask that is missing": frame(PONG, mask=None),
    "a reserved bit": frame(PONG, reserved=2),
    "a reserved opcode": frame(5, b"{}"),
    "bad UTF-8": frame(TEXT, b"\xff"),
    "a binary message": frame(BINARY, b"{}"),
    "a message that is too long": frame(TEXT, length=MESSAGE_BYTES + 1),
    "a close frame": frame(CLOSE, close_payload(1000)),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_what_comes_after_a_fault_is_not_done(talker: Talker, fault: bytes) -> None:
    with talker.dial() as wire:
        before = talker.actor.newest(talker.room_id)
        request = (
            b'{"id":1,"method":"send","params":{"room_id":"%s","event_type":"m.x","content":{}}}'
            % talker.room_id.encode()
        )
        wire.send(fault + frame(TEXT, request) + frame(PING, b"after"))
        wire.close_frame()
        assert ([], []) == (wire.pongs, wire.updates)
    assert before == talker.actor.newest(talker.room_id)


# -- cut up on the way -------------------------------------------------------------------------------------------------

# A byte of every kind: a short head, a head of two bytes of length, a ping between, an end.
SCRIPT = (
    frame(TEXT, REQUEST)
    + frame(PING, b"first")
    + frame(TEXT, ping_of(130), final=False)
    + frame(PING, b"second")
    + frame(CONTINUATION, b"  ")
    + frame(CLOSE, close_payload(1000, "bye \u20ac".encode()))
)


def play(wire: Wire) -> None:
    assert_answered(wire)
    assert_answered(wire)
    assert [b"first", b"second"] == wire.pongs
    assert wire.ending().code in (1000, 1005)


def test_a_stream_is_read_byte_by_byte(wire: Wire) -> None:
    wire.send_in_pieces([SCRIPT[at : at + 1] for at in range(len(SCRIPT))], 0.0005)
    play(wire)


@pytest.mark.parametrize("size", [2, 3, 5, 7, 11, 64])
def test_a_stream_is_read_in_small_pieces(wire: Wire, size: int) -> None:
    wire.send_in_pieces([SCRIPT[at : at + size] for at in range(0, len(SCRIPT), size)])
    play(wire)


def test_a_stream_may_be_cut_anywhere(talker: Talker) -> None:
    # In the middle there are blanks.
    for cut in [*range(1, 80), *range(80, len(SCRIPT) - 60, 9), *range(len(SCRIPT) - 60, len(SCRIPT))]:
        with talker.dial() as wire:
            wire.send_in_pieces([SCRIPT[:cut], SCRIPT[cut:]])
            play(wire)


@pytest.mark.parametrize("size", [126, 65_536], ids=str)
def test_a_long_head_may_be_cut_anywhere(talker: Talker, size: int) -> None:
    data = frame(TEXT, ping_of(size))
    with talker.dial() as wire:
        for cut in range(1, 20):
            wire.send_in_pieces([data[:cut], data[cut:]])
            assert_answered(wire)


def test_a_handshake_may_be_cut_anywhere(talker: Talker) -> None:
    headers = upgrade_headers(talker.url, token=talker.token)
    head = head_bytes(f"GET {PATH}?since={talker.since} HTTP/1.1", headers)
    for cut in range(1, len(head), 3):
        with connect(talker.url) as wire:
            wire.send_in_pieces([head[:cut], head[cut:]])
            wire.read_upgrade(headers["Sec-WebSocket-Key"])
    with connect(talker.url) as wire:
        wire.send_in_pieces([head[at : at + 1] for at in range(len(head))], 0.0002)
        wire.read_upgrade(headers["Sec-WebSocket-Key"])
        assert_alive(wire)


@pytest.mark.parametrize("cut", [0, 1, 2, 6, 10, 31])
def test_frames_may_come_together_with_the_handshake(talker: Talker, cut: int) -> None:
    """A client that knows that it will be let in need not wait; nothing may be lost in between."""
    headers = upgrade_headers(talker.url, token=talker.token)
    head = head_bytes(f"GET {PATH}?since={talker.since} HTTP/1.1", headers)
    frames = frame(TEXT, REQUEST) + frame(PING, b"here")
    with connect(talker.url) as wire:
        wire.send_in_pieces([head + frames[:cut], frames[cut:]])
        wire.read_upgrade(headers["Sec-WebSocket-Key"])
        assert_answered(wire)
        assert b"here" == wire.read_pong()
        assert_alive(wire)
