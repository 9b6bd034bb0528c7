"""Push rules give the actions that the tables of the specification say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.model.event import Event
from homeserver.model.ids import EventID, RoomID, UserID
from homeserver.model.property_paths import ABSENT
from homeserver.model.push_rules.base import THE_USER, UNCHANGED, PushRule, StoredRules
from homeserver.model.push_rules.evaluate import (
    Actions,
    EventFacts,
    RoomFacts,
    compile_actions,
    compile_rules,
    evaluate,
    exact,
    may_notify,
)

ALICE, BOB = UserID("@alice:a.example"), UserID("@bob:b.example")
ROOM = RoomID("!Room:a.example")
SOUND = {"sound": "default"}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def event(
    content: Mapping[str, Any] | None = None,
    event_type: str = "m.room.message",
    *,
    sender: UserID = BOB,
    state_key: str | None = None,
) -> Event:
    return Event(EventID("$event"), ROOM, event_type, sender, content or {"body": "hi"}, state_key, 1, 1, (), (), {})


def room(members: int = 3, *, power: int = 0, needed: int = 50, name: str | None = None) -> RoomFacts:
    return RoomFacts(members, lambda user_id: power, lambda key: needed, lambda user_id: name)


def actions_for(
    subject: Event, facts_of_room: RoomFacts | None = None, stored: StoredRules = UNCHANGED
) -> Actions | None:
    return evaluate(compile_rules(ALICE, stored), EventFacts(subject), facts_of_room or room())


def is_matched(condition: Mapping[str, Any], subject: Event, facts_of_room: RoomFacts | None = None) -> bool:
    stored = StoredRules(override=(PushRule("r", ({"set_tweak": "t", "value": 1},), (condition,)),))
    actions = actions_for(subject, facts_of_room, stored)
    return actions is not None and "t" in actions.tweaks


@pytest.mark.parametrize(
    ("subject", "facts_of_room", "expected"),
    [
        pytest.param(event(), room(3), (True, False, {}), id="message in a group"),
        pytest.param(event(), room(2), (True, False, SOUND), id="message one to one"),
        pytest.param(event({}, "m.room.encrypted"), room(3), (True, False, {}), id="encrypted in a group"),
        pytest.param(event({}, "m.room.encrypted"), room(2), (True, False, SOUND), id="encrypted one to one"),
        pytest.param(event({}, "m.call.invite"), room(), (True, False, {"sound": "ring"}), id="call"),
        pytest.param(event({"msgtype": "m.notice", "body": ""}), room(), (False, False, {}), id="notice"),
        pytest.param(event({}, "m.reaction"), room(), (False, False, {}), id="reaction"),
        pytest.param(event({}, "m.room.topic", state_key=""), room(), None, id="other state"),
        pytest.param(event({}, "m.room.server_acl", state_key=""), room(), (False, False, {}), id="server ACL"),
        pytest.param(
            event({}, "m.room.tombstone", state_key=""), room(), (True, True, {"highlight": True}), id="tombstone"
        ),
        pytest.param(event({}, "m.room.tombstone"), room(), None, id="tombstone that is no state"),
        pytest.param(
            event({"membership": "invite"}, "m.room.member", state_key=ALICE), room(), (True, False, SOUND), id="invite"
        ),
        pytest.param(
            event({"membership": "invite"}, "m.room.member", state_key="@carol:a.example"),
            room(),
            (False, False, {}),
            id="invite of another",
        ),
        pytest.param(
            event({"membership": "join"}, "m.room.member", state_key=BOB), room(), (False, False, {}), id="join"
        ),
        pytest.param(
            event({"m.mentions": {"user_ids": [1, None, [], ALICE]}}),
            room(),
            (True, True, {"highlight": True, **SOUND}),
            id="mention",
        ),
        pytest.param(event({"m.mentions": {"user_ids": [BOB]}}), room(), (True, False, {}), id="mention of another"),
        pytest.param(event({"m.mentions": {"user_ids": ALICE}}), room(), (True, False, {}), id="mentions no array"),
        pytest.param(
            event({"m.mentions": {"room": True}}), room(power=50), (True, True, {"highlight": True}), id="room mention"
        ),
        pytest.param(event({"m.mentions": {"room": True}}), room(power=49), (True, False, {}), id="without the power"),
        pytest.param(event({"m.mentions": {"room": 1}}), room(power=50), (True, False, {}), id="room is not true"),
        pytest.param(event({"body": f"{ALICE} @room"}), room(power=100), (True, False, {}), id="legacy mentions"),
        pytest.param(
            event({"body": "* hi", "m.relates_to": {"rel_type": "m.replace"}}), room(), (False, False, {}), id="edit"
        ),
        pytest.param(
            event({"m.relates_to": {"rel_type": "m.replace"}, "m.mentions": {"user_ids": [ALICE]}}),
            room(),
            (True, True, {"highlight": True, **SOUND}),
            id="edit with a mention",
        ),
        pytest.param(event(sender=ALICE), room(), None, id="own message"),
    ],
)
def test_predefined_rules_give_what_the_spec_says(
    subject: Event, facts_of_room: RoomFacts, expected: tuple[bool, bool, dict[str, Any]] | None
) -> None:
    actions = actions_for(subject, facts_of_room)
    assert expected == (None if actions is None else (actions.notify, actions.highlight, actions.tweaks))


@pytest.mark.parametrize(
    ("condition", "content", "expected"),
    [
        ({"kind": "event_match", "key": "content.topic", "pattern": "lunc?*"}, {"topic": "Lunch plans"}, True),
        ({"kind": "event_match", "key": "content.topic", "pattern": "*"}, {"topic": None}, False),
        ({"kind": "event_match", "key": "content.topic", "pattern": "*"}, {}, False),
        ({"kind": "event_match", "key": "content.body", "pattern": "CAKE"}, {"body": "some cake, please"}, True),
        ({"kind": "event_match", "key": "content.body", "pattern": "cake"}, {"body": "cupcake"}, False),
        ({"kind": "event_match", "key": "content", "pattern": "*"}, {}, False),
        ({"kind": "event_match", "key": "type.x", "pattern": "*"}, {}, False),
        ({"kind": "event_match", "key": "nothing", "pattern": "*"}, {}, False),
        ({"kind": "event_match", "key": "state_key", "pattern": "*"}, {}, False),
        ({"kind": "event_match", "key": "type", "pattern": "M.ROOM.*"}, {}, True),
        ({"kind": "event_match", "key": "room_id", "pattern": "!room:A.example"}, {}, True),
        ({"kind": "event_match", "key": "sender", "pattern": BOB}, {}, True),
        ({"kind": "event_match", "key": "sender", "pattern": ALICE}, {}, False),
        ({"kind": "event_match", "key": 1, "pattern": "*"}, {}, False),
        ({"kind": "event_match", "key": "type", "pattern": 1}, {}, False),
        ({"kind": "event_match", "key": "type"}, {}, False),
        ({"kind": "event_property_is", "key": r"content.m\.federate", "value": True}, {"m.federate": True}, True),
        ({"kind": "event_property_is", "key": r"content.m\.federate", "value": True}, {"m.federate": "true"}, False),
        ({"kind": "event_property_is", "key": r"content.m\.federate", "value": True}, {"m.federate": 1}, False),
        ({"kind": "event_property_is", "key": "content.x", "value": None}, {"x": None}, True),
        ({"kind": "event_property_is", "key": "content.x", "value": None}, {}, False),
        ({"kind": "event_property_is", "key": "content.x"}, {"x": None}, False),
        ({"kind": "event_property_is", "key": "content.x", "value": {}}, {"x": {}}, False),
        ({"kind": "event_property_is", "key": "content.x", "value": 1}, {"x": 1.0}, False),
        ({"kind": "event_property_is", "key": "type", "value": "M.room.message"}, {}, False),
        ({"kind": "event_property_is", "key": None, "value": 1}, {}, False),
        ({"kind": "event_property_contains", "key": "content.x", "value": "a"}, {"x": ["b", "a"]}, True),
        ({"kind": "event_property_contains", "key": "content.x", "value": "a"}, {"x": ["ab"]}, False),
        ({"kind": "event_property_contains", "key": "content.x", "value": 1}, {"x": [True, 1.0, "1"]}, False),
        ({"kind": "event_property_contains", "key": "content.x", "value": []}, {"x": [[]]}, False),
        ({"kind": "event_property_contains", "key": [], "value": 1}, {}, False),
        ({"kind": "contains_display_name"}, {"body": "hey ALICE!"}, True),
        ({"kind": "contains_display_name"}, {"body": "malice"}, False),
        ({"kind": "contains_display_name"}, {"body": 1}, False),
        ({"kind": "sender_notification_permission", "key": "room"}, {}, False),
        ({"kind": "sender_notification_permission", "key": 1}, {}, False),
        ({"kind": "org.example.unknown"}, {}, False),
        ({"kind": []}, {}, False),
        ({}, {}, False),
    ],
)
def test_conditions_match_as_the_spec_says(condition: dict[str, Any], content: dict[str, Any], expected: bool) -> None:
    assert expected == is_matched(condition, event(content or {"a": 1}), room(name="Alice"))


@pytest.mark.parametrize("name", [None, ""])
def test_a_user_without_display_name_is_not_found_in_a_body(name: str | None) -> None:
    assert not is_matched({"kind": "contains_display_name"}, event(), room(name=name))


@pytest.mark.parametrize(
    ("text", "matching"),
    [
        ("2", {2}),
        ("==2", {2}),
        ("<2", {1}),
        (">2", {3}),
        ("<=2", {1, 2}),
        (">=2", {2, 3}),
        ("=2", set()),
        ("<>2", set()),
        ("", set()),
        ("-1", set()),
        ("２", set()),
        ("9" * 17, set()),
        (2, set()),
    ],
)
def test_member_counts_are_compared_as_the_prefix_says(text: Any, matching: set[int]) -> None:
    condition = {"kind": "room_member_count", "is": text}
    assert matching == {count for count in (1, 2, 3) if is_matched(condition, event(), room(count))}


def test_all_conditions_of_a_rule_must_hold() -> None:
    conditions = (
        {"kind": "event_match", "key": "type", "pattern": "m.room.message"},
        {"kind": "org.example.unknown"},
    )
    stored = StoredRules(override=(PushRule("r", (), conditions),))
    actions = actions_for(event(), stored=stored)
    assert actions is not None
    assert actions.notify


def test_the_master_rule_comes_before_all_others() -> None:
    stored = StoredRules(override=(PushRule("mine", ("notify",)),), base_enabled={".m.rule.master": True})
    assert Actions(False, False, {}, ()) == actions_for(event(), stored=stored)


def test_rules_are_tried_in_the_order_of_kinds() -> None:
    def tweak(value: int) -> tuple[Any, ...]:
        return ({"set_tweak": "t", "value": value},)

    stored = StoredRules(
        override=(PushRule("o", tweak(1), ({"kind": "event_match", "key": "room_id", "pattern": ROOM},)),),
        content=(PushRule("c", tweak(2), pattern="hi"),),
        room=(PushRule(ROOM, tweak(3)),),
        sender=(PushRule(BOB, tweak(4)),),
        underride=(PushRule("u", tweak(5)),),
    )
    order = []
    for kind in ("override", "content", "room", "sender", "underride"):
        actions = actions_for(event(), stored=stored)
        assert actions is not None
        order.append(actions.tweaks["t"])
        stored = StoredRules.from_json({key: value for key, value in stored.to_json().items() if key != kind})
    assert [1, 2, 3, 4, 5] == order


def test_room_and_sender_rules_compare_exactly() -> None:
    stored = StoredRules(room=(PushRule(ROOM.lower(), ()),), sender=(PushRule(BOB.upper(), ()),))
    actions = actions_for(event(), stored=stored)
    assert actions is not None
    assert actions.notify


def test_of_two_user_rules_the_first_decides() -> None:
    stored = StoredRules(override=(PushRule("a", ()), PushRule("b", ("notify",))))
    actions = actions_for(event(), stored=stored)
    assert actions is not None
    assert not actions.notify


def test_disabled_rules_and_content_rules_without_pattern_never_match() -> None:
    stored = StoredRules(content=(PushRule("c", ()),), override=(PushRule("o", (), enabled=False),))
    actions = actions_for(event(), stored=stored)
    assert actions is not None
    assert actions.notify


def test_a_user_id_with_wildcards_is_compared_literally() -> None:
    ruleset = compile_rules("@*:a.example")
    invite = event({"membership": "invite"}, "m.room.member", state_key=ALICE)
    actions = evaluate(ruleset, EventFacts(invite), room())
    assert actions is not None
    assert not actions.notify


def test_the_user_may_stand_in_an_exact_condition() -> None:
    condition = {"kind": "event_property_is", "key": "content.who", "value": THE_USER}
    assert is_matched(condition, event({"who": ALICE}))
    assert "THE_USER" == repr(THE_USER)


def test_the_display_name_is_asked_for_only_if_a_rule_needs_it() -> None:
    def refuse(user_id: str) -> str | None:
        raise AssertionError("asked")

    facts_of_room = RoomFacts(3, lambda user_id: 0, lambda key: 50, refuse)
    assert actions_for(event(), facts_of_room) is not None


CONDITIONS = (
    {"kind": "room_member_count", "is": "2"},
    {"kind": "room_member_count", "is": ">=3"},
    {"kind": "sender_notification_permission", "key": "room"},
    {"kind": "contains_display_name"},
    {"kind": "event_match", "key": "type", "pattern": "m.room.topic"},
    {"kind": "event_match", "key": "content.body", "pattern": "ann"},
)


@given(
    st.lists(st.tuples(st.lists(st.sampled_from(CONDITIONS), max_size=3), st.booleans()), max_size=4),
    st.sampled_from(("m.room.message", "m.room.member", "m.room.topic", "m.room.tombstone")),
    st.integers(1, 4),
    st.sampled_from((0, 100)),
    st.sampled_from((None, "ann")),
)
def test_what_notifies_may_notify_in_an_unknown_room(
    rules: list[tuple[list[dict[str, str]], bool]], event_type: str, members: int, power: int, name: str | None
) -> None:
    override = tuple(
        PushRule(str(number), ("notify",) if notifies else (), tuple(conditions))
        for number, (conditions, notifies) in enumerate(rules)
    )
    ruleset = compile_rules(ALICE, StoredRules(override=override))
    facts = EventFacts(event({"body": "for ann"}, event_type))
    actions = evaluate(ruleset, facts, room(members, power=power, name=name))
    assert may_notify(ruleset, facts) or actions is None or not actions.notify


def test_a_member_who_comes_or_goes_notifies_nobody_whatever_the_room_is_like() -> None:
    joins = event({"membership": "join"}, "m.room.member", state_key=BOB)
    assert not may_notify(compile_rules(ALICE), EventFacts(joins))
    assert may_notify(
        compile_rules(ALICE), EventFacts(event({"membership": "invite"}, "m.room.member", state_key=ALICE))
    )
    assert may_notify(compile_rules(ALICE), EventFacts(event()))


@pytest.mark.parametrize(
    ("actions", "expected"),
    [
        (["notify"], Actions(True, False, {}, ("notify",))),
        (["dont_notify", "coalesce"], Actions(False, False, {}, ())),
        ([{"set_tweak": "highlight"}], Actions(False, False, {"highlight": True}, ({"set_tweak": "highlight"},))),
        (
            ["notify", {"set_tweak": "highlight", "value": False}],
            Actions(True, False, {"highlight": False}, ("notify", {"set_tweak": "highlight", "value": False})),
        ),
        ([1, None, {}, {"set_tweak": 1}], Actions(False, False, {}, ())),
        ([{"set_tweak": "sound"}], Actions(False, False, {}, ({"set_tweak": "sound"},))),
    ],
)
def test_actions_come_to_what_the_spec_says(actions: list[Any], expected: Actions) -> None:
    assert expected == compile_actions(actions)


def test_integers_over_53_bits_are_not_supported() -> None:
    assert ABSENT is exact(2**53)


@given(JSON, st.dictionaries(st.sampled_from(["kind", "key", "pattern", "value", "is"]), JSON))
def test_any_condition_and_content_are_survived(value: Any, condition: dict[str, Any]) -> None:
    content = {"body": value, "m.mentions": value, "m.relates_to": value, "x": {"y": value}}
    is_matched(condition, event(content), room())
    for kind in ("event_match", "event_property_is", "event_property_contains", "room_member_count"):
        is_matched({"key": "content.x.y", **condition, "kind": kind}, event(content), room())
