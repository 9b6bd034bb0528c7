"""One server per database, and what a second one is told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pymysql
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList

from homeserver.errors import DatabaseInUse, StorageUnavailable
from homeserver.runtime.threads import Threads
from storage import ownership
from storage.database import Database
from storage.schema import migrate
from storage.tables.identity import sequences


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "PATIENCE_S", 0.2)


class Opened:
    """A database and its threads."""

    def __init__(self, url: str) -> None:
        self.threads = Threads(reactor, 2)  # type: ignore[arg-type]
        self.database = Database(url, reactor=reactor, threads=self.threads)

    async def start(self) -> Opened:
        try:
            await self.database.start(migrate)
        except Exception:
            await self.threads.stop()
            raise
        return self

    async def stop(self) -> None:
        await self.database.stop()
        await self.threads.stop()


@pytest_twisted.ensureDeferred
async def test_second_server_is_refused_until_the_first_stops(database_url: str) -> None:
    first = await Opened(database_url).start()
    with pytest.raises(DatabaseInUse, match=r"Another Sennit .* only one may"):
        await Opened(database_url).start()
    await first.stop()
    await (await Opened(database_url).start()).stop()


@pytest_twisted.ensureDeferred
async def test_of_two_started_at_once_one_makes_the_tables(empty_database_url: str) -> None:
    starts = [Deferred.fromCoroutine(Opened(empty_database_url).start()) for _ in range(2)]
    results: list[tuple[bool, Any]] = await DeferredList(starts, consumeErrors=True)
    (opened,) = [result for is_done, result in results if is_done]
    (failure,) = [result for is_done, result in results if not is_done]
    assert DatabaseInUse is failure.type
    await opened.stop()


def test_killed_server_leaves_the_database_free(database_url: str) -> None:
    script = (
        "import os, sys; from twisted.internet import reactor\n"
        "from homeserver.runtime.threads import Threads\n"
        "from storage.database import Database; from storage.schema import migrate\n"
        "database = Database(sys.argv[1], reactor=reactor, threads=Threads(reactor, 1))\n"
        "database._open(migrate); os.kill(os.getpid(), 9)"
    )
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", script, database_url], cwd=Path(__file__).parents[2], capture_output=True, text=True
        )
        assert -9 == done.returncode, done.stderr


def _kill_other_connections(url: str) -> None:
    from storage.database import parse_url

    place = parse_url(url)
    connection = pymysql.connect(host=place.host, port=place.port or 0, user="root")
    with connection.cursor() as cursor:
        cursor.execute("SELECT id FROM information_schema.processlist WHERE db = %s", (place.database,))
        for (each,) in cursor.fetchall():
            cursor.execute(f"KILL {each}")
    connection.close()


@pytest_twisted.ensureDeferred
async def test_lost_connection_is_made_again_with_its_lock(mariadb_url: str) -> None:
    first = await Opened(mariadb_url).start()
    await first.database.write(lambda tx: tx.upsert(sequences, {"name": "x"}, {"reserved_until": 1}))
    _kill_other_connections(mariadb_url)
    await first.database.write(lambda tx: tx.upsert(sequences, {"name": "x"}, {"reserved_until": 2}))
    with pytest.raises(DatabaseInUse):
        await Opened(mariadb_url).start()
    await first.stop()


@pytest_twisted.ensureDeferred
async def test_server_that_was_replaced_while_cut_off_writes_no_more(mariadb_url: str) -> None:
    """Its numbers and caches are from before the other one's writes."""
    first = await Opened(mariadb_url).start()
    await first.database.write(lambda tx: tx.upsert(sequences, {"name": "x"}, {"reserved_until": 1}))
    _kill_other_connections(mariadb_url)
    second = await Opened(mariadb_url).start()
    with pytest.raises(StorageUnavailable, match="Another Sennit"):
        await first.database.write(lambda tx: tx.upsert(sequences, {"name": "x"}, {"reserved_until": 2}))
    await second.stop()
    with pytest.raises(StorageUnavailable, match="must be restarted"):
        await first.database.write(lambda tx: tx.upsert(sequences, {"name": "x"}, {"reserved_until": 2}))
    await first.stop()
