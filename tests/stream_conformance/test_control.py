"""Pings, pongs, and the end of a connection.

Spec: RFC 6455, 5.5 "Control Frames", 7.1 and 7.4 (closing and its codes).
"""

from __future__ import annotations

import time

import pytest

from tests.stream_conformance.conftest import Talker
from tests.stream_conformance.sayings import REQUEST, assert_alive, assert_answered, assert_fails
from tests.support.stream_wire import CLOSE, PING, PONG, TEXT, Closed, Wire, close_payload, frame

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 124, 125])
def test_a_ping_is_answered_with_what_it_said(wire: Wire, size: int) -> None:
    payload = bytes(range(256))[255 - size : 255]
    wire.send(frame(PING, payload))
    assert payload == wire.read_pong()
    assert_alive(wire)


def test_pings_are_answered_in_order(wire: Wire) -> None:
    wire.send(b"".join(frame(PING, str(number).encode()) for number in range(100)))
    assert [str(number).encode() for number in range(100)] == [wire.read_pong() for _ in range(100)]


def test_a_ping_byte_by_byte_is_answered(wire: Wire) -> None:
    data = frame(PING, b"slowly")
    wire.send_in_pieces([data[at : at + 1] for at in range(len(data))])
    assert b"slowly" == wire.read_pong()


@pytest.mark.parametrize("payload", [b"", b"x", b"\xff\xfe", b"a" * 125], ids=["empty", "x", "binary", "long"])
def test_a_pong_that_nobody_asked_for_is_ignored(wire: Wire, payload: bytes) -> None:
    wire.send(frame(PONG, payload) * 3)
    assert_alive(wire)
    assert [] == wire.pongs


@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE])
@pytest.mark.parametrize("size", [126, 127, 1000, 65_536])
def test_a_control_frame_over_125_bytes_is_refused(wire: Wire, opcode: int, size: int) -> None:
    wire.send(frame(opcode, close_payload(1000, b"a" * (size - 2))))
    assert_fails(wire, 1002)


@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE])
@pytest.mark.parametrize("width", [2, 8])
def test_a_control_frame_has_its_length_in_one_byte(wire: Wire, opcode: int, width: int) -> None:
    wire.send(frame(opcode, close_payload(1000), width=width))
    assert_fails(wire, 1002)


# -- closing -----------------------------------------------------------------------------------------------------------

GOOD_CODES = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4401, 4999]
# Registered after the RFC: known to some, not to others.
LATER_CODES = [1012, 1013, 1014]
BAD_CODES = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 32_768, 65_535]


@pytest.mark.parametrize("code", GOOD_CODES + LATER_CODES)
def test_who_closes_is_answered_and_let_go(wire: Wire, code: int) -> None:
    wire.send(frame(CLOSE, close_payload(code)))
    expected = (code, 1000, 1005) if code in GOOD_CODES else (code, 1000, 1002, 1005)
    assert wire.ending().code in expected


@pytest.mark.parametrize("code", BAD_CODES)
@pytest.mark.parametrize("reason", [b"", b"why"], ids=["bare", "with a reason"])
def test_a_code_that_nobody_may_send_is_refused(wire: Wire, code: int, reason: bytes) -> None:
    wire.send(frame(CLOSE, close_payload(code, reason)))
    assert_fails(wire, 1002)


def test_a_close_without_a_code_is_answered(wire: Wire) -> None:
    wire.send(frame(CLOSE))
    assert wire.ending().code in (1000, 1005)


@pytest.mark.parametrize("payload", [b"\x03", b"\x00"], ids=bytes.hex)
def test_half_a_code_is_refused(wire: Wire, payload: bytes) -> None:
    wire.send(frame(CLOSE, payload))
    assert_fails(wire, 1002)


@pytest.mark.parametrize("reason", ["x", "x" * 123, "\u20ac" * 41, "\0", "\U0010ffff"], ids=ascii)
def test_a_close_with_a_reason_is_answered(wire: Wire, reason: str) -> None:
    wire.send(frame(CLOSE, close_payload(1000, reason.encode())))
    assert wire.ending().code in (1000, 1005)


@pytest.mark.parametrize("reason", [b"\xff", b"a\xed\xa0\x80", b"\xe2\x82", b"\xc0\x80"], ids=bytes.hex)
def test_a_reason_that_is_not_utf_8_is_refused(wire: Wire, reason: bytes) -> None:
    wire.send(frame(CLOSE, close_payload(1000, reason)))
    assert_fails(wire, 1007)


def test_what_comes_after_a_close_is_not_read(wire: Wire) -> None:
    wire.send(frame(CLOSE, close_payload(1000)) + frame(TEXT, REQUEST) + frame(PING, b"x") + frame(CLOSE))
    assert wire.ending().code in (1000, 1005)
    assert [] == wire.pongs


def test_requests_before_a_close_are_done(talker: Talker) -> None:
    """A client may say a last thing and go; what it said is stored."""
    with talker.dial() as wire:
        wire.request("last", "send", {"room_id": talker.room_id, "event_type": "m.x", "content": {"last": "words"}})
        wire.send(frame(CLOSE, close_payload(1000)))
        wire.ending()
    found: object = None
    deadline = time.monotonic() + 3
    while found != {"last": "words"} and time.monotonic() < deadline:
        page = talker.actor.call("GET", f"/rooms/{talker.room_id}/messages?dir=b&limit=1")
        found = page["chunk"][0]["content"]
    assert {"last": "words"} == found


def test_who_does_not_answer_a_close_is_let_go_all_the_same(wire: Wire) -> None:
    wire.send(frame(TEXT, b"\xff"))
    assert 1007 == wire.close_frame().code
    wire.rest(timeout_s=6)


def test_who_goes_on_after_a_close_is_let_go_all_the_same(wire: Wire) -> None:
    """Neither what a client still sends nor faults of it keep the connection open."""
    wire.send(frame(TEXT, b"\xff"))
    assert 1007 == wire.close_frame().code
    try:
        for _ in range(60):
            wire.send(frame(TEXT, REQUEST) + frame(PING, b"x"))
            assert wire.is_silent(0.1)
    except (ConnectionError, AssertionError):
        pass
    assert b"" == wire.rest(timeout_s=1)


def test_half_a_connection_is_none(wire: Wire) -> None:
    wire.text(REQUEST)
    assert_answered(wire)
    wire.finish_sending()
    with pytest.raises(Closed):
        while True:
            wire.read_frame(5)


def test_an_answered_stream_outlives_a_quiet_moment(wire: Wire) -> None:
    # The user's own presence may still have come in the first half second.
    assert wire.is_silent(0.5) or wire.is_silent(0.5)
    assert_alive(wire)
