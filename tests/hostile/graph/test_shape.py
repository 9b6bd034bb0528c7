"""Hostile inputs 1 to 9: JSON and the shape of events, in every room version."""

from __future__ import annotations

import time
from typing import Any

import pytest

from homeserver.errors import BadJson, MatrixError
from homeserver.model.canonical_json import check_lax, check_strict, encode_canonical, parse_exactly
from homeserver.model.event_format import check_event_format
from homeserver.model.hashing import event_id_of
from homeserver.model.redaction import redact
from homeserver.model.room_versions import KNOWN_ROOM_VERSIONS, RoomVersion

from ..inputs import DEEP, NOT_BODIES, ODD_BODIES
from .room import ALICE, BOB, VERSIONS, Graph

GRAPHS = {version: Graph(version) for version in KNOWN_ROOM_VERSIONS.values()}


def deep(kind: str) -> Any:
    value: Any = 1
    for level in range(DEEP):
        value = [value] if kind == "lists" or (kind == "both" and level % 2) else {"a": value}
    return value


@pytest.mark.parametrize("name", [name for name in NOT_BODIES if name not in ("list", "string", "null", "number")])
def test_hostile_1_4_5_9_what_is_no_json_is_refused(name: str) -> None:
    with pytest.raises(BadJson):
        check_lax(parse_exactly(NOT_BODIES[name]))


@pytest.mark.parametrize("name", ODD_BODIES)
def test_hostile_1_2_3_5_8_odd_json_is_read_in_one_way_or_refused(name: str) -> None:
    begin = time.thread_time()
    for check in (check_lax, check_strict):
        try:
            value = parse_exactly(ODD_BODIES[name])
            check(value)
            assert value == parse_exactly(encode_canonical(value))
        except MatrixError:
            continue
    assert time.thread_time() - begin < 1


def test_hostile_3_of_a_key_that_stands_twice_the_last_counts_everywhere() -> None:
    assert {"type": "b", "c": {"x": 2}} == parse_exactly(b'{"type":"a","c":{"x":1,"x":2},"type":"b"}')


@pytest.mark.parametrize(
    ("value", "in_old_versions"),
    [
        pytest.param(float("nan"), False, id="NaN"),
        pytest.param(float("inf"), False, id="Infinity"),
        pytest.param(float("-inf"), False, id="-Infinity"),
        pytest.param(2**53, True, id="2^53"),
        pytest.param(-(2**53), True, id="-2^53"),
        pytest.param(2**63, True, id="2^63"),
        pytest.param(10**400, True, id="10^400"),
        pytest.param(10**5_000, False, id="10^5000"),
        pytest.param(1.0, True, id="1.0"),
        pytest.param(1e20, True, id="1e20"),
        pytest.param(-0.0, True, id="-0.0"),
        pytest.param("\ud800", False, id="half a character"),
        pytest.param({"\udfff": 1}, False, id="half a character as key"),
        pytest.param("\x00", None, id="NUL"),
        pytest.param("\ufeff", None, id="byte order mark"),
        pytest.param(deep("lists"), False, id="deep lists"),
        pytest.param(deep("objects"), False, id="deep objects"),
        pytest.param(deep("both"), False, id="deep both"),
        pytest.param({str(number): number for number in range(200_000)}, False, id="many keys"),
        pytest.param({"k" * 100_000: 1}, False, id="long key"),
    ],
)
@VERSIONS
def test_hostile_1_2_4_5_8_values_in_content(version: RoomVersion, value: Any, in_old_versions: bool | None) -> None:
    """None: taken in all versions; else whether those without strict canonical JSON take it."""
    graph = GRAPHS[version]
    wire = {**graph.wire("m.room.message", BOB, {"body": "x"}), "content": {"body": value}}
    is_taken = in_old_versions is None or (in_old_versions and not version.strict_canonical_json)
    if is_taken:
        assert "accepted" == graph.take(graph.sign(wire, "b.example"))
    else:
        assert "dropped" == graph.take(wire)
        assert "dropped" == graph.take({**wire, "signatures": {"b.example": {"ed25519:1": "A" * 86}}})


