"""Messages, and what has to come back."""

from __future__ import annotations

from tests.support.stream_wire import PING, Wire, frame

MESSAGE_BYTES = 256 * 1024
REQUEST = b'{"id":"n","method":"ping"}'


def ping_of(size: int) -> bytes:
    """Return a request of exactly so many bytes: JSON may have spaces at its end."""
    return REQUEST.ljust(size)


def assert_answered(wire: Wire) -> None:
    """Fail unless the next answer is to `ping_of`, and nothing came of anything before it."""
    assert {"id": "n", "result": {}} == wire.answer("n")


def assert_alive(wire: Wire) -> None:
    """Fail unless the connection goes on as if nothing had been."""
    wire.send(frame(PING, b"still there?"))
    assert b"still there?" == wire.read_pong()
    wire.text(REQUEST)
    assert_answered(wire)


def assert_fails(wire: Wire, *codes: int) -> str:
    """Fail unless the server closes with one of the codes; return the reason."""
    closed = wire.ending()
    assert closed.code in codes, f"{closed.code} {closed.reason}"
    return closed.reason
