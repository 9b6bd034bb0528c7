"""The database: engines, one writer with group commit, a pool of readers, retries.

All writes of the process go through one thread. Whatever waits when it is free becomes one transaction, so that a
commit (the dear part: it waits for the disk) is shared by many. A job that fails is rolled back alone; if the whole
transaction fails, its jobs are tried one by one. Results are handed back only after the commit.

SQLite runs in WAL mode with `synchronous=FULL`; MySQL and MariaDB at READ COMMITTED with a binary collation without
padding, so that both compare text byte by byte. Only `storage` knows that there is a database.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar, cast

import sqlalchemy
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import DatabaseError, DBAPIError, OperationalError
from sqlalchemy.pool import QueuePool

from homeserver.errors import HomeserverError, Misconfigured, StorageUnavailable
from homeserver.runtime.batcher import Batcher
from homeserver.runtime.threads import Threads

from .ownership import FileOwnership, Ownership, SessionOwnership
from .transaction import Transaction

T = TypeVar("T")
logger = logging.getLogger(__name__)

READERS: Final = 4
# A connection to a database server is used for so long.
RECYCLE_S: Final = 1800
ATTEMPTS: Final = 6
# MySQL: lock wait timeout, deadlock, server gone, lost connection, connection refused, shutdown in progress.
_RETRYABLE_MYSQL: Final = frozenset({1205, 1213, 2006, 2013, 2003, 2055, 1053, 1927, 0})
# SQLite: read-only, input or output error, disk full, cannot open.
_OUT_OF_ORDER_SQLITE: Final = frozenset({8, 10, 13, 14})
# MySQL: error writing a file, disk full, table full, server read-only.
_OUT_OF_ORDER_MYSQL: Final = frozenset({3, 1021, 1026, 1114, 1290, 1836})

# After the appends and the interned names of the batch.
_ANY: Final = 2


class WriteJob(Protocol):
    """Something to write that can be done together with others of its kind.

    `rank` orders the jobs of one batch (lower first; equal ranks keep their order); `run_all` writes all jobs of one
    type that follow each other and returns a result for each. A kind that has `is_stored(tx, job)` can tell whether a
    commit went through whose answer was lost.
    """

    rank: int
    failed: bool

    @staticmethod
    def run_all(tx: Transaction, jobs: Sequence[Any]) -> Sequence[Any]: ...


class _FunctionJob:
    __slots__ = ("failed", "function")
    rank = _ANY

    def __init__(self, function: Callable[[Transaction], Any]) -> None:
        self.function = function
        self.failed = False

    @staticmethod
    def run_all(tx: Transaction, jobs: Sequence[_FunctionJob]) -> Sequence[Any]:
        if len(jobs) == 1:
            return [jobs[0].function(tx)]
        results: list[Any] = []
        for job in jobs:
            savepoint = tx.connection.begin_nested()
            try:
                results.append(job.function(tx))
                savepoint.commit()
            except DBAPIError as fault:
                if is_retryable(fault):
                    raise
                savepoint.rollback()
                results.append(fault)
            except Exception as fault:  # a job that raises is rolled back alone; its caller gets the exception
                savepoint.rollback()
                results.append(fault)
        return results


class _Reader:
    """A connection that is kept for reading.

    A look-up takes less time than what SQLAlchemy does around it to lend a connection and begin and end a transaction,
    so that is done here: a connection is lent by a list, and SQLite's transactions begin and end at the driver.
    """

    __slots__ = ("_begins", "_connection", "_driver", "_opened_at")

    def __init__(self, connection: Connection, *, begins: bool) -> None:
        self._connection = connection
        self._driver: Any = connection.connection.driver_connection
        self._begins = begins
        self._opened_at = time.monotonic()

    def is_old(self) -> bool:
        """Tell whether it should be opened anew; the database server ends those that are very old."""
        return not self._begins and time.monotonic() - self._opened_at > RECYCLE_S

    def run(self, function: Callable[[Transaction], T], statements: dict[Any, str]) -> T:
        """Run `function` in a transaction that sees one state of the database, on MySQL one for each statement."""
        if not self._begins:
            return function(Transaction(self._connection, statements))
        self._driver.execute("BEGIN")
        try:
            return function(Transaction(self._connection, statements))
        finally:
            # Nothing was written.
            self._driver.rollback()

    def close(self) -> None:
        """Give it up."""
        with contextlib.suppress(DBAPIError):
            self._connection.invalidate()
        self._connection.close()


class Database:
    """Opens the database and runs functions in its transactions."""

    def __init__(self, url: str, *, reactor: Any, threads: Threads, readers: int = READERS) -> None:
        self.url = parse_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._threads = threads
        self._batcher: Batcher[WriteJob] = Batcher(reactor, self._write_batch, name="database writer")
        self._ownership: Ownership = (FileOwnership if self.is_sqlite else SessionOwnership)(self.url.database or "")
        self._statements: dict[Any, str] = {}
        self._readers = readers
        self._write_engine: Engine | None = None
        self._read_engine: Engine | None = None
        self._reading = threading.BoundedSemaphore(readers)
        # Appended to and popped by any thread, which are single steps of the interpreter.
        self._idle_readers: list[_Reader] = []
        self._writer: Connection | None = None
        self._stopping = threading.Event()

    # -- life --------------------------------------------------------------------------------------------------------

    async def start(self, migrate: Callable[[Engine], None]) -> None:
        """Take the database for this server alone, check its settings, bring its schema up to date, start the writer.

        Raises Misconfigured with a sentence for the operator, DatabaseInUse if another server runs on it.
        """
        await self._threads.run(self._open, migrate)
        self._batcher.start()

    def _open(self, migrate: Callable[[Engine], None]) -> None:
        if self.is_sqlite:
            _make_sqlite_folder(self.url)
        self._write_engine = _engine(self.url, 1)
        self._read_engine = _engine(self.url, self._readers, autocommit=True)
        try:
            self._ownership.take(self._write_engine)
            with self._write_engine.connect() as connection:
                if not self.is_sqlite:
                    _check_mysql(connection)
            migrate(self._write_engine)
            self._ownership.begin(self._write_engine)
        except HomeserverError:
            self._close()
            raise
        except OperationalError as fault:
            self._close()
            raise Misconfigured(
                f"The database {self.url.render_as_string(hide_password=True)} cannot be opened: {fault.orig}. "
                "Check that it runs, that the URL under [database] is right, and that the user may use it."
            ) from fault
        except DatabaseError as fault:
            self._close()
            if getattr(fault.orig, "sqlite_errorcode", 0) != sqlite3.SQLITE_NOTADB:
                raise
            raise Misconfigured(
                f"{self.url.database} is not an SQLite database."
                " Name another file under [database] url; nothing was changed in this one."
            ) from fault

    async def stop(self) -> None:
        """Write what is queued, then close all connections."""
        await self._batcher.stop()
        self._stopping.set()
        await self._threads.run(self._close)

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._close_idle_readers()
        for engine in (self._write_engine, self._read_engine):
            if engine is not None:
                engine.dispose()
        self._ownership.release()

    # -- reading -----------------------------------------------------------------------------------------------------

    async def read(self, function: Callable[[Transaction], T]) -> T:
        """Run `function` in a read transaction in a database thread and return its result."""
        return await self._threads.run(self._read, function)

    def _read(self, function: Callable[[Transaction], T]) -> T:
        engine = self._read_engine
        if engine is None:
            raise StorageUnavailable("the database is not open")
        for attempt in range(ATTEMPTS):
            try:
                with self._reading:
                    reader = self._take_reader(engine)
                    try:
                        result = reader.run(function, self._statements)
                    except DBAPIError as fault:
                        reader.close()
                        if fault.connection_invalidated:
                            # The others will be gone, too.
                            self._close_idle_readers()
                        raise
                    except sqlite3.Error as fault:
                        # Its transaction did not begin or end: nobody must get it again in that state.
                        reader.close()
                        raise StorageUnavailable(f"the database does not answer: {fault}") from fault
                    except BaseException:
                        self._idle_readers.append(reader)
                        raise
                    self._idle_readers.append(reader)
                    return result
            except DBAPIError as fault:
                if not is_retryable(fault) and not is_out_of_order(fault):
                    raise
                if is_out_of_order(fault) or attempt == ATTEMPTS - 1 or self._stopping.wait(0.02 * 4**attempt):
                    raise StorageUnavailable(f"the database does not answer: {fault.orig}") from fault
        raise AssertionError("unreachable")

    def _close_idle_readers(self) -> None:
        for _ in range(self._readers):
            try:
                reader = self._idle_readers.pop()
            except IndexError:
                return
            reader.close()

    def _take_reader(self, engine: Engine) -> _Reader:
        """Return a connection that nobody reads on; called with a share of `_reading`."""
        for _ in range(self._readers):
            try:
                # The one that was used last: those that are not needed grow old, and are closed.
                reader = self._idle_readers.pop()
            except IndexError:
                break
            if not reader.is_old():
                return reader
            reader.close()
        return _Reader(engine.connect(), begins=self.is_sqlite)

    # -- writing -----------------------------------------------------------------------------------------------------

    def write(self, function: Callable[[Transaction], T]) -> Awaitable[T]:
        """Run `function` in the writer's next transaction; the result comes after the commit."""
        return cast("Awaitable[T]", self._batcher.submit(_FunctionJob(function)))

    def submit(self, job: WriteJob) -> Awaitable[Any]:
        """Queue a job for the writer's next transaction; the result comes after the commit."""
        return cast("Awaitable[Any]", self._batcher.submit(job))

    @property
    def queued(self) -> int:
        """How many jobs wait for the writer."""
        return self._batcher.queued

    def _write_batch(self, jobs: Sequence[WriteJob]) -> Sequence[Any]:
        try:
            return self._commit_together(jobs)
        except Exception as fault:
            # Where the database does not answer, each of them would wait for it in vain again.
            if len(jobs) == 1 or isinstance(fault, StorageUnavailable):
                for job in jobs:
                    job.failed = True
                return [fault] * len(jobs)
            if not isinstance(fault, HomeserverError):
                logger.warning("A commit of %d writes failed, they are tried one by one: %s", len(jobs), fault)
        results: list[Any] = []
        for job in jobs:
            try:
                results.extend(self._commit_together([job]))
            except Exception as fault:
                job.failed = True
                results.append(fault)
        return results

    def _commit_together(self, jobs: Sequence[WriteJob]) -> Sequence[Any]:
        # What a commit would have answered that was never heard of.
        unheard: Sequence[Any] | None = None
        for attempt in range(ATTEMPTS):
            connection: Connection | None = None
            results: Sequence[Any] | None = None
            try:
                connection = self._writer_connection()
                with connection.begin():
                    tx = Transaction(connection, self._statements)
                    if unheard is not None and _are_stored(tx, jobs):
                        return unheard
                    results = _run_in_order(tx, jobs)
                return results
            except DBAPIError as fault:
                if results is not None:
                    # A failed commit may leave the transaction open: nothing of it may go with the next one.
                    unheard = results
                    if connection is not None and not (connection.closed or connection.invalidated):
                        connection.invalidate(fault)
                if connection is not None and (
                    fault.connection_invalidated or (not connection.closed and connection.invalidated)
                ):
                    connection.close()
                    self._writer = None
                if not is_retryable(fault) and not is_out_of_order(fault):
                    raise
                if is_out_of_order(fault) or attempt == ATTEMPTS - 1 or self._stopping.wait(0.02 * 4**attempt):
                    raise StorageUnavailable(f"the database does not take writes: {fault.orig}") from fault
        raise AssertionError("unreachable")

    def _writer_connection(self) -> Connection:
        if self._write_engine is None:
            raise StorageUnavailable("the database is not open")
        if self._writer is None or self._writer.closed:
            self._writer = self._write_engine.connect()
        return self._writer


