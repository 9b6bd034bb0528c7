"""What may be asked for when a stream is opened: rubbish in the query, and places in the stream that are none."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest

from tests.hostile.client import Actor
from tests.hostile.inputs import BAD_QUERIES
from tests.support.stream_wire import Refused, Wire, dial

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("unharmed")]

NAMES = ("since", "filter", "set_presence", "use_state_after", "access_token", "timeout", "full_state")


def test_rubbish_in_the_query_is_refused_or_does_no_harm(mallory: Actor) -> None:
    faults = []
    for name in NAMES:
        for value in BAD_QUERIES:
            token = None if name == "access_token" else mallory.token
            try:
                with dial(mallory.url, token=token, query=f"{name}={value}") as wire:
                    if token is not None:
                        wire.call("x", "ping")
            except Refused as refused:
                is_known = refused.status in (400, 401, 404, 414, 431) and refused.json["errcode"].startswith("M_")
                if not is_known:
                    faults.append(f"{name}={value[:80]}: {refused.status} {refused.body[:200]!r}")
            except Exception as other:
                faults.append(f"{name}={value[:80]}: {other!r}")
    assert [] == faults


@pytest.mark.in_turns
@pytest.mark.parametrize(
    "since",
    [
        "x",
        "s",
        "s-1",
        "s1_2",
        "s01",
        "1",
        "s" + "9" * 20,
        "s" + "9" * 400,
        "p1",
        "p-5",
        "%00",
        "%ff",
        "s1%20",
        "s%D9%A1",
    ],
)
def test_a_place_that_is_none_is_an_invalid_param(mallory: Actor, since: str) -> None:
    with pytest.raises(Refused) as caught:
        dial(mallory.url, token=mallory.token, query=f"since={since}")
    assert (400, "M_INVALID_PARAM") == (caught.value.status, caught.value.json["errcode"])
    with dial(mallory.url) as wire:
        wire.request(1, "auth", {"access_token": mallory.token, "since": since})
        closed = wire.ending()
        assert (4400, True) == (closed.code, closed.reason.startswith("M_INVALID_PARAM"))


def next_event(wire: Wire, room_id: str) -> str:
    while True:
        update = wire.update()
        for event in update.get("rooms", {}).get("join", {}).get(room_id, {}).get("timeline", {}).get("events", []):
            return str(event["event_id"])


@pytest.mark.parametrize("since", ["s1000000", "s9223372036854775807"])
def test_a_place_in_the_future_is_the_end_of_the_stream(mallory: Actor, since: str) -> None:
    """As after a restored backup: what happens from now on comes, and nothing waits for the future."""
    room_id = mallory.create_room()
    with dial(mallory.url, token=mallory.token, query=f"since={since}") as wire:
        wire.call("x", "ping")
        event_id = mallory.say(room_id)
        assert event_id == next_event(wire, room_id)


@pytest.mark.parametrize("since", ["s1000000", "s9223372036854775807"])
def test_a_place_in_the_future_takes_no_messages_away(mallory: Actor, since: str) -> None:
    """Messages to a device go when they are acknowledged; nobody can acknowledge what was not sent yet."""
    with dial(mallory.url, token=mallory.token, query=f"since={since}") as wire:
        wire.call("ack", "ack", {"next_batch": "s9223372036854775807"})
    with dial(mallory.url, token=mallory.token, query=f"since={mallory.sync()['next_batch']}") as wire:
        wire.call("ack", "ack", {"next_batch": "s9223372036854775807"})
        messages = {mallory.user_id: {mallory.device_id: {"a": 1}}}
        wire.call("m", "to_device", {"event_type": "m.x", "messages": messages})
        update = wire.update()
        while "to_device" not in update:
            update = wire.update()
        assert [{"a": 1}] == [event["content"] for event in update["to_device"]["events"]]
    # It was not acknowledged: it is there still.
    events = mallory.sync()["to_device"]["events"]
    assert [{"a": 1}] == [event["content"] for event in events]


def test_a_negative_or_garbage_acknowledgement_is_refused(wire: Wire) -> None:
    for number, token in enumerate(["", "x", "s-1", "s", "p1", "s" + "9" * 30, "\0", "s1\n"]):
        assert "error" in wire.call(number, "ack", {"next_batch": token})
    assert "result" in wire.call("zero", "ack", {"next_batch": "s0"})


FILTERS = [
    "{}",
    "[]",
    "1",
    "999",
    "-1",
    '{"room":1}',
    '{"room":{"timeline":{"limit":-1}}}',
    '{"room":{"timeline":{"limit":0}}}',
    '{"room":{"timeline":{"limit":1e9}}}',
    '{"room":{"timeline":{"limit":99999999999999999999}}}',
    '{"room":{"rooms":["' + '","'.join(["!x"] * 2_000) + '"]}}',
    '{"event_fields":["' + ".".join(["a"] * 500) + '"]}',
    '{"presence":{"types":["' + "*a" * 100 + '"]}}',
    '{"room":{"state":{"senders":[null]}}}',
    '{"event_format":"other"}',
    "[" * 5_000,
]


@pytest.mark.in_turns
@pytest.mark.parametrize("text", FILTERS, ids=lambda text: text[:40])
def test_a_garbage_filter_is_refused_or_does_no_harm(mallory: Actor, wire: Wire, text: str) -> None:
    try:
        with dial(mallory.url, token=mallory.token, query=f"filter={quote(text)}") as opened:
            opened.call("x", "ping")
    except Refused as refused:
        assert refused.status in (400, 404, 413, 414, 431)
    wire.call("text", "sync", {"filter": text})
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return
    answer = wire.call("object", "sync", {"filter": value})
    assert answer.get("result") == {} or answer["error"]["errcode"].startswith("M_")
    room_id = mallory.create_room()
    assert "result" in wire.call("none", "sync", {"filter": None})
    event_id = mallory.say(room_id)
    assert event_id in mallory.newest(room_id)
    assert {"id": "after", "result": {}} == wire.call("after", "ping")
