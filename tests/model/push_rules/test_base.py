"""The predefined rules are those of the specification; stored rules survive their JSON form."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.model.push_rules.base import BASE_RULES, KINDS, UNCHANGED, PushRule, StoredRules

from .test_evaluate import JSON


def test_the_predefined_rules_are_those_of_the_spec_in_its_order() -> None:
    assert {
        "override": [
            ".m.rule.master",
            ".m.rule.suppress_notices",
            ".m.rule.invite_for_me",
            ".m.rule.member_event",
            ".m.rule.is_user_mention",
            ".m.rule.is_room_mention",
            ".m.rule.tombstone",
            ".m.rule.reaction",
            ".m.rule.room.server_acl",
            ".m.rule.suppress_edits",
        ],
        "content": [],
        "room": [],
        "sender": [],
        "underride": [
            ".m.rule.call",
            ".m.rule.encrypted_room_one_to_one",
            ".m.rule.room_one_to_one",
            ".m.rule.message",
            ".m.rule.encrypted",
        ],
    } == {kind: [rule.rule_id for rule in BASE_RULES[kind]] for kind in KINDS}


def test_only_the_master_rule_is_disabled() -> None:
    assert [".m.rule.master"] == [rule.rule_id for kind in KINDS for rule in BASE_RULES[kind] if not rule.enabled]


def test_stored_rules_survive_their_json_form() -> None:
    stored = StoredRules(
        override=(PushRule("o", ("notify",), ({"kind": "x"},), enabled=False),),
        content=(PushRule("c", (), pattern="p"),),
        base_enabled={".m.rule.master": True},
        base_actions={".m.rule.call": ("notify",)},
    )
    assert stored == StoredRules.from_json(stored.to_json())


def test_no_changes_have_an_empty_json_form() -> None:
    assert {} == UNCHANGED.to_json()
    assert StoredRules.from_json({}).is_empty


@pytest.mark.parametrize(
    "entry",
    [
        1,
        {},
        {"rule_id": 1, "actions": []},
        {"rule_id": "a", "actions": {}},
        {"rule_id": "a", "actions": [], "conditions": 1},
        {"rule_id": "a", "actions": [], "conditions": [1]},
        {"rule_id": "a", "actions": [], "pattern": 1},
    ],
)
def test_a_stored_rule_of_another_shape_is_left_out(entry: Any) -> None:
    assert UNCHANGED == StoredRules.from_json({"override": [entry]})


@given(st.dictionaries(st.sampled_from([*KINDS, "base_enabled", "base_actions"]), JSON))
def test_any_stored_json_is_survived(stored: dict[str, Any]) -> None:
    StoredRules.from_json(stored)


def matching(key: str, pattern: str) -> dict[str, Any]:
    return {"kind": "event_match", "key": key, "pattern": pattern}


DEFAULT_SOUND = {"set_tweak": "sound", "value": "default"}
HIGHLIGHT = {"set_tweak": "highlight"}
ONE_TO_ONE = {"kind": "room_member_count", "is": "2"}
USER = "@user:a.example"


@pytest.mark.parametrize(
    ("kind", "rule_id", "conditions", "actions"),
    [
        ("override", ".m.rule.master", [], []),
        ("override", ".m.rule.suppress_notices", [matching("content.msgtype", "m.notice")], []),
        (
            "override",
            ".m.rule.invite_for_me",
            [matching("type", "m.room.member"), matching("content.membership", "invite"), matching("state_key", USER)],
            ["notify", DEFAULT_SOUND],
        ),
        ("override", ".m.rule.member_event", [matching("type", "m.room.member")], []),
        (
            "override",
            ".m.rule.is_user_mention",
            [{"kind": "event_property_contains", "key": "content.m\\.mentions.user_ids", "value": USER}],
            ["notify", DEFAULT_SOUND, HIGHLIGHT],
        ),
        (
            "override",
            ".m.rule.is_room_mention",
            [
                {"kind": "event_property_is", "key": "content.m\\.mentions.room", "value": True},
                {"kind": "sender_notification_permission", "key": "room"},
            ],
            ["notify", HIGHLIGHT],
        ),
        (
            "override",
            ".m.rule.tombstone",
            [matching("type", "m.room.tombstone"), matching("state_key", "")],
            ["notify", HIGHLIGHT],
        ),
        ("override", ".m.rule.reaction", [matching("type", "m.reaction")], []),
        ("override", ".m.rule.room.server_acl", [matching("type", "m.room.server_acl"), matching("state_key", "")], []),
        (
            "override",
            ".m.rule.suppress_edits",
            [{"kind": "event_property_is", "key": "content.m\\.relates_to.rel_type", "value": "m.replace"}],
            [],
        ),
        (
            "underride",
            ".m.rule.call",
            [matching("type", "m.call.invite")],
            ["notify", {"set_tweak": "sound", "value": "ring"}],
        ),
        (
            "underride",
            ".m.rule.encrypted_room_one_to_one",
            [ONE_TO_ONE, matching("type", "m.room.encrypted")],
            ["notify", DEFAULT_SOUND],
        ),
        (
            "underride",
            ".m.rule.room_one_to_one",
            [ONE_TO_ONE, matching("type", "m.room.message")],
            ["notify", DEFAULT_SOUND],
        ),
        ("underride", ".m.rule.message", [matching("type", "m.room.message")], ["notify"]),
        ("underride", ".m.rule.encrypted", [matching("type", "m.room.encrypted")], ["notify"]),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_predefined_rule_is_word_for_word_that_of_the_spec(
    kind: Any, rule_id: str, conditions: list[Any], actions: list[Any]
) -> None:
    """Spec: client-server API, "Default Override Rules", "Default Underride Rules", the JSON under "Definition"."""
    expected = {
        "rule_id": rule_id,
        "default": True,
        "enabled": rule_id != ".m.rule.master",
        "conditions": conditions,
        "actions": actions,
    }
    rule = next(rule for rule in BASE_RULES[kind] if rule.rule_id == rule_id)
    assert expected == rule.to_wire(kind, USER, is_default=True)
