"""Rule 5, clause by clause, in the three room versions.

Spec: rooms/v12, "Authorisation rules", 5; rules are named by their number in version 12.
"""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.model.auth.membership import signing_servers
from homeserver.model.ids import UserID
from homeserver.model.room_versions import V6, V7, V10, V11, V12, RoomVersion

from ..rooms_in_memory import ALICE, BOB, CAROL, DAVE, VERSIONS, StateRoom, broken_rule, expected_rule


@VERSIONS
@pytest.mark.parametrize(
    ("state_key", "content", "rule"),
    [
        pytest.param(None, {"membership": "join"}, "5.1", id="no state key"),
        pytest.param(BOB, {}, "5.1", id="no membership"),
        pytest.param(BOB, {"membership": "owner"}, "5.8", id="unknown"),
        pytest.param(BOB, {"membership": None}, "5.8", id="null"),
        pytest.param(BOB, {"membership": ["join"]}, "5.8", id="list"),
        pytest.param(BOB, {"membership": {"join": 1}}, "5.8", id="object"),
        pytest.param(BOB, {"membership": "join", "join_authorised_via_users_server": 7}, "5.2.1", id="authoriser int"),
        pytest.param(
            BOB, {"membership": "join", "join_authorised_via_users_server": "x"}, "5.2.1", id="authoriser text"
        ),
        pytest.param(BOB, {"membership": "join", "displayname": {"a": []}, "avatar_url": 3}, None, id="odd profile"),
    ],
)
def test_form_of_a_membership(
    version: RoomVersion, state_key: str | None, content: dict[str, Any], rule: str | None
) -> None:
    room = StateRoom(version)
    room.set_join_rule("public")
    event = room.event("m.room.member", BOB, content, state_key)
    assert expected_rule(version, rule) == broken_rule(room, event)


@VERSIONS
@pytest.mark.parametrize(
    ("join_rule", "now", "rule"),
    [
        ("public", None, None),
        ("public", "leave", None),
        ("public", "join", None),
        ("public", "invite", None),
        ("public", "knock", None),
        ("public", "ban", "5.3.3"),
        ("invite", None, "5.3.7"),
        ("invite", "leave", "5.3.7"),
        ("invite", "knock", "5.3.7"),
        ("invite", "invite", None),
        ("invite", "join", None),
        ("invite", "ban", "5.3.3"),
        ("knock", None, "5.3.7"),
        ("knock", "knock", "5.3.7"),
        ("knock", "invite", None),
        ("knock", "join", None),
        ("knock", "ban", "5.3.3"),
        ("restricted", None, "5.3.5.2"),
        ("restricted", "knock", "5.3.5.2"),
        ("restricted", "invite", None),
        ("restricted", "join", None),
        ("restricted", "ban", "5.3.3"),
        ("knock_restricted", None, "5.3.5.2"),
        ("knock_restricted", "invite", None),
        ("knock_restricted", "join", None),
        ("private", None, "5.3.7"),
        ("private", "invite", "5.3.7"),
        ("nonsense", "invite", "5.3.7"),
        ({"a": 1}, "invite", "5.3.7"),
        (None, "invite", "5.3.7"),
    ],
)
def test_join(version: RoomVersion, join_rule: Any, now: str | None, rule: str | None) -> None:
    room = StateRoom(version)
    room.set_join_rule(join_rule)
    room.set_member(BOB, now)
    assert expected_rule(version, rule) == broken_rule(room, room.member(BOB, BOB, "join"))


@VERSIONS
@pytest.mark.parametrize(("now", "rule"), [(None, "5.3.7"), ("invite", None)])
def test_a_room_without_join_rules_is_by_invite(version: RoomVersion, now: str | None, rule: str | None) -> None:
    room = StateRoom(version)
    room.set_member(BOB, now)
    assert expected_rule(version, rule) == broken_rule(room, room.member(BOB, BOB, "join"))


@VERSIONS
def test_join_for_another_user_is_refused(version: RoomVersion) -> None:
    room = StateRoom(version)
    room.set_join_rule("public")
    assert expected_rule(version, "5.3.2") == broken_rule(room, room.member(ALICE, BOB, "join"))


@VERSIONS
@pytest.mark.parametrize("rule_name", ["restricted", "knock_restricted"])
@pytest.mark.parametrize(
    ("authoriser", "rule"),
    [
        pytest.param(ALICE, None, id="creator"),
        pytest.param(CAROL, None, id="joined, with power"),
        pytest.param(DAVE, "5.3.5.2", id="joined, without power"),
        pytest.param(UserID("@eve:e.example"), "5.3.5.2", id="with power, not in the room"),
        pytest.param(UserID("@nobody:e.example"), "5.3.5.2", id="stranger"),
    ],
)
def test_restricted_join_needs_a_member_who_may_invite(
    version: RoomVersion, rule_name: str, authoriser: UserID, rule: str | None
) -> None:
    room = StateRoom(version)
    room.set_join_rule(rule_name)
    room.set_member(CAROL, "join")
    room.set_member(DAVE, "join")
    room.set_member(UserID("@eve:e.example"), "leave")
    room.set_power({CAROL: 50, UserID("@eve:e.example"): 50}, invite=50)
    event = room.member(BOB, BOB, "join", join_authorised_via_users_server=authoriser)
    assert expected_rule(version, rule) == broken_rule(room, event)


