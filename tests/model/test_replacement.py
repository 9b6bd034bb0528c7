"""What the first events of a replacement room say, from every room version to every other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.model.auth.power_levels import check_form
from homeserver.model.canonical_json import MAX_INTEGER, check_strict
from homeserver.model.content.create import creators
from homeserver.model.event import EventTemplate
from homeserver.model.ids import EventID, UserID
from homeserver.model.replacement import (
    MAX_COPIED_BYTES,
    OldRoom,
    closed_power_levels,
    join_rules_content,
    opened_power_levels,
    power_levels_content,
    replacement_events,
    split_canonical_alias,
)
from homeserver.model.room_versions import KNOWN_ROOM_VERSIONS, RoomVersion
from tests.model.rooms_in_memory import ALICE, BOB, CAROL, DAVE, StateRoom

V = KNOWN_ROOM_VERSIONS
ALL = list(V.values())
ANY_VERSION = pytest.mark.parametrize("version", ALL, ids=lambda version: version.identifier)
LAST = EventID("$last")


def old_room(room: StateRoom) -> OldRoom:
    bans = [event for event in room.state.values() if event.membership == "ban"]
    return OldRoom(room.room_id, room.version, room.create, room.state, bans, LAST)


def by_key(events: list[EventTemplate]) -> dict[tuple[str, str | None], Mapping[str, Any]]:
    found = {(event.type, event.state_key): event.content for event in events}
    assert len(events) == len(found)
    return found


def levels(room: StateRoom, version: str, *more_creators: UserID, creator: UserID = ALICE) -> dict[str, Any]:
    return power_levels_content(old_room(room), V[version], room_creators=frozenset((creator, *more_creators)))


# -- the events -------------------------------------------------------------------------------------------------------


@ANY_VERSION
def test_the_create_event_names_the_predecessor_and_what_its_version_wants(version: RoomVersion) -> None:
    """Spec: "Room Upgrades", "Server behaviour", 2 and the notes there."""
    old = old_room(StateRoom(V["11"], **{"type": "m.space", "m.federate": False, "org.example.other": 1}))
    content = dict(replacement_events(old, version, BOB, additional_creators=[CAROL, BOB, CAROL])[0].content)
    expected: dict[str, Any] = {"room_version": version.identifier, "type": "m.space", "m.federate": False}
    expected["predecessor"] = {"room_id": old.room_id}
    if version.privileged_creators:
        expected["additional_creators"] = [CAROL]
    else:
        expected["predecessor"]["event_id"] = LAST
    if version.creator_in_content:
        expected["creator"] = BOB
    assert expected == content


def test_an_ordinary_room_gets_no_type_and_stays_open_to_other_servers() -> None:
    content = replacement_events(old_room(StateRoom(V["11"])), V["12"], ALICE)[0].content
    assert {"room_version", "predecessor"} == content.keys()


def test_state_that_the_spec_names_is_copied_and_nothing_else() -> None:
    """Spec: "Room Upgrades", "Server behaviour", 3."""
    room = StateRoom(V["11"])
    kept: dict[str, dict[str, Any]] = {
        "m.room.server_acl": {"allow": ["*"]},
        "m.room.encryption": {"algorithm": "m.megolm.v1.aes-sha2"},
        "m.room.name": {"name": "here"},
        "m.room.avatar": {"url": "mxc://a/b"},
        "m.room.topic": {"topic": "talk"},
        "m.room.guest_access": {"guest_access": "forbidden"},
        "m.room.history_visibility": {"history_visibility": "joined"},
        "m.room.join_rules": {"join_rule": "public"},
    }
    for kind, content in kept.items():
        room.set_state(kind, content)
    room.set_power({BOB: 50})
    room.set_member(BOB, "join")
    room.set_state("m.room.pinned_events", {"pinned": ["$x"]})
    room.set_state("m.room.canonical_alias", {"alias": "#a:b"})
    room.set_state("m.space.child", {"via": ["a"]}, "!child:a")
    room.set_state("m.room.third_party_invite", {"display_name": "x"}, "token")
    room.set_state("org.example.bot", {"a": 1})
    events = replacement_events(old_room(room), V["12"], ALICE, profile={"displayname": "Alice"})
    found = by_key(events)
    assert ["m.room.create", "m.room.member"] == [event.type for event in events[:2]]
    assert "m.room.power_levels" == events[-1].type
    assert {"displayname": "Alice", "membership": "join"} == found["m.room.member", ALICE]
    assert kept == {key[0]: content for key, content in found.items() if key[0] in kept}
    assert len(kept) + 3 == len(events)


def test_children_of_a_space_are_copied_save_those_that_were_removed() -> None:
    room = StateRoom(V["10"], type="m.space")
    room.set_state("m.space.child", {"via": ["a"], "order": "b"}, "!one:a")
    room.set_state("m.space.child", {}, "!gone:a")
    found = by_key(replacement_events(old_room(room), V["12"], ALICE))
    assert {"via": ["a"], "order": "b"} == found["m.space.child", "!one:a"]
    assert ("m.space.child", "!gone:a") not in found


def test_bans_are_copied_and_take_power_away() -> None:
    room = StateRoom(V["5"])
    room.set_power({BOB: 100, CAROL: 50})
    room.set_state("m.room.member", {"membership": "ban", "reason": "spam", "displayname": "Bob"}, BOB)
    room.set_state("m.room.member", {"membership": "ban", "reason": 3}, "no user")
    found = by_key(replacement_events(old_room(room), V["11"], ALICE))
    assert {"membership": "ban", "reason": "spam"} == found["m.room.member", BOB]
    assert ("m.room.member", "no user") not in found
    assert {ALICE: 100, CAROL: 50} == found["m.room.power_levels", ""]["users"]


def test_who_is_named_as_a_creator_is_not_banned() -> None:
    room = StateRoom(V["11"])
    room.set_state("m.room.member", {"membership": "ban"}, BOB)
    old = old_room(room)
    assert ("m.room.member", BOB) not in by_key(replacement_events(old, V["12"], ALICE, additional_creators=[BOB]))
    assert ("m.room.member", BOB) in by_key(replacement_events(old, V["11"], ALICE, additional_creators=[BOB]))


@pytest.mark.parametrize(
    "content",
    [{"name": 1.5}, {"name": 2**60}, {"name": "x" * (MAX_COPIED_BYTES + 1)}, {}],
    ids=["a float", "a huge number", "too long", "empty"],
)
def test_state_that_does_not_fit_into_an_event_stays_behind(content: dict[str, Any]) -> None:
    room = StateRoom(V["5"])
    room.set_state("m.room.name", content)
    assert ("m.room.name", "") not in by_key(replacement_events(old_room(room), V["12"], ALICE))


# -- power levels -----------------------------------------------------------------------------------------------------


def test_creators_of_the_new_room_lose_their_level_where_they_stand_above_all() -> None:
    """Spec: rooms/v12, "Authorisation rules", 10.4."""
    room = StateRoom(V["11"])
    room.set_power({BOB: 100, CAROL: 50, DAVE: 50})
    assert {BOB: 100, DAVE: 50} == levels(room, "12", CAROL)["users"]
    assert {ALICE: 100, BOB: 100, CAROL: 50, DAVE: 50} == levels(room, "11", CAROL)["users"]


@pytest.mark.parametrize(
    "said, users, expected",
    [({}, {}, 100), ({"events": {"m.room.tombstone": 150}}, {BOB: 100}, 150), ({"ban": 7}, {BOB: 900}, 900)],
    ids=["nothing said", "an event", "a user"],
)
def test_creators_of_the_old_room_get_the_highest_level_where_they_need_one(
    said: dict[str, Any], users: dict[str, int], expected: int
) -> None:
    room = StateRoom(V["12"], additional_creators=[DAVE])
    room.set_power(users, **said)
    found = levels(room, "11")
    assert {**users, ALICE: expected, DAVE: expected} == found["users"]
    assert said.get("events", {}) == found["events"]


@pytest.mark.parametrize("target", ["12", "org.matrix.hydra.11"])
@pytest.mark.parametrize(
    "said, expected",
    [
        ({}, 100),
        ({"events": {"m.room.tombstone": 150}}, 150),
        ({"state_default": 170, "events": {"m.room.tombstone": 150}}, 170),
    ],
    ids=["nothing said", "the tombstone", "all state"],
)
def test_who_is_no_creator_any_more_gets_the_highest_level(target: str, said: dict[str, Any], expected: int) -> None:
    """Spec: "Room Upgrades", `additional_creators`: the full set needs to be given for them to stay creators."""
    room = StateRoom(V["12"], additional_creators=[DAVE, CAROL])
    room.set_power({BOB: 50}, **said)
    assert {BOB: 50, ALICE: expected, CAROL: expected} == levels(room, target, creator=DAVE)["users"]


@pytest.mark.parametrize(
    "said, expected",
    [
        ({"events": {"m.room.tombstone": 100}}, 150),
        ({}, 150),
        ({"state_default": 150}, 151),
        ({"events": {"m.room.tombstone": 200}}, 200),
        ({"state_default": MAX_INTEGER}, MAX_INTEGER),
    ],
)
def test_the_tombstone_is_for_creators_where_they_stand_above_all(said: dict[str, Any], expected: int) -> None:
    """Spec: `POST /createRoom`, 3, for room version 12."""
    room = StateRoom(V["11"])
    room.set_power(**said)
    assert expected == levels(room, "12")["events"]["m.room.tombstone"]
    assert said.get("events", {}) == levels(room, "11")["events"]


def test_between_rooms_with_privileged_creators_the_tombstone_keeps_its_level() -> None:
    room = StateRoom(V["12"])
    room.set_power(events={"m.room.tombstone": 50})
    assert 50 == levels(room, "12")["events"]["m.room.tombstone"]


def test_levels_of_old_rooms_become_integers() -> None:
    """Spec: rooms/v1, "accept values as strings" and "as floats"; rooms/v10."""
    room = StateRoom(V["3"])
    room.set_power(
        {BOB: " 50 ", CAROL: 10.9, DAVE: "many", "nobody": 5},
        ban="+60",
        kick=None,
        invite=2**62,
        redact=-(2**62),
        events={"m.room.name": "30", "x": []},
        notifications={"room": 20.0},
        **{"org.example.more": "kept", "org.example.odd": 1.5},
    )
    assert {
        "users": {ALICE: 100, BOB: 50, CAROL: 10},
        "ban": 60,
        "invite": MAX_INTEGER,
        "redact": -MAX_INTEGER,
        "events": {"m.room.name": 30},
        "notifications": {"room": 20},
        "org.example.more": "kept",
    } == levels(room, "10")


@pytest.mark.parametrize("source", [V["1"], V["11"]], ids=lambda version: version.identifier)
def test_without_power_levels_the_creator_keeps_the_power_of_one(source: RoomVersion) -> None:
    assert {ALICE: 100} == levels(StateRoom(source), "9")["users"]
    assert {} == levels(StateRoom(source), "12")["users"]


_NUMBERS = (0, 50, -1, 2**53 - 1, 2**53, -(2**53), 2**80, 1.5, -1e300, float("nan"), float("inf"))
_OTHERS: tuple[Any, ...] = ("7", " +8 ", "-9", "x", "9" * 70, None, True, [], {}, [{}], {"a": 1})
_LEVEL = st.sampled_from((*_NUMBERS, *_OTHERS))
_LEVELS = st.dictionaries(st.sampled_from([ALICE, BOB, CAROL, "m.room.tombstone", "room", "", "@"]), _LEVEL)
_CONTENT = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("users_default", "events_default", "state_default", "invite", "x"), _LEVEL),
        **dict.fromkeys(("users", "events", "notifications"), st.one_of(_LEVEL, _LEVELS)),
    },
)


@given(content=_CONTENT, pair=st.tuples(st.sampled_from(ALL), st.sampled_from(ALL)))
def test_whatever_was_there_the_new_power_levels_have_the_form_of_their_version(
    content: dict[str, Any], pair: tuple[RoomVersion, RoomVersion]
) -> None:
    source, target = pair
    room = StateRoom(source)
    room.set_state("m.room.power_levels", content)
    found = power_levels_content(old_room(room), target, room_creators=creators(source, room.create))
    check_strict(found)
    check_form(target, found, creators(source, room.create))
    closed = closed_power_levels(source, content)
    if closed is not None:
        check_strict(closed)
        assert closed_power_levels(source, closed) is None


@pytest.mark.parametrize(
    "said, expected",
    [
        ({}, (50, 50)),
        ({"events_default": 10, "invite": 60}, (50, 60)),
        ({"users_default": 50}, (51, 51)),
        ({"users_default": "70", "invite": "100"}, (71, "100")),
        ({"events_default": 50, "invite": 50}, None),
        ({"users_default": MAX_INTEGER}, (MAX_INTEGER, MAX_INTEGER)),
    ],
)
def test_the_old_room_is_closed_to_ordinary_users(said: dict[str, Any], expected: tuple[Any, Any] | None) -> None:
    """Spec: "Room Upgrades", "Server behaviour", 6."""
    content = {"users": {ALICE: 100}, "ban": 3, **said}
    closed = closed_power_levels(V["9"], content)
    if expected is None:
        assert closed is None
    else:
        assert {**content, "events_default": expected[0], "invite": expected[1]} == closed


_CLOSED = {"events_default": 50, "invite": 50}


@pytest.mark.parametrize(
    "history, expected",
    [
        ([{"ban": 3}], {"ban": 3}),
        ([{**_CLOSED, "ban": 3}, {"ban": 3}], {"ban": 3}),
        ([_CLOSED, {"invite": 7}], {"invite": 7}),
        ([{**_CLOSED, "invite": 60}, {"invite": 60}], {"invite": 60}),
        # It was so before, or somebody else has set it so.
        ([_CLOSED], _CLOSED),
        ([{**_CLOSED, "ban": 4}, {"ban": 3}], {**_CLOSED, "ban": 4}),
        # Changed since.
        ([{**_CLOSED, "ban": 4}, _CLOSED, {}], {"ban": 4}),
        ([{"events_default": 90, "invite": 50}, _CLOSED, {}], {"events_default": 90}),
        # Closed twice.
        (
            [
                {"users_default": 60, "events_default": 61, "invite": 61},
                {"users_default": 60, **_CLOSED},
                _CLOSED,
                {"invite": 5},
            ],
            {"users_default": 60, "invite": 5},
        ),
    ],
    ids=[
        "never closed",
        "closed",
        "had an invite level",
        "needed one level",
        "was so",
        "set so",
        "changed",
        "raised",
        "twice",
    ],
)
def test_the_levels_of_before_the_room_was_closed_are_found(
    history: list[dict[str, Any]], expected: dict[str, Any]
) -> None:
    assert expected == opened_power_levels(V["11"], history)


@given(content=_CONTENT, version=st.sampled_from(ALL))
def test_whatever_was_there_a_closing_can_be_undone(content: dict[str, Any], version: RoomVersion) -> None:
    closed = closed_power_levels(version, content)
    opened = opened_power_levels(version, [closed or content, content])
    room = StateRoom(version)
    room.set_state("m.room.power_levels", content)
    old = old_room(room)
    found = power_levels_content(replace(old, levels=opened), version, room_creators=creators(version, room.create))
    assert power_levels_content(old, version, room_creators=creators(version, room.create)) == found


# -- join rules -------------------------------------------------------------------------------------------------------

ALLOW = [{"type": "m.room_membership", "room_id": "!other:a"}]


@pytest.mark.parametrize(
    "source, target, rule, expected",
    [
        ("12", "10", "knock_restricted", "knock_restricted"),
        ("12", "9", "knock_restricted", "restricted"),
        ("12", "8", "knock_restricted", "restricted"),
        ("12", "7", "knock_restricted", "knock"),
        ("12", "6", "knock_restricted", "invite"),
        ("8", "9", "restricted", "restricted"),
        ("8", "7", "restricted", "invite"),
        ("7", "12", "knock", "knock"),
        ("7", "6", "knock", "invite"),
        ("6", "12", "knock", "invite"),
        ("7", "12", "restricted", "invite"),
        ("9", "12", "knock_restricted", "invite"),
        ("1", "12", "public", "public"),
        ("12", "1", "invite", "invite"),
        ("12", "1", "private", "private"),
        ("12", "1", "org.example.rule", "org.example.rule"),
        ("12", "1", 5, 5),
    ],
)
def test_a_join_rule_becomes_stricter_where_a_version_lacks_it(
    source: str, target: str, rule: Any, expected: Any
) -> None:
    content = {"join_rule": rule, "allow": ALLOW, "more": 1}
    found = join_rules_content(V[source], V[target], content)
    assert expected == found["join_rule"]
    keeps_allow = expected == rule or expected == "restricted"
    assert ({"allow": ALLOW} if keeps_allow else {}) == {key: found[key] for key in ("allow",) if key in found}
    assert 1 == found["more"]


# -- aliases ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content, new, left",
    [
        ({"alias": "#a"}, {"alias": "#a"}, {}),
        ({"alias": "#a", "alt_aliases": ["#b", "#far"], "x": 1}, {"alias": "#a", "alt_aliases": ["#b"]}, None),
        ({"alias": "#far", "alt_aliases": ["#b"]}, {"alt_aliases": ["#b"]}, {"alias": "#far"}),
        ({"alias": "#far"}, {}, {"alias": "#far"}),
        ({"alias": 5, "alt_aliases": {"#a": 1}}, {}, {"alias": 5, "alt_aliases": {"#a": 1}}),
        ({"alt_aliases": [["#a"], "#a"]}, {"alt_aliases": ["#a"]}, {"alt_aliases": [["#a"]]}),
    ],
)
def test_the_canonical_alias_is_divided_between_the_rooms(
    content: dict[str, Any], new: dict[str, Any], left: dict[str, Any] | None
) -> None:
    expected = (new, {"alt_aliases": ["#far"], "x": 1} if left is None else left)
    assert expected == split_canonical_alias(content, {"#a", "#b"})
