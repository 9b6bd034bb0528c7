from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.model.redaction import redact
from homeserver.model.room_versions import KNOWN_ROOM_VERSIONS, RELATIONS_10, V10, RoomVersion

KEPT_ALWAYS = {
    "event_id",
    "type",
    "room_id",
    "sender",
    "state_key",
    "content",
    "hashes",
    "signatures",
    "depth",
    "prev_events",
    "auth_events",
    "origin_server_ts",
}
LEGACY = {"origin", "membership", "prev_state"}
ALL = KEPT_ALWAYS | LEGACY | {"unsigned", "redacts", "age_ts", "org.example.other"}

_SIGNED = {"mxid": "@a:b", "token": "t", "signatures": {}}
_POWER_LEVELS = ["ban", "events", "events_default", "kick", "redact", "state_default", "users", "users_default"]

OLD, SIX, EIGHT, NINE, ELEVEN = (
    ["1", "2", "3", "4", "5"],
    ["6", "7"],
    ["8"],
    ["9", "10", "org.matrix.msc3757.10", "org.matrix.msc3389.10"],
    ["11", "12", "org.matrix.hydra.11", "org.matrix.msc3757.11"],
)
# By type: the names that every version keeps, and those that some versions keep besides.
# Spec: rooms/v1, v6, v8, v9 and v11, "Redactions".
CONTENT: dict[str, tuple[list[str], dict[str, list[str]]]] = {
    "m.room.member": (["membership"], {"join_authorised_via_users_server": NINE + ELEVEN}),
    "m.room.create": (
        [],
        {
            "creator": OLD + SIX + EIGHT + NINE + ELEVEN,
            **dict.fromkeys(["room_version", "m.federate", "predecessor", "additional_creators", "other"], ELEVEN),
        },
    ),
    "m.room.join_rules": (["join_rule"], {"allow": EIGHT + NINE + ELEVEN}),
    "m.room.power_levels": (_POWER_LEVELS, {"invite": ELEVEN}),
    "m.room.aliases": ([], {"aliases": OLD}),
    "m.room.history_visibility": (["history_visibility"], {}),
    "m.room.redaction": ([], {"redacts": ELEVEN}),
    "m.room.message": ([], {}),
    "m.room.name": ([], {}),
    "m.room.third_party_invite": ([], {}),
}
EVERY_NAME = {name for always, some in CONTENT.values() for name in (*always, *some)} | {"notifications", "reason"}

VERSIONS = pytest.mark.parametrize("version", KNOWN_ROOM_VERSIONS.values(), ids=lambda version: version.identifier)


@VERSIONS
def test_only_the_listed_keys_are_kept(version: RoomVersion) -> None:
    wire: dict[str, Any] = {name: name for name in ALL} | {"content": {}}
    expected = KEPT_ALWAYS | LEGACY if version.identifier not in ELEVEN else KEPT_ALWAYS
    assert {name: wire[name] for name in expected} == redact(version, wire)


@VERSIONS
@pytest.mark.parametrize("event_type", CONTENT)
def test_only_the_listed_content_is_kept(version: RoomVersion, event_type: str) -> None:
    names = EVERY_NAME | ({"other"} if event_type == "m.room.create" else set())
    content = {name: f"value of {name}" for name in names}
    always, some = CONTENT[event_type]
    expected = {*always, *(name for name, versions in some.items() if version.identifier in versions)}
    if event_type == "m.room.create" and version.identifier in ELEVEN:
        expected = set(names)
    redacted = redact(version, {"type": event_type, "content": content})
    assert {"type": event_type, "content": {name: content[name] for name in expected}} == redacted


@VERSIONS
@pytest.mark.parametrize(
    ("invite", "kept"),
    [
        ({"display_name": "x", "signed": _SIGNED}, {"signed": _SIGNED}),
        ({"signed": None}, {"signed": None}),
        ({"display_name": "x"}, {}),
        ("text", None),
        ([_SIGNED], None),
    ],
)
def test_the_signed_part_of_a_third_party_invite_is_kept_from_version_11_on(
    version: RoomVersion, invite: Any, kept: Any
) -> None:
    content = {"membership": "invite", "third_party_invite": invite}
    expected = {"membership": "invite"}
    if version.identifier in ELEVEN and kept is not None:
        expected["third_party_invite"] = kept
    assert expected == redact(version, {"type": "m.room.member", "content": content})["content"]


@VERSIONS
def test_the_event_itself_is_not_changed_and_redacting_again_changes_nothing(version: RoomVersion) -> None:
    wire = {
        "type": "m.room.member",
        "content": {"membership": "join", "displayname": "A", "third_party_invite": {"signed": {}, "x": 1}},
        "unsigned": {"age": 1},
    }
    before = deepcopy(wire)
    redacted = redact(version, wire)
    assert before == wire
    assert redacted == redact(version, redacted)


@given(
    st.sampled_from(list(KNOWN_ROOM_VERSIONS.values())),
    st.dictionaries(
        st.sampled_from(sorted(ALL)),
        st.one_of(
            st.none(),
            st.sampled_from(sorted(CONTENT)),
            st.lists(st.integers()),
            st.dictionaries(st.sampled_from(sorted(EVERY_NAME | {"third_party_invite"})), st.none() | st.integers()),
        ),
    ),
)
def test_any_object_can_be_redacted(version: RoomVersion, wire: dict[str, Any]) -> None:
    redacted = redact(version, wire)
    assert redacted.keys() <= wire.keys()
    assert isinstance(redacted.get("content", {}), dict)
    assert redacted == redact(version, redacted)


@pytest.mark.parametrize(
    ("relates_to", "kept"),
    [
        ({"rel_type": "m.thread", "event_id": "$x", "key": "y"}, {"rel_type": "m.thread", "event_id": "$x"}),
        ({"event_id": 1}, {"event_id": 1}),
        ({"m.in_reply_to": {}}, None),
        ("text", None),
    ],
)
def test_a_relation_is_kept_where_the_version_says_so(relates_to: Any, kept: Any) -> None:
    wire = {"type": "m.room.message", "content": {"body": "x", "m.relates_to": relates_to}}
    assert ({} if kept is None else {"m.relates_to": kept}) == redact(RELATIONS_10, wire)["content"]
    assert {} == redact(V10, wire)["content"]
