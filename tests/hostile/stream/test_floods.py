"""Too much: requests whose answers nobody reads, messages without end, bombs, and connections without number."""

from __future__ import annotations

import itertools
import json
import os
import time
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from tests.hostile.client import Actor
from tests.hostile.stream.conftest import MARGIN_BYTES, Witness, established, forget_peak, resident_bytes
from tests.support.server import RunningServer
from tests.support.stream_wire import (
    CONTINUATION,
    DEFLATE_TAIL,
    PATH,
    PING,
    TEXT,
    Refused,
    Wire,
    connect,
    deflated,
    dial,
    fragments,
    frame,
    head_bytes,
    upgrade_headers,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("unharmed"),
    # Nothing here is about the database.
    pytest.mark.parametrize("running", ["sqlite"], indirect=True, scope="package"),
]

Keep = Callable[[Any], Any]
OFFER = "permessage-deflate; client_max_window_bits"
# How long a flood is kept up, if the server keeps reading.
FLOOD_S = 1.5
SMALL_BUFFER = 4096


@pytest.fixture
def flood(mallory: Actor, pile: Keep, running: RunningServer, witness: Witness) -> Callable[..., Wire]:
    """A function that sends bytes without reading, as long as they are taken; the server's peak is bounded, too."""

    def send(data: bytes, *, offer: str | None = None) -> Wire:
        query = f"since={mallory.sync()['next_batch']}"
        wire: Wire = pile(dial(mallory.url, token=mallory.token, query=query, offer=offer, receive_bytes=SMALL_BUFFER))
        wire.answers_pings = False
        forget_peak(running)
        before = resident_bytes(running)
        wire.offer(data, FLOOD_S)
        witness.check()
        assert resident_bytes(running, "VmHWM") - before < MARGIN_BYTES
        return wire

    return send


def requests(count: int, method: str, params: Any = None) -> bytes:
    """Return so many requests."""
    return b"".join(
        frame(TEXT, json.dumps({"id": number, "method": method, "params": params or {}}).encode(), mask=b"\0\0\0\0")
        for number in range(count)
    )


# -- nobody reads ------------------------------------------------------------------------------------------------------


def test_ten_thousand_requests_are_answered_once_each(wire: Wire) -> None:
    numbers = iter(range(10_000))
    answered: list[int] = []
    for part in iter(lambda: list(itertools.islice(numbers, 500)), []):
        wire.send(b"".join(frame(TEXT, b'{"id":%d,"method":"ping"}' % number) for number in part))
        answered += [wire.reply()["id"] for _ in part]
    assert list(range(10_000)) == sorted(answered)


def test_ten_thousand_pings_whose_answers_nobody_reads_wait_in_the_socket(flood: Callable[..., Wire]) -> None:
    flood(requests(10_000, "ping", {"a": "x" * 500}))


def test_errors_that_nobody_reads_wait_too(flood: Callable[..., Wire]) -> None:
    flood(frame(TEXT, b"x", mask=b"\0\0\0\0") * 500_000)


def test_ten_thousand_sends_whose_answers_nobody_reads_are_worked_on_a_few_at_a_time(
    flood: Callable[..., Wire], mallory: Actor
) -> None:
    flood(requests(10_000, "send", {"room_id": mallory.create_room(), "event_type": "m.x", "content": {}}))


def test_control_frames_that_nobody_reads_the_answers_of_wait(flood: Callable[..., Wire]) -> None:
    flood(frame(PING, b"x" * 125, mask=b"\0\0\0\0") * 200_000)


def test_large_answers_that_nobody_reads_are_few(flood: Callable[..., Wire], mallory: Actor) -> None:
    """A page of two megabytes, asked for again and again, also in rooms that are worked on side by side."""
    rooms = []
    for _ in range(4):
        room_id = mallory.create_room()
        for number in range(32):
            path = f"/_matrix/client/v3/rooms/{room_id}/send/m.x/{os.urandom(4).hex()}{number}"
            assert 200 == mallory.send("PUT", path, json.dumps({"a": "x" * 60_000}).encode()).status
        rooms.append(room_id)
    asked = [requests(1, "messages", {"room_id": room_id, "dir": "b", "limit": 1000}) for room_id in rooms]
    flood(b"".join(asked) * 100)


