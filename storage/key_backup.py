"""Backups of room keys.

Of a deleted backup the number is kept, so that deleting it again is no error, for as long as there are not a hundred
newer ones; the newest number is always kept, so that none is given twice.

Spec: client-server API, "Server-side key backups".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, Final, NamedTuple

from sqlalchemy import delete, func, select, update

from .tables.e2ee import backed_up_keys, key_backups
from .transaction import Transaction, chunks

# LIMIT: versions back to which it is known that a backup was deleted; older ones are not known any more.
KEPT_DELETED: Final = 100


class BackupRow(NamedTuple):
    """A backup; `auth_data` is JSON, `key_count` how many keys it has."""

    version: int
    algorithm: str
    auth_data: bytes
    etag: int
    key_count: int
    is_deleted: bool


class RoomKey(NamedTuple):
    """A backed up key; `session_data` is JSON."""

    room_id: str
    session_id: str
    first_message_index: int
    forwarded_count: int
    is_verified: bool
    session_data: bytes


class Worth(NamedTuple):
    """By what it is decided which of two keys is kept."""

    first_message_index: int
    forwarded_count: int
    is_verified: bool


_BACKUP = (
    key_backups.c.version,
    key_backups.c.algorithm,
    key_backups.c.auth_data,
    key_backups.c.etag,
    key_backups.c.count,
    key_backups.c.is_deleted,
)
_KEY = (
    backed_up_keys.c.room_id,
    backed_up_keys.c.session_id,
    backed_up_keys.c.first_message_index,
    backed_up_keys.c.forwarded_count,
    backed_up_keys.c.is_verified,
    backed_up_keys.c.session_data,
)


def find_backup(tx: Transaction, user_nid: int, version: int | None) -> BackupRow | None:
    """Return a backup, deleted or not; without a version the newest that is not deleted."""
    query = select(*_BACKUP).where(key_backups.c.user_nid == user_nid)
    if version is not None:
        query = query.where(key_backups.c.version == version)
    else:
        query = query.where(key_backups.c.is_deleted.is_(False)).order_by(key_backups.c.version.desc()).limit(1)
    row: Any = tx.first(query)
    return None if row is None else BackupRow(row[0], row[1], bytes(row[2]), row[3], row[4], bool(row[5]))


def create_backup(tx: Transaction, user_nid: int, algorithm: str, auth_data: bytes) -> int:
    """Add a backup and return its version; what was deleted long ago is forgotten."""
    newest = tx.scalar(select(func.max(key_backups.c.version)).where(key_backups.c.user_nid == user_nid))
    version = int(newest or 0) + 1
    table = key_backups.c
    is_old = (table.version <= version - KEPT_DELETED) & table.is_deleted.is_(True)
    tx.execute(delete(key_backups).where(table.user_nid == user_nid, is_old))
    tx.insert_many(
        key_backups,
        ("user_nid", "version", "algorithm", "auth_data", "etag", "count", "is_deleted"),
        [(user_nid, version, algorithm, auth_data, 0, 0, False)],
    )
    return version


def update_backup(tx: Transaction, user_nid: int, version: int, values: dict[str, Any]) -> None:
    """Set columns of a backup."""
    table = key_backups.c
    tx.execute(update(key_backups).where(table.user_nid == user_nid, table.version == version).values(**values))


def count_backups(tx: Transaction, user_nid: int) -> int:
    """Return how many backups a user has that are not deleted."""
    query = select(func.count()).where(key_backups.c.user_nid == user_nid, key_backups.c.is_deleted.is_(False))
    return int(tx.scalar(query) or 0)


def load_keys(
    tx: Transaction, user_nid: int, version: int, room_id: str | None = None, session_id: str | None = None
) -> list[RoomKey]:
    """Return the keys of a backup, of one room, or one of them."""
    rows = tx.all(_chosen(select(*_KEY), user_nid, version, room_id, session_id))
    return [_room_key(row) for row in rows]


def find_worths(
    tx: Transaction, user_nid: int, version: int, names: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], Worth]:
    """Return what those of these keys are worth that are there, by (room ID, session ID)."""
    columns = (
        "present.room_id, present.session_id, present.first_message_index, present.forwarded_count, present.is_verified"
    )
    found: dict[tuple[str, str], Worth] = {}
    for part in chunks(names):
        # Many rooms may have one key each: a look for all of them, and each by the whole of the primary key.
        if tx.is_sqlite:
            wanted = ", ".join(["(?, ?)"] * len(part))
            sql = (
                f"WITH wanted (room_id, session_id) AS (VALUES {wanted}) SELECT {columns}"
                " FROM wanted CROSS JOIN backed_up_keys AS present ON present.user_nid = ? AND present.version = ?"
                " AND present.room_id = wanted.room_id AND present.session_id = wanted.session_id"
            )
            values = (*chain.from_iterable(part), user_nid, version)
        else:
            wanted = " OR ".join(["(present.room_id = %s AND present.session_id = %s)"] * len(part))
            sql = f"SELECT {columns} FROM backed_up_keys AS present WHERE user_nid = %s AND version = %s AND ({wanted})"
            values = (user_nid, version, *chain.from_iterable(part))
        for row in tx.connection.exec_driver_sql(sql, values):
            found[row[0], row[1]] = Worth(row[2], row[3], bool(row[4]))
    return found


def set_keys(tx: Transaction, user_nid: int, version: int, keys: Sequence[RoomKey]) -> None:
    """Store keys, in the place of what was there."""
    tx.insert_many(
        backed_up_keys,
        (
            "user_nid",
            "version",
            "room_id",
            "session_id",
            "first_message_index",
            "forwarded_count",
            "is_verified",
            "session_data",
        ),
        [(user_nid, version, *key) for key in keys],
        update=("first_message_index", "forwarded_count", "is_verified", "session_data"),
    )


def delete_keys(
    tx: Transaction, user_nid: int, version: int, room_id: str | None = None, session_id: str | None = None
) -> int:
    """Delete keys of a backup, of one room, or one of them; return how many."""
    return int(tx.execute(_chosen(delete(backed_up_keys), user_nid, version, room_id, session_id)).rowcount)


def delete_backups_of(tx: Transaction, user_nid: int) -> None:
    """Delete all backups of a user."""
    for table in (backed_up_keys, key_backups):
        tx.execute(delete(table).where(table.c.user_nid == user_nid))


def _room_key(row: Any) -> RoomKey:
    return RoomKey(row[0], row[1], row[2], row[3], bool(row[4]), bytes(row[5]))


def _chosen(statement: Any, user_nid: int, version: int, room_id: str | None, session_id: str | None) -> Any:
    table = backed_up_keys.c
    statement = statement.where(table.user_nid == user_nid, table.version == version)
    if room_id is not None:
        statement = statement.where(table.room_id == room_id)
    if session_id is not None:
        statement = statement.where(table.session_id == session_id)
    return statement
