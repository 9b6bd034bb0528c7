from copy import deepcopy
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.errors import BadJson, TooLarge
from homeserver.model.canonical_json import MAX_DEPTH, encode_canonical
from homeserver.model.compose import GraphPlace, compose
from homeserver.model.event import Event, EventTemplate
from homeserver.model.event_format import check_event_format, event_from_wire
from homeserver.model.hashing import event_id_of, has_valid_content_hash, reference_hash, reference_hashes
from homeserver.model.ids import EventID, RoomID, ServerName, UserID
from homeserver.model.redaction import redact
from homeserver.model.room_versions import ROOM_VERSIONS, V1, V2, V10, V11, V12, EventIDScheme, RoomVersion
from homeserver.model.signing import generate_signing_key, verify_signed_event

KEY = generate_signing_key(b"k" * 32, "a_abcd")
SERVER = ServerName("a.example")
ALICE = UserID("@alice:a.example")
ROOM = RoomID("!room:a.example")
PREV, AUTH = (EventID("$" + "P" * 43),), (EventID("$" + "A" * 43), EventID("$" + "B" * 43))
HASHES = {event_id: event_id[1] * 43 for event_id in (*PREV, *AUTH)}
PLACE = GraphPlace(PREV, AUTH, 7, HASHES)
MESSAGE = EventTemplate("m.room.message", {"body": "hello 日\U0001f600\x01", "msgtype": "m.text"}, ALICE)
CREATE = EventTemplate("m.room.create", {"room_version": "12"}, ALICE, "")

VERSIONS = pytest.mark.parametrize("version", ROOM_VERSIONS.values(), ids=lambda version: version.identifier)


def made(
    version: RoomVersion, template: EventTemplate, room_id: RoomID | None = ROOM, place: GraphPlace = PLACE
) -> Event:
    return compose(version, template, room_id=room_id, place=place, server_name=SERVER, key=KEY, now_ms=1_000_000)


@VERSIONS
@pytest.mark.parametrize(
    "template",
    [
        MESSAGE,
        EventTemplate("m.room.member", {"membership": "join", "displayname": "A"}, ALICE, ALICE),
        EventTemplate("m.room.power_levels", {"users": {ALICE: 100}, "notifications": {"room": 50}}, ALICE, ""),
        EventTemplate("m.room.redaction", {"reason": "x"}, ALICE, redacts=EventID("$" + "R" * 43)),
        EventTemplate("m.room.name", {}, ALICE, ""),
    ],
    ids=lambda template: template.type,
)
def test_an_event_is_what_another_server_would_take_it_for(version: RoomVersion, template: EventTemplate) -> None:
    event = made(version, template)
    check_event_format(version, event.wire)
    assert has_valid_content_hash(event.wire)
    verify_signed_event(version, event.wire, SERVER, KEY.key_id, KEY.verify_key)
    verify_signed_event(version, redact(version, event.wire), SERVER, KEY.key_id, KEY.verify_key)
    assert event.event_id == event_id_of(version, event.wire) == event_id_of(version, redact(version, event.wire))

    read = event_from_wire(version, event.wire)
    for name in Event.__dataclass_fields__:
        assert getattr(event, name) == getattr(read, name)


@VERSIONS
def test_the_wire_form_holds_what_the_format_says_and_nothing_else(version: RoomVersion) -> None:
    wire = dict(made(version, MESSAGE).wire)
    event_id = wire.pop("event_id", None)
    assert (event_id is not None) is (version.event_id_scheme is EventIDScheme.CHOSEN)
    assert {"sha256"} == wire.pop("hashes").keys()
    assert {SERVER: {KEY.key_id}} == {name: set(keys) for name, keys in wire.pop("signatures").items()}
    assert {
        "auth_events": [[name, {"sha256": HASHES[name]}] for name in AUTH]
        if version.references_carry_hashes
        else list(AUTH),
        "content": MESSAGE.content,
        "depth": 7,
        "origin_server_ts": 1_000_000,
        "prev_events": [[PREV[0], {"sha256": "P" * 43}]] if version.references_carry_hashes else list(PREV),
        "room_id": ROOM,
        "sender": ALICE,
        "type": "m.room.message",
    } == wire


