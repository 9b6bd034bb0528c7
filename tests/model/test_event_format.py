from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.errors import BadJson, TooLarge
from homeserver.model.canonical_json import encode_canonical
from homeserver.model.event_format import check_event_format, event_from_wire
from homeserver.model.hashing import event_id_of
from homeserver.model.ids import EventID, RoomID
from homeserver.model.room_versions import KNOWN_ROOM_VERSIONS, V1, V5, V6, V10, V11, V12, RoomVersion

HASH_ID = "$" + "A" * 43
MISSING: Any = object()

VERSIONS = pytest.mark.parametrize("version", KNOWN_ROOM_VERSIONS.values(), ids=lambda version: version.identifier)
SOME_VERSIONS = pytest.mark.parametrize("version", [V1, V5, V6, V10, V11, V12], ids=lambda version: version.identifier)


def message(version: RoomVersion = V12, **changes: Any) -> dict[str, Any]:
    """Return a well-formed message event, with some fields changed, or left out where they are MISSING."""
    reference: Any = [HASH_ID, {"sha256": "x"}] if version.references_carry_hashes else HASH_ID
    wire = {
        "auth_events": [reference],
        "content": {"body": "hello"},
        "depth": 7,
        "hashes": {"sha256": "x"},
        "origin_server_ts": 1_000_000,
        "prev_events": [reference],
        "room_id": "!room:a.example",
        "sender": "@alice:a.example",
        "signatures": {"a.example": {"ed25519:1": "x"}},
        "type": "m.room.message",
        "unsigned": {"age": 4},
    }
    if version.references_carry_hashes:
        wire["event_id"] = "$id:a.example"
    return {name: value for name, value in (wire | changes).items() if value is not MISSING}


@VERSIONS
def test_a_well_formed_event_passes_and_is_not_changed(version: RoomVersion) -> None:
    for wire in (message(version), message(version, state_key="")):
        before = deepcopy(wire)
        check_event_format(version, wire)
        assert before == wire


@VERSIONS
def test_references_may_lack_the_hash_where_the_version_has_them(version: RoomVersion) -> None:
    """As those of Synapse do for events that it made together, such as the first ones of a room."""
    wire = message(version, auth_events=[[HASH_ID, {}]], prev_events=[[HASH_ID, {}]])
    if version.references_carry_hashes:
        check_event_format(version, wire)
    else:
        with pytest.raises(BadJson):
            check_event_format(version, wire)


WRONG: dict[str, list[Any]] = {
    "auth_events": [MISSING, None, "x", {}, [1], [None], [{}], ["no sigil"], ["$" + "A" * 255], [[]], [[HASH_ID]]],
    "prev_events": [
        MISSING,
        None,
        "x",
        {},
        [1],
        [None],
        [{}],
        ["no sigil"],
        ["$" + "é" * 128],
        [[HASH_ID, {"sha256": 1}]],
    ],
    "content": [MISSING, None, "x", [], 1],
    "depth": [MISSING, None, "1", True, 1.0, -1, 2**63, 10**400, [], float("nan")],
    "origin_server_ts": [MISSING, None, "1", False, 1.5, -1, 2**63, {}],
    "hashes": [MISSING, None, [], {}, {"sha256": None}, {"sha256": 1}, {"sha512": "x"}, "x"],
    "signatures": [MISSING, None, [], "x", {"a": "x"}, {"a": []}, {"a": {"b": 1}}, {"a": {"b": None}}],
    "sender": [MISSING, None, 1, "", "@", "@alice", "alice:a.example", "@a:é", {}, "@a\0:a.example"],
    "type": [MISSING, None, 1, {}, []],
    "state_key": [None, 1, {}, []],
    "room_id": [MISSING, None, 1, "", "!", "room:a.example", "!room:", {}],
}


@SOME_VERSIONS
@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in WRONG.items() for value in values],
    ids=lambda value: "missing" if value is MISSING else repr(value)[:20],
)
def test_a_field_of_the_wrong_kind_is_refused(version: RoomVersion, name: str, value: Any) -> None:
    with pytest.raises((BadJson, TooLarge)):
        check_event_format(version, message(version, **{name: value}))


@pytest.mark.parametrize("wire", [None, [], "x", 1, {}])
def test_what_is_no_event_at_all_is_refused(wire: Any) -> None:
    with pytest.raises(BadJson):
        check_event_format(V12, wire)


@SOME_VERSIONS
def test_redacts_is_a_field_only_before_version_11(version: RoomVersion) -> None:
    check_event_format(version, message(version, redacts="$x"))
    wire = message(version, redacts={"a": 1})
    if version.redacts_in_content:
        check_event_format(version, wire)
    else:
        with pytest.raises(BadJson):
            check_event_format(version, wire)


@pytest.mark.parametrize("event_id", [MISSING, None, 1, "x", "$", "$" + "a" * 255])
def test_the_first_versions_have_the_event_id_as_a_field(event_id: Any) -> None:
    with pytest.raises((BadJson, TooLarge)):
        check_event_format(V1, message(V1, event_id=event_id))


@SOME_VERSIONS
@pytest.mark.parametrize(("name", "limit"), [("prev_events", 20), ("auth_events", 10)])
def test_references_are_limited_in_number(version: RoomVersion, name: str, limit: int) -> None:
    reference = message(version)[name][0]
    check_event_format(version, message(version, **{name: [reference] * limit}))
    with pytest.raises(BadJson):
        check_event_format(version, message(version, **{name: [reference] * (limit + 1)}))