def test_servers_that_must_have_signed_a_restricted_join() -> None:
    room = StateRoom(V12)
    plain = room.member(BOB, BOB, "join")
    restricted = room.member(BOB, BOB, "join", join_authorised_via_users_server=CAROL)
    odd = room.member(BOB, BOB, "join", join_authorised_via_users_server=["x"])
    assert frozenset({"b.example"}) == signing_servers(V12, plain) == signing_servers(V12, odd)
    assert frozenset({"b.example", "c.example"}) == signing_servers(V12, restricted)


@VERSIONS
def test_creator_joins_first(version: RoomVersion) -> None:
    room = StateRoom(version)
    room.state = {("m.room.create", ""): room.create}
    first = room.event("m.room.member", ALICE, {"membership": "join"}, ALICE, prev=(room.create.event_id,))
    assert broken_rule(room, first) is None


@VERSIONS
def test_creator_joins_first_only_directly_after_the_create_event(version: RoomVersion) -> None:
    room = StateRoom(version)
    room.state = {("m.room.create", ""): room.create}
    late = room.event("m.room.member", ALICE, {"membership": "join"}, ALICE, prev=(room.create.event_id, "$other"))
    assert expected_rule(version, "5.3.7") == broken_rule(room, late)


@VERSIONS
def test_nobody_else_joins_first(version: RoomVersion) -> None:
    room = StateRoom(version, additional_creators=[BOB])
    room.state = {("m.room.create", ""): room.create}
    event = room.event("m.room.member", BOB, {"membership": "join"}, BOB, prev=(room.create.event_id,))
    assert expected_rule(version, "5.3.7") == broken_rule(room, event)


@pytest.mark.parametrize(("version", "who"), [(V10, BOB), (V11, ALICE), (V12, ALICE)])
def test_first_to_join_is_the_named_creator_in_version_10_and_the_sender_after(
    version: RoomVersion, who: UserID
) -> None:
    room = StateRoom(version, creator=BOB)
    room.state = {("m.room.create", ""): room.create}
    event = room.event("m.room.member", who, {"membership": "join"}, who, prev=(room.create.event_id,))
    assert broken_rule(room, event) is None


@VERSIONS
@pytest.mark.parametrize(
    ("sender_now", "target_now", "power", "rule"),
    [
        ("join", None, 50, None),
        ("join", "leave", 50, None),
        ("join", "knock", 50, None),
        ("join", "invite", 50, None),
        ("join", "join", 50, "5.4.3"),
        ("join", "ban", 50, "5.4.3"),
        ("join", "ban", 100, "5.4.3"),
        ("join", None, 49, "5.4.5"),
        ("invite", None, 100, "5.4.2"),
        ("leave", None, 100, "5.4.2"),
        ("ban", None, 100, "5.4.2"),
        (None, None, 100, "5.4.2"),
    ],
)
def test_invite(
    version: RoomVersion, sender_now: str | None, target_now: str | None, power: int, rule: str | None
) -> None:
    room = StateRoom(version)
    room.set_power({BOB: power}, invite=50)
    room.set_member(BOB, sender_now)
    room.set_member(CAROL, target_now)
    assert expected_rule(version, rule) == broken_rule(room, room.member(BOB, CAROL, "invite"))


@VERSIONS
@pytest.mark.parametrize(
    ("now", "rule"),
    [
        ("join", None),
        ("invite", None),
        ("knock", None),
        ("leave", "5.5.1"),
        ("ban", "5.5.1"),
        (None, "5.5.1"),
    ],
)
def test_leave(version: RoomVersion, now: str | None, rule: str | None) -> None:
    room = StateRoom(version)
    room.set_member(BOB, now)
    assert expected_rule(version, rule) == broken_rule(room, room.member(BOB, BOB, "leave"))


@pytest.mark.parametrize(("version", "rule"), [(V6, "4.4.1"), (V7, None)])
def test_knock_is_taken_back_where_there_are_knocks(version: RoomVersion, rule: str | None) -> None:
    room = StateRoom(version)
    room.set_member(BOB, "knock")
    assert rule == broken_rule(room, room.member(BOB, BOB, "leave"))


