"""createRoom as a list of events.  Spec: client-server API, `POST /createRoom`."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homeserver.errors import BadJson, InvalidParam, InvalidRoomState, MatrixError
from homeserver.model.auth.rules import check_state_dependent
from homeserver.model.event import EventTemplate
from homeserver.model.ids import UserID
from homeserver.model.presets import RoomRequest, StoredThirdPartyInvite, initial_events
from homeserver.model.room_versions import KNOWN_ROOM_VERSIONS, V10, V11, V12, RoomVersion

from .rooms_in_memory import ALICE, BOB, CAROL, StateRoom

MEMBER = "m.room.member"


STABLE = [version for version in KNOWN_ROOM_VERSIONS.values() if version.is_stable]
VERSIONS = pytest.mark.parametrize("version", STABLE, ids=lambda version: version.identifier)


def events_of(body: dict[str, Any], version: RoomVersion = V12, **options: Any) -> list[EventTemplate]:
    return initial_events(RoomRequest.parse(body), version, ALICE, **options)


def content_of(events: list[EventTemplate], event_type: str, state_key: str = "") -> Any:
    """Return the content of the last event for this state."""
    return [event.content for event in events if (event.type, event.state_key) == (event_type, state_key)][-1]


def replay(events: list[EventTemplate], version: RoomVersion) -> StateRoom:
    """Send the events one after the other under the rules; raise where one is refused."""
    room = StateRoom(version, **{key: value for key, value in events[0].content.items() if key != "room_version"})
    room.state = {("m.room.create", ""): room.create}
    previous = room.create.event_id
    for template in events[1:]:
        event = room.event(template.type, template.sender, template.content, template.state_key, prev=(previous,))
        check_state_dependent(version, event, room.state, room.create)
        assert template.state_key is not None
        room.state[template.type, template.state_key] = event
        previous = event.event_id
    return room


@VERSIONS
def test_order_of_the_events(version: RoomVersion) -> None:
    body = {
        "room_alias_name": "pub",
        "name": "Pub",
        "topic": "Hours",
        "invite": [BOB, CAROL],
        "initial_state": [
            {"type": "m.room.avatar", "content": {"url": "mxc://x/y"}},
            {"type": "org.example", "state_key": "k", "content": {}},
        ],
    }
    stored = (StoredThirdPartyInvite("token", {"display_name": "x"}),)
    found = events_of(body, version, third_party_invites=stored, encryption={"algorithm": "m.megolm.v1.aes-sha2"})
    assert [
        ("m.room.create", ""),
        (MEMBER, ALICE),
        ("m.room.power_levels", ""),
        ("m.room.canonical_alias", ""),
        ("m.room.join_rules", ""),
        ("m.room.history_visibility", ""),
        ("m.room.guest_access", ""),
        ("m.room.encryption", ""),
        ("m.room.avatar", ""),
        ("org.example", "k"),
        ("m.room.name", ""),
        ("m.room.topic", ""),
        (MEMBER, BOB),
        (MEMBER, CAROL),
        ("m.room.third_party_invite", "token"),
    ] == [(event.type, event.state_key) for event in found]
    assert {ALICE} == {event.sender for event in found}
    replay(found, version)


@VERSIONS
@pytest.mark.parametrize(
    ("body", "rules"),
    [
        ({"preset": "private_chat"}, ("invite", "shared", "can_join")),
        ({"preset": "trusted_private_chat"}, ("invite", "shared", "can_join")),
        ({"preset": "public_chat"}, ("public", "shared", "forbidden")),
        ({}, ("invite", "shared", "can_join")),
        ({"visibility": "private"}, ("invite", "shared", "can_join")),
        ({"visibility": "public"}, ("public", "shared", "forbidden")),
        ({"visibility": "public", "preset": "private_chat"}, ("invite", "shared", "can_join")),
    ],
)
def test_presets(version: RoomVersion, body: dict[str, Any], rules: tuple[str, str, str]) -> None:
    found = events_of(body, version)
    assert rules == (
        content_of(found, "m.room.join_rules")["join_rule"],
        content_of(found, "m.room.history_visibility")["history_visibility"],
        content_of(found, "m.room.guest_access")["guest_access"],
    )
    replay(found, version)


@pytest.mark.parametrize(("version", "creator"), [(V10, {"creator": ALICE}), (V11, {}), (V12, {})])
def test_create_content_is_the_servers_where_it_matters(version: RoomVersion, creator: dict[str, Any]) -> None:
    forged = {"creator": BOB, "room_version": "1", "m.federate": False, "type": "m.space", "org.example": [1]}
    found = events_of({"creation_content": forged}, version)
    expected = {"m.federate": False, "type": "m.space", "org.example": [1], "room_version": version.identifier}
    assert {**expected, **creator} == found[0].content


@pytest.mark.parametrize("version", [V10, V11])
def test_power_levels_before_version_12(version: RoomVersion) -> None:
    levels = content_of(events_of({"invite": [BOB]}, version), "m.room.power_levels")
    assert {ALICE: 100} == levels["users"]
    assert levels["events"]["m.room.tombstone"] == 100
    trusted = content_of(events_of({"preset": "trusted_private_chat", "invite": [BOB]}, version), "m.room.power_levels")
    assert {ALICE: 100, BOB: 100} == trusted["users"]


def test_power_levels_of_version_12_name_no_creator() -> None:
    found = events_of({"preset": "trusted_private_chat", "invite": [BOB, ALICE]})
    levels = content_of(found, "m.room.power_levels")
    assert {} == levels["users"]
    assert 150 == levels["events"]["m.room.tombstone"] > levels["state_default"]
    assert [BOB] == found[0].content["additional_creators"]


def test_invitees_of_a_plain_private_chat_are_no_creators() -> None:
    assert "additional_creators" not in events_of({"preset": "private_chat", "invite": [BOB]})[0].content


def test_additional_creators_are_combined_without_repeats() -> None:
    body = {
        "preset": "trusted_private_chat",
        "invite": [BOB],
        "creation_content": {"additional_creators": [CAROL, BOB, ALICE, CAROL]},
    }
    assert [CAROL, BOB] == events_of(body)[0].content["additional_creators"]


def test_topic_has_its_content_block() -> None:
    found = content_of(events_of({"topic": "Hours"}), "m.room.topic")
    assert {"topic": "Hours", "m.topic": {"m.text": [{"mimetype": "text/plain", "body": "Hours"}]}} == found


def test_canonical_alias_is_on_the_creators_server() -> None:
    assert {"alias": "#pub:a.example"} == content_of(events_of({"room_alias_name": "pub"}), "m.room.canonical_alias")


def test_invites_say_whether_they_are_direct_and_carry_profiles() -> None:
    found = events_of({"invite": [BOB, BOB], "is_direct": True}, profiles={BOB: {"displayname": "Bob"}})
    assert {"membership": "invite", "is_direct": True, "displayname": "Bob"} == content_of(found, MEMBER, BOB)
    assert sum(event.state_key == BOB for event in found) == 1
    assert {"membership": "join"} == content_of(found, MEMBER, ALICE), "the creator is not invited and not direct"


def test_profile_cannot_change_a_membership() -> None:
    found = events_of({"invite": [BOB]}, profiles={BOB: {"membership": "join"}})
    assert content_of(found, MEMBER, BOB)["membership"] == "invite"


@VERSIONS
def test_initial_state_takes_precedence_over_the_preset(version: RoomVersion) -> None:
    entries = [
        {"type": "m.room.join_rules", "content": {"join_rule": "knock"}},
        {"type": "m.room.encryption", "content": {"algorithm": "other"}},
        {"type": "m.room.name", "content": {"name": "initial"}},
    ]
    body = {"initial_state": entries, "name": "last"}
    found = events_of(body, version, encryption={"algorithm": "default"})
    assert [{"join_rule": "knock"}] == [event.content for event in found if event.type == "m.room.join_rules"]
    assert [{"algorithm": "other"}] == [event.content for event in found if event.type == "m.room.encryption"]
    assert {"name": "last"} == content_of(found, "m.room.name")
    replay(found, version)


@VERSIONS
def test_power_levels_are_overridden_key_by_key(version: RoomVersion) -> None:
    override = {"invite": 100, "events": {"m.room.name": 0}, "org.example": "kept"}
    levels = content_of(events_of({"power_level_content_override": override}, version), "m.room.power_levels")
    assert (100, {"m.room.name": 0}, "kept", 50) == tuple(
        levels[key] for key in ("invite", "events", "org.example", "ban")
    )


@pytest.mark.parametrize(
    "override",
    [{"ban": "50"}, {"ban": None}, {"ban": 1.5}, {"users": None}, {"users": {"bob": 1}}, {"events": {"a": "1"}}],
    ids=repr,
)
def test_override_of_a_wrong_form_is_bad_json(override: dict[str, Any]) -> None:
    with pytest.raises(BadJson):
        events_of({"power_level_content_override": override})


@pytest.mark.parametrize("user_id", [ALICE, BOB])
def test_override_cannot_give_creators_of_version_12_a_level(user_id: UserID) -> None:
    body = {
        "power_level_content_override": {"users": {user_id: 100}},
        "creation_content": {"additional_creators": [BOB]},
    }
    with pytest.raises(InvalidRoomState):
        events_of(body)
    events_of(body, V11)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ([], BadJson),
        ("x", BadJson),
        (None, BadJson),
        ({"preset": "nope"}, InvalidParam),
        ({"preset": ["private_chat"]}, BadJson),
        ({"visibility": "hidden"}, InvalidParam),
        ({"visibility": 1}, BadJson),
        ({"room_version": 12}, BadJson),
        ({"name": ["x"]}, BadJson),
        ({"topic": {"x": 1}}, BadJson),
        ({"is_direct": "yes"}, BadJson),
        ({"is_direct": 1}, BadJson),
        ({"room_alias_name": ""}, InvalidParam),
        ({"room_alias_name": "a:b"}, InvalidParam),
        ({"room_alias_name": "a b"}, InvalidParam),
        ({"room_alias_name": "a\0"}, InvalidParam),
        ({"room_alias_name": "a" * 300}, InvalidParam),
        ({"room_alias_name": 5}, BadJson),
        ({"invite": BOB}, BadJson),
        ({"invite": [5]}, BadJson),
        ({"invite": [[BOB]]}, BadJson),
        ({"invite": ["bob"]}, InvalidParam),
        ({"invite_3pid": {}}, BadJson),
        ({"invite_3pid": ["x"]}, BadJson),
        ({"invite_3pid": [{"medium": "email"}]}, BadJson),
        ({"creation_content": []}, BadJson),
        ({"creation_content": {"m.federate": "no"}}, BadJson),
        ({"creation_content": {"type": 5}}, BadJson),
        ({"creation_content": {"predecessor": "x"}}, BadJson),
        ({"creation_content": {"additional_creators": BOB}}, BadJson),
        ({"creation_content": {"additional_creators": None}}, BadJson),
        ({"creation_content": {"additional_creators": [5]}}, BadJson),
        ({"creation_content": {"additional_creators": ["bob"]}}, InvalidParam),
        ({"initial_state": {}}, BadJson),
        ({"initial_state": ["x"]}, BadJson),
        ({"initial_state": [{"content": {}}]}, BadJson),
        ({"initial_state": [{"type": "x"}]}, BadJson),
        ({"initial_state": [{"type": 5, "content": {}}]}, BadJson),
        ({"initial_state": [{"type": "x", "content": []}]}, BadJson),
        ({"initial_state": [{"type": "x", "state_key": 5, "content": {}}]}, BadJson),
        ({"initial_state": [{"type": "m.room.create", "content": {}}]}, InvalidRoomState),
        ({"initial_state": [{"type": "x", "content": {"a": 1.5}}]}, BadJson),
        ({"name": 2**53}, BadJson),
        ({"power_level_content_override": 5}, BadJson),
    ],
    ids=repr,
)
def test_bad_requests(body: Any, error: type[MatrixError]) -> None:
    with pytest.raises(error):
        events_of(body)


def test_null_is_absent() -> None:
    keys = [
        "preset",
        "visibility",
        "room_version",
        "room_alias_name",
        "name",
        "topic",
        "is_direct",
        "creation_content",
        "initial_state",
        "invite",
        "invite_3pid",
        "power_level_content_override",
    ]
    assert RoomRequest.parse({}) == RoomRequest.parse(dict.fromkeys(keys))


def test_third_party_invitees_are_typed() -> None:
    entry = {"id_server": "id.example", "id_access_token": "abc", "medium": "email", "address": "cheeky@monkey.com"}
    (invitee,) = RoomRequest.parse({"invite_3pid": [entry]}).invite_3pid
    assert ("id.example", "abc", "email", "cheeky@monkey.com") == (
        invitee.id_server,
        invitee.id_access_token,
        invitee.medium,
        invitee.address,
    )


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from([ALICE, BOB]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "content", "state_key", "additional_creators", "users", "events", "ban", "m.federate"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(
    version=st.sampled_from(STABLE),
    body=st.dictionaries(
        st.sampled_from(
            [
                "preset",
                "visibility",
                "room_alias_name",
                "name",
                "topic",
                "is_direct",
                "creation_content",
                "initial_state",
                "invite",
                "invite_3pid",
                "power_level_content_override",
            ]
        ),
        VALUES,
        max_size=4,
    ),
)
def test_any_json_is_a_request_or_a_client_error(version: RoomVersion, body: dict[str, Any]) -> None:
    try:
        events_of(body, version)
    except (BadJson, InvalidParam, InvalidRoomState):
        pass