def test_a_client_that_stops_reading_loses_nothing_and_costs_nothing(
    mallory: Actor, running: RunningServer, pile: Keep
) -> None:
    """Ten readers stand still while megabytes are said; then they read all of it, once and in order."""
    room_id = mallory.create_room()
    since = mallory.sync()["next_batch"]
    readers: list[Wire] = [
        pile(dial(mallory.url, token=mallory.token, query=f"since={since}", receive_bytes=SMALL_BUFFER))
        for _ in range(10)
    ]
    before = resident_bytes(running)
    sent = []
    for number in range(250):
        path = f"/_matrix/client/v3/rooms/{room_id}/send/m.x/still{number}"
        answer = mallory.send("PUT", path, json.dumps({"a": "x" * 40_000}).encode())
        sent.append(answer.json["event_id"])
    assert resident_bytes(running) - before < MARGIN_BYTES
    for reader in readers[:3]:
        seen: list[str] = []
        while len(seen) < len(sent):
            room = reader.update().get("rooms", {}).get("join", {}).get(room_id, {})
            seen += [event["event_id"] for event in room.get("timeline", {}).get("events", [])]
        assert sent == seen


# -- without end, and bombs --------------------------------------------------------------------------------------------


def test_empty_fragments_without_end_fill_nothing(flood: Callable[..., Wire]) -> None:
    wire = flood(frame(TEXT, b"", final=False) + frame(CONTINUATION, b"", final=False, mask=b"\0\0\0\0") * 2_000_000)
    wire.reset()


def test_small_fragments_without_end_are_too_large_in_the_end(wire: Wire) -> None:
    wire.send(frame(TEXT, b" ", final=False) + frame(CONTINUATION, b" " * 20, final=False) * 14_000)
    assert 1009 == wire.ending().code


