"""Rooms that other servers are in are sound, whole or not, and damage of what is particular about them is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from sqlalchemy import Boolean, Integer, String, delete, insert, select, update

from homeserver.graph.indexes import check_database
from homeserver.graph.report import Report
from homeserver.rooms.outside import OutsideRooms
from storage.tables import all_tables
from storage.tables import rooms as t
from storage.tables.federation_rooms import (
    destination_rooms,
    history_blocks,
    missing_prevs,
    partial_rooms,
    room_servers,
    stripped_state,
)
from storage.transaction import Transaction
from tests.rooms.test_shared_rooms import DAVE, crowded, join, state_ids
from tests.support.elsewhere import ALICE, BOB, CAROL, Elsewhere
from tests.support.graph_check import assert_sound, check_stored
from tests.support.rooms import SERVER, RoomServer


async def lines(server: RoomServer, room: Elsewhere) -> list[str]:
    """Return what the check finds, without the room's ID."""
    return [line.removeprefix(f"{room.room_id} ") for line in (await check_stored(server, room.room_id)).lines()]


async def damage(server: RoomServer, *statements: Any) -> None:
    """Write something else than the server does."""

    def write(tx: Transaction) -> None:
        for statement in statements:
            tx.connection.execute(statement)

    await server.store.database.write(write)


async def number(server: RoomServer, event_id: str) -> int:
    """Return the number of an event."""
    found = await server.store.database.read(
        lambda tx: tx.scalar(select(t.events.c.event_nid).where(t.events.c.event_id == event_id))
    )
    return int(found)


async def shared(server: RoomServer, version: str = "12") -> tuple[Elsewhere, dict[str, Any]]:
    """Return a room that was joined, with an event after a gap, and history before both; and numbers of it."""
    room = crowded(version, 6)
    stored = await join(server, room)
    older = room.events[-5:-1]
    state = list(room.state_before(older[0].prev_event_ids).values())
    await server.door.receive_history(
        room.room_id, stored.event_id, [room.checked(each) for each in older], {older[0].event_id: state}
    )
    missed = [room.join(CAROL), room.say(CAROL)]
    event = room.say(CAROL, "after the gap")
    told = room.state_before(event.prev_event_ids)
    here = set((await state_ids(server, room)).values())
    await server.door.receive_outliers(
        room.room_id, [room.checked(room.by_id[each]) for each in told.values() if each not in here]
    )
    after = await server.door.receive_after_gap(room.room_id, room.checked(event), list(told.values()))
    report = await assert_sound(server, room.room_id)
    assert report.taken_states >= 3
    tops = (stored.position, after.position)
    return room, {"join": stored, "after": after, "older": older, "missed": missed, "tops": tops}


@pytest.mark.parametrize("version", ["1", "6", "12"])
@pytest_twisted.ensureDeferred
async def test_joined_room_with_gaps_and_history_is_sound(rooms: RoomServer, version: str) -> None:
    room, found = await shared(rooms, version)
    gap = [room.checked(each) for each in found["missed"]]
    await rooms.door.receive_history(room.room_id, found["after"].event_id, gap, {})
    await assert_sound(rooms, room.room_id)
    rest = [each for each in room.events[: room.events.index(found["older"][0])] if each is not room.create]
    await rooms.door.receive_history(
        room.room_id, found["older"][0].event_id, [room.checked(each) for each in (room.create, *rest)], {}
    )
    await assert_sound(rooms, room.room_id)


@pytest_twisted.ensureDeferred
async def test_partial_room_is_reported_as_such(rooms: RoomServer) -> None:
    room = crowded("12")
    await join(rooms, room, is_partial=True)
    report = await assert_sound(rooms, room.room_id)
    assert "1 room, 1 of them without all members yet" in report.summary(0.0)
    left = [room.checked(each) for each in room.members_left]  # type: ignore[attr-defined]
    await rooms.door.complete_state(room.room_id, left)
    report = await assert_sound(rooms, room.room_id)
    assert 0 == report.partial_rooms


def block(**values: object) -> Callable[[tuple[int, int]], Any]:
    return lambda tops: update(history_blocks).where(history_blocks.c.top == tops[0]).values(**values)


