"""The checker of `sennit graph --check` as an assertion: a test ends with `await assert_sound(server, room_id)`."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_twisted

from homeserver.graph.check import check_room
from homeserver.graph.event_checks import KnownKey
from homeserver.graph.indexes import check_database, check_indexes
from homeserver.graph.report import Report
from storage.inspection import find_room, list_rooms
from storage.transaction import Transaction

from .rooms import RoomServer


async def assert_sound(server: RoomServer, room_id: str) -> Report:
    """Check everything that is stored of a room; fail with what differs. Returns the report, with its counts."""
    report = await check_stored(server, room_id)
    assert report.is_sound, "\n" + "\n".join(report.lines())
    return report


async def check_stored(server: RoomServer, room_id: str) -> Report:
    """Return what the check of a stored room finds."""
    identity = server.identity
    keys = {(identity.server_name, identity.key.key_id): KnownKey(identity.key.verify_key)}
    report = Report()

    def check(tx: Transaction) -> None:
        room = find_room(tx, room_id)
        assert room is not None, f"{room_id} is not stored"
        check_room(tx, room, keys, report)
        check_indexes(tx, room, report)

    await server.store.database.read(check)
    return report


async def assert_all_sound(server: RoomServer) -> None:
    """Check all rooms, and what hangs on none."""
    # What is still on its way to the disk, behind a tip in memory, would be seen half: these reads are no snapshot.
    await server.store.database.write(lambda tx: None)
    found: list[str] = []
    for room in await server.store.database.read(list_rooms):
        found += (await check_stored(server, room.room_id)).lines()
    report = Report()
    await server.store.database.read(lambda tx: check_database(tx, report))
    found += report.lines()
    assert not found, "\n" + "\n".join(found)


@pytest_twisted.async_yield_fixture
async def sound_rooms(rooms: RoomServer) -> AsyncIterator[None]:
    """For `pytest.mark.usefixtures`: at the end of the test, every room that `rooms` has is sound."""
    yield
    await rooms.tasks.stop()
    await assert_all_sound(rooms)