WRONG = {
    "type": [None, 1, [], {}, True, "x" * 256, "é" * 128],
    "sender": [None, 1, [], {}, "", "bob", "@bob", "@bob:", "@bob:b example", "@" + "x" * 300 + ":b.example"],
    "room_id": [None, 1, [], {}, "", "room", "!", "!" + "x" * 300 + ":a.example", "!r\x00:a.example"],
    "state_key": [1, None, [], {}, "x" * 256, "😀" * 64],
    "content": [None, [], "", "{}", 1, [{}]],
    "depth": [None, "1", 1.5, -1, True, [], 2**63, 10**400, float("nan")],
    "origin_server_ts": [None, "1", 1.5, -1, True, [], 2**63, float("inf")],
    "prev_events": [None, "$e", {}, [1], [None], [[]], ["e"], [["$e"]], [["$e", []]], ["$e"] * 21, ["$e"] * 10_000],
    "auth_events": [None, "$e", {}, [1], [[]], [["$e", {"sha256": 1}]], ["$e"] * 11, ["$e"] * 10_000],
    "hashes": [None, [], "x", {}, {"sha256": 1}, {"sha1": "x"}],
    "signatures": [None, [], "x", {"b.example": []}, {"b.example": {"ed25519:1": 1}}, {"b.example": None}],
    "redacts": [1, {}, [], None],
    "event_id": [None, 1, [], "", "e", "$", "$" + "x" * 300 + ":b.example", "$e\x00:b.example"],
}


@VERSIONS
@pytest.mark.parametrize("field", WRONG)
def test_hostile_7_wrong_types_of_a_field_drop_the_event(version: RoomVersion, field: str) -> None:
    graph = GRAPHS[version]
    good = graph.wire("m.room.message", BOB, {"body": "x"})
    if field == "redacts" and version.redacts_in_content:
        return  # An unknown field like any other.
    if field == "event_id" and not version.references_carry_hashes:
        return
    for value in WRONG[field]:
        assert "dropped" == graph.take({**good, field: value}), value
        assert isinstance(redact(version, {**good, field: value}), dict)
    if field not in ("state_key", "redacts"):
        assert "dropped" == graph.take({name: value for name, value in good.items() if name != field})


@VERSIONS
@pytest.mark.parametrize("wire", [None, [], "x", 1, {}, {"type": "m.room.message"}, [{}], {"\ud800": 1}], ids=ascii)
def test_hostile_9_what_is_no_event_is_dropped(version: RoomVersion, wire: Any) -> None:
    assert "dropped" == GRAPHS[version].take(wire)


@VERSIONS
@pytest.mark.parametrize(
    "membership", [None, 1, [], {}, ["join"], {"join": 1}, "", "JOIN", "x" * 60_000], ids=lambda each: ascii(each)[:20]
)
def test_hostile_7_wrong_memberships_are_rejected(version: RoomVersion, membership: Any) -> None:
    graph = GRAPHS[version]
    assert "rejected" == graph.take(graph.wire("m.room.member", BOB, {"membership": membership}, BOB))


@VERSIONS
@pytest.mark.parametrize(("excess", "expected"), [(0, "accepted"), (1, "dropped")])
@pytest.mark.parametrize("character", ["x", "\x01", "é", "😀"], ids=ascii)
def test_hostile_6_the_limit_of_the_size_is_in_bytes_and_exact(
    version: RoomVersion, excess: int, expected: str, character: str
) -> None:
    graph = GRAPHS[version]
    empty = len(encode_canonical(graph.wire("m.room.message", BOB, {"body": ""})))
    size = len(encode_canonical(character)) - 2
    left = 65_536 - empty
    wire = graph.wire("m.room.message", BOB, {"body": character * (left // size) + "x" * (left % size + excess)})
    assert 65_536 + excess == len(encode_canonical(wire))
    assert expected == graph.take(wire)
    assert expected == graph.take({**wire, "unsigned": {"x": "y" * 100_000}}), "unsigned does not count"


@VERSIONS
@pytest.mark.parametrize("field", ["type", "state_key"])
@pytest.mark.parametrize(
    ("value", "is_taken"),
    [
        pytest.param("x" * 255, True, id="255 bytes"),
        pytest.param("x" * 256, False, id="256 bytes"),
        pytest.param("😀" * 63 + "abc", True, id="255 bytes of emoji"),
        pytest.param("😀" * 64, False, id="256 bytes of emoji"),
    ],
)
def test_hostile_6_the_limit_of_a_field_is_in_bytes_and_exact(
    version: RoomVersion, field: str, value: str, is_taken: bool
) -> None:
    graph = GRAPHS[version]
    kind, state_key = (value, "") if field == "type" else ("x", value)
    wire = graph.wire(kind, ALICE, {}, state_key)
    assert ("accepted" if is_taken else "dropped") == graph.take(wire)


@VERSIONS
def test_hostile_14_unsigned_influences_nothing(version: RoomVersion) -> None:
    graph = GRAPHS[version]
    wire = graph.wire("m.room.message", BOB, {"body": "x"})
    for unsigned in (None, [], {"redacted_because": {"type": "x"}, "age": float("nan"), "a": deep("both")}, "x"):
        changed = {**wire, "unsigned": unsigned}
        check_event_format(version, changed)
        assert "accepted" == graph.take(changed)
        assert event_id_of(version, wire) == event_id_of(version, changed)
