"""Messages in several frames, and the control frames between them.

Spec: RFC 6455, 5.4 "Fragmentation", 5.5 "Control Frames".
"""

from __future__ import annotations

import pytest

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
    PING,
    PONG,
    TEXT,
    Wire,
    close_payload,
    fragments,
    frame,
)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("size", [1, 2, 3, 13, 25, 26])
def test_a_message_in_fragments_of_any_size_is_one_message(wire: Wire, size: int) -> None:
    wire.send(fragments(TEXT, REQUEST, size))
    assert_answered(wire)
    assert_alive(wire)


@pytest.mark.parametrize("cut", range(len(REQUEST) + 1))
def test_a_message_may_be_cut_in_two_anywhere(wire: Wire, cut: int) -> None:
    wire.send(frame(TEXT, REQUEST[:cut], final=False) + frame(CONTINUATION, REQUEST[cut:]))
    assert_answered(wire)


def test_empty_fragments_add_nothing(wire: Wire) -> None:
    middle = frame(CONTINUATION, b"", final=False)
    wire.send(
        frame(TEXT, b"", final=False)
        + middle
        + frame(CONTINUATION, REQUEST[:9], final=False)
        + middle * 3
        + frame(CONTINUATION, REQUEST[9:], final=False)
        + frame(CONTINUATION)
    )
    assert_answered(wire)
    assert_alive(wire)


def test_a_message_of_empty_fragments_is_an_empty_message(wire: Wire) -> None:
    wire.send(frame(TEXT, b"", final=False) + frame(CONTINUATION, b"", final=False) + frame(CONTINUATION))
    assert "M_NOT_JSON" == wire.answer(None)["error"]["errcode"]
    assert_alive(wire)


def test_the_limit_holds_for_the_fragments_together(wire: Wire) -> None:
    wire.send(fragments(TEXT, ping_of(MESSAGE_BYTES), 32_768))
    assert_answered(wire)
    wire.send(fragments(TEXT, ping_of(MESSAGE_BYTES + 1), 32_768))
    assert assert_fails(wire, 1009).startswith("M_TOO_LARGE")


def test_two_messages_in_fragments_are_two(wire: Wire) -> None:
    wire.send(fragments(TEXT, REQUEST, 5) + fragments(TEXT, REQUEST, 7))
    assert_answered(wire)
    assert_answered(wire)


def test_a_ping_between_fragments_is_answered_at_once(wire: Wire) -> None:
    wire.send(frame(TEXT, REQUEST[:5], final=False) + frame(PING, b"now"))
    assert b"now" == wire.read_pong()
    wire.send(frame(CONTINUATION, REQUEST[5:9], final=False) + frame(PING) + frame(PONG, b"x"))
    assert b"" == wire.read_pong()
    wire.send(frame(CONTINUATION, REQUEST[9:]))
    assert_answered(wire)


def test_a_close_between_fragments_ends_the_stream(wire: Wire) -> None:
    wire.send(frame(TEXT, REQUEST[:5], final=False) + frame(CLOSE, close_payload(1000)))
    assert wire.ending().code in (1000, 1005)


ILLEGAL = {
    "a continuation of nothing": frame(CONTINUATION, REQUEST),
    "a continuation of nothing, to be continued": frame(CONTINUATION, REQUEST, final=False) + frame(CONTINUATION),
    "an empty continuation of nothing": frame(CONTINUATION),
    "a continuation of what is complete": fragments(TEXT, REQUEST, 5) + frame(CONTINUATION, b" "),
    "text inside a message": frame(TEXT, b"{", final=False) + frame(TEXT, REQUEST),
    "a beginning inside a message": frame(TEXT, b"{", final=False) + frame(TEXT, REQUEST, final=False),
    "binary inside a message": frame(TEXT, b"{", final=False) + frame(BINARY, REQUEST),
    "text inside a message, after a ping": frame(TEXT, b"{", final=False) + frame(PING) + frame(TEXT, REQUEST),
    "a ping in fragments": frame(PING, b"a", final=False) + frame(CONTINUATION, b"b"),
    "a pong in fragments": frame(PONG, b"a", final=False) + frame(CONTINUATION, b"b"),
    "a close in fragments": frame(CLOSE, b"\x03", final=False) + frame(CONTINUATION, b"\xe8"),
    "a ping in fragments inside a message": frame(TEXT, b"{", final=False) + frame(PING, b"a", final=False),
}


@pytest.mark.parametrize("data", ILLEGAL.values(), ids=ILLEGAL)
def test_frames_out_of_their_order_are_refused(wire: Wire, data: bytes) -> None:
    wire.send(data + frame(TEXT, b'{"id":"later","method":"ping"}'))
    assert_fails(wire, 1002)
