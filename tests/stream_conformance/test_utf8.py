"""Text is UTF-8, nothing else, wherever it is cut.

The table is that of Markus Kuhn's stress test, of which conformance suites for WebSocket took theirs.

Spec: RFC 6455, 8.1; RFC 3629, 3 and 4.
"""

from __future__ import annotations

import json

import pytest

from tests.stream_conformance.sayings import assert_answered, assert_fails
from tests.support.stream_wire import CONTINUATION, PING, TEXT, Wire, fragments, frame

pytestmark = pytest.mark.slow

VALID = {
    "kosme": "\u03ba\u1f79\u03c3\u03bc\u03b5",
    "1 byte, last": "\x7f",
    "2 bytes, first": "\x80",
    "2 bytes, last": "\u07ff",
    "3 bytes, first": "\u0800",
    "3 bytes, last before surrogates": "\ud7ff",
    "3 bytes, first after surrogates": "\ue000",
    "private use": "\uf8ff",
    "replacement character": "\ufffd",
    "noncharacter FDD0": "\ufdd0",
    "noncharacter FFFE": "\ufffe",
    "noncharacter FFFF": "\uffff",
    "4 bytes, first": "\U00010000",
    "noncharacter 1FFFE": "\U0001fffe",
    "noncharacter FFFFF": "\U000fffff",
    "4 bytes, last": "\U0010ffff",
    "all together": "\x7f\x80\u07ff\u0800\ud7ff\ue000\ufffd\U00010000\U0010ffff",
}

INVALID = {
    "80": "a continuation alone",
    "bf": "the last continuation alone",
    "80bf80bf": "four continuations",
    "c0": "a start that is never used",
    "c1": "another",
    "c320c4": "starts without continuations",
    "e220": "3 bytes, cut short by a space",
    "e28220": "3 bytes, the last one missing",
    "f09f9820": "4 bytes, the last one missing",
    "f8": "a start of 5 bytes",
    "f888808080": "5 bytes",
    "fc8480808080": "6 bytes",
    "fe": "FE",
    "ff": "FF",
    "feff": "a byte order mark of UTF-16",
    "c0af": "overlong, 2 bytes",
    "c080": "overlong NUL",
    "e080af": "overlong, 3 bytes",
    "e09fbf": "the last overlong of 3 bytes",
    "f08080af": "overlong, 4 bytes",
    "f08fbfbf": "the last overlong of 4 bytes",
    "eda080": "the first high surrogate",
    "edadbf": "a high surrogate",
    "edb080": "the first low surrogate",
    "edbfbf": "the last low surrogate",
    "eda080edb080": "a pair of surrogates",
    "f4908080": "beyond the last character",
    "f5808080": "far beyond",
    "f7bfbfbf": "the last of 4 bytes",
    "cebae1bdb9cf83cebcceb5eda080656469746564": "a surrogate in the middle of good text",
}


def ping_named(text: str) -> bytes:
    return b'{"id":"' + text.encode() + b'","method":"ping"}'


@pytest.mark.parametrize("text", VALID.values(), ids=VALID)
def test_every_character_comes_through(wire: Wire, text: str) -> None:
    wire.text(ping_named(text))
    assert {"id": text, "result": {}} == wire.answer(text)


@pytest.mark.parametrize("text", VALID.values(), ids=VALID)
def test_characters_may_be_cut_between_frames(wire: Wire, text: str) -> None:
    wire.send(fragments(TEXT, ping_named(text), 1))
    assert {"id": text, "result": {}} == wire.answer(text)


def test_characters_may_be_cut_at_any_byte(wire: Wire) -> None:
    text = VALID["all together"]
    message = ping_named(text)
    for cut in range(1, len(message)):
        wire.send(frame(TEXT, message[:cut], final=False) + frame(PING) + frame(CONTINUATION, message[cut:]))
        assert {"id": text, "result": {}} == wire.answer(text)
        data = frame(TEXT, message)
        wire.send_in_pieces([data[: 6 + cut], data[6 + cut :]], 0.002)
        assert {"id": text, "result": {}} == wire.answer(text)


def inside(sequence: str) -> bytes:
    return b'{"id":"' + bytes.fromhex(sequence) + b'","method":"ping"}'


@pytest.mark.parametrize("sequence", INVALID)
def test_what_is_not_utf_8_closes_the_stream(wire: Wire, sequence: str) -> None:
    wire.text(inside(sequence))
    assert_fails(wire, 1007)


@pytest.mark.parametrize("sequence", INVALID)
def test_what_is_not_utf_8_is_found_across_frames(wire: Wire, sequence: str) -> None:
    wire.send(fragments(TEXT, inside(sequence), 1))
    assert_fails(wire, 1007)


@pytest.mark.parametrize("text", ["\u00e9", "\u20ac", "\U0001f98a"], ids=ascii)
def test_a_message_may_not_end_inside_a_character(wire: Wire, text: str) -> None:
    wire.text(b'{"id":1,"method":"ping"}' + text.encode()[:-1])
    assert_fails(wire, 1007)


@pytest.mark.parametrize("text", ["\u00e9", "\u20ac", "\U0001f98a"], ids=ascii)
def test_a_character_does_not_go_on_in_the_next_message(wire: Wire, text: str) -> None:
    data = text.encode()
    wire.send(frame(TEXT, b'"' + data[:-1]) + frame(TEXT, data[-1:] + b'"'))
    assert_fails(wire, 1007)


def test_a_bad_fragment_is_refused_before_the_message_is_whole(wire: Wire) -> None:
    wire.send(frame(TEXT, inside("f4908080"), final=False))
    assert_fails(wire, 1007)


def test_a_good_message_after_a_bad_one_is_not_read(wire: Wire) -> None:
    wire.send(frame(TEXT, b"\xff") + frame(TEXT, b'{"id":1,"method":"ping"}'))
    assert_fails(wire, 1007)


@pytest.mark.parametrize("escape", [r"\ud800", r"\udfff", r"\udc00\ud800", r"a\ud83e"])
def test_an_escaped_surrogate_is_good_utf_8_and_no_text(wire: Wire, escape: str) -> None:
    """It is valid UTF-8 and valid JSON, but no answer could repeat it."""
    wire.text(f'{{"id":"{escape}","method":"ping"}}')
    answer = wire.answer(None)
    assert answer["error"]["errcode"] in ("M_BAD_JSON", "M_NOT_JSON", "M_INVALID_PARAM")
    wire.text(json.dumps({"id": "n", "method": "ping"}))
    assert_answered(wire)
