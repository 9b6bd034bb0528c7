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