@SOME_VERSIONS
@pytest.mark.parametrize("name", ["depth", "origin_server_ts"])
def test_numbers_reach_up_to_the_limit_of_the_version(version: RoomVersion, name: str) -> None:
    limit = 2**53 - 1 if version in (V6, V10, V11, V12) else 2**63 - 1
    check_event_format(version, message(version, **{name: limit}))
    check_event_format(version, message(version, **{name: 0}))
    with pytest.raises(BadJson):
        check_event_format(version, message(version, **{name: limit + 1}))


@SOME_VERSIONS
@pytest.mark.parametrize("value", [1.0, 2**53, -(2**53), 1e300], ids=repr)
def test_numbers_that_are_not_canonical_are_refused_where_the_version_is_strict(
    version: RoomVersion, value: Any
) -> None:
    wire = message(version, content={"a": [{"b": value}]})
    if version.strict_canonical_json:
        with pytest.raises(BadJson):
            check_event_format(version, wire)
    else:
        check_event_format(version, wire)


@SOME_VERSIONS
def test_deep_nesting_and_lone_surrogates_are_refused(version: RoomVersion) -> None:
    deep: Any = []
    for _ in range(10_000):
        deep = [deep]
    for content in ({"a": deep}, {"a": "\ud800"}, {"\ud800": "a"}):
        with pytest.raises(BadJson):
            check_event_format(version, message(version, content=content))


@pytest.mark.parametrize("character", ["a", "é", "日", "\U0001f600"])
@pytest.mark.parametrize(
    ("name", "around"), [("type", "{}"), ("state_key", "{}"), ("sender", "@{}:a.example"), ("room_id", "!{}:a.example")]
)
def test_keys_are_limited_in_bytes(name: str, around: str, character: str) -> None:
    room = 255 - len(around.format(""))
    size = len(character.encode())
    filled = character * (room // size) + "b" * (room % size)
    check_event_format(V12, message(**{name: around.format(filled)}))
    with pytest.raises(TooLarge):
        check_event_format(V12, message(**{name: around.format(filled + "b")}))


@pytest.mark.parametrize("character", ["a", "\U0001f600"])
def test_an_event_is_limited_in_bytes_without_what_is_unsigned(character: str) -> None:
    wire = message(unsigned=MISSING, content={"body": ""})
    room = 65_536 - len(encode_canonical(wire))
    size = len(character.encode())
    body = character * (room // size) + "b" * (room % size)
    for unsigned in (MISSING, {"age": 1.5}, None, "x" * 100_000):
        check_event_format(V12, message(unsigned=unsigned, content={"body": body}))
        with pytest.raises(TooLarge):
            check_event_format(V12, message(unsigned=unsigned, content={"body": body + "b"}))


def test_a_create_event_has_no_room_id_where_it_makes_it() -> None:
    for version in (V10, V11):
        with pytest.raises(BadJson):
            check_event_format(version, message(version, type="m.room.create", room_id=MISSING))
    check_event_format(V12, message(type="m.room.create", room_id=MISSING))
    with pytest.raises(BadJson):
        check_event_format(V12, message(type="m.room.create", room_id=1))


_ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4), st.sampled_from([HASH_ID])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=6,
)


@given(
    st.sampled_from([V1, V5, V6, V10, V11, V12]),
    st.dictionaries(st.sampled_from([*message(), "state_key", "redacts", "event_id"]), _ANYTHING, max_size=3),
)
def test_any_event_is_either_refused_or_can_be_read(version: RoomVersion, changes: dict[str, Any]) -> None:
    wire = message(version, **changes)
    try:
        check_event_format(version, wire)
    except (BadJson, TooLarge):
        return
    event = event_from_wire(version, wire)
    assert "unsigned" not in event.wire


# -- reading --


@VERSIONS
def test_an_event_is_read_from_its_wire_form(version: RoomVersion) -> None:
    wire = message(version, state_key="key")
    event = event_from_wire(version, wire)
    assert event_id_of(version, wire) == event.event_id
    assert ("!room:a.example", "m.room.message", "@alice:a.example", "key", 7, 1_000_000) == (
        event.room_id,
        event.type,
        event.sender,
        event.state_key,
        event.depth,
        event.origin_server_ts,
    )
    assert (HASH_ID,) == event.prev_event_ids == event.auth_event_ids
    assert {name: value for name, value in wire.items() if name != "unsigned"} == event.wire
    assert event.content is wire["content"]


def test_given_ids_are_believed() -> None:
    event = event_from_wire(V12, message(), EventID("$given"), RoomID("!given"))
    assert ("$given", "!given") == (event.event_id, event.room_id)


def test_the_room_of_a_create_event_is_its_hash_from_version_12_on() -> None:
    wire = message(type="m.room.create", state_key="", room_id=MISSING)
    event = event_from_wire(V12, wire)
    assert "!" + event.event_id[1:] == event.room_id
    assert "!given" == event_from_wire(V12, wire, room_id=RoomID("!given")).room_id
    with pytest.raises(KeyError):
        event_from_wire(V11, wire)


def test_a_wire_form_without_unsigned_is_not_copied() -> None:
    wire = message(unsigned=MISSING)
    assert event_from_wire(V12, wire).wire is wire