@VERSIONS
@pytest.mark.parametrize(
    ("sender_now", "target_now", "power", "target_power", "rule"),
    [
        pytest.param("join", "join", 50, 49, None, id="kick"),
        pytest.param("join", "invite", 50, 0, None, id="withdraw an invite"),
        pytest.param("join", "knock", 50, 0, None, id="refuse a knock"),
        pytest.param("join", "join", 49, 0, "5.5.5", id="below the kick level"),
        pytest.param("join", "join", 50, 50, "5.5.5", id="kick an equal"),
        pytest.param("join", "join", 50, 51, "5.5.5", id="kick a superior"),
        pytest.param("leave", "join", 100, 0, "5.5.2", id="kicker left"),
        pytest.param("ban", "join", 100, 0, "5.5.2", id="kicker banned"),
        pytest.param(None, "join", 100, 0, "5.5.2", id="kicker never there"),
        pytest.param("join", "ban", 60, 0, None, id="unban"),
        pytest.param("join", "ban", 59, 0, "5.5.3", id="unban below the ban level"),
        pytest.param("join", "ban", 60, 60, "5.5.5", id="unban an equal"),
    ],
)
def test_kick_and_unban(
    version: RoomVersion,
    sender_now: str | None,
    target_now: str,
    power: int,
    target_power: int,
    rule: str | None,
) -> None:
    room = StateRoom(version)
    room.set_power({BOB: power, CAROL: target_power}, kick=50, ban=60)
    room.set_member(BOB, sender_now)
    room.set_member(CAROL, target_now)
    assert expected_rule(version, rule) == broken_rule(room, room.member(BOB, CAROL, "leave"))


@VERSIONS
def test_unban_needs_the_kick_level_too(version: RoomVersion) -> None:
    room = StateRoom(version)
    room.set_power({BOB: 50}, kick=60, ban=50)
    room.set_member(BOB, "join")
    room.set_member(CAROL, "ban")
    assert expected_rule(version, "5.5.5") == broken_rule(room, room.member(BOB, CAROL, "leave"))


@VERSIONS
@pytest.mark.parametrize(
    ("sender_now", "target_now", "power", "target_power", "rule"),
    [
        ("join", "join", 50, 49, None),
        ("join", None, 50, 0, None),
        ("join", "ban", 50, 0, None),
        ("join", "join", 49, 0, "5.6.3"),
        ("join", "join", 50, 50, "5.6.3"),
        ("join", "join", 50, 51, "5.6.3"),
        ("invite", "join", 100, 0, "5.6.1"),
        ("leave", "join", 100, 0, "5.6.1"),
        (None, "join", 100, 0, "5.6.1"),
    ],
)
def test_ban(
    version: RoomVersion,
    sender_now: str | None,
    target_now: str | None,
    power: int,
    target_power: int,
    rule: str | None,
) -> None:
    room = StateRoom(version)
    room.set_power({BOB: power, CAROL: target_power})
    room.set_member(BOB, sender_now)
    room.set_member(CAROL, target_now)
    assert expected_rule(version, rule) == broken_rule(room, room.member(BOB, CAROL, "ban"))


@VERSIONS
@pytest.mark.parametrize(
    ("join_rule", "now", "rule"),
    [
        ("knock", None, None),
        ("knock", "leave", None),
        ("knock", "knock", None),
        ("knock_restricted", None, None),
        ("knock", "ban", "5.7.4"),
        ("knock", "invite", "5.7.4"),
        ("knock", "join", "5.7.4"),
        ("invite", None, "5.7.1"),
        ("public", None, "5.7.1"),
        ("restricted", None, "5.7.1"),
        ("private", None, "5.7.1"),
        (12, None, "5.7.1"),
    ],
)
def test_knock(version: RoomVersion, join_rule: Any, now: str | None, rule: str | None) -> None:
    room = StateRoom(version)
    room.set_join_rule(join_rule)
    room.set_member(BOB, now)
    assert expected_rule(version, rule) == broken_rule(room, room.member(BOB, BOB, "knock"))


@VERSIONS
def test_knock_for_another_user_is_refused(version: RoomVersion) -> None:
    room = StateRoom(version)
    room.set_join_rule("knock")
    assert expected_rule(version, "5.7.2") == broken_rule(room, room.member(ALICE, BOB, "knock"))


@pytest.mark.parametrize("membership", ["leave", "ban"])
def test_a_creator_of_version_12_is_beyond_all_levels(membership: str) -> None:
    room = StateRoom(V12, additional_creators=[CAROL])
    room.set_power({BOB: 2**53 - 1})
    for user_id in (BOB, CAROL):
        room.set_member(user_id, "join")
    rule = {"leave": "5.5.5", "ban": "5.6.3"}[membership]
    assert rule == broken_rule(room, room.member(BOB, ALICE, membership))
    assert rule == broken_rule(room, room.member(BOB, CAROL, membership))
    assert rule == broken_rule(room, room.member(ALICE, CAROL, membership)), "creators are equals"
    assert broken_rule(room, room.member(CAROL, BOB, membership)) is None
