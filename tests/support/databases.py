"""A private mariadbd for one test run, and fresh empty databases on it.

The first test that asks starts the server; all workers of a run share it.  Nobody has to remember to stop it: it is
the child of a small keeper process (`python -m tests.support.databases keep …`), which ends the server and removes
its files as soon as the test run is gone, even one that was killed.

It is set up like a real server (a commit is flushed); its files are in memory where there is room for them.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pymysql

PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
START_TIMEOUT_S = 60


class MariadbUnavailable(Exception):
    """The programs are not installed, or the server did not start; the text says which."""


@dataclass(frozen=True, slots=True)
class Mariadb:
    """A running mariadbd, on the loopback interface, whose root has no password."""

    port: int

    def url(self, name: str) -> str:
        """Return the SQLAlchemy URL of the database `name`."""
        return f"mysql+pymysql://root@127.0.0.1:{self.port}/{name}?charset=utf8mb4"

    def execute(self, statement: str) -> None:
        """Run one statement outside of any database."""
        connection = pymysql.connect(host="127.0.0.1", port=self.port, user="root", connect_timeout=5)
        with closing(connection), connection.cursor() as cursor:
            cursor.execute(statement)

    @contextmanager
    def fresh_database(self) -> Iterator[str]:
        """Make an empty database, give its URL, and drop it afterwards."""
        name = f"test_{uuid.uuid4().hex}"
        self.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
        try:
            yield self.url(name)
        finally:
            # A test that failed may have left a transaction open, and DROP would wait for it.
            self.execute(
                "BEGIN NOT ATOMIC FOR it IN (SELECT id FROM information_schema.processlist"
                f" WHERE db = '{name}') DO EXECUTE IMMEDIATE CONCAT('KILL ', it.id); END FOR; END"
            )
            self.execute(f"DROP DATABASE {name}")


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
    port = _free_port()
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


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


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
