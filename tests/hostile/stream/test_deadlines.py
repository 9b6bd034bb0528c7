"""A server with little patience: who is too slow, silent or too many has to go, and is told why."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from tests.hostile.client import Actor
from tests.hostile.stream.conftest import Witness, established
from tests.support.server import RunningServer
from tests.support.stream_wire import (
    CLOSE,
    CONTINUATION,
    PATH,
    PING,
    TEXT,
    Closed,
    Refused,
    Wire,
    close_payload,
    connect,
    dial,
    frame,
    head_bytes,
    upgrade_headers,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("strict_unharmed")]

Keep = Callable[[Any], Any]
# A deadline of one second is found to have passed within the time of a sweep over all sessions, which is four; the rest
# is for a machine that has other things to do.
SWEEP_S = 15.0
ELSEWHERE = "127.0.0.7"


@pytest.fixture
def slowpoke(strict: RunningServer) -> Actor:
    return Actor(strict.url, "slowpoke").register()


@pytest.fixture
def stream(slowpoke: Actor) -> Iterator[Wire]:
    with dial(slowpoke.url, token=slowpoke.token, query=f"since={slowpoke.sync()['next_batch']}") as opened:
        yield opened


def assert_too_slow(wire: Wire) -> None:
    began = time.monotonic()
    closed = wire.ending()
    assert (4408, True) == (closed.code, closed.reason.startswith("M_UNKNOWN")), closed
    assert time.monotonic() - began < 1 + SWEEP_S


def assert_leaves(wire: Wire, dripping: bytes) -> None:
    """Fail unless the server closes while frames and pings drip."""
    deadline = time.monotonic() + 1 + SWEEP_S
    while time.monotonic() < deadline:
        try:
            wire.send(dripping)
            wire.read_pong(0.5)
            time.sleep(0.05)
        except TimeoutError:
            continue
        except (Closed, ConnectionError) as closed:
            assert 4408 == getattr(closed, "code", 4408), closed
            return
    pytest.fail("still open")


def test_who_never_says_who_it_is_has_to_go(strict: RunningServer) -> None:
    with dial(strict.url) as wire:
        assert_too_slow(wire)


def test_pings_are_no_authentication(strict: RunningServer) -> None:
    with dial(strict.url) as wire:
        assert_leaves(wire, frame(PING))


def test_half_an_auth_is_none(strict: RunningServer) -> None:
    with dial(strict.url) as wire:
        wire.send(frame(TEXT, b'{"id":1,"method":"auth"', final=False))
        assert_too_slow(wire)


def test_a_message_that_is_not_ended_is_too_slow(stream: Wire) -> None:
    stream.send(frame(TEXT, b"{", final=False))
    assert_too_slow(stream)


def test_a_frame_that_is_not_ended_is_too_slow(stream: Wire) -> None:
    # A pong would be taken for a part of it.
    stream.answers_pings = False
    stream.send(frame(TEXT, b"{}", length=1000))
    assert_too_slow(stream)


@pytest.mark.parametrize("piece", [b" ", b""], ids=["blanks", "nothing"])
def test_fragments_that_drip_without_end_are_too_slow(stream: Wire, piece: bytes) -> None:
    stream.send(frame(TEXT, b"{", final=False))
    assert_leaves(stream, frame(CONTINUATION, piece, final=False) + frame(PING))


def test_a_head_of_a_frame_that_is_not_ended_is_no_sign_of_life(stream: Wire) -> None:
    stream.answers_pings = False
    stream.send(frame(TEXT, b"{}")[:3])
    assert_too_slow(stream)


def test_who_answers_no_ping_is_gone(stream: Wire) -> None:
    stream.answers_pings = False
    assert_too_slow(stream)


def test_who_answers_pings_stays(stream: Wire) -> None:
    deadline = time.monotonic() + 4
    while time.monotonic() < deadline:
        with suppress(TimeoutError):
            stream.read_message(deadline - time.monotonic())
    assert stream.pings >= 1
    assert {"id": 1, "result": {}} == stream.call(1, "ping")


def test_half_open_connections_are_given_up(slowpoke: Actor, pile: Keep) -> None:
    """Who has gone without a word is not there after a while, and makes room for others."""
    since = slowpoke.sync()["next_batch"]
    for _ in range(5):
        pile(dial(slowpoke.url, token=slowpoke.token, query=f"since={since}")).answers_pings = False
    with pytest.raises(Refused) as caught:
        dial(slowpoke.url, token=slowpoke.token)
    assert 429 == caught.value.status
    deadline = time.monotonic() + 15
    while True:
        try:
            with dial(slowpoke.url, token=slowpoke.token, query=f"since={since}") as wire:
                assert {"id": 1, "result": {}} == wire.call(1, "ping")
            return
        except Refused:
            assert time.monotonic() < deadline
            time.sleep(0.3)


def test_who_closes_and_takes_nothing_in_is_forgotten(strict: RunningServer, slowpoke: Actor, pile: Keep) -> None:
    """Whether the close frame is read, or the server does not read on before others have: it ends."""
    room_id = slowpoke.create_room()
    since = slowpoke.sync()["next_batch"]
    readers: list[Wire] = [
        pile(dial(slowpoke.url, token=slowpoke.token, query=f"since={since}", receive_bytes=4096)) for _ in range(5)
    ]
    before = established(strict)
    for number in range(12):
        path = f"/_matrix/client/v3/rooms/{room_id}/send/m.x/close{number}"
        slowpoke.send("PUT", path, json.dumps({"a": "x" * 40_000}).encode())
        if number > 7:
            readers[number - 8].send(frame(CLOSE, close_payload(1000)))
    readers[4].send(frame(CLOSE, close_payload(1000)))
    deadline = time.monotonic() + 15
    while established(strict) > before - 5 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert established(strict) <= before - 5


def test_thousands_from_one_address_are_refused_and_others_come_in(
    strict: RunningServer, strict_witness: Witness, pile: Keep
) -> None:
    """40 from one address here; the others are told to wait."""
    refused: list[Refused] = []
    opened: list[Wire] = []
    for _ in range(2_000):
        try:
            opened.append(pile(dial(strict.url, source=ELSEWHERE)))
        except Refused as refusal:
            refused.append(refusal)
        if len(refused) % 500 == 1:
            strict_witness.check()
    assert refused
    assert all((429, "M_LIMIT_EXCEEDED") == (each.status, each.json["errcode"]) for each in refused)
    assert all(each.json["retry_after_ms"] > 0 and int(each.headers["retry-after"]) > 0 for each in refused)
    strict_witness.check()


def test_those_that_come_at_the_same_time_are_counted_too(strict: RunningServer, pile: Keep) -> None:
    wires = []
    for _ in range(60):
        wire: Wire = pile(connect(strict.url, source="127.0.0.8"))
        headers = upgrade_headers(strict.url)
        wires.append((wire, headers["Sec-WebSocket-Key"]))
        wire.send(head_bytes(f"GET {PATH} HTTP/1.1", headers))
    opened = 0
    for wire, key in wires:
        try:
            wire.read_upgrade(key)
            opened += 1
        except Refused as refusal:
            assert 429 == refusal.status
    assert opened <= 40
