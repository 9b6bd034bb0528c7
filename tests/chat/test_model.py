from __future__ import annotations

import json
from typing import Any

import pytest

from homeserver.chat.model import Model
from homeserver.chat.timeline import Message

from .played import ALICE, BOB, CAROL, ROOM, event, joined, member, model_of, state


def _direct(**rooms: Any) -> dict[str, Any]:
    return {
        "account_data": {"events": [{"type": "m.direct", "content": {f"@{who}:x": ids for who, ids in rooms.items()}}]}
    }


def _invite(*events: dict[str, Any], room_id: str = ROOM) -> dict[str, Any]:
    return {"next_batch": "s2", "rooms": {"invite": {room_id: {"invite_state": {"events": list(events)}}}}}


def _left(*events: dict[str, Any]) -> dict[str, Any]:
    return {"next_batch": "s3", "rooms": {"leave": {ROOM: {"timeline": {"events": list(events)}}}}}


def test_room_has_the_name_that_the_timeline_gave_it_last() -> None:
    model = model_of(joined(state("m.room.name", name="New"), state_events=[state("m.room.name", name="Old")]))
    assert "New" == model.name_of(model.rooms[ROOM])


def test_direct_room_is_called_by_who_is_in_it() -> None:
    summary = {"m.heroes": [BOB], "m.joined_member_count": 2, "m.invited_member_count": 0}
    model = model_of(_direct(bob=[ROOM]), joined(state_events=[member(BOB, "Bob")], summary=summary))
    room = model.rooms[ROOM]
    assert ("Bob", BOB, room) == (model.name_of(room), model.partner(room), model.direct_room(BOB))


def test_summary_stays_where_an_update_has_none() -> None:
    summary = {"m.heroes": [BOB], "m.joined_member_count": 2}
    model = model_of(joined(summary=summary), joined(event("$1"), summary={}))
    assert ([BOB], 2) == (model.rooms[ROOM].heroes, model.rooms[ROOM].joined)


def test_counts_are_those_of_the_last_update() -> None:
    counts = {"notification_count": 3, "highlight_count": 1}
    model = model_of(joined(event("$1"), unread_notifications=counts))
    assert (3, 1) == (model.rooms[ROOM].unread, model.rooms[ROOM].highlights)
    model.fold(joined(unread_notifications={"notification_count": 0, "highlight_count": 0}))
    assert (0, 0) == (model.rooms[ROOM].unread, model.rooms[ROOM].highlights)


def test_what_we_have_read_is_no_more_unread() -> None:
    model = model_of(joined(event("$1"), unread_notifications={"notification_count": 3, "highlight_count": 1}))
    model.read_up_to(model.rooms[ROOM], "$1")
    assert (0, 0) == (model.rooms[ROOM].unread, model.rooms[ROOM].highlights)


def test_typing_and_receipts_are_taken() -> None:
    ephemeral = [
        {"type": "m.typing", "content": {"user_ids": [BOB, 3, ALICE]}},
        {"type": "m.receipt", "content": {"$1": {"m.read": {BOB: {"ts": 1}, ALICE: {}}}, "$0": 1, "$2": {"m.read": 1}}},
    ]
    room = model_of(joined(event("$1"), ephemeral={"events": ephemeral})).rooms[ROOM]
    assert ([BOB, ALICE], [BOB]) == (room.typing, room.readers("$1", ALICE))


def test_presence_is_taken() -> None:
    content = {"presence": "online", "status_msg": "here\x1b[31m"}
    model = model_of({"presence": {"events": [{"type": "m.presence", "sender": BOB, "content": content}, 3, {}]}})
    assert (True, False, "here␛[31m") == (model.is_online(BOB), model.is_online(CAROL), model.presence[BOB].status)


def test_news_are_the_new_messages() -> None:
    model = model_of(joined(event("$1")))
    news = model.fold(joined(event("$1"), event("$2")))
    assert ["$2"] == [message.event.event_id for message in news.messages[ROOM]]


def test_rooms_are_listed_invites_first_then_by_their_newest_message() -> None:
    model = model_of(
        joined(event("$1", ts_ms=10), room_id="!old:x"),
        joined(event("$2", ts_ms=20), room_id="!new:x"),
        _invite(room_id="!invite:x"),
    )
    assert ["!invite:x", "!new:x", "!old:x"] == [room.room_id for room in model.listed()]


def test_invite_tells_who_and_to_what() -> None:
    content = {"membership": "invite", "is_direct": True}
    mine = {"type": "m.room.member", "state_key": ALICE, "sender": BOB, "content": content}
    theirs = {
        "type": "m.room.member",
        "state_key": BOB,
        "sender": BOB,
        "content": {"membership": "join", "displayname": "Bob"},
    }
    model = Model(ALICE)
    news = model.fold(_invite(mine, theirs))
    room = model.rooms[ROOM]
    assert ([ROOM], BOB, True, "Bob") == (news.invites, room.inviter, room.is_direct, model.name_of(room))


