"""What an append leaves in the tables."""

from __future__ import annotations

from collections import Counter

import pytest_twisted
from sqlalchemy import select

from storage.tables import rooms as tables
from tests.support.rooms import RoomServer, rooms  # noqa: F401


@pytest_twisted.ensureDeferred
async def test_references_to_state_groups_are_counted_exactly(rooms: RoomServer) -> None:  # noqa: F811
    alice, bob = await rooms.users("alice", "bob")
    for _ in range(2):
        room = await rooms.room(alice, members=[bob])
        for number in range(20):
            await rooms.send(room, alice, "m.room.topic", {"topic": str(number)}, "")
            await rooms.say(room, bob)
    read = rooms.store.database.read
    refs = dict(await read(lambda tx: [tuple(row) for row in tx.all(select(tables.state_group_refs))]))
    expected: Counter[int] = Counter()
    for (group,) in await read(lambda tx: tx.all(select(tables.events.c.state_group))):
        expected[group] += 1
    for (parent,) in await read(lambda tx: tx.all(select(tables.state_groups.c.parent))):
        if parent is not None:
            expected[parent] += 1
    assert dict(expected) == refs


@pytest_twisted.ensureDeferred
async def test_members_are_counted_as_they_come_and_go(rooms: RoomServer) -> None:  # noqa: F811
    alice, bob, carol, dora = await rooms.users("alice", "bob", "carol", "dora")
    room = await rooms.room(alice, members=[bob, carol])
    await rooms.invite(room, alice, dora)
    await rooms.join(room, bob, displayname="Bob")
    await rooms.ban(room, alice, carol)
    query = select(tables.room_stats.c.joined_members, tables.room_stats.c.invited_members)
    assert (2, 1) == tuple(await rooms.store.database.read(lambda tx: tx.first(query)))
    await rooms.join(room, dora)
    await rooms.kick(room, alice, carol)
    assert (3, 0) == tuple(await rooms.store.database.read(lambda tx: tx.first(query)))
    assert 3 == (await rooms.door.tip(room)).joined_members
