"""A database of an older version with rooms in it: what newer code needs to know of them is filled in."""

from __future__ import annotations

import pytest_twisted
from sqlalchemy import create_engine, select, text

from homeserver.model.ids import UserID
from storage.database import _engine, parse_url
from storage.migrations import HEAD, VERSION_TABLE
from storage.migrations.environment import upgrade
from storage.schema import find_version
from storage.tables import all_tables
from storage.tables.federation_rooms import room_servers
from storage.tables.rooms import rooms
from tests.support.elsewhere import ALICE, BOB, CAROL, Elsewhere
from tests.support.graph_check import assert_all_sound
from tests.support.rooms import SERVER, RoomServer


def _tables_of_0002() -> set[str]:
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        upgrade(connection, to="0002")
        return {row[0] for row in connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'table'"))}


def _take_back(database_url: str) -> None:
    """Make a database what it was at version 0002: that had the same tables, and none of the later ones."""
    engine = _engine(parse_url(database_url), 1)
    with engine.begin() as connection:
        for name in sorted({table.name for table in all_tables().sorted_tables} - _tables_of_0002()):
            connection.execute(text(f"DROP TABLE {name}"))
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '0002'"))
    engine.dispose()


@pytest_twisted.ensureDeferred
async def test_rooms_of_version_0002_are_sound_afterwards_and_go_on(database_url: str) -> None:
    server = await RoomServer.start(database_url)
    dave, erin, frank = await server.users("dave", "erin", "frank")
    alone = await server.room(dave)
    several = await server.room(dave, members=[erin, frank])
    await server.leave(several, frank)
    empty = await server.room(erin)
    await server.leave(empty, erin)
    shared = Elsewhere("11")
    for user_id in (BOB, CAROL, UserID("@second:b.example"), UserID("@odd:name.example:8448")):
        shared.join(user_id)
    shared.member(CAROL, CAROL, "leave")
    await shared.all_to(server)
    await server.stop()
    _take_back(database_url)

    server = await RoomServer.start(database_url)
    try:
        assert HEAD == await server.store.database.read(lambda tx: find_version(tx.connection))
        table = room_servers.c
        query = select(rooms.c.room_id, table.server, table.joined).join(rooms, rooms.c.room_nid == table.room_nid)
        counts = {tuple(row) for row in await server.store.database.read(lambda tx: tx.all(query))}
        assert {
            (alone, SERVER, 1),
            (several, SERVER, 2),
            (shared.room_id, ALICE.server_name, 1),
            (shared.room_id, BOB.server_name, 2),
            (shared.room_id, "name.example:8448", 1),
        } == counts
        await assert_all_sound(server)
        await server.say(several, erin)
        await server.leave(several, erin)
        await server.join(shared.room_id, dave)
        await assert_all_sound(server)
        assert SERVER in (await server.door.tip(shared.room_id)).servers
    finally:
        await server.stop()
