"""A started database for the tests of storage, and ways to make it fail."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest_twisted
from twisted.internet import reactor

from homeserver.runtime.threads import Threads
from storage.database import Database
from storage.schema import migrate


async def open_database(url: str) -> tuple[Database, Threads]:
    """Return a database that is started, with its tables."""
    threads = Threads(reactor, 4)  # type: ignore[arg-type]
    database = Database(url, reactor=reactor, threads=threads)
    await database.start(migrate)
    return database, threads


@pytest_twisted.async_yield_fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A started database."""
    opened, threads = await open_database(database_url)
    try:
        yield opened
    finally:
        await opened.stop()
        await threads.stop()


class Faults:
    """Faults of the database's driver, put into the engine of a Database: each is raised once, in turn."""

    def __init__(self, database: Database) -> None:
        self.engine: Any = database._write_engine
        self.dialect = self.engine.dialect
        self._commit = self.dialect.do_commit
        self.commits = 0

    def lose_commit_answer(self) -> None:
        """Let the next commit go through and then lose the connection."""

        def do_commit(connection: Any) -> None:
            self.dialect.do_commit = self._commit
            self._commit(connection)
            self.commits += 1
            self.break_connection()

        self.dialect.do_commit = do_commit

    def refuse_commits(self, count: int = 1) -> None:
        """Let the next commits fail for good."""
        left = [count]

        def do_commit(connection: Any) -> None:
            left[0] -= 1
            if not left[0]:
                self.dialect.do_commit = self._commit
            raise self.dialect.dbapi.IntegrityError("no")

        self.dialect.do_commit = do_commit

    def fill_disk(self) -> None:
        """Raise in the next commit what a driver raises when there is no room left."""

        def do_commit(connection: Any) -> None:
            self.dialect.do_commit = self._commit
            if self.dialect.name == "sqlite":
                fault = self.dialect.dbapi.OperationalError("database or disk is full")
                fault.sqlite_errorcode = 13
                raise fault
            raise self.dialect.dbapi.OperationalError(
                1021, "Disk full (/tmp/#sql); waiting for someone to free some space"
            )

        self.dialect.do_commit = do_commit

    def break_connection(self) -> None:
        """Raise what a driver raises when the server is gone."""
        if self.dialect.name == "sqlite":
            raise self.dialect.dbapi.OperationalError("database is locked")
        raise self.dialect.dbapi.OperationalError(2013, "Lost connection to MySQL server during query")
