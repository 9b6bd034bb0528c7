"""The whole table of history visibility.  Spec: client-server API, "Room history visibility", "Server behaviour"."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.model.content.history_visibility import HistoryVisibility, history_visibility_of
from homeserver.model.content.member import Membership
from homeserver.model.room_versions import V12
from homeserver.model.visibility import may_user_see, may_user_see_event, world_readable

from .rooms_in_memory import ALICE, BOB, CAROL, StateRoom

WORLD, SHARED, INVITED, JOINED = (
    HistoryVisibility.WORLD_READABLE,
    HistoryVisibility.SHARED,
    HistoryVisibility.INVITED,
    HistoryVisibility.JOINED,
)
# For each setting: the memberships at the event that see it, without and with a join afterwards.
TABLE = {
    WORLD: (set(Membership), set(Membership)),
    SHARED: ({Membership.JOIN}, set(Membership)),
    INVITED: ({Membership.JOIN, Membership.INVITE}, {Membership.JOIN, Membership.INVITE}),
    JOINED: ({Membership.JOIN}, {Membership.JOIN}),
}


@pytest.mark.parametrize("visibility", HistoryVisibility)
@pytest.mark.parametrize("membership", Membership)
@pytest.mark.parametrize("joined_afterwards", [False, True])
def test_table(visibility: HistoryVisibility, membership: Membership, joined_afterwards: bool) -> None:
    expected = membership in TABLE[visibility][joined_afterwards]
    assert expected == may_user_see(visibility, membership, joined_afterwards=joined_afterwards)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("world_readable", WORLD),
        ("shared", SHARED),
        ("invited", INVITED),
        ("joined", JOINED),
        ("Joined", SHARED),
        (None, SHARED),
        (["joined"], SHARED),
        ({"joined": 1}, SHARED),
        (1, SHARED),
    ],
)
def test_setting_that_is_not_understood_is_shared(value: Any, expected: HistoryVisibility) -> None:
    room = StateRoom(V12)
    event = room.set_state("m.room.history_visibility", {"history_visibility": value})
    assert expected is history_visibility_of(event)
    assert (expected is WORLD) is world_readable(room.state)


def test_room_without_a_setting_is_shared() -> None:
    assert history_visibility_of(None) is SHARED
    assert not world_readable({})


def room_with(visibility: str) -> StateRoom:
    room = StateRoom(V12)
    room.set_state("m.room.history_visibility", {"history_visibility": visibility})
    return room


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("world_readable", "joined", True),
        ("joined", "world_readable", True),
        ("joined", "shared", False),
        ("shared", "joined", False),
    ],
)
def test_change_of_the_setting_is_seen_by_what_was_before_or_after(before: str, after: str, expected: bool) -> None:
    room = room_with(before)
    event = room.event("m.room.history_visibility", ALICE, {"history_visibility": after}, "")
    assert expected is may_user_see_event(event, BOB, room.state, joined_afterwards=False)


def test_change_of_the_setting_to_shared_is_seen_by_those_who_join_later() -> None:
    room = room_with("joined")
    event = room.event("m.room.history_visibility", ALICE, {"history_visibility": "shared"}, "")
    assert may_user_see_event(event, BOB, room.state, joined_afterwards=True)


@pytest.mark.parametrize(
    ("visibility", "now", "membership", "expected"),
    [
        ("joined", None, "join", True),
        ("joined", "join", "leave", True),
        ("joined", "join", "ban", True),
        ("joined", None, "invite", False),
        ("invited", None, "invite", True),
        ("invited", "invite", "leave", True),
        ("joined", "leave", "ban", False),
    ],
)
def test_own_membership_is_seen_by_what_was_before_or_after(
    visibility: str, now: str | None, membership: str, expected: bool
) -> None:
    room = room_with(visibility)
    room.set_member(BOB, now)
    event = room.member(ALICE, BOB, membership)
    assert expected is may_user_see_event(event, BOB, room.state, joined_afterwards=False)


def test_membership_of_somebody_else_is_an_event_like_any() -> None:
    room = room_with("joined")
    assert not may_user_see_event(room.member(CAROL, CAROL, "join"), BOB, room.state, joined_afterwards=True)


def test_message_is_judged_by_the_state_before_it() -> None:
    room = room_with("joined")
    message = room.event("m.room.message", ALICE, {})
    assert may_user_see_event(message, ALICE, room.state, joined_afterwards=False)
    assert not may_user_see_event(message, BOB, room.state, joined_afterwards=True)