def test_a_create_event_makes_its_room_id_from_version_12_on() -> None:
    place = GraphPlace((), (), 1)
    event = made(V12, CREATE, None, place)
    assert "room_id" not in event.wire
    assert "!" + event.event_id[1:] == event.room_id == event_from_wire(V12, event.wire).room_id
    check_event_format(V12, event.wire)
    verify_signed_event(V12, event.wire, SERVER, KEY.key_id, KEY.verify_key)
    assert ROOM == made(V11, CREATE, ROOM, place).wire["room_id"]


@pytest.mark.parametrize(
    ("version", "template", "room_id"),
    [(V12, CREATE, ROOM), (V12, MESSAGE, None), (V11, CREATE, None), (V11, MESSAGE, None), (V1, MESSAGE, None)],
)
def test_a_broken_contract_is_a_value_error(version: RoomVersion, template: EventTemplate, room_id: Any) -> None:
    with pytest.raises(ValueError):
        made(version, template, room_id)


def test_too_many_references_are_a_value_error() -> None:
    some = PLACE.prev_event_ids
    for place in (GraphPlace(some * 21, (), 1), GraphPlace((), some * 11, 1)):
        with pytest.raises(ValueError):
            made(V12, MESSAGE, place=place)
    made(V12, MESSAGE, place=GraphPlace(some * 20, some * 10, 1))


@pytest.mark.parametrize("version", [V1, V2], ids=lambda version: version.identifier)
def test_the_first_versions_have_ids_that_are_chosen_and_references_with_hashes(version: RoomVersion) -> None:
    def at(now_ms: int, opaque_id: str | None = None, place: GraphPlace = PLACE) -> Event:
        return compose(
            version,
            MESSAGE,
            room_id=ROOM,
            place=place,
            server_name=SERVER,
            key=KEY,
            now_ms=now_ms,
            opaque_id=opaque_id,
        )

    assert "$chosen:a.example" == at(1, "chosen").event_id == at(1, "chosen").wire["event_id"]
    assert at(1).event_id == at(1).event_id != at(2).event_id
    assert at(1).event_id.endswith(":a.example")
    first = at(1)
    hashes = reference_hashes(version, [first])
    assert {first.event_id: reference_hash(version, redact(version, first.wire))} == hashes
    second = at(2, place=GraphPlace((first.event_id,), (), 2, hashes))
    assert [[first.event_id, {"sha256": hashes[first.event_id]}]] == second.wire["prev_events"]
    third = at(2, place=GraphPlace((first.event_id,), (), 2, {first.event_id: None}))
    assert [[first.event_id, {}]] == third.wire["prev_events"]
    with pytest.raises(ValueError):
        at(2, place=GraphPlace((first.event_id,), (), 2))
    assert {} == reference_hashes(V12, [made(V12, MESSAGE)])


@pytest.mark.parametrize(("version", "in_content"), [(V10, False), (V11, True), (V12, True)])
def test_a_redaction_names_its_target_where_the_version_has_it(version: RoomVersion, in_content: bool) -> None:
    target = EventID("$" + "R" * 43)
    event = made(version, EventTemplate("m.room.redaction", {"reason": "x"}, ALICE, redacts=target))
    assert target == event.redacts
    assert in_content is ("redacts" in event.content)
    assert in_content is not ("redacts" in event.wire)


@VERSIONS
def test_the_template_is_not_changed(version: RoomVersion) -> None:
    content = {"a": {"b": [1]}}
    template = EventTemplate("m.room.redaction", MappingProxyType(content), ALICE, redacts=EventID("$x"))
    before = deepcopy(content)
    event = made(version, template)
    assert before == content
    assert event.content is not content


