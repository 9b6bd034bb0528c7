"""One server per database: what is held for as long as a server runs on it.

Numbers and caches live in the server's memory, so a second server on the same database would hand out the same numbers
again. SQLite: a lock on a file beside the database, which the system takes back when the process ends. MySQL and
MariaDB: a named lock of the connection that writes, so that whoever writes holds it; a new connection after a lost one
must get it first, and must find that nobody else has run in between.

LIMIT: a named lock is known to one database server only, not to all of a Galera cluster; let all write to the same one.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
from pathlib import Path
from typing import Any, Final, Protocol

from sqlalchemy import Engine, event, text

from homeserver.errors import DatabaseInUse, Misconfigured, StorageUnavailable

# How long a start waits for another process to end: a restart, or a command that is nearly done.
PATIENCE_S: Final = 3.0
_POLL_S: Final = 0.05
# The row of `sequences` that counts the starts.
_STARTS: Final = "starts"


class Ownership(Protocol):
    """The right to write to one database; all of it blocks and is called in database threads."""

    def take(self, engine: Engine) -> None:
        """Take it before the first connection of the writer's `engine`; raises DatabaseInUse."""

    def begin(self, engine: Engine) -> None:
        """Note, once the tables are there, that a server starts on them."""

    def release(self) -> None:
        """Give it back."""


class FileOwnership:
    """A lock on `<database>.lock`."""

    def __init__(self, database: str) -> None:
        self._path = Path(f"{os.path.realpath(database)}.lock")
        self._descriptor: int | None = None

    def take(self, engine: Engine) -> None:
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as fault:
            raise Misconfigured(f"The file {self._path} cannot be opened: {fault.strerror}.") from fault
        for _ in range(int(PATIENCE_S / _POLL_S)):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                threading.Event().wait(_POLL_S)
        else:
            holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise DatabaseInUse(_in_use(str(self._path.with_suffix("")), f"process {holder}" if holder else ""))
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor

    def begin(self, engine: Engine) -> None:
        pass

    def release(self) -> None:
        # The file stays: removing it would let two processes hold locks on two files of the same name.
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class SessionOwnership:
    """A named lock of MySQL or MariaDB."""

    def __init__(self, database: str) -> None:
        self._database = database
        # Names of locks are common to all databases of a server, and at most 64 characters.
        self._name = "sennit:" + hashlib.sha256(database.encode()).hexdigest()[:40]
        self._starts: int | None = None

    def take(self, engine: Engine) -> None:
        event.listen(engine, "connect", self._connected)

    def begin(self, engine: Engine) -> None:
        with engine.begin() as connection:
            count = connection.execute(text(_READ_STARTS), {"name": _STARTS}).scalar()
            starts = int(count or 0) + 1
            connection.execute(text(_WRITE_STARTS), {"name": _STARTS, "starts": starts})
        self._starts = starts

    def release(self) -> None:
        # It went with the connection.
        self._starts = None

    def _connected(self, connection: Any, _record: Any) -> None:
        with connection.cursor() as cursor:
            # An idle server must not lose its connection, and with it the lock.
            cursor.execute("SET SESSION wait_timeout = 31536000")
            cursor.execute("SELECT GET_LOCK(%s, %s)", (self._name, PATIENCE_S))
            if cursor.fetchone()[0] != 1:
                cursor.execute("SELECT IS_USED_LOCK(%s)", (self._name,))
                holder = cursor.fetchone()[0]
                said = _in_use(self._database, f"connection {holder} of the database server" if holder else "")
                if self._starts is None:
                    raise DatabaseInUse(said)
                raise StorageUnavailable(said)
            if self._starts is not None:
                cursor.execute(_READ_STARTS.replace(":name", "%s"), (_STARTS,))
                if cursor.fetchone() != (self._starts,):
                    raise StorageUnavailable(
                        f"another server has run on the database {self._database} while the connection was lost; "
                        "this one must be restarted"
                    )
        connection.commit()


_READ_STARTS = "SELECT reserved_until FROM sequences WHERE name = :name"
_WRITE_STARTS = (
    "INSERT INTO sequences (name, reserved_until) VALUES (:name, :starts)"
    " ON DUPLICATE KEY UPDATE reserved_until = VALUES(reserved_until)"
)


def _in_use(database: str, holder: str) -> str:
    by = f" ({holder})" if holder else ""
    return (
        f"Another Sennit{by} runs on the database {database}, and only one may. "
        "Stop that one first, or name another database under [database] url."
    )