@pytest.mark.parametrize(
    "events",
    [
        [{"type": "m.room.member"}],
        [{"type": ["m.room.name"], "state_key": "", "content": {}}],
        [{"type": "m.room.name", "state_key": "", "content": {"name": {"name": "x"}}}],
        [{"type": "m.room.member", "state_key": ALICE, "sender": 5, "content": {"membership": []}}],
        [None, 1, "x", []],
    ],
    ids=["bare", "type is a list", "name is an object", "sender is a number", "no events"],
)
def test_malformed_invite_can_be_seen_and_declined(events: list[Any]) -> None:
    model = model_of(_invite(*events))
    assert "Empty room" == model.name_of(model.rooms[ROOM])
    model.fold(_left())
    assert {} == model.rooms


def test_accepted_invite_becomes_a_room() -> None:
    model = model_of(_invite(), joined(event("$1")))
    assert "join" == model.rooms[ROOM].membership


@pytest.mark.parametrize(
    ("membership", "sender", "reason", "why"),
    [
        ("leave", ALICE, None, ""),
        ("leave", BOB, None, "Bob has removed you"),
        ("leave", BOB, "spam\x07", "Bob has removed you: spam␇"),
        ("ban", BOB, None, "Bob has banned you"),
    ],
)
def test_room_that_we_are_out_of_is_gone_and_told(membership: str, sender: str, reason: str | None, why: str) -> None:
    model = model_of(joined(state_events=[member(BOB, "Bob")]))
    content = {"membership": membership, "reason": reason}
    news = model.fold(_left(event("$9", kind="m.room.member", content=content, state_key=ALICE, sender=sender)))
    assert ({}, [why]) == (model.rooms, [reason for _room, reason in news.left])


@pytest.mark.parametrize(
    "update",
    [
        {},
        {"rooms": []},
        {"rooms": {"join": 1, "invite": [], "leave": "x"}},
        {"rooms": {"join": {ROOM: None}, "invite": {ROOM: 3}}},
        {"rooms": {"join": {ROOM: {"timeline": {"events": {}}, "state": {"events": [3]}, "summary": 1}}}},
        {"rooms": {"join": {ROOM: {"summary": {"m.heroes": [1], "m.joined_member_count": "2"}}}}},
        {"rooms": {"join": {ROOM: {"unread_notifications": {"notification_count": -1, "highlight_count": []}}}}},
        {"rooms": {"join": {ROOM: {"ephemeral": {"events": [{"type": "m.typing", "content": {"user_ids": {}}}]}}}}},
        {"rooms": {"leave": {"!unknown:x": {}}}},
        {"account_data": {"events": [{"type": "m.direct", "content": {BOB: 1, CAROL: [2]}}]}},
        {"presence": {"events": {"sender": 1}}, "next_batch": 3},
    ],
    ids=range(11),
)
def test_malformed_update_is_passed_over(update: dict[str, Any]) -> None:
    model = model_of(joined(event("$1"), summary={"m.heroes": [BOB], "m.joined_member_count": 2}), update)
    assert "s1" == model.next_batch
    assert all(model.name_of(room) for room in model.rooms.values())


def test_what_is_written_down_is_read_again_without_messages() -> None:
    summary = {"m.heroes": [BOB], "m.joined_member_count": 2, "m.invited_member_count": 0}
    member_of_invite = {
        "type": "m.room.member",
        "state_key": ALICE,
        "sender": CAROL,
        "content": {"membership": "invite", "is_direct": True},
    }
    before = model_of(
        _direct(bob=[ROOM]),
        joined(
            event("$1", "secret words"),
            state_events=[
                member(BOB, "Bob"),
                state("m.room.topic", topic="Tea"),
                state("m.room.encryption", algorithm="x"),
            ],
            summary=summary,
            unread_notifications={"notification_count": 2, "highlight_count": 1},
        ),
        _invite(member_of_invite, room_id="!invite:x"),
    )
    written = json.dumps(before.snapshot())
    after = Model(ALICE)
    after.restore(json.loads(written))
    assert "secret" not in written
    assert before.next_batch == after.next_batch
    for room in before.rooms.values():
        same = after.rooms[room.room_id]
        assert before.name_of(room) == after.name_of(same)
        assert (room.topic, room.unread, room.highlights, room.is_direct, room.last_ts_ms, room.is_encrypted) == (
            same.topic,
            same.unread,
            same.highlights,
            same.is_direct,
            same.last_ts_ms,
            same.is_encrypted,
        )
        assert (room.inviter, room.membership) == (same.inviter, same.membership)
    assert not any(isinstance(item, Message) for room in after.rooms.values() for item in room.timeline.items)


def test_members_of_old_pages_do_not_replace_present_ones() -> None:
    model = model_of(joined(state_events=[member(BOB, "New")]))
    model.learn_members(model.rooms[ROOM], [member(BOB, "Old"), member(CAROL, "Carol")])
    assert ("New", "Carol") == (model.rooms[ROOM].members.shown(BOB), model.rooms[ROOM].members.shown(CAROL))
