"""Rule 10, clause by clause.

Spec: rooms/v12, "Authorisation rules", 10; rules are named by their number in version 12.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.model.content.power_levels import LEVEL_KEYS
from homeserver.model.ids import UserID
from homeserver.model.room_versions import V10, V11, V12, RoomVersion

from ..rooms_in_memory import ALICE, BOB, CAROL, VERSIONS, StateRoom, broken_rule, expected_rule

NOT_INTEGERS = ["100", "  1e2", "", 1.0, 50.5, None, True, [100], {"a": 1}, 2**53, -(2**53), 2**63, 10**400]


def changed(
    version: RoomVersion, old: dict[str, Any], new: dict[str, Any], *, sender: UserID = BOB, power: int = 50
) -> str | None:
    """Return the rule that refuses that Bob, who has `power`, changes the levels; he stays as he is unless told."""
    room = StateRoom(version)
    for user_id in (BOB, CAROL):
        room.set_member(user_id, "join")
    users = {ALICE: 100} if not version.privileged_creators else {}
    before = {"events": {}, **old, "users": {**users, BOB: power, **old.get("users", {})}}
    before["events"] = {"m.room.power_levels": 0, **before["events"]}
    room.set_state("m.room.power_levels", before)
    after = {**new, "users": {**users, BOB: power, **new["users"]}} if isinstance(new.get("users"), dict) else new
    if "users" not in new:
        after = {**new, "users": before["users"]}
    after = {**after, "events": {"m.room.power_levels": 0, **after["events"]}} if "events" in after else after
    if "events" not in after:
        after = {**after, "events": {"m.room.power_levels": 0}}
    return broken_rule(room, room.event("m.room.power_levels", sender, after, ""))


def first(version: RoomVersion, content: dict[str, Any], **creation: Any) -> str | None:
    """Return the rule that refuses this as the first power levels event."""
    room = StateRoom(version, **creation)
    return broken_rule(room, room.event("m.room.power_levels", ALICE, content, ""))


@VERSIONS
@pytest.mark.parametrize("key", LEVEL_KEYS)
@pytest.mark.parametrize("value", NOT_INTEGERS, ids=repr)
def test_levels_are_integers(version: RoomVersion, key: str, value: Any) -> None:
    assert expected_rule(version, "10.1") == first(version, {key: value})


@VERSIONS
@pytest.mark.parametrize("key", ["events", "notifications"])
@pytest.mark.parametrize("value", [None, [], "x", 3, *({"a": value} for value in NOT_INTEGERS)], ids=repr)
def test_events_and_notifications_are_objects_of_integers(version: RoomVersion, key: str, value: Any) -> None:
    assert expected_rule(version, "10.2") == first(version, {key: value})


@VERSIONS
@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "x",
        3,
        *({BOB: value} for value in NOT_INTEGERS),
        {"bob": 1},
        {"@bob": 1},
        {"": 1},
        {"@bob:": 1},
        {"!bob:b.example": 1},
        {"@" + "b" * 255 + ":b.example": 1},
    ],
    ids=repr,
)
def test_users_is_an_object_of_user_ids_and_integers(version: RoomVersion, value: Any) -> None:
    assert expected_rule(version, "10.3") == first(version, {"users": value})


@VERSIONS
@pytest.mark.parametrize("value", [-5, 0, 50, 2**53 - 1, -(2**53) + 1])
def test_first_power_levels_may_say_anything_of_the_right_form(version: RoomVersion, value: int) -> None:
    content: dict[str, Any] = dict.fromkeys(LEVEL_KEYS, value)
    content |= {"users": {BOB: value}, "events": {"a": value}, "notifications": {"room": value}}
    assert first(version, content) is None
    assert first(version, {}) is None


@pytest.mark.parametrize(
    ("version", "user_id", "rule"),
    [
        (V12, ALICE, "10.4"),
        (V12, CAROL, "10.4"),
        (V12, BOB, None),
        (V11, ALICE, None),
        (V11, CAROL, None),
        (V10, ALICE, None),
    ],
)
def test_creators_cannot_be_given_a_level_in_version_12(
    version: RoomVersion, user_id: UserID, rule: str | None
) -> None:
    assert rule == first(version, {"users": {user_id: 100}}, additional_creators=[CAROL])


@VERSIONS
@pytest.mark.parametrize("key", LEVEL_KEYS)
@pytest.mark.parametrize(
    ("before", "after", "rule"),
    [
        pytest.param(50, 10, None, id="lower, at own power"),
        pytest.param(10, 50, None, id="raise to own power"),
        pytest.param(None, 50, None, id="add at own power"),
        pytest.param(50, None, None, id="remove at own power"),
        pytest.param(51, 51, None, id="above own power, untouched"),
        pytest.param(51, 10, "10.6.1", id="lower from above"),
        pytest.param(51, None, "10.6.1", id="remove from above"),
        pytest.param(10, 51, "10.6.2", id="raise above"),
        pytest.param(None, 51, "10.6.2", id="add above"),
    ],
)
def test_single_levels(version: RoomVersion, key: str, before: int | None, after: int | None, rule: str | None) -> None:
    old = {} if before is None else {key: before}
    new = {} if after is None else {key: after}
    assert expected_rule(version, rule) == changed(version, old, new)


@VERSIONS
@pytest.mark.parametrize("key", ["events", "notifications"])
@pytest.mark.parametrize(
    ("before", "after", "rule"),
    [
        pytest.param({"a": 50}, {"a": 10}, None, id="lower, at own power"),
        pytest.param({"a": 50}, {}, None, id="remove, at own power"),
        pytest.param({}, {"a": 50}, None, id="add at own power"),
        pytest.param({"a": 51}, {"a": 51}, None, id="above own power, untouched"),
        pytest.param({"a": 51}, {"a": 10}, "10.7.1", id="lower from above"),
        pytest.param({"a": 51}, {}, "10.7.1", id="remove from above"),
        pytest.param({"a": 10}, {"a": 51}, "10.8.1", id="raise above"),
        pytest.param({}, {"a": 51}, "10.8.1", id="add above"),
    ],
)
def test_entries(
    version: RoomVersion, key: str, before: dict[str, int], after: dict[str, int], rule: str | None
) -> None:
    assert expected_rule(version, rule) == changed(version, {key: before}, {key: after})


@VERSIONS
@pytest.mark.parametrize(
    ("before", "after", "rule"),
    [
        pytest.param({CAROL: 49}, {CAROL: 0}, None, id="lower somebody below"),
        pytest.param({CAROL: 49}, {CAROL: 50}, None, id="raise somebody to own power"),
        pytest.param({CAROL: 49}, {}, None, id="remove somebody below"),
        pytest.param({}, {CAROL: 50}, None, id="add at own power"),
        pytest.param({CAROL: 50}, {CAROL: 50}, None, id="an equal untouched"),
        pytest.param({CAROL: 50}, {CAROL: 0}, "10.9.1", id="lower an equal"),
        pytest.param({CAROL: 50}, {}, "10.9.1", id="remove an equal"),
        pytest.param({CAROL: 50}, {CAROL: 60}, "10.9.1", id="raise an equal"),
        pytest.param({CAROL: 60}, {CAROL: 50}, "10.9.1", id="lower a superior"),
        pytest.param({}, {CAROL: 51}, "10.10.1", id="add above"),
        pytest.param({CAROL: 10}, {CAROL: 51}, "10.10.1", id="raise above"),
        pytest.param({}, {BOB: 10}, None, id="lower oneself"),
        pytest.param({}, {BOB: 51}, "10.10.1", id="raise oneself"),
    ],
)
def test_users(version: RoomVersion, before: dict[str, int], after: dict[str, int], rule: str | None) -> None:
    assert expected_rule(version, rule) == changed(version, {"users": before}, {"users": after})


@pytest.mark.parametrize("version", [V10, V11])
def test_creator_of_older_versions_can_be_demoted_by_oneself_only(version: RoomVersion) -> None:
    assert expected_rule(version, "10.9.1") == changed(version, {}, {"users": {ALICE: 0}}, power=100)
    assert changed(version, {}, {"users": {ALICE: 0}}, sender=ALICE) is None


def test_creator_of_version_12_may_change_everything() -> None:
    old = {"users": {CAROL: 2**53 - 1}, "ban": 2**53 - 1}
    assert changed(V12, old, {"users": {CAROL: 0}, "ban": 0}, sender=ALICE) is None


@VERSIONS
def test_changing_levels_needs_the_level_of_the_event(version: RoomVersion) -> None:
    room = StateRoom(version)
    room.set_member(BOB, "join")
    room.set_power({BOB: 49})
    same = room.state["m.room.power_levels", ""].content
    assert expected_rule(version, "8") == broken_rule(room, room.event("m.room.power_levels", BOB, same, ""))


@VERSIONS
def test_an_old_event_with_unreadable_values_is_read_as_if_they_were_absent(version: RoomVersion) -> None:
    old = {"ban": "99", "kick": None, "users": {CAROL: "100"}, "notifications": 4}
    assert changed(version, old, {"users": {CAROL: 10}, "ban": 10, "kick": 10, "notifications": {"room": 10}}) is None


@VERSIONS
def test_many_users_are_read_once(version: RoomVersion) -> None:
    many = {f"@user{number}:x.example": 1 for number in range(100_000)}
    assert changed(version, {"users": many}, {"users": {**many, CAROL: 50}}) is None


@given(
    old=st.dictionaries(st.sampled_from(LEVEL_KEYS), st.integers(-5, 120)),
    new=st.dictionaries(st.sampled_from(LEVEL_KEYS), st.integers(-5, 120)),
    power=st.integers(0, 100),
)
def test_an_allowed_change_stays_within_the_senders_power(old: dict[str, int], new: dict[str, int], power: int) -> None:
    if changed(V12, old, new, power=power) is None:
        touched = [key for key in LEVEL_KEYS if old.get(key) != new.get(key)]
        assert all(old.get(key, power) <= power and new.get(key, power) <= power for key in touched)
