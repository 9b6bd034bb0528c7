"""A private mariadbd for one test run, and databases on it; SQLite files with the tables in them.

Making the tables takes longer than most tests, so it is done once: an SQLite file is copied, and a MariaDB database
is emptied after a test and given to the next one, unless its tables have been changed.

The first test that asks starts the server; all workers of a run share it.  Nobody has to remember to stop it: it is
the child of a small keeper process (`python -m tests.support.databases keep …`), which ends the server and removes
its files as soon as the test run is gone, even one that was killed.

It is set up like a real server (a commit is flushed); its files are in memory where there is room for them.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import pymysql

from storage.database import _engine, parse_url
from storage.migrations import HEAD, VERSION_TABLE
from storage.schema import migrate

from .ports import free_port

PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
START_TIMEOUT_S = 60
# How long the sessions that a test has left open may take to end.
END_TIMEOUT_S = 30


class MariadbUnavailable(Exception):
    """The programs are not installed, or the server did not start; the text says which."""


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A database that has the tables and no rows; what the server says of its tables tells whether they changed."""

    name: str
    tables: frozenset[tuple[str, int, int]]


@dataclass(frozen=True, slots=True)
class Mariadb:
    """A running mariadbd, on the loopback interface, whose root has no password."""

    port: int
    # Those of this process that nobody uses now.
    _prepared: list[_Prepared] = field(default_factory=list, compare=False)

    def url(self, name: str) -> str:
        """Return the SQLAlchemy URL of the database `name`."""
        return f"mysql+pymysql://root@127.0.0.1:{self.port}/{name}?charset=utf8mb4&ssl_disabled=true"

    def execute(self, statement: str) -> None:
        """Run one statement outside of any database."""
        with closing(self._connect()) as connection, connection.cursor() as cursor:
            cursor.execute(statement)

    @contextmanager
    def fresh_database(self) -> Iterator[str]:
        """Make an empty database, give its URL, and drop it afterwards."""
        name = self._create()
        try:
            yield self.url(name)
        finally:
            # A test that failed may have left a transaction open, and DROP would wait for it.
            self._end_sessions(name)
            self.execute(f"DROP DATABASE {name}")

    @contextmanager
    def database(self) -> Iterator[str]:
        """Give the URL of a database as a first start leaves it: with all tables, and no rows in them."""
        prepared = self._prepared.pop() if self._prepared else self._prepare()
        try:
            yield self.url(prepared.name)
        finally:
            self._end_sessions(prepared.name)
            if self._tables(prepared.name) == prepared.tables and self._empty(prepared):
                self._prepared.append(prepared)
            else:
                self.execute(f"DROP DATABASE {prepared.name}")

    def _connect(self, name: str | None = None) -> pymysql.Connection[pymysql.cursors.Cursor]:
        return pymysql.connect(
            host="127.0.0.1",
            port=self.port,
            user="root",
            database=name,
            autocommit=True,
            connect_timeout=5,
            # As in `url`: for TLS the driver reads all certificates of the machine, 50 ms for each connection.
            ssl_disabled=True,
        )

    def _create(self) -> str:
        name = f"test_{uuid.uuid4().hex}"
        self.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
        return name

    def _prepare(self) -> _Prepared:
        name = self._create()
        _make_tables(self.url(name))
        return _Prepared(name, self._tables(name))

    def _tables(self, name: str) -> frozenset[tuple[str, int, int]]:
        """Return name, number and columns of each table; one that was made anew has another number."""
        query = "SELECT name, table_id, n_cols FROM information_schema.innodb_sys_tables WHERE name LIKE %s"
        with closing(self._connect()) as connection, connection.cursor() as cursor:
            cursor.execute(query, (f"{name}/%",))
            return frozenset(cursor.fetchall())

    def _empty(self, prepared: _Prepared) -> bool:
        """Delete all rows; False if the version was changed."""
        tables = sorted(each.partition("/")[2] for each, *_ in prepared.tables)
        names = [table for table in tables if table != VERSION_TABLE]
        with closing(self._connect(prepared.name)) as connection, connection.cursor() as cursor:
            cursor.execute(" UNION ALL ".join(f"(SELECT '{table}' FROM `{table}` LIMIT 1)" for table in names))
            filled = [row[0] for row in cursor.fetchall()]
            cursor.execute("SET foreign_key_checks = 0")
            cursor.execute("BEGIN")
            for table in filled:
                cursor.execute(f"DELETE FROM `{table}`")
            cursor.execute("COMMIT")
            cursor.execute(f"SELECT version_num FROM {VERSION_TABLE}")
            return ((HEAD,),) == cursor.fetchall()

    def _end_sessions(self, name: str) -> None:
        """End what still uses a database, and wait until it has: a session keeps its locks until then."""
        deadline = time.monotonic() + END_TIMEOUT_S
        query = "SELECT id FROM information_schema.processlist WHERE db = %s AND id <> CONNECTION_ID()"
        with closing(self._connect()) as connection, connection.cursor() as cursor:
            while cursor.execute(query, (name,)) and time.monotonic() < deadline:
                for (session,) in cursor.fetchall():
                    # It may have ended by itself.
                    with suppress(pymysql.err.Error):
                        cursor.execute(f"KILL {session}")
                time.sleep(0.005)


