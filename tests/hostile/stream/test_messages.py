"""Messages that are none: answered with an error that Matrix knows, and the connection goes on."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.hostile.client import Actor
from tests.hostile.inputs import NOT_BODIES, ODD_BODIES, WRONG_VALUES
from tests.support.stream_wire import TEXT, Wire, dial, frame

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("unharmed")]

# What hangs or is quadratic takes longer than this on any machine, and what is in order less on a busy one.
MAX_ANSWER_S = 5.0


def assert_goes_on(wire: Wire) -> None:
    assert {"id": "after", "result": {}} == wire.call("after", "ping")


def error_of(answer: dict[str, Any]) -> str:
    """Return the errcode of an answer that must be a proper error."""
    errcode = answer["error"]["errcode"]
    assert isinstance(errcode, str) and errcode.startswith("M_"), answer
    assert "Internal" not in answer["error"]["error"], answer
    return errcode


NOT_TEXT = ("UTF-16", "invalid UTF-8", "overlong", "surrogates in UTF-8")


@pytest.mark.in_turns
@pytest.mark.parametrize("name", [name for name in NOT_BODIES if name not in NOT_TEXT])
def test_what_is_no_json_object_is_answered_with_an_error(wire: Wire, name: str) -> None:
    wire.text(NOT_BODIES[name])
    assert error_of(wire.answer(None)) in ("M_NOT_JSON", "M_BAD_JSON")
    assert_goes_on(wire)


@pytest.mark.in_turns
@pytest.mark.parametrize("name", NOT_TEXT)
def test_what_is_not_utf_8_closes(wire: Wire, name: str) -> None:
    wire.text(NOT_BODIES[name])
    assert 1007 == wire.ending().code


@pytest.mark.in_turns
@pytest.mark.parametrize("name", ODD_BODIES)
def test_an_odd_object_is_answered_with_an_error(wire: Wire, name: str) -> None:
    """They have no method and mostly no `id`; one of 400 kB is too large."""
    wire.text(ODD_BODIES[name])
    if len(ODD_BODIES[name]) > 256 * 1024:
        assert 1009 == wire.ending().code
        return
    assert error_of(wire.answer(None))
    assert_goes_on(wire)


@pytest.mark.in_turns
@pytest.mark.parametrize("name", ODD_BODIES)
def test_odd_members_beside_those_that_are_known_do_no_harm(wire: Wire, name: str) -> None:
    body = ODD_BODIES[name]
    if len(body) > 200 * 1024:
        body = b'{"a":' + json.dumps({f"k{n}": n for n in range(9_000)}).encode() + b"}"
    wire.text(b'{"id":"odd","method":"ping","params":%b}' % body)
    answer = wire.reply()
    assert {"id": "odd", "result": {}} == answer or error_of(answer)
    assert_goes_on(wire)


@pytest.mark.in_turns
@pytest.mark.parametrize("depth", [100, 1_000, 100_000])
@pytest.mark.parametrize("opening", [b"[", b'{"a":'], ids=["lists", "objects"])
def test_deep_params_are_refused_quickly(wire: Wire, depth: int, opening: bytes) -> None:
    if depth * len(opening) > 120_000:
        depth = 40_000
    closing = b"]" if opening == b"[" else b"}"
    began = time.monotonic()
    wire.text(b'{"id":1,"method":"ping","params":{"a":' + opening * depth + b"1" + closing * depth + b"}}")
    answer = wire.reply()
    assert answer == {"id": 1, "result": {}} or error_of(answer)
    assert time.monotonic() - began < MAX_ANSWER_S
    assert_goes_on(wire)


def test_of_equal_keys_one_counts(wire: Wire) -> None:
    wire.text('{"id":"first","id":"second","method":"nothing","method":"ping"}')
    answer = wire.reply()
    assert answer["id"] in ("first", "second", None)
    assert_goes_on(wire)


# -- methods -----------------------------------------------------------------------------------------------------------

UNKNOWN = [
    "",
    "x",
    "Ping",
    "ping ",
    " ping",
    "__init__",
    "ping\0",
    "p" * 100_000,
    "\U0001f98a",
    "PUT",
    "send/",
    "_send",
]


@pytest.mark.in_turns
@pytest.mark.parametrize("method", UNKNOWN, ids=lambda method: ascii(method)[:20])
def test_an_unknown_method_is_unrecognized(wire: Wire, method: str) -> None:
    answer = wire.call(7, method, {})
    assert "M_UNRECOGNIZED" == error_of(answer)
    assert len(json.dumps(answer)) < 2_000
    assert_goes_on(wire)


@pytest.mark.in_turns
@pytest.mark.parametrize("method", [value for value in WRONG_VALUES if not isinstance(value, str)], ids=repr)
def test_a_method_is_text(wire: Wire, method: Any) -> None:
    assert error_of(wire.call(7, method, {})) in ("M_BAD_JSON", "M_MISSING_PARAM", "M_UNRECOGNIZED", "M_INVALID_PARAM")
    assert_goes_on(wire)


def test_a_method_is_needed(wire: Wire) -> None:
    wire.text('{"id":7}')
    assert error_of(wire.answer(7))
    assert_goes_on(wire)


# -- ids ---------------------------------------------------------------------------------------------------------------

GOOD_IDS: list[Any] = [
    "a",
    "x" * 255,
    "\U0001f98a" * 63,
    "\0",
    "a\nb",
    "\u2028",
    '"\\',
    "\uffff",
    " ",
    0,
    1,
    -1,
    2**53,
    2**63 - 1,
]
BAD_IDS: list[Any] = [
    "",
    "x" * 256,
    "\u00e9" * 128,
    "\U0001f98a" * 64,
    "x" * 200_000,
    None,
    True,
    False,
    1.5,
    1.0,
    [],
    {},
    ["a"],
    {"a": 1},
    10**400,
]


@pytest.mark.in_turns
@pytest.mark.parametrize("number", GOOD_IDS, ids=lambda value: ascii(value)[:20])
def test_an_id_comes_back_as_it_was(wire: Wire, number: Any) -> None:
    answer = wire.call(number, "ping")
    assert {"id": number, "result": {}} == answer
    assert type(number) is type(answer["id"])


@pytest.mark.in_turns
@pytest.mark.parametrize("number", BAD_IDS, ids=lambda value: ascii(value)[:20])
def test_an_id_that_is_none_is_answered_with_null(wire: Wire, number: Any) -> None:
    wire.request(number, "ping")
    assert error_of(wire.answer(None))
    assert_goes_on(wire)


def test_an_id_of_a_megabyte_is_too_large(wire: Wire) -> None:
    wire.request("x" * 1_000_000, "ping")
    closed = wire.ending()
    assert 1009 == closed.code
    assert closed.reason.startswith("M_TOO_LARGE")


def test_an_id_is_needed(wire: Wire) -> None:
    wire.text('{"method":"ping"}')
    assert error_of(wire.answer(None))
    assert_goes_on(wire)


@pytest.mark.in_turns
@pytest.mark.parametrize("text", ["18446744073709551616", "9" * 400, "9" * 5_000, "1e3", "-0.0", "1.0"])
def test_a_number_that_is_no_integer_of_64_bits_is_answered(wire: Wire, text: str) -> None:
    wire.text(f'{{"id":{text},"method":"ping"}}')
    answer = wire.reply()
    assert answer.get("result") == {} or error_of(answer)
    assert_goes_on(wire)


def test_ids_that_only_look_alike_are_different_transactions(wire: Wire, mallory: Actor) -> None:
    """Also where the database would take them for equal: case, spaces at the end, accents."""
    room_id = mallory.create_room()
    params = {"room_id": room_id, "event_type": "m.x", "content": {}}
    numbers = ["a", "A", "a ", "\u00e1", "a\u0301", "a\0", "1 ", "1", "01", "\u00df", "ss", "\U0001f98a", "\U0001f98b"]
    event_ids = [wire.call(number, "send", params)["result"]["event_id"] for number in numbers]
    assert len(numbers) == len(set(event_ids))
    again = [wire.call(number, "send", params)["result"]["event_id"] for number in numbers]
    assert event_ids == again
    assert event_ids[numbers.index("1")] == wire.call(1, "send", params)["result"]["event_id"]


# -- auth --------------------------------------------------------------------------------------------------------------

FIRST = {
    "a request": ('{"id":1,"method":"ping"}', 4400),
    "an unknown method": ('{"id":1,"method":"x"}', 4400),
    "no JSON": ("hello", 4400),
    "a list": ("[]", 4400),
    "an empty message": ("", 4400),
    "no id": ('{"method":"auth","params":{"access_token":"x"}}', 4400),
    "no params": ('{"id":1,"method":"auth"}', (4400, 4401)),
    "params that are a list": ('{"id":1,"method":"auth","params":[]}', 4400),
    "no token": ('{"id":1,"method":"auth","params":{}}', (4400, 4401)),
    "a token that is null": ('{"id":1,"method":"auth","params":{"access_token":null}}', (4400, 4401)),
    "a token that is a number": ('{"id":1,"method":"auth","params":{"access_token":1}}', 4400),
    "a token that is an object": ('{"id":1,"method":"auth","params":{"access_token":{}}}', 4400),
    "an empty token": ('{"id":1,"method":"auth","params":{"access_token":""}}', (4400, 4401)),
    "an unknown token": ('{"id":1,"method":"auth","params":{"access_token":"sat_x"}}', 4401),
    "a token with NUL": ('{"id":1,"method":"auth","params":{"access_token":"\\u0000"}}', 4401),
    "a long token": ('{"id":1,"method":"auth","params":{"access_token":"' + "x" * 100_000 + '"}}', 4401),
    "deep": ("[" * 50_000, 4400),
}


@pytest.mark.in_turns
@pytest.mark.parametrize("name", FIRST)
def test_before_auth_nothing_else_is_listened_to(mallory: Actor, name: str) -> None:
    message, expected = FIRST[name]
    with dial(mallory.url) as wire:
        wire.text(message)
        closed = wire.ending()
        assert closed.code in (expected if isinstance(expected, tuple) else (expected,)), closed
        assert closed.reason.startswith("M_")


def test_requests_together_with_a_bad_auth_are_not_done(mallory: Actor) -> None:
    room_id = mallory.create_room()
    before = mallory.newest(room_id)
    with dial(mallory.url) as wire:
        send = {"id": 2, "method": "send", "params": {"room_id": room_id, "event_type": "m.x", "content": {}}}
        auth = {"id": 1, "method": "auth", "params": {"access_token": f"{mallory.token}x"}}
        wire.send(frame(TEXT, json.dumps(auth).encode()) + frame(TEXT, json.dumps(send).encode()) * 20)
        assert 4401 == wire.ending().code
    assert before == mallory.newest(room_id)


def test_requests_together_with_a_good_auth_are_done_after_it(mallory: Actor) -> None:
    room_id = mallory.create_room()
    with dial(mallory.url) as wire:
        auth = {"id": 1, "method": "auth", "params": {"access_token": mallory.token}}
        send = {"id": 2, "method": "send", "params": {"room_id": room_id, "event_type": "m.x", "content": {}}}
        wire.send(frame(TEXT, json.dumps(auth).encode()) + frame(TEXT, json.dumps(send).encode()))
        assert mallory.user_id == wire.answer(1)["result"]["user_id"]
        assert [wire.answer(2)["result"]["event_id"]] == mallory.newest(room_id)[:1]


def test_a_second_auth_changes_nobody(mallory: Actor, wire: Wire) -> None:
    other = Actor(mallory.url, "other").register()
    wire.call("same", "auth", {"access_token": mallory.token})
    assert_goes_on(wire)
    assert error_of(wire.call("other", "auth", {"access_token": other.token}))
    assert error_of(wire.call("bad", "auth", {"access_token": "x"}))
    assert error_of(wire.call("none", "auth", {}))
    room_id = mallory.create_room()
    params = {"room_id": room_id, "event_type": "m.x", "content": {}}
    assert "result" in wire.call("send", "send", params)
    assert "M_FORBIDDEN" == error_of(wire.call("x", "send", {**params, "room_id": other.create_room()}))


def test_a_hundred_auths_at_once_are_one(mallory: Actor) -> None:
    with dial(mallory.url) as wire:
        for number in range(100):
            wire.request(number, "auth", {"access_token": mallory.token})
        assert mallory.user_id == wire.answer(0)["result"]["user_id"]
        for number in range(1, 100):
            wire.answer(number)
        assert_goes_on(wire)


@pytest.mark.in_turns
@pytest.mark.parametrize("name", ["since", "filter", "set_presence", "use_state_after"])
@pytest.mark.parametrize("value", [v for v in WRONG_VALUES if v is not None], ids=lambda value: ascii(value)[:20])
def test_what_opens_a_stream_may_be_anything_and_does_no_harm(mallory: Actor, name: str, value: Any) -> None:
    with dial(mallory.url) as wire:
        wire.request(1, "auth", {"access_token": mallory.token, name: value})
        try:
            assert mallory.user_id == wire.answer(1)["result"]["user_id"]
        except Exception as closed:
            assert getattr(closed, "code", None) == 4400, closed
            assert getattr(closed, "reason", "").startswith("M_"), closed
        else:
            assert_goes_on(wire)
