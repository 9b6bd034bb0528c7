"""The whole table of history visibility.  Spec: client-server API, "Room history visibility", "Server behaviour"."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.model.content.history_visibility import HistoryVisibility, history_visibility_of
from homeserver.model.content.member import Membership
from homeserver.model.event import Event
from homeserver.model.event_format import event_from_wire
from homeserver.model.hashing import event_id_of
from homeserver.model.ids import UserID
from homeserver.model.room_versions import KNOWN_ROOM_VERSIONS, V12, RoomVersion
from homeserver.model.visibility import (
    may_server_see,
    may_user_see,
    may_user_see_event,
    pruned_for_server,
    world_readable,
)

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


# -- the same for servers --------------------------------------------------------------------------------------------

BERT = UserID("@bert:b.example")
SERVER = "b.example"
TRANSITIONS = list(product(HistoryVisibility, [None, *Membership], Membership, [False, True]))


def may_bobs_server_see(
    room: StateRoom, event: Event, *, joined_afterwards: bool, sender_is_erased: bool = False
) -> bool:
    members = [member for (kind, _), member in room.state.items() if kind == "m.room.member"]
    return may_server_see(
        event,
        SERVER,
        room.state,
        members,
        joined_afterwards=joined_afterwards,
        sender_is_erased=sender_is_erased,
    )


@pytest.mark.parametrize(("visibility", "before", "after", "joined_afterwards"), TRANSITIONS)
def test_every_transition_is_seen_by_its_user_and_their_server_as_the_table_says(
    visibility: HistoryVisibility, before: Membership | None, after: Membership, joined_afterwards: bool
) -> None:
    room = room_with(visibility)
    room.set_member(BOB, before)
    event = room.member(ALICE, BOB, after)
    sees = TABLE[visibility][joined_afterwards]
    expected = (before or Membership.LEAVE) in sees or after in sees
    assert expected is may_user_see_event(event, BOB, room.state, joined_afterwards=joined_afterwards)
    assert expected is may_bobs_server_see(room, event, joined_afterwards=joined_afterwards)


@pytest.mark.parametrize(("visibility", "before", "after", "joined_afterwards"), TRANSITIONS)
def test_transition_of_another_server_is_a_message_like_any(
    visibility: HistoryVisibility, before: Membership | None, after: Membership, joined_afterwards: bool
) -> None:
    room = room_with(visibility)
    room.set_member(BOB, before)
    expected = (before or Membership.LEAVE) in TABLE[visibility][joined_afterwards]
    for event in (room.member(CAROL, CAROL, after), room.event("m.room.message", ALICE, {})):
        assert expected is may_user_see_event(event, BOB, room.state, joined_afterwards=joined_afterwards)
        assert expected is may_bobs_server_see(room, event, joined_afterwards=joined_afterwards)


@pytest.mark.parametrize("old", HistoryVisibility)
@pytest.mark.parametrize("new", HistoryVisibility)
@pytest.mark.parametrize("membership", [None, *Membership])
@pytest.mark.parametrize("joined_afterwards", [False, True])
def test_change_of_the_setting_is_seen_by_users_and_servers_as_by_the_more_open_one(
    old: HistoryVisibility, new: HistoryVisibility, membership: Membership | None, joined_afterwards: bool
) -> None:
    room = room_with(old)
    room.set_member(BOB, membership)
    event = room.event("m.room.history_visibility", ALICE, {"history_visibility": new}, "")
    expected = any((membership or Membership.LEAVE) in TABLE[setting][joined_afterwards] for setting in (old, new))
    assert expected is may_user_see_event(event, BOB, room.state, joined_afterwards=joined_afterwards)
    assert expected is may_bobs_server_see(room, event, joined_afterwards=joined_afterwards)


@pytest.mark.parametrize("visibility", HistoryVisibility)
@pytest.mark.parametrize("membership", Membership)
@pytest.mark.parametrize("joined_afterwards", [False, True])
def test_event_of_an_erased_sender_is_seen_only_by_servers_that_were_there_or_came_before_the_erasure(
    visibility: HistoryVisibility, membership: Membership, joined_afterwards: bool
) -> None:
    room = room_with(visibility)
    room.set_member(BOB, membership)
    by_member = membership is Membership.JOIN or (membership is Membership.INVITE and visibility is INVITED)
    expected = by_member or (joined_afterwards and visibility in (WORLD, SHARED))
    message = room.event("m.room.message", ALICE, {})
    assert expected is may_bobs_server_see(room, message, joined_afterwards=joined_afterwards, sender_is_erased=True)


def test_one_user_of_a_server_is_enough() -> None:
    room = room_with("joined")
    room.set_member(BOB, "ban")
    message = room.event("m.room.message", ALICE, {})
    assert not may_bobs_server_see(room, message, joined_afterwards=True)
    room.set_member(BERT, "join")
    assert may_bobs_server_see(room, message, joined_afterwards=False)


def test_members_of_a_server_are_read_only_where_they_decide() -> None:
    def refuse() -> Iterator[Event]:
        raise AssertionError("read")
        yield

    for visibility in ("world_readable", "shared"):
        room = room_with(visibility)
        message = room.event("m.room.message", ALICE, {})
        assert may_server_see(message, SERVER, room.state, refuse(), joined_afterwards=True)


def test_server_names_are_compared_whole() -> None:
    room = room_with("joined")
    room.set_member(UserID("@x:b.example:8448"), "join")
    room.set_member(UserID("@x:xb.example"), "join")
    room.set_state("m.room.member", {"membership": "join"}, "b.example")
    assert not may_bobs_server_see(room, room.event("m.room.message", ALICE, {}), joined_afterwards=True)


@given(st.data())
def test_server_sees_what_any_of_its_users_sees(data: st.DataObject) -> None:
    memberships = st.sampled_from([None, *Membership])
    room = room_with(data.draw(st.sampled_from(HistoryVisibility)))
    for user_id in (BOB, BERT, CAROL):
        room.set_member(user_id, data.draw(memberships))
    target = data.draw(st.sampled_from([ALICE, BOB, BERT, CAROL]))
    event = data.draw(
        st.sampled_from(
            [
                room.event("m.room.message", ALICE, {}),
                room.member(ALICE, target, data.draw(st.sampled_from(Membership))),
                room.event(
                    "m.room.history_visibility",
                    ALICE,
                    {"history_visibility": data.draw(st.sampled_from(HistoryVisibility))},
                    data.draw(st.sampled_from(["", "other"])),
                ),
            ]
        )
    )
    joined = {user_id: data.draw(st.booleans()) for user_id in (BOB, BERT)}
    expected = any(
        may_user_see_event(event, user_id, room.state, joined_afterwards=joined[user_id]) for user_id in joined
    )
    assert expected is may_bobs_server_see(room, event, joined_afterwards=any(joined.values()))


@pytest.mark.parametrize("version", KNOWN_ROOM_VERSIONS.values(), ids=KNOWN_ROOM_VERSIONS)
def test_pruned_event_keeps_its_id_and_loses_what_was_said(version: RoomVersion) -> None:
    wire = {
        "type": "m.room.message",
        "content": {"body": "secret"},
        "sender": ALICE,
        "room_id": "!room:a.example",
        "event_id": "$event:a.example",
        "depth": 1,
        "origin_server_ts": 1,
        "prev_events": [],
        "auth_events": [],
        "hashes": {"sha256": "x"},
        "signatures": {"a.example": {"ed25519:1": "x"}},
    }
    event = event_from_wire(version, wire)
    pruned = pruned_for_server(version, event)
    assert {} == pruned["content"]
    assert {"body": "secret"} == event.content
    assert (event.event_id, wire["signatures"]) == (event_id_of(version, pruned), pruned["signatures"])