@pytest.mark.in_turns
@pytest.mark.parametrize(
    ("damaging", "expected"),
    [
        (lambda tops: delete(missing_prevs), "missing prev event: expected $"),
        (lambda tops: update(missing_prevs).values(prev_id="$nothing"), "stored $nothing"),
        (lambda tops: update(missing_prevs).values(event_nid=77), "are noted of number 77, which is no event"),
        (lambda tops: block(next_position=tops[0] - 1)(tops), "expected events over"),
        (lambda tops: block(next_position=tops[0] + 1)(tops), "expected from"),
        (
            lambda tops: update(history_blocks).where(history_blocks.c.top == tops[1]).values(floor=tops[0] - 5),
            "where another ends",
        ),
        (lambda tops: block(top=tops[0] + 1)(tops), "expected an event there, stored none"),
        (lambda tops: update(room_servers).values(joined=7), "joined users of 'a.example': expected 1, stored 7"),
        (lambda tops: delete(room_servers), f"joined users of {SERVER!r}: expected 1, stored 0"),
        (
            lambda tops: insert(destination_rooms).values(destination="z.example", room_nid=1, position=9_999_999),
            "position for 'z.example': expected one up to ",
        ),
        (
            lambda tops: insert(destination_rooms).values(destination=SERVER, room_nid=1, position=tops[0]),
            f"servers to be told: expected other servers, stored {SERVER}",
        ),
        (
            lambda tops: insert(stripped_state).values(room_nid=1, user_nid=88, json=b"[]"),
            "stripped state: expected none for who has no membership, stored user number 88",
        ),
    ],
    ids=[
        *("no note", "another note", "note of nothing", "history outside", "block turned over", "blocks overlap"),
        *("block of nothing", "counts", "no counts", "nothing to send", "sent to itself", "shown to nobody"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_damage_of_what_other_servers_bring_is_told(
    rooms: RoomServer, damaging: Callable[[tuple[int, int]], Any], expected: str
) -> None:
    room, found = await shared(rooms)
    statement = damaging(found["tops"])
    if statement.is_insert:
        statement = statement.values(room_nid=found["join"].room_nid)
    await damage(rooms, statement)
    told = await lines(rooms, room)
    assert [line for line in told if expected in line], told


@pytest_twisted.ensureDeferred
async def test_edge_that_is_gone_is_told_where_nothing_says_that_it_is_missing(rooms: RoomServer) -> None:
    room, found = await shared(rooms)
    last = await number(rooms, found["older"][-1].event_id)
    await damage(rooms, delete(t.event_edges).where(t.event_edges.c.event_nid == last))
    assert any(
        f"edge: expected to {found['older'][-2].event_id}, stored none" in line for line in await lines(rooms, room)
    )


@pytest.mark.in_turns
@pytest.mark.parametrize("what", ["rejected", "another key", "of nothing", "no create event"])
@pytest_twisted.ensureDeferred
async def test_given_state_of_what_cannot_be_in_it_is_told(rooms: RoomServer, what: str) -> None:
    room = crowded("12", 3)
    bob = room.join(BOB)
    await join(rooms, room)
    await assert_sound(rooms, room.room_id)
    nid = await number(rooms, room.create.event_id if what == "no create event" else bob.event_id)
    events = t.events
    here = events.c.event_nid == nid
    statement: Any = update(events).where(here).values(flags=3)
    if what == "another key":
        statement = update(events).where(here).values(key_nid=1)
    elif what == "of nothing":
        statement = delete(events).where(here)
    elif what == "no create event":
        statement = update(events).where(here).values(key_nid=None)
    await damage(rooms, statement)
    expected = {"rejected": "which was rejected", "another key": "another state key", "of nothing": "there is not"}
    told = await lines(rooms, room)
    assert any("given state" in line and expected.get(what, "another state key") in line for line in told), told


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"join_nid": 1}, "expected a join after a gap, stored event number 1"),
        ({"base_group": 1}, "its first state cannot be had"),
        ({"servers": b"{"}, "expected a JSON list of servers"),
    ],
    ids=["join", "state", "servers"],
)
@pytest_twisted.ensureDeferred
async def test_damage_of_a_partial_room_is_told(rooms: RoomServer, values: dict[str, Any], expected: str) -> None:
    room = crowded("12", 3)
    await join(rooms, room, is_partial=True)
    await damage(rooms, update(partial_rooms).values(**values))
    assert any("partial room" in line and expected in line for line in await lines(rooms, room))