def _are_stored(tx: Transaction, jobs: Sequence[WriteJob]) -> bool:
    """Tell whether these jobs were committed after all. Together they were or were not, so one of them tells."""
    for job in jobs:
        is_stored: Callable[[Transaction, WriteJob], bool] | None = getattr(type(job), "is_stored", None)
        if is_stored is not None and not job.failed:
            return is_stored(tx, job)
    return False


def _run_in_order(tx: Transaction, jobs: Sequence[WriteJob]) -> Sequence[Any]:
    if len(jobs) == 1:
        return type(jobs[0]).run_all(tx, jobs)
    order = sorted(range(len(jobs)), key=lambda index: jobs[index].rank)
    results: list[Any] = [None] * len(jobs)
    start = 0
    while start < len(order):
        kind = type(jobs[order[start]])
        end = start
        while end < len(order) and type(jobs[order[end]]) is kind:
            end += 1
        run = order[start:end]
        for index, result in zip(run, kind.run_all(tx, [jobs[index] for index in run]), strict=True):
            results[index] = result
        start = end
    return results


def is_retryable(fault: DBAPIError) -> bool:
    """Tell whether trying the transaction again may help: deadlock, busy database, lost connection."""
    if fault.connection_invalidated:
        return True
    arguments = getattr(fault.orig, "args", ())
    if arguments and isinstance(arguments[0], int):
        return arguments[0] in _RETRYABLE_MYSQL
    return "database is locked" in str(fault.orig)


