"""Keys that are backed up: looked up and stored many at a time, whatever rooms they are of."""

from __future__ import annotations

from typing import Any

import pytest_twisted
from sqlalchemy import event

from homeserver.users.key_backup import KeyBackups, read_rooms
from storage.database import Database
from tests.storage.core import database  # noqa: F401

ROOMS = 1_200


def _body(rooms: int, **more: Any) -> dict[str, Any]:
    key = {"first_message_index": 5, "forwarded_count": 5, "is_verified": False, "session_data": {}, **more}
    return {"rooms": {f"!{number}": {"sessions": {"s": key, "t": key}} for number in range(rooms)}}


@pytest_twisted.ensureDeferred
async def test_keys_of_many_rooms_need_few_statements(database: Database) -> None:  # noqa: F811
    """The writer works for all users: one of them may not keep it busy with a look for each of ten thousand rooms."""
    backups = KeyBackups(database)
    version = await backups.create(1, {"algorithm": "x", "auth_data": {}})
    await backups.create(2, {"algorithm": "x", "auth_data": {}})
    await backups.put_keys(2, "1", read_rooms(_body(10, first_message_index=0)))
    statements: list[str] = []
    assert database._write_engine is not None
    event.listen(
        database._write_engine, "before_cursor_execute", lambda *arguments: statements.append(str(arguments[2]))
    )
    counts = []
    for rooms, more in (
        (ROOMS - 100, {}),
        (ROOMS, {"forwarded_count": 9}),
        (ROOMS, {"first_message_index": 9, "is_verified": True}),
        (ROOMS, {"first_message_index": 0}),
    ):
        answer = await backups.put_keys(1, version, read_rooms(_body(rooms, **more)))
        counts.append((answer["count"], answer["etag"]))
    assert [(2 * ROOMS - 200, "1"), (2 * ROOMS, "2"), (2 * ROOMS, "3"), (2 * ROOMS, "3")] == counts
    assert len(statements) < 60
    found = await backups.get_keys(1, version)
    assert {(9, 5)} == {
        (key["first_message_index"], key["forwarded_count"]) for room in found.values() for key in room.values()
    }
