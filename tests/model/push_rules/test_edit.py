"""Changes of push rules: where rules go, what is refused and with which error."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.errors import BadJson, BadRequest, InvalidParam, MatrixError, MissingParam, NotFound, TooLarge
from homeserver.model.push_rules import edit
from homeserver.model.push_rules.base import KINDS, UNCHANGED, Kind, StoredRules
from homeserver.model.push_rules.edit import (
    check_kind,
    copy_room_rules,
    delete_rule,
    get_rule,
    put_rule,
    render_rules,
    set_actions,
    set_enabled,
)
from homeserver.model.push_rules.evaluate import compile_rules

from .test_evaluate import JSON

ALICE = "@alice:a.example"
NOTIFY: dict[str, Any] = {"actions": ["notify"]}


def with_rules(*rule_ids: str) -> StoredRules:
    """Return room rules in this order."""
    stored = UNCHANGED
    for rule_id in reversed(rule_ids):
        stored = put_rule(stored, "room", rule_id, NOTIFY)
    return stored


def ids(stored: StoredRules) -> list[str]:
    return [rule.rule_id for rule in stored.room]


def test_a_new_rule_is_enabled_and_the_most_important() -> None:
    stored = put_rule(with_rules("a"), "room", "b", NOTIFY)
    assert ["b", "a"] == ids(stored)
    assert {
        "rule_id": "b",
        "default": False,
        "enabled": True,
        "actions": ["notify"],
    } == get_rule(ALICE, stored, "room", "b")


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("b", None, ["a", "x", "b", "c"]),
        (None, "b", ["a", "b", "x", "c"]),
        ("a", "c", ["x", "a", "b", "c"]),
        (None, "c", ["a", "b", "c", "x"]),
    ],
)
def test_before_and_after_place_a_rule(before: str | None, after: str | None, expected: list[str]) -> None:
    assert expected == ids(put_rule(with_rules("a", "b", "c"), "room", "x", NOTIFY, before=before, after=after))


def test_a_replaced_rule_keeps_its_place_and_its_switch() -> None:
    stored = set_enabled(with_rules("a", "b"), "room", "b", {"enabled": False})
    stored = put_rule(stored, "room", "b", {"actions": []})
    assert ["a", "b"] == ids(stored)
    assert (False, ()) == (stored.room[1].enabled, stored.room[1].actions)


def test_a_replaced_rule_can_be_moved() -> None:
    assert ["c", "a", "b"] == ids(put_rule(with_rules("a", "b", "c"), "room", "c", NOTIFY, before="a"))


@pytest.mark.parametrize("place", [{"before": "x"}, {"after": "x"}, {"before": ".m.rule.call"}, {"before": "a"}])
def test_a_rule_cannot_be_placed_at_one_that_is_not_there(place: dict[str, str]) -> None:
    with pytest.raises(BadRequest) as raised:
        put_rule(with_rules("a"), "room", "a", NOTIFY, **place)
    assert (400, "M_UNKNOWN") == (raised.value.status, raised.value.errcode)


@pytest.mark.parametrize(
    ("kind", "rule_id", "body", "error"),
    [
        ("room", ".a", NOTIFY, InvalidParam),
        ("room", "", NOTIFY, InvalidParam),
        ("room", "a/b", NOTIFY, InvalidParam),
        ("room", "a\\b", NOTIFY, InvalidParam),
        ("room", "a\x00", NOTIFY, InvalidParam),
        ("room", "ä" * 128, NOTIFY, InvalidParam),
        ("room", "a", [], BadJson),
        ("room", "a", {}, MissingParam),
        ("room", "a", {"actions": "notify"}, InvalidParam),
        ("room", "a", {"actions": ["shout"]}, InvalidParam),
        ("room", "a", {"actions": [1]}, InvalidParam),
        ("room", "a", {"actions": [{}]}, InvalidParam),
        ("room", "a", {"actions": ["notify"] * 33}, TooLarge),
        ("room", "a", {"actions": [{"set_tweak": "x", "value": "y" * 8192}]}, TooLarge),
        ("content", "a", NOTIFY, MissingParam),
        ("content", "a", {**NOTIFY, "pattern": 1}, InvalidParam),
        ("content", "a", {**NOTIFY, "pattern": "x" * 257}, TooLarge),
        ("override", "a", {**NOTIFY, "conditions": {}}, InvalidParam),
        ("override", "a", {**NOTIFY, "conditions": [1]}, InvalidParam),
        ("override", "a", {**NOTIFY, "conditions": [{"kind": 1}]}, InvalidParam),
        ("override", "a", {**NOTIFY, "conditions": [{"kind": "x"}] * 33}, TooLarge),
        ("override", "a", {**NOTIFY, "conditions": [{"kind": "x", "pattern": "y" * 257}]}, TooLarge),
        ("override", "a", {**NOTIFY, "conditions": [{"kind": "x", "y": "y" * 8192}]}, TooLarge),
    ],
)
def test_a_bad_rule_is_refused(kind: Kind, rule_id: str, body: Any, error: type[MatrixError]) -> None:
    with pytest.raises(error):
        put_rule(UNCHANGED, kind, rule_id, body)


def test_historical_actions_are_stripped() -> None:
    stored = put_rule(UNCHANGED, "room", "a", {"actions": ["dont_notify", "coalesce"]})
    assert () == stored.room[0].actions


def test_conditions_of_unknown_kind_are_kept() -> None:
    body = {"actions": [], "conditions": [{"kind": "org.example.x", "y": 1}]}
    stored = put_rule(UNCHANGED, "underride", "a", body)
    assert body["conditions"] == get_rule(ALICE, stored, "underride", "a")["conditions"]


def test_a_deleted_rule_is_gone() -> None:
    assert ["a"] == ids(delete_rule(with_rules("a", "b"), "room", "b"))


def test_what_is_not_there_is_not_found() -> None:
    with pytest.raises(NotFound):
        delete_rule(UNCHANGED, "override", ".m.rule.master")
    with pytest.raises(NotFound):
        set_enabled(UNCHANGED, "room", "a", {"enabled": True})
    with pytest.raises(NotFound):
        set_actions(UNCHANGED, "underride", ".m.rule.master", NOTIFY)
    with pytest.raises(NotFound):
        get_rule(ALICE, UNCHANGED, "content", ".m.rule.master")


def test_a_predefined_rule_can_be_switched_and_back() -> None:
    changed = set_enabled(UNCHANGED, "override", ".m.rule.master", {"enabled": True})
    assert get_rule(ALICE, changed, "override", ".m.rule.master")["enabled"]
    assert set_enabled(changed, "override", ".m.rule.master", {"enabled": False}).is_empty


def test_the_actions_of_a_predefined_rule_can_be_changed_and_back() -> None:
    changed = set_actions(UNCHANGED, "underride", ".m.rule.message", {"actions": []})
    assert [] == get_rule(ALICE, changed, "underride", ".m.rule.message")["actions"]
    assert set_actions(changed, "underride", ".m.rule.message", NOTIFY).is_empty


def test_the_actions_of_a_users_rule_can_be_changed() -> None:
    stored = set_actions(with_rules("a", "b"), "room", "b", {"actions": []})
    assert [("notify",), ()] == [rule.actions for rule in stored.room]


@pytest.mark.parametrize("body", [{}, [], {"enabled": "yes"}, {"enabled": 1}])
def test_a_bad_switch_is_refused(body: Any) -> None:
    with pytest.raises(BadRequest):
        set_enabled(UNCHANGED, "override", ".m.rule.master", body)


def test_the_number_of_rules_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edit, "MAX_RULES", 2)
    with pytest.raises(TooLarge):
        put_rule(with_rules("a", "b"), "room", "c", NOTIFY)


def test_the_bytes_of_all_rules_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edit, "MAX_STORED_BYTES", 100)
    with pytest.raises(TooLarge):
        put_rule(with_rules("a", "b"), "room", "c", NOTIFY)


def test_rules_for_every_event_are_bounded_more_closely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edit, "MAX_WIDE_RULES", 1)
    narrow = {"actions": [], "conditions": [{"kind": "event_match", "key": "room_id", "pattern": "!a:b"}]}
    stored = put_rule(UNCHANGED, "content", "c", {"actions": [], "pattern": "x"})
    stored = put_rule(stored, "override", "narrow", narrow)
    with pytest.raises(TooLarge):
        put_rule(stored, "override", "wide", {"actions": []})


def test_patterns_to_search_for_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edit, "MAX_SEARCHES", 2)
    conditions = [
        {"kind": "event_match", "key": "room_id", "pattern": "!a:b"},
        {"kind": "event_match", "key": "content.body", "pattern": "x"},
        {"kind": "event_match", "key": "type", "pattern": "m.*"},
    ]
    stored = put_rule(UNCHANGED, "override", "a", {"actions": [], "conditions": conditions})
    with pytest.raises(TooLarge):
        put_rule(stored, "override", "b", {"actions": [], "conditions": [{"kind": "contains_display_name"}]})


def test_rendered_rules_have_the_users_id_in_place() -> None:
    rules = render_rules(ALICE, put_rule(UNCHANGED, "override", "mine", {"actions": []}))
    assert list(KINDS) == list(rules)
    assert [".m.rule.master", "mine", ".m.rule.suppress_notices"] == [rule["rule_id"] for rule in rules["override"][:3]]
    assert {
        "rule_id": ".m.rule.is_user_mention",
        "default": True,
        "enabled": True,
        "actions": ["notify", {"set_tweak": "sound", "value": "default"}, {"set_tweak": "highlight"}],
        "conditions": [
            {"kind": "event_property_contains", "key": r"content.m\.mentions.user_ids", "value": ALICE},
        ],
    } == next(rule for rule in rules["override"] if rule["rule_id"] == ".m.rule.is_user_mention")


def test_content_rules_are_rendered_with_their_pattern() -> None:
    stored = put_rule(UNCHANGED, "content", "c", {"actions": [], "pattern": "cake*lie"})
    assert "cake*lie" == get_rule(ALICE, stored, "content", "c")["pattern"]


def test_kinds_are_checked() -> None:
    assert "room" == check_kind("room")
    with pytest.raises(InvalidParam):
        check_kind("device")


@given(
    st.sampled_from(KINDS),
    st.text(max_size=5),
    JSON | st.dictionaries(st.sampled_from(["actions", "conditions", "pattern", "enabled"]), JSON),
)
def test_any_request_is_done_or_refused(kind: Kind, rule_id: str, body: Any) -> None:
    for change in (put_rule, set_enabled, set_actions):
        try:
            stored = change(UNCHANGED, kind, rule_id, body)
        except MatrixError:
            continue
        assert stored == StoredRules.from_json(stored.to_json())
        compile_rules(ALICE, stored)
        render_rules(ALICE, stored)


OLD, NEW = "!old:a.example", "!new"


def in_room(room_id: str, kind: str = "event_match", value: str = "pattern") -> dict[str, Any]:
    return {"kind": kind, "key": "room_id", value: room_id}


def test_rules_of_one_room_are_made_for_another_right_behind_the_originals() -> None:
    stored = with_rules("!a", OLD, "!b")
    stored = set_enabled(stored, "room", OLD, {"enabled": False})
    more = {"kind": "event_match", "key": "type", "pattern": "m.room.message"}
    for rule_id, conditions in (
        (OLD, [in_room(OLD)]),
        ("other", [in_room("!a")]),
        ("named", [more, in_room(OLD, "event_property_is", "value")]),
        ("odd", [{"kind": "event_match", "key": "room_id", "pattern": 5}, {"kind": "x", "key": "room_id"}]),
    ):
        stored = put_rule(stored, "override", rule_id, {**NOTIFY, "conditions": conditions}, after=None)
    stored = put_rule(stored, "content", "word", {**NOTIFY, "pattern": OLD})
    changed = copy_room_rules(stored, OLD, NEW)
    assert ["!a", OLD, NEW, "!b"] == ids(changed)
    assert not changed.room[2].enabled
    assert ["odd", "named", f"named.{NEW}", "other", OLD, NEW] == [rule.rule_id for rule in changed.override]
    assert (more, in_room(NEW, "event_property_is", "value")) == changed.override[2].conditions
    assert (in_room(NEW),) == changed.override[5].conditions
    assert (stored.content, stored.sender) == (changed.content, changed.sender)


def test_rules_that_are_there_are_not_made_again() -> None:
    stored = copy_room_rules(with_rules(OLD), OLD, NEW)
    own = set_actions(stored, "room", NEW, {"actions": []})
    assert own is copy_room_rules(own, OLD, NEW)


def test_a_rule_whose_name_would_be_too_long_is_not_copied() -> None:
    stored = put_rule(UNCHANGED, "underride", "x" * 255, {**NOTIFY, "conditions": [in_room(OLD)]})
    assert stored is copy_room_rules(stored, OLD, NEW)


def test_copies_count_like_other_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = with_rules(OLD, "!a")
    monkeypatch.setattr(edit, "MAX_RULES", 2)
    with pytest.raises(TooLarge):
        copy_room_rules(stored, OLD, NEW)
