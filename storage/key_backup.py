"""Backups of room keys.

Of a deleted backup the number is kept, so that deleting it again is no error, for as long as there are not a hundred
newer ones; the newest number is always kept, so that none is given twice.

Spec: client-server API, "Server-side key backups".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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


def find_keys(tx: Transaction, user_nid: int, version: int, room_id: str, sessions: Iterable[str]) -> list[RoomKey]:
    """Return those of these keys of a room that are there."""
    query = select(*_KEY).where(
        backed_up_keys.c.user_nid == user_nid,
        backed_up_keys.c.version == version,
        backed_up_keys.c.room_id == room_id,
    )
    return [
        _room_key(row)
        for part in chunks(sessions)
        for row in tx.all(query.where(backed_up_keys.c.session_id.in_(part)))
    ]


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