def sqlite_url_in(folder: Path) -> str:
    """Return the SQLAlchemy URL of a new SQLite file in a folder, as a first start leaves it."""
    path = folder / "homeserver.db"
    shutil.copyfile(_sqlite_template(), path)
    return f"sqlite:///{path}"


@lru_cache(maxsize=1)
def _sqlite_template() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="sennit-tests-template-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    _make_tables(f"sqlite:///{folder / 'template.db'}")
    return folder / "template.db"


def _make_tables(url: str) -> None:
    engine = _engine(parse_url(url), 1)
    try:
        migrate(engine)
    finally:
        engine.dispose()


def is_installed() -> bool:
    """Return whether the programs that `shared_mariadb` needs are on this machine."""
    return all(shutil.which(program, path=PATH) for program in ("mariadbd", "mariadb-install-db"))


def shared_mariadb(folder: Path, run_pid: int) -> Mariadb:
    """Return the server of this test run, starting it if this is the first call of any process of the run.

    `folder` is common to the processes of the run; the server ends when the process `run_pid` does.
    Raises MariadbUnavailable.
    """
    if not is_installed():
        raise MariadbUnavailable("mariadbd is not installed (Debian: mariadb-server-core mariadb-client-core)")
    port_file = folder / "port"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not port_file.exists():
            port_file.write_text(str(_start(folder, run_pid)))
    return Mariadb(int(port_file.read_text()))


def _start(folder: Path, run_pid: int) -> int:
    port = free_port()
    log = folder / "log"
    with log.open("ab") as output:
        keeper = subprocess.Popen(
            [sys.executable, "-m", "tests.support.databases", "keep", str(folder), str(port), str(run_pid)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=Path(__file__).parents[2],
            start_new_session=True,  # Ctrl-C is for the tests; the keeper follows them
        )
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and keeper.poll() is None:
        try:
            Mariadb(port).execute("SELECT 1")
            return port
        except pymysql.err.OperationalError:
            time.sleep(0.05)
    keeper.terminate()
    tail = log.read_text(errors="replace")[-2000:] if log.exists() else ""
    raise MariadbUnavailable(f"mariadbd did not start:\n{tail}")


def _keep(folder: Path, port: int, run_pid: int) -> None:
    """Run the server until the test run ends, then remove its files.  (The keeper process.)"""
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, stop)
    server = None
    try:
        server = _serve(folder, port)
        while not stopped and server.poll() is None and _is_alive(run_pid):
            time.sleep(0.2)
    finally:
        if server is not None:
            server.kill()  # nothing on it is worth a clean shutdown
            server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _serve(folder: Path, port: int) -> subprocess.Popen[bytes]:
    data = folder / "data"
    # Only root may and must say whom the server runs as; there need not be a user `mysql`.
    as_user = ["--user=root"] if os.geteuid() == 0 else []
    environment = {**os.environ, "PATH": PATH}
    subprocess.run(
        [
            "mariadb-install-db",
            "--no-defaults",
            f"--datadir={data}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            "--skip-name-resolve",
            *as_user,
        ],
        check=True,
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    return subprocess.Popen(
        [
            "mariadbd",
            "--no-defaults",  # the machine's own server, if any, is not our business
            f"--datadir={data}",
            f"--socket={folder / 'socket'}",
            f"--pid-file={folder / 'pid'}",
            f"--port={port}",
            "--bind-address=127.0.0.1",
            "--skip-name-resolve",
            "--character-set-server=utf8mb4",
            "--collation-server=utf8mb4_bin",
            "--transaction-isolation=READ-COMMITTED",
            "--max-connections=400",
            "--innodb-buffer-pool-size=64M",
            "--innodb-log-file-size=32M",
            "--performance-schema=OFF",
            *as_user,
        ],
        env=environment,
    )


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _main(command: str, *arguments: str) -> None:
    """`keep FOLDER PORT PID` is the keeper; `start FOLDER PID` prints the URL of a new database, for tools."""
    match command, arguments:
        case "keep", (folder, port, pid):
            _keep(Path(folder), int(port), int(pid))
        case "start", (folder, pid):
            server = shared_mariadb(Path(folder), int(pid))
            name = f"bench_{uuid.uuid4().hex}"
            server.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
            print(server.url(name))
        case _:
            raise SystemExit(_main.__doc__)


if __name__ == "__main__":
    _main(*sys.argv[1:])
