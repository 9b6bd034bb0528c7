"""The writer: what shares a commit, what fails alone, what is tried again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from sqlalchemy import select, text
from twisted.internet.defer import Deferred, DeferredList, gatherResults

from homeserver.errors import StorageUnavailable
from storage.database import Database
from storage.tables.identity import sequences
from storage.transaction import Transaction
from tests.storage.core import Faults, database, open_database  # noqa: F401


def put(name: str, value: int) -> Callable[[Transaction], int]:
    def write(tx: Transaction) -> int:
        tx.insert_many(sequences, ("name", "reserved_until"), [(name, value)])
        return value

    return write


def refuse(tx: Transaction) -> None:
    put("refused", 1)(tx)
    raise LookupError("no")


async def stored(database: Database) -> dict[str, int]:  # noqa: F811
    rows = await database.read(lambda tx: tx.all(select(sequences.c.name, sequences.c.reserved_until)))
    return {row[0]: row[1] for row in rows if row[0] != "starts"}


async def outcome(waiting: list[Any]) -> list[Any]:
    results = await DeferredList([Deferred.fromCoroutine(_await(each)) for each in waiting], consumeErrors=True)
    return [value if is_well else value.type for is_well, value in results]


async def _await(each: Any) -> Any:
    return await each


@pytest_twisted.ensureDeferred
async def test_a_job_that_raises_is_rolled_back_alone(database: Database) -> None:  # noqa: F811
    found = await outcome([database.write(put("a", 1)), database.write(refuse), database.write(put("b", 2))])
    assert [1, LookupError, 2] == found
    assert {"a": 1, "b": 2} == await stored(database)


@pytest_twisted.ensureDeferred
async def test_a_job_that_breaks_a_constraint_is_rolled_back_alone(database: Database) -> None:  # noqa: F811
    found = await outcome([database.write(put("a", 1)), database.write(put("a", 2)), database.write(put("b", 3))])
    assert [1, 3] == [found[0], found[2]]
    assert "IntegrityError" == found[1].__name__
    assert {"a": 1, "b": 3} == await stored(database)


@pytest_twisted.ensureDeferred
async def test_results_come_after_the_commit_and_in_order(database: Database) -> None:  # noqa: F811
    order: list[int] = []
    waiting = []
    for number in range(1200):
        written: Any = database.write(put(f"n{number:04}", number))
        waiting.append(written.addCallback(order.append))
    last: Any = waiting[-1]
    await last
    assert 1200 == len(await stored(database))
    await gatherResults(waiting)
    assert list(range(1200)) == order


@pytest_twisted.ensureDeferred
async def test_the_answer_of_a_commit_that_was_refused_is_its_error(database: Database) -> None:  # noqa: F811
    Faults(database).refuse_commits(1)
    found = await outcome([database.write(put("a", 1))])
    assert ["IntegrityError"] == [each.__name__ for each in found]
    assert [7] == await outcome([database.write(put("a", 7))])
    assert {"a": 7} == await stored(database)


@pytest_twisted.ensureDeferred
async def test_a_full_disk_is_unavailable_storage_and_passes(database: Database) -> None:  # noqa: F811
    """Told as temporary: clients try again, and the log does not fill what room is left with tracebacks of a defect."""
    Faults(database).fill_disk()
    found = await outcome([database.write(put("a", 1)), database.write(put("b", 2))])
    assert [StorageUnavailable, StorageUnavailable] == found
    assert [7] == await outcome([database.write(put("a", 7))])
    assert {"a": 7} == await stored(database)


@pytest_twisted.ensureDeferred
async def test_a_lost_connection_is_made_anew(database: Database) -> None:  # noqa: F811
    faults = Faults(database)
    attempts: list[int] = []

    def write(tx: Transaction) -> int:
        attempts.append(1)
        if len(attempts) == 1:
            faults.break_connection()
        return put("a", 5)(tx)

    with pytest.raises(Exception, match=r"Lost connection|locked"):
        # What a function raises itself is not the driver's: it is not tried again.
        await database.write(write)
    assert 5 == await database.write(write)


@pytest_twisted.ensureDeferred
async def test_a_killed_connection_is_made_anew(mariadb: Any, mariadb_url: str) -> None:
    opened, threads = await open_database(mariadb_url)
    try:
        await opened.write(put("a", 1))
        number = await opened.write(lambda tx: tx.scalar(text("SELECT CONNECTION_ID()")))  # type: ignore[arg-type]
        readers = [await opened.read(lambda tx: tx.scalar(text("SELECT CONNECTION_ID()"))) for _ in range(3)]  # type: ignore[arg-type]
        for each in {number, *readers}:
            mariadb.execute(f"KILL {each}")
        assert [2, 3] == await outcome([opened.write(put("b", 2)), opened.write(put("c", 3))])
        assert {"a": 1, "b": 2, "c": 3} == await stored(opened)
    finally:
        await opened.stop()
        await threads.stop()


@pytest_twisted.ensureDeferred
async def test_a_killed_transaction_is_tried_again(mariadb: Any, mariadb_url: str) -> None:
    opened, threads = await open_database(mariadb_url)
    try:
        killed: list[int] = []

        def write(tx: Transaction) -> int:
            put("a", 1)(tx)
            if not killed:
                killed.append(tx.scalar(text("SELECT CONNECTION_ID()")))
                mariadb.execute(f"KILL {killed[0]}")
            return put("b", 2)(tx)

        assert 2 == await opened.write(write)
        assert {"a": 1, "b": 2} == await stored(opened)
    finally:
        await opened.stop()
        await threads.stop()


@pytest_twisted.ensureDeferred
async def test_a_deadlock_is_tried_again(mariadb: Any, mariadb_url: str) -> None:
    opened, threads = await open_database(mariadb_url)
    try:
        attempts: list[int] = []

        def write(tx: Transaction) -> int:
            attempts.append(1)
            if len(attempts) == 1:
                tx.execute(text("SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213, MESSAGE_TEXT = 'Deadlock'"))
            return put("a", 1)(tx)

        assert [1, 2] == await outcome([opened.write(write), opened.write(put("b", 2))])
        assert {"a": 1, "b": 2} == await stored(opened)
        assert 2 == len(attempts)
    finally:
        await opened.stop()
        await threads.stop()


@pytest_twisted.ensureDeferred
async def test_a_database_out_of_reach_fails_all_that_waits_at_once(
    database: Database,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await database.write(put("a", 1))
    attempts: list[int] = []

    def unreachable() -> None:
        attempts.append(1)
        Faults(database).break_connection()

    def connection() -> Any:
        try:
            unreachable()
        except Exception as fault:
            from sqlalchemy.exc import OperationalError

            raise OperationalError("", {}, fault) from fault

    monkeypatch.setattr(database, "_writer_connection", connection)
    monkeypatch.setattr(database._stopping, "wait", lambda seconds: False)
    found = await outcome([database.write(put(f"n{number}", number)) for number in range(20)])
    assert [StorageUnavailable] * 20 == found
    assert 6 == len(attempts)
    monkeypatch.undo()
    assert 4 == await database.write(put("later", 4))


@pytest_twisted.ensureDeferred
async def test_a_stopped_database_refuses_and_does_not_keep_waiting(database_url: str) -> None:
    opened, threads = await open_database(database_url)
    last: Any = opened.write(put("a", 1))
    await opened.stop()
    assert 1 == await last
    with pytest.raises(RuntimeError):
        await opened.write(put("b", 2))
    await threads.stop()


INSERTS = [
    ({"ignore": True}, {"a": 1, "b": 2}),
    ({"update": ("reserved_until",)}, {"a": 10, "b": 2}),
    ({"add": ("reserved_until",)}, {"a": 11, "b": 2}),
]


@pytest.mark.parametrize(("how", "expected"), INSERTS, ids=["ignore", "update", "add"])
@pytest.mark.parametrize("is_many", [False, True], ids=["one by one", "at once"])
@pytest_twisted.ensureDeferred
async def test_insert_many_meets_an_existing_row(
    database: Database,  # noqa: F811
    how: dict[str, Any],
    expected: dict[str, int],
    is_many: bool,
) -> None:
    await database.write(put("a", 1))
    rows = [("a", 10), ("b", 2)]

    def write(tx: Transaction) -> None:
        for part in [rows] if is_many else [[row] for row in rows]:
            tx.insert_many(sequences, ("name", "reserved_until"), part, **how)

    await database.write(write)
    assert expected == await stored(database)


@pytest_twisted.ensureDeferred
async def test_upsert_inserts_and_then_sets(database: Database) -> None:  # noqa: F811
    for value in (1, 2):
        await database.write(lambda tx, value=value: tx.upsert(sequences, {"name": "a"}, {"reserved_until": value}))  # type: ignore[misc]
    assert {"a": 2} == await stored(database)


@pytest_twisted.ensureDeferred
async def test_what_does_not_fit_is_an_error_and_not_cut(mariadb_url: str) -> None:
    opened, threads = await open_database(mariadb_url)
    try:
        assert ["DataError"] == [each.__name__ for each in await outcome([opened.write(put("x" * 1000, 1))])]
    finally:
        await opened.stop()
        await threads.stop()


@pytest_twisted.ensureDeferred
async def test_a_reader_whose_transaction_cannot_begin_is_not_lent_again(sqlite_url: str) -> None:
    opened, threads = await open_database(sqlite_url)
    try:

        def close_it(tx: Transaction) -> None:
            raw: Any = tx.connection.connection.driver_connection
            raw.close()

        with pytest.raises(StorageUnavailable):
            await opened.read(close_it)
        for _ in range(10):
            assert 1 == await opened.read(lambda tx: tx.scalar(text("SELECT 1")))
    finally:
        await opened.stop()
        await threads.stop()