def is_out_of_order(fault: DBAPIError) -> bool:
    """Tell whether the fault is the machine's (a full or broken disk), so that trying again at once does not help."""
    if isinstance(fault.orig, sqlite3.OperationalError):
        # The low byte; the rest says more exactly which.
        return getattr(fault.orig, "sqlite_errorcode", 0) & 0xFF in _OUT_OF_ORDER_SQLITE
    arguments: tuple[object, ...] = getattr(fault.orig, "args", ())
    return arguments[:1] != () and arguments[0] in _OUT_OF_ORDER_MYSQL


# -- opening ---------------------------------------------------------------------------------------------------------


def parse_url(url: str) -> URL:
    """Return the database URL with the driver that we use, or raise Misconfigured."""
    try:
        parsed = make_url(url)
    except sqlalchemy.exc.ArgumentError as fault:
        raise Misconfigured(f"The database URL {url!r} is not one: {fault}") from fault
    backend = parsed.get_backend_name()
    if backend in ("mysql", "mariadb"):
        parsed = parsed.set(drivername="mysql+pymysql")
        if "charset" not in parsed.query:
            parsed = parsed.update_query_dict({"charset": "utf8mb4"})
        return parsed
    if backend == "sqlite":
        return parsed.set(drivername="sqlite")
    raise Misconfigured(
        f"The database URL names {backend!r}; write sqlite:///path/to/file.db or mysql+pymysql://user:password@host/name"
    )