async def invited(server: RoomServer) -> Elsewhere:
    """Return a room that a user is invited to from outside."""
    room = Elsewhere("12")
    outside = OutsideRooms(server.store, server.feed, server.door._lanes, server.clock, SERVER)
    await outside.take_invite(room.version, room.checked(room.member(ALICE, DAVE, "invite")), [{"type": "m.room.name"}])
    report = await assert_sound(server, room.room_id)
    assert 1 == report.unknown_auth
    return room


@pytest.mark.in_turns
@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        (update(t.memberships).values(membership="join"), "expected invite by $"),
        (update(t.memberships).values(event_nid=99), "expected by a member event that came alone, stored invite by"),
        (update(t.memberships).values(is_local=False), "expected none for a user of another server"),
        (delete(t.membership_changes), "by a member event that came alone"),
        (update(t.membership_changes).values(position=99), "the newest change is another"),
        (update(stripped_state).values(json=b"{}"), "expected a JSON list, stored {}"),
    ],
    ids=["membership", "event", "not local", "no change", "another change", "stripped state"],
)
@pytest_twisted.ensureDeferred
async def test_damage_of_an_invite_from_outside_is_told(rooms: RoomServer, statement: Any, expected: str) -> None:
    room = await invited(rooms)
    await damage(rooms, statement)
    told = await lines(rooms, room)
    assert any(expected in line for line in told), told


@pytest_twisted.ensureDeferred
async def test_who_was_invited_from_outside_and_joins_leaves_a_sound_room(rooms: RoomServer) -> None:
    room = crowded("12", 3)
    room.add("m.room.join_rules", ALICE, {"join_rule": "invite"}, "")
    outside = OutsideRooms(rooms.store, rooms.feed, rooms.door._lanes, rooms.clock, SERVER)
    invite = room.member(ALICE, DAVE, "invite")
    await outside.take_invite(room.version, room.checked(invite), [])
    before = await number(rooms, invite.event_id)
    stored = await join(rooms, room)
    await assert_sound(rooms, room.room_id)
    # An event has a higher number than those that it cites.
    assert before < await number(rooms, room.create.event_id) < await number(rooms, invite.event_id) < stored.nid
    assert stored.replaces_nid == await number(rooms, invite.event_id)


@pytest_twisted.ensureDeferred
async def test_change_of_a_membership_without_an_event_is_told(rooms: RoomServer) -> None:
    room, found = await shared(rooms)
    dave = await rooms.store.interner.user(DAVE)
    row = {"user_nid": dave, "position": 123, "room_nid": found["join"].room_nid, "membership": "join"}
    await damage(rooms, insert(t.membership_changes).values(**row, event_nid=await number(rooms, room.create.event_id)))
    assert any("expected by a member event of the user" in line for line in await lines(rooms, room))


@pytest.mark.in_turns
@pytest.mark.parametrize("name", ["room_servers", "missing_prevs", "history_blocks", "held_events"])
@pytest_twisted.ensureDeferred
async def test_rows_of_a_room_that_is_not_there_are_told(rooms: RoomServer, name: str) -> None:
    table = all_tables().tables[name]
    values = {column.name: 7 if isinstance(column.type, Integer) else b"x" for column in table.c if not column.nullable}
    values |= {column.name: False for column in table.c if isinstance(column.type, Boolean)}
    texts = {column.name: "x" for column in table.c if isinstance(column.type, String)}
    await damage(rooms, insert(table).values(**{**values, **texts}))
    report = Report()
    await rooms.store.database.read(lambda tx: check_database(tx, report))
    assert [name] == [difference.aspect for difference in report.differences]
