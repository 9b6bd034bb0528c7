"""The rules beside membership and power levels, clause by clause, and their totality.

Spec: rooms/v12, "Authorisation rules"; rules are named by their number in version 12.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homeserver.errors import AuthRuleBroken
from homeserver.model.auth.numbering import rule_number
from homeserver.model.auth.rules import check_state_dependent, check_state_independent
from homeserver.model.event import Event
from homeserver.model.ids import EventID, RoomID, UserID
from homeserver.model.room_versions import (
    KNOWN_ROOM_VERSIONS,
    OWNED_STATE_10,
    OWNED_STATE_11,
    V1,
    V2,
    V3,
    V5,
    V6,
    V7,
    V8,
    V9,
    V10,
    V11,
    V12,
    RoomVersion,
)

from ..rooms_in_memory import ALICE, BOB, CAROL, VERSIONS, StateRoom, broken_rule, expected_rule


def refused_alone(room: StateRoom, event: Event, *auth_events: Event, **options: Any) -> str | None:
    """Return the rule by which the event and what it cites are refused by themselves, or None."""
    create = options.get("create", room.create)
    try:
        check_state_independent(room.version, event, auth_events, options.get("rejected", frozenset()), create)
    except AuthRuleBroken as broken:
        return broken.rule
    return None


def create_event(version: RoomVersion, content: dict[str, Any], **changes: Any) -> tuple[StateRoom, Event]:
    room = StateRoom(version)
    wire = {} if version.room_id_is_create_hash else {"room_id": room.room_id}
    made = {
        "event_id": EventID("$create"),
        "room_id": room.room_id,
        "type": "m.room.create",
        "sender": ALICE,
        "content": content,
        "state_key": "",
        "depth": 1,
        "origin_server_ts": 1,
        "prev_event_ids": (),
        "auth_event_ids": (),
        "wire": wire,
        **changes,
    }
    return room, Event(**made)


@VERSIONS
@pytest.mark.parametrize(
    ("content", "rule"),
    [
        pytest.param({}, None, id="no room version"),
        pytest.param({"room_version": "10"}, None, id="known"),
        pytest.param({"room_version": "11 "}, "1.3", id="trailing space"),
        pytest.param({"room_version": "nope"}, "1.3", id="unknown"),
        pytest.param({"room_version": 10}, "1.3", id="integer"),
        pytest.param({"room_version": None}, "1.3", id="null"),
        pytest.param({"room_version": ["10"]}, "1.3", id="list"),
        pytest.param({"room_version": {}}, "1.3", id="object"),
    ],
)
def test_create_event(version: RoomVersion, content: dict[str, Any], rule: str | None) -> None:
    room, event = create_event(version, {"creator": ALICE, **content})
    assert rule == refused_alone(room, event)
    assert rule == broken_rule(room, event)


@VERSIONS
def test_create_event_with_prev_events_is_refused(version: RoomVersion) -> None:
    room, event = create_event(version, {"creator": ALICE}, prev_event_ids=(EventID("$x"),))
    assert refused_alone(room, event) == "1.1"
    assert broken_rule(room, event) == "1.1"


@pytest.mark.parametrize(("version", "rule"), [(V10, "1.4"), (V11, None), (V12, None)])
def test_only_version_10_wants_the_creator_named(version: RoomVersion, rule: str | None) -> None:
    room, event = create_event(version, {})
    assert rule == refused_alone(room, event)


@pytest.mark.parametrize("version", [V10, V11])
def test_room_id_must_be_of_the_creators_server_before_version_12(version: RoomVersion) -> None:
    room, event = create_event(version, {"creator": BOB}, sender=BOB)
    assert refused_alone(room, event) == "1.2"


def test_create_event_of_version_12_must_not_have_a_room_id() -> None:
    room, event = create_event(V12, {}, wire={"room_id": "!x"})
    assert refused_alone(room, event) == "1.2"
    _, event = create_event(V12, {}, wire={"room_id": None})
    assert refused_alone(room, event) == "1.2"


@pytest.mark.parametrize(
    ("additional", "rule"),
    [
        ([], None),
        ([BOB, CAROL], None),
        ([BOB, BOB], None),
        (None, "1.4"),
        (BOB, "1.4"),
        ({BOB: 1}, "1.4"),
        ([BOB, 7], "1.4"),
        ([BOB, None], "1.4"),
        ([BOB, [CAROL]], "1.4"),
        (["bob"], "1.4"),
        (["@bob"], "1.4"),
        (["@bob:"], "1.4"),
        (["@" + "b" * 255 + ":b.example"], "1.4"),
    ],
)
def test_additional_creators(additional: Any, rule: str | None) -> None:
    room, event = create_event(V12, {"additional_creators": additional})
    assert rule == refused_alone(room, event)
    room, event = create_event(V11, {"additional_creators": additional})
    assert refused_alone(room, event) is None, "before version 12 it is not validated"


def test_room_id_of_version_12_names_an_accepted_create_event() -> None:
    room, other = StateRoom(V12), StateRoom(V12)
    event = room.event("m.room.message", ALICE, {})
    assert refused_alone(room, event) is None
    assert refused_alone(room, event, create=None) == "2"
    assert refused_alone(room, event, create=other.create) == "2"
    assert refused_alone(room, event, create=room.event("m.room.message", ALICE, {})) == "2"
    assert refused_alone(room, event, rejected={room.create.event_id}) == "2"
    not_create = room.set_state("m.room.topic", {})
    assert refused_alone(room, room.event("m", ALICE, {}, room_id="!" + not_create.event_id[1:])) == "2"


@VERSIONS
def test_auth_events(version: RoomVersion) -> None:
    room = StateRoom(version)
    room.set_power()
    base = [] if version.room_id_is_create_hash else [room.create]
    member = room.state["m.room.member", ALICE]
    power = room.state["m.room.power_levels", ""]
    other_power = room.set_state("m.room.power_levels", {})
    foreign = room.event("m.room.power_levels", ALICE, {}, "", room_id="!other:a.example")
    message = room.event("m.room.message", ALICE, {})
    topic = room.set_state("m.room.topic", {})
    room.set_member(BOB, "join")
    cases: list[tuple[list[Event], str | None]] = [
        ([], None),
        ([power, member], None),
        ([member], None),
        ([member, member], "3.1"),
        ([power, other_power], "3.1"),
        ([topic], "3.2"),
        ([message], "3.2"),
        ([room.state["m.room.member", BOB]], "3.2"),
        ([foreign], "3.5"),
        ([member] * 10_000, "3.1"),
    ]
    for cited, rule in cases:
        assert expected_rule(version, rule) == refused_alone(room, message, *base, *cited)
    assert expected_rule(version, "3.3") == refused_alone(room, message, *base, power, rejected={power.event_id})


@VERSIONS
def test_create_event_is_cited_before_version_12_only(version: RoomVersion) -> None:
    room = StateRoom(version)
    message = room.event("m.room.message", ALICE, {})
    if version.room_id_is_create_hash:
        assert refused_alone(room, message, room.create) == "3.2"
    else:
        assert refused_alone(room, message) == "2.4"
        assert refused_alone(room, message, room.create) is None


@VERSIONS
@pytest.mark.parametrize(
    ("federate", "rule"),
    [(False, "4"), (True, None), (None, None), ("false", None), (0, None), ([], None)],
)
def test_room_that_is_not_federated(version: RoomVersion, federate: Any, rule: str | None) -> None:
    room = StateRoom(version, **{"m.federate": federate})
    room.set_join_rule("public")
    assert expected_rule(version, rule) == broken_rule(room, room.member(BOB, BOB, "join"))
    local = UserID("@local:a.example")
    assert broken_rule(room, room.member(local, local, "join")) is None


@VERSIONS
@pytest.mark.parametrize(
    ("now", "rule"),
    [("join", None), ("invite", "6"), ("knock", "6"), ("leave", "6"), ("ban", "6"), (None, "6")],
)
def test_sender_must_be_joined(version: RoomVersion, now: str | None, rule: str | None) -> None:
    room = StateRoom(version)
    room.set_member(BOB, now)
    assert expected_rule(version, rule) == broken_rule(room, room.event("m.room.message", BOB, {"body": "hi"}))


@VERSIONS
@pytest.mark.parametrize(("power", "rule"), [(30, None), (29, "7.1")])
def test_third_party_invite_needs_the_invite_level_and_no_other(
    version: RoomVersion, power: int, rule: str | None
) -> None:
    room = StateRoom(version)
    room.set_member(BOB, "join")
    room.set_power({BOB: power}, invite=30, state_default=100, events={"m.room.third_party_invite": 100})
    event = room.event("m.room.third_party_invite", BOB, {}, "token")
    assert expected_rule(version, rule) == broken_rule(room, event)


@VERSIONS
@pytest.mark.parametrize(
    ("event_type", "state_key", "power", "rule"),
    [
        ("m.room.message", None, 10, None),
        ("m.room.message", None, 9, "8"),
        ("special", None, 70, None),
        ("special", None, 69, "8"),
        ("special", "", 70, None),
        ("special", "", 69, "8"),
        ("m.room.topic", "", 60, None),
        ("m.room.topic", "", 59, "8"),
        ("m.room.redaction", None, 10, None),
        ("m.room.aliases", "b.example", 59, "8"),
    ],
)
def test_required_power_level(
    version: RoomVersion, event_type: str, state_key: str | None, power: int, rule: str | None
) -> None:
    room = StateRoom(version)
    room.set_member(BOB, "join")
    room.set_power({BOB: power}, events={"special": 70}, events_default=10, state_default=60, redact=100)
    assert expected_rule(version, rule) == broken_rule(room, room.event(event_type, BOB, {}, state_key))


@VERSIONS
@pytest.mark.parametrize(
    ("sender", "event_type", "state_key", "rule"),
    [
        (ALICE, "m.room.topic", "", None),
        (BOB, "m.room.topic", "", "8"),
        (BOB, "m.room.message", None, None),
    ],
)
def test_room_without_power_levels(
    version: RoomVersion, sender: UserID, event_type: str, state_key: str | None, rule: str | None
) -> None:
    room = StateRoom(version)
    room.set_member(BOB, "join")
    assert expected_rule(version, rule) == broken_rule(room, room.event(event_type, sender, {}, state_key))


@VERSIONS
@pytest.mark.parametrize(
    ("state_key", "rule"), [(BOB, None), (CAROL, "9"), ("@", "9"), (f"_{CAROL}", None), ("", None), ("x", None)]
)
def test_state_keys_of_users(version: RoomVersion, state_key: str, rule: str | None) -> None:
    room = StateRoom(version)
    room.set_member(BOB, "join")
    room.set_power(state_default=0)
    assert expected_rule(version, rule) == broken_rule(room, room.event("org.example.own", BOB, {}, state_key))


@pytest.mark.parametrize("version", [OWNED_STATE_10, OWNED_STATE_11], ids=lambda version: version.identifier)
@pytest.mark.parametrize(
    ("sender", "state_key", "is_allowed"),
    [
        (BOB, BOB, True),
        (BOB, f"{BOB}_suffix", True),
        (BOB, f"{BOB}_", True),
        (BOB, f"{BOB}__a:b_c", True),
        (BOB, f"{BOB}suffix", False),
        (BOB, f"{BOB}:suffix", False),
        (BOB, CAROL, False),
        (BOB, f"{CAROL}_suffix", False),
        (BOB, f"{ALICE}_suffix", False),
        (ALICE, f"{BOB}_suffix", True),
        (ALICE, BOB, True),
        (ALICE, "@no_colon", False),
        (ALICE, "@:", False),
        (ALICE, "@", False),
        (BOB, "_", True),
        (BOB, "", True),
    ],
)
def test_owned_state_is_for_its_owner_and_those_above(
    version: RoomVersion, sender: UserID, state_key: str, is_allowed: bool
) -> None:
    """Spec: MSC3757."""
    room = StateRoom(version)
    room.set_member(BOB, "join")
    room.set_power(state_default=0)
    rule = broken_rule(room, room.event("org.example.own", sender, {}, state_key))
    assert (None if is_allowed else expected_rule(version, "9")) == rule


def test_creators_of_version_12_may_send_anything() -> None:
    room = StateRoom(V12, additional_creators=[BOB])
    room.set_member(BOB, "join")
    room.set_power(events={"m.room.tombstone": 2**53 - 1})
    for creator in (ALICE, BOB):
        assert broken_rule(room, room.event("m.room.tombstone", creator, {}, "")) is None


@pytest.mark.parametrize(
    ("rule", "in_version_10"),
    [
        ("1.2", "1.2"),
        ("3.5", "2.5"),
        ("4", "3"),
        ("5.3.5.2", "4.3.5.2"),
        ("8", "7"),
        ("10.3", "9.3"),
        ("10.9.1", "9.8.1"),
    ],
)
def test_rules_have_the_number_of_their_own_text(rule: str, in_version_10: str) -> None:
    assert rule == rule_number(V12, rule)
    assert in_version_10 == rule_number(V11, rule) == rule_number(V10, rule)


@pytest.mark.parametrize(
    ("rule", "number", "version"),
    [
        ("3.1", "2.1", V1),
        ("4", "3", V1),
        ("5.1", "5.1", V1),
        ("5.3.7", "5.2.6", V1),
        ("5.5.1", "5.4.1", V1),
        ("5.8", "5.6", V1),
        ("8", "8", V1),
        ("10.3", "10.1", V1),
        ("10.10.1", "10.7.1", V1),
        ("11.3", "11.3", V2),
        ("5.8", "4.6", V6),
        ("5.8", "4.7", V7),
        ("5.7.1", "4.6.1", V7),
        ("5.3.6", "4.2.5", V7),
        ("5.4.1.8", "4.3.1.8", V7),
        ("5.3.5.2", "4.3.5.2", V8),
        ("10.3", "9.1", V9),
        ("10.9.1", "9.6.1", V9),
    ],
)
def test_rules_of_old_versions_have_their_number(rule: str, number: str, version: RoomVersion) -> None:
    assert number == rule_number(version, rule)


@pytest.mark.parametrize(
    ("version", "state_key", "rule"),
    [(V5, "b.example", None), (V5, None, "4.1"), (V5, "a.example", "4.2"), (V6, "b.example", "5")],
)
def test_aliases_have_a_rule_up_to_version_5(version: RoomVersion, state_key: str | None, rule: str | None) -> None:
    """Users of a server may tell its aliases without being in the room."""
    room = StateRoom(version)
    assert rule == broken_rule(room, room.event("m.room.aliases", BOB, {}, state_key))


@pytest.mark.parametrize(
    ("version", "power", "redacts", "rule"),
    [
        (V2, 50, "$x:a.example", None),
        (V2, 0, "$x:a.example", "11.3"),
        (V2, 0, "$x:b.example", None),
        (V2, 0, ["$x:b.example"], "11.3"),
        (V2, 0, None, "11.3"),
        (V3, 0, "$x:a.example", None),
    ],
)
def test_redactions_have_a_rule_up_to_version_2(
    version: RoomVersion, power: int, redacts: Any, rule: str | None
) -> None:
    room = StateRoom(version)
    room.set_member(BOB, "join")
    room.set_power({BOB: power})
    content = {"redacts": "$x:b.example"}
    event = room.event("m.room.redaction", BOB, content, wire={"redacts": redacts}, event_id="$r:b.example")
    assert rule == broken_rule(room, event)


@pytest.mark.parametrize(
    ("version", "join_rule", "membership", "allowed"),
    [
        (V6, "knock", "knock", False),
        (V7, "knock", "knock", True),
        (V9, "knock_restricted", "knock", False),
        (V10, "knock_restricted", "knock", True),
        (V7, "restricted", "join", False),
        (V8, "restricted", "join", True),
        (V9, "knock_restricted", "join", False),
        (V10, "knock_restricted", "join", True),
    ],
)
def test_versions_that_have_a_join_rule(version: RoomVersion, join_rule: str, membership: str, allowed: bool) -> None:
    room = StateRoom(version)
    room.set_join_rule(join_rule)
    event = room.member(BOB, BOB, membership, join_authorised_via_users_server=ALICE)
    assert allowed is (broken_rule(room, event) is None)


@pytest.mark.parametrize(("version", "rule"), [(V9, None), (V10, "9.1")])
def test_levels_may_be_text_up_to_version_9(version: RoomVersion, rule: str | None) -> None:
    room = StateRoom(version)
    content = {"ban": " +50 ", "users": {ALICE: "100"}}
    assert rule == broken_rule(room, room.event("m.room.power_levels", ALICE, content, ""))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from([ALICE, BOB]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(
    [
        "membership",
        "join_rule",
        "allow",
        "users",
        "users_default",
        "events",
        "events_default",
        "state_default",
        "ban",
        "kick",
        "redact",
        "invite",
        "notifications",
        "third_party_invite",
        "signed",
        "token",
        "mxid",
        "signatures",
        "public_key",
        "public_keys",
        "creator",
        "room_version",
        "additional_creators",
        "m.federate",
        "join_authorised_via_users_server",
    ]
)
VALUES = (
    JSON
    | st.sampled_from(["join", "invite", "leave", "ban", "knock", "public", "restricted", "100", " 7 ", 2**63, 10**400])
    | st.dictionaries(KEYS | st.sampled_from([ALICE, BOB, "m.room.message"]), JSON, max_size=4)
)
CONTENT = st.dictionaries(KEYS, VALUES, max_size=6)
TYPES = st.sampled_from(
    [
        "m.room.create",
        "m.room.member",
        "m.room.power_levels",
        "m.room.join_rules",
        "m.room.third_party_invite",
        "m.room.message",
    ]
)
USERS = st.sampled_from([ALICE, BOB, UserID("@:x"), UserID("nonsense")])


@settings(max_examples=400, deadline=None)
@given(
    version=st.sampled_from(list(KNOWN_ROOM_VERSIONS.values())),
    event_type=TYPES,
    sender=USERS,
    state_key=st.none() | USERS | st.just("") | st.text(max_size=4),
    content=CONTENT,
    create=CONTENT,
    power=st.none() | CONTENT,
    join_rules=st.none() | CONTENT,
    member=st.none() | CONTENT,
    other_member=st.none() | CONTENT,
    invite=CONTENT,
)
def test_rules_are_total(
    version: RoomVersion,
    event_type: str,
    sender: UserID,
    state_key: str | None,
    content: dict[str, Any],
    create: dict[str, Any],
    power: dict[str, Any] | None,
    join_rules: dict[str, Any] | None,
    member: dict[str, Any] | None,
    other_member: dict[str, Any] | None,
    invite: dict[str, Any],
) -> None:
    """Whatever JSON the event and the state hold, a rule allows or refuses; it never fails."""
    room = StateRoom(version, **create)
    for key, held in (
        (("m.room.power_levels", ""), power),
        (("m.room.join_rules", ""), join_rules),
        (("m.room.member", ALICE), member),
        (("m.room.member", BOB), other_member),
        (("m.room.third_party_invite", "token"), invite),
    ):
        if held is not None:
            room.set_state(key[0], held, key[1])
    event = room.event(event_type, sender, content, state_key)
    broken_rule(room, event)
    refused_alone(room, event, *room.state.values())


def test_deeply_nested_content_costs_no_stack() -> None:
    nested: Any = {}
    for _ in range(100_000):
        nested = {"signed": nested}
    room = StateRoom(V12)
    room.set_state("m.room.third_party_invite", {"public_key": "A" * 43}, "t")
    claim = {"signed": {"token": "t", "mxid": BOB, "deep": nested, "signatures": {"a": {"ed25519:1": "A" * 86}}}}
    assert broken_rule(room, room.member(ALICE, BOB, "invite", third_party_invite=claim)) == "5.4.1.8"
    assert broken_rule(room, room.event("m.room.power_levels", ALICE, {"users": nested}, "")) == "10.3"
    while nested:  # taken apart by hand, because freeing it recurses
        nested = nested.pop("signed")


def test_state_is_asked_by_key_only() -> None:
    class Asked:
        def __init__(self, room: StateRoom) -> None:
            self.room = room
            self.keys: list[tuple[str, str]] = []

        def get(self, key: tuple[str, str], /) -> Event | None:
            self.keys.append(key)
            return self.room.state.get(key)

    room = StateRoom(V12)
    state = Asked(room)
    check_state_dependent(V12, room.event("m.room.message", ALICE, {}), state, room.create)
    assert [("m.room.member", ALICE), ("m.room.power_levels", "")] == state.keys
    assert RoomID(room.room_id) == room.create.room_id