def _engine(url: URL, size: int, *, autocommit: bool = False) -> Engine:
    if url.get_backend_name() == "sqlite":
        engine = create_engine(
            url,
            poolclass=QueuePool,
            pool_size=size,
            max_overflow=0,
            pool_reset_on_return=None,
            connect_args={"isolation_level": None, "check_same_thread": False, "timeout": 30},
        )
        event.listen(engine, "connect", _prepare_reader if autocommit else _prepare_sqlite)
        if not autocommit:

            def emit_begin(connection: Connection) -> None:
                connection.exec_driver_sql("BEGIN IMMEDIATE")

            # The driver leaves transactions to us: its own rules would commit before some statements.
            event.listen(engine, "begin", emit_begin)
        return engine
    return create_engine(
        url,
        poolclass=QueuePool,
        pool_size=size,
        max_overflow=0,
        pool_recycle=RECYCLE_S,
        pool_reset_on_return=None if autocommit else "rollback",
        isolation_level="AUTOCOMMIT" if autocommit else "READ COMMITTED",
        # Rows come as tuples; see Transaction.insert_many.
        paramstyle="format",
        connect_args={
            "connect_timeout": 10,
            "read_timeout": 120,
            "write_timeout": 120,
            # What does not fit is an error, not cut off, whatever the server is set to.
            "sql_mode": "STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION",
        },
    )


def _prepare_reader(connection: Any, _record: Any) -> None:
    # There are several, and what one has read the next may well need: that is for the system's cache.
    _prepare_sqlite(connection, _record, cache_kib=2048)


def _prepare_sqlite(connection: Any, _record: Any, *, cache_kib: int = 8192) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    # An acknowledged event survives a power cut; the shared commit pays for it.
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute(f"PRAGMA cache_size=-{cache_kib}")
    cursor.execute("PRAGMA wal_autocheckpoint=2000")
    cursor.close()


def _make_sqlite_folder(url: URL) -> None:
    if not url.database or url.database == ":memory:":
        raise Misconfigured("SQLite needs a file: write sqlite:///path/to/file.db under [database] url")
    folder = Path(url.database).absolute().parent
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as fault:
        raise Misconfigured(f"The folder {folder} for the database cannot be made: {fault.strerror}") from fault
    if not os.access(folder, os.W_OK):
        raise Misconfigured(
            f"The folder {folder} for the database cannot be written to by this user. Change its owner or name another."
        )
    # SQLite would make it readable for all, and what it makes beside it gets the same mode.
    with contextlib.suppress(FileExistsError, OSError):
        os.close(os.open(url.database, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def _check_mysql(connection: Connection) -> None:
    row = connection.execute(text("SELECT VERSION(), DATABASE(), @@character_set_database, @@collation_database")).one()
    version, name, charset, collation = (str(value) for value in row)
    match = re.match(r"(\d+)\.(\d+)", version)
    is_mariadb = "mariadb" in version.lower()
    numbers = (int(match[1]), int(match[2])) if match else (0, 0)
    if numbers < ((10, 5) if is_mariadb else (8, 0)):
        raise Misconfigured(f"The database server is {version}; MariaDB 10.5 or MySQL 8.0 is the oldest that works")
    if row[1] is None:
        raise Misconfigured("The database URL names no database; add its name after the last slash")
    if charset != "utf8mb4" or not collation.endswith("_bin"):
        raise Misconfigured(
            f"The database {name} compares text by {collation}, which would take two different users for one. "
            f"Run once: ALTER DATABASE `{name}` CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
        )


def table_options(connection: Connection) -> dict[str, Any]:
    """Return keyword arguments for every Table: on MySQL and MariaDB a binary collation; "a" and "a " are not equal."""
    if connection.dialect.name == "sqlite":
        return {}
    version = str(connection.execute(text("SELECT VERSION()")).scalar())
    collation = "utf8mb4_nopad_bin" if "mariadb" in version.lower() else "utf8mb4_0900_bin"
    return {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": collation}