def test_a_small_frame_that_inflates_to_much_is_refused_before_it_has(mallory: Actor, running: RunningServer) -> None:
    """A megabyte of zeros deflated is a kilobyte; blocks end at a byte, so they can be repeated."""
    deflater = zlib.compressobj(9, zlib.DEFLATED, -12)
    deflater.compress(b"\0") + deflater.flush(zlib.Z_FULL_FLUSH)
    block = deflater.compress(bytes(1 << 20)) + deflater.flush(zlib.Z_FULL_FLUSH)
    forget_peak(running)
    before = resident_bytes(running)
    for bomb in (block * 1024, block * (200_000 // len(block)), block[:20_000]):
        for size in (len(bomb), 10_000):
            with dial(mallory.url, token=mallory.token, offer=OFFER) as wire:
                data = fragments(TEXT, bomb.removesuffix(DEFLATE_TAIL), size, reserved=4)
                try:
                    wire.send(data)
                except ConnectionError:
                    continue
                assert wire.ending().code in (1009, None)
    assert resident_bytes(running, "VmHWM") - before < MARGIN_BYTES


def test_many_small_frames_that_inflate_to_the_limit_are_not_all_kept(
    flood: Callable[..., Wire], mallory: Actor
) -> None:
    """Each is allowed; hundreds of them fit into what is read from a socket at once."""
    room_id = mallory.create_room()
    message = json.dumps({"id": 1, "method": "messages", "params": {"room_id": room_id, "dir": "b"}}).encode()
    packed = deflated(message.ljust(256 * 1024), level=9)
    assert len(packed) < 500
    flood(frame(TEXT, packed, reserved=4, mask=b"\0\0\0\0") * 4_000, offer=OFFER)


def test_the_same_before_the_token_is_known(
    mallory: Actor, running: RunningServer, witness: Witness, pile: Keep
) -> None:
    """Ten connections at once, of somebody who need not even have an account."""
    forget_peak(running)
    before = resident_bytes(running)
    message = json.dumps({"id": 1, "method": "auth", "params": {"access_token": "sat_x"}}).encode()
    packed = frame(TEXT, deflated(message.ljust(256 * 1024), level=9), reserved=4, mask=b"\0\0\0\0")
    wires: list[Wire] = [pile(dial(mallory.url, offer=OFFER)) for _ in range(10)]
    for wire in wires:
        try:
            wire.offer(packed * 300, 0.2)
        except ConnectionError:
            pass
    witness.check()
    assert resident_bytes(running, "VmHWM") - before < MARGIN_BYTES


# -- connections -------------------------------------------------------------------------------------------------------


def test_handshakes_that_never_end_keep_nobody_waiting(mallory: Actor, pile: Keep, witness: Witness) -> None:
    head = head_bytes(f"GET {PATH} HTTP/1.1", upgrade_headers(mallory.url, token=mallory.token))
    for number in range(300):
        wire: Wire = pile(connect(mallory.url))
        wire.send(head[: 1 + number % (len(head) - 2)])
    witness.check()


def test_frames_that_never_end_keep_nobody_waiting(mallory: Actor, pile: Keep, witness: Witness) -> None:
    for number in range(100):
        wire: Wire = pile(dial(mallory.url, token=mallory.token, query="set_presence=offline"))
        data = frame(TEXT, b'{"id":1,"method":"ping"}'.ljust(70_000))
        wire.send(data[: 1 + number * 11])
    witness.check()


def test_large_messages_that_never_end_do_not_fill_the_memory(
    mallory: Actor, running: RunningServer, pile: Keep, witness: Witness
) -> None:
    """Of somebody who need not even have an account: 500 times nearly the largest message."""
    wires: list[Wire] = [pile(dial(mallory.url)) for _ in range(500)]
    before = resident_bytes(running)
    part = frame(TEXT, b'{"id":1,"method":"auth"'.ljust(250_000), final=False, mask=b"\0\0\0\0")
    for wire in wires:
        wire.send(part)
    witness.check()
    assert resident_bytes(running) - before < 2 * MARGIN_BYTES
    assert 4429 == wires[-1].close_frame().code
    with dial(mallory.url, token=mallory.token) as known:
        known.text(b'{"id":1,"method":"ping"}'.ljust(250_000))
        assert {"id": 1, "result": {}} == known.answer(1)


def test_five_hundred_that_come_and_go_leave_nothing(mallory: Actor, running: RunningServer) -> None:
    since = mallory.sync()["next_batch"]
    for number in range(500):
        wire = dial(mallory.url, token=mallory.token if number % 2 else None, query=f"since={since}")
        if number % 3 == 0:
            wire.request(1, "ping")
        if number % 5:
            wire.reset()
        else:
            wire.drop()
    deadline = time.monotonic() + 5
    while established(running) > 5 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert established(running) <= 5


def test_who_vanishes_in_the_middle_of_requests_leaves_nothing(mallory: Actor, running: RunningServer) -> None:
    room_id = mallory.create_room()
    for number in range(50):
        with dial(mallory.url, token=mallory.token) as wire:
            content = {"room_id": room_id, "event_type": "m.x", "content": {}}
            wire.send(
                b"".join(
                    frame(TEXT, json.dumps({"id": f"v{number}.{n}", "method": "send", "params": content}).encode())
                    for n in range(30)
                )
            )
            wire.reset() if number % 2 else wire.drop()
    assert mallory.say(room_id) in mallory.newest(room_id)


def test_no_more_streams_of_one_user_than_allowed(mallory: Actor, pile: Keep) -> None:
    """300 here; those that come at the same time are counted, too."""
    wires: list[Wire] = []
    refused = 0
    keys = []
    since = mallory.sync()["next_batch"]
    for _ in range(320):
        wire: Wire = pile(connect(mallory.url))
        headers = upgrade_headers(mallory.url, token=mallory.token)
        wire.send(head_bytes(f"GET {PATH}?since={since} HTTP/1.1", headers))
        keys.append((wire, headers["Sec-WebSocket-Key"]))
    for wire, key in keys:
        try:
            wire.read_upgrade(key)
            wires.append(wire)
        except Refused as refusal:
            assert (429, "M_LIMIT_EXCEEDED") == (refusal.status, refusal.json["errcode"])
            assert refusal.json["retry_after_ms"] > 0
            assert int(refusal.headers["retry-after"]) > 0
            refused += 1
    assert (300, 20) == (len(wires), refused)
    with dial(mallory.url) as late:
        late.request(1, "auth", {"access_token": mallory.token})
        closed = late.ending()
        assert (4429, True) == (closed.code, closed.reason.startswith("M_LIMIT_EXCEEDED"))
    for wire in wires[:10]:
        assert {"id": 1, "result": {}} == wire.call(1, "ping")
