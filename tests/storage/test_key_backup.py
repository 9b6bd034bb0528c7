"""Keys that are backed up: looked up, stored, read and deleted many at a time, whatever rooms they are of; bounded."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
import pytest_twisted
from sqlalchemy import event

from homeserver.errors import LimitExceeded, NotFound, TooLarge
from homeserver.users import key_backup
from homeserver.users.key_backup import KeyBackups, read_rooms
from storage import key_backup as storage
from storage.database import Database
from tests.storage.core import database  # noqa: F401

ROOMS = 1_200


async def _read(backups: KeyBackups, version: str) -> dict[str, Any]:
    answer = await backups.get_keys(1, version)
    with answer.file as file:
        body = file.read()
    assert answer.length == len(body)
    return dict(orjson.loads(body)["rooms"])


async def _backup(backups: KeyBackups, rooms: int, **more: Any) -> str:
    version = await backups.create(1, {"algorithm": "x", "auth_data": {}})
    await backups.put_keys(1, version, read_rooms(_body(rooms, **more)))
    return version


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
    found = await _read(backups, version)
    assert {(9, 5)} == {
        (key["first_message_index"], key["forwarded_count"])
        for room in found.values()
        for key in room["sessions"].values()
    }


@pytest_twisted.ensureDeferred
async def test_keys_are_read_and_deleted_in_parts_that_miss_none(
    database: Database,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backups = KeyBackups(database)
    version = await _backup(backups, 11)
    whole = _body(11)["rooms"]
    for size in (1, 2, 3, 22, 100):
        monkeypatch.setattr(storage, "SLICE", size)
        assert whole == await _read(backups, version)
        answer = await backups.get_keys(1, version, "!3")
        assert whole["!3"] == orjson.loads(answer.file.read())
        answer = await backups.get_keys(1, version, "!none")
        assert {"sessions": {}} == orjson.loads(answer.file.read())
    for size, left in ((1, 10), (2, 9), (3, 8), (100, 7)):
        monkeypatch.setattr(storage, "BATCH", size)
        assert 2 * left == (await backups.delete_keys(1, version, f"!{left}"))["count"]
        assert _body(left)["rooms"] == await _read(backups, version)
    for size in (1, 3, 14, 100):
        monkeypatch.setattr(storage, "BATCH", size)
        assert 0 == (await backups.delete_keys(1, version))["count"]
        assert {} == await _read(backups, version)
        assert 14 == (await backups.put_keys(1, version, read_rooms(_body(7))))["count"]


@pytest_twisted.ensureDeferred
async def test_a_backup_has_so_many_bytes_at_most(
    database: Database,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One user could else fill memory and disk by asking for what a backup of millions of large keys holds."""
    monkeypatch.setattr(key_backup, "MAX_BACKUP_BYTES", 3_500)
    monkeypatch.setattr(key_backup, "_WEIGHED_AGAIN_BYTES", 1_000)
    backups = KeyBackups(database)
    kilobyte = {"session_data": {"x": "y" * 490}}
    version = await _backup(backups, 2, **kilobyte)
    with pytest.raises(TooLarge):
        await backups.put_keys(1, version, read_rooms(_body(4, **kilobyte)))
    assert 4 == (await backups.get(1, version))["count"]
    # What replaces a key takes no more room than that had.
    for index in range(4, 0, -1):
        await backups.put_keys(1, version, read_rooms(_body(1, first_message_index=index, **kilobyte)))
    again = KeyBackups(database)
    with pytest.raises(TooLarge):
        await again.put_keys(1, version, read_rooms(_body(4, first_message_index=0, **kilobyte)))
    await backups.delete_keys(1, version)
    assert 6 == (await backups.put_keys(1, version, read_rooms(_body(3, **kilobyte))))["count"]


@pytest_twisted.ensureDeferred
async def test_one_user_is_sent_so_many_answers_at_once(database: Database) -> None:  # noqa: F811
    backups = KeyBackups(database)
    version = await _backup(backups, 1)
    answers = [await backups.get_keys(1, version) for _ in range(10)]
    with pytest.raises(LimitExceeded):
        await backups.get_keys(1, version)
    del answers[:5]
    await backups.get_keys(1, version)


@pytest_twisted.ensureDeferred
async def test_a_deleted_backup_goes_in_batches_also_when_a_stop_comes_in_between(
    database: Database,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(storage, "BATCH", 3)
    backups = KeyBackups(database)
    first, second = await _backup(backups, 5), await _backup(backups, 5)
    await database.write(lambda tx: storage.mark_deleted(tx, 1, int(first)))
    with pytest.raises(NotFound):
        await backups.get_keys(1, first)
    assert 10 == await database.read(lambda tx: len(list(storage.iterate_keys(tx, 1, int(first)))))
    await KeyBackups(database).sweep()
    assert [] == await database.read(lambda tx: list(storage.iterate_keys(tx, 1, int(first))))
    assert _body(5)["rooms"] == await _read(backups, second)
    await backups.delete(1, second)
    for version in (first, second):
        # It is known still, and not swept again.
        await backups.delete(1, version)
    assert [] == await database.read(lambda tx: storage.list_left(tx, 10))
    assert [] == await database.read(lambda tx: list(storage.iterate_keys(tx, 1, int(second))))


@pytest_twisted.ensureDeferred
async def test_what_a_closed_account_had_goes_at_once_or_in_batches(
    database: Database,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(storage, "BATCH", 3)
    backups = KeyBackups(database)
    large, small = await _backup(backups, 5), await _backup(backups, 1)
    await database.write(lambda tx: backups.erase(tx, 1))
    left = await database.read(lambda tx: [storage.find_backup(tx, 1, int(each)) for each in (large, small)])
    assert [True, None] == [row and row.is_deleted for row in left]
    await backups.sweep()
    assert [] == await database.read(lambda tx: list(storage.iterate_keys(tx, 1, int(large))))