def test_the_depth_stops_at_the_limit() -> None:
    limit = 2**53 - 1
    for depth, expected in ((limit - 1, limit - 1), (limit, limit), (limit + 1, limit), (2**70, limit)):
        event = made(V12, MESSAGE, place=replace(PLACE, depth=depth))
        assert expected == event.depth == event.wire["depth"]


def test_only_those_who_may_choose_a_time_set_it() -> None:
    assert 5 == made(V12, replace(MESSAGE, origin_server_ts=5)).origin_server_ts
    assert 1_000_000 == made(V12, MESSAGE).origin_server_ts
    for timestamp in (-1, 2**53, 1.0, True):
        with pytest.raises(BadJson):
            made(V12, replace(MESSAGE, origin_server_ts=timestamp))  # type: ignore[arg-type]


@VERSIONS
def test_every_encoder_can_write_an_event_with_identifiers_for_keys(version: RoomVersion) -> None:
    content = {"users": {ALICE: 100, UserID("@b:c"): 50}, "events": {}}
    event = made(version, EventTemplate("m.room.power_levels", content, ALICE, ""))
    assert event.content == content
    assert event.wire == orjson.loads(orjson.dumps(event.wire))
    assert event.event_id == event_id_of(version, orjson.loads(orjson.dumps(event.wire)))


@VERSIONS
@pytest.mark.parametrize(
    "value",
    [1.0, -0.0, float("nan"), float("inf"), 2**53, -(2**53), 10**400, "\ud800", b"x", object()],
    ids=lambda value: f"{type(value).__name__} {value!r:.12}",
)
def test_content_without_a_strict_form_is_bad_json(version: RoomVersion, value: Any) -> None:
    for content in ({"a": value}, {"a": [{"b": value}]}):
        with pytest.raises(BadJson):
            made(version, replace(MESSAGE, content=content))


@pytest.mark.parametrize("name", ["type", "state_key"])
def test_lone_surrogates_in_keys_are_bad_json(name: str) -> None:
    with pytest.raises(BadJson):
        made(V12, replace(MESSAGE, **{name: "\ud800"}))


def test_what_is_nested_too_deep_for_others_is_bad_json_here() -> None:
    value: Any = "x"
    for _ in range(MAX_DEPTH - 2):
        value = [value]
    check_event_format(V12, made(V12, replace(MESSAGE, content={"a": value})).wire)
    with pytest.raises(BadJson):
        made(V12, replace(MESSAGE, content={"a": [value]}))


@pytest.mark.parametrize("character", ["a", "é", "日", "\U0001f600", "\x01", '"'])
@pytest.mark.parametrize("name", ["type", "state_key"])
def test_keys_are_limited_in_bytes(name: str, character: str) -> None:
    size = len(character.encode())
    filled = character * (255 // size) + "b" * (255 % size)
    made(V12, replace(MESSAGE, **{name: filled}))
    with pytest.raises(TooLarge):
        made(V12, replace(MESSAGE, **{name: filled + "b"}))


@given(
    st.sampled_from(list(ROOM_VERSIONS.values())),
    st.integers(65_534, 65_538),
    st.text(max_size=30),
    st.text(max_size=10) | st.none(),
)
def test_the_size_is_exact(version: RoomVersion, size: int, text: str, state_key: str | None) -> None:
    template = replace(MESSAGE, content={"text": text, "fill": ""}, state_key=state_key)
    shortest = len(encode_canonical(made(version, template).wire))
    filled = replace(template, content={"text": text, "fill": "x" * (size - shortest)})
    if size > 65_536:
        with pytest.raises(TooLarge):
            made(version, filled)
    else:
        assert size == len(encode_canonical(made(version, filled).wire))


def test_too_large_has_its_own_errcode() -> None:
    with pytest.raises(TooLarge) as raised:
        made(V12, replace(MESSAGE, content={"body": "x" * 70_000}))
    assert ("M_TOO_LARGE", 413) == (raised.value.errcode, raised.value.status)
