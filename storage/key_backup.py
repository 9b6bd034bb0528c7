"""Backups of room keys.

Of a deleted backup the number is kept, so that deleting it again is no error, for as long as there are not a hundred
newer ones; the newest number is always kept, so that none is given twice.

A backup may have so many keys that deleting them at once would keep the writer from all others. So it is marked as
deleted first, with the count of its keys left as it was; they go in batches, and the count is set to none at the end.

Spec: client-server API, "Server-side key backups".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Final, NamedTuple

from sqlalchemy import delete, func, literal, or_, select, tuple_, update

from .tables.accounts import accounts
from .tables.e2ee import backed_up_keys, key_backups
from .transaction import Transaction, chunks

# LIMIT: versions back to which it is known that a backup was deleted; older ones are not known any more.
KEPT_DELETED: Final = 100
# Keys that are read at once, and deleted in one transaction.
SLICE: Final = 256
BATCH: Final = 1_000

Place = tuple[str, str]
"""Room ID and session ID of a key: keys are in this order."""


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


class LeftBackup(NamedTuple):
    """A deleted backup whose keys are not all deleted; `is_closed`: nor is the account in use."""

    user_nid: int
    version: int
    is_closed: bool


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
    is_old = (table.version <= version - KEPT_DELETED) & table.is_deleted.is_(True) & (table.count == 0)
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


def find_key(tx: Transaction, user_nid: int, version: int, room_id: str, session_id: str) -> RoomKey | None:
    """Return a key, or None."""
    row = tx.first(_chosen(select(*_KEY), user_nid, version, room_id, session_id))
    return None if row is None else _room_key(row)


def iterate_keys(tx: Transaction, user_nid: int, version: int, room_id: str | None = None) -> Iterator[RoomKey]:
    """Yield the keys of a backup, or of one room of it, in order; few of them are in memory at once."""
    table = backed_up_keys.c
    after: Place | None = None
    while True:
        query = _after(tx, _chosen(select(*_KEY), user_nid, version, room_id), room_id, after)
        rows = tx.all(query.order_by(table.room_id, table.session_id).limit(SLICE))
        yield from map(_room_key, rows)
        if len(rows) < SLICE:
            return
        after = (rows[-1][0], rows[-1][1])


def measure_keys(tx: Transaction, user_nid: int, version: int) -> int:
    """Return how many bytes the keys of a backup have; looks at each of them."""
    table = backed_up_keys.c
    size = func.length(table.session_data) + func.length(table.room_id) + func.length(table.session_id)
    return int(tx.scalar(_chosen(select(func.sum(size)), user_nid, version)) or 0)


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


def delete_key(tx: Transaction, user_nid: int, version: int, room_id: str, session_id: str) -> int:
    """Delete a key; return how many went."""
    return int(tx.execute(_chosen(delete(backed_up_keys), user_nid, version, room_id, session_id)).rowcount)


def delete_batch(
    tx: Transaction, user_nid: int, version: int, room_id: str | None = None, after: Place | None = None
) -> tuple[int, Place | None]:
    """Delete up to `BATCH` keys after a place, of a backup or of one room of it.

    Return how many went, and the place of the last of them, None where nothing is left behind it.
    """
    table = backed_up_keys.c
    places = _after(tx, _chosen(select(table.room_id, table.session_id), user_nid, version, room_id), room_id, after)
    row = tx.first(places.order_by(table.room_id, table.session_id).offset(BATCH - 1).limit(1))
    last = None if row is None else (row[0], row[1])
    gone = _after(tx, _chosen(delete(backed_up_keys), user_nid, version, room_id), room_id, after)
    return int(tx.execute(_upto(tx, gone, room_id, last)).rowcount), last


def mark_deleted(tx: Transaction, user_nid: int, version: int | None = None) -> None:
    """Mark a backup, or all of a user, as deleted; those that have keys are in `list_left` from now on."""
    table = key_backups.c
    marked = update(key_backups).where(table.user_nid == user_nid).values(is_deleted=True, auth_data=b"{}")
    tx.execute(marked if version is None else marked.where(table.version == version))


def list_left(tx: Transaction, limit: int) -> list[LeftBackup]:
    """Return deleted backups whose keys are not all deleted."""
    table = key_backups.c
    query = (
        select(table.user_nid, table.version, accounts.c.is_deactivated)
        .outerjoin(accounts, accounts.c.user_nid == table.user_nid)
        .where(table.is_deleted.is_(True), table.count > 0)
        .limit(limit)
    )
    return [LeftBackup(row[0], row[1], bool(row[2])) for row in tx.all(query)]


def set_all_deleted(tx: Transaction, left: LeftBackup) -> None:
    """The keys of a deleted backup are deleted."""
    if left.is_closed:
        table = key_backups.c
        tx.execute(delete(key_backups).where(table.user_nid == left.user_nid, table.version == left.version))
    else:
        update_backup(tx, left.user_nid, left.version, {"count": 0})


def delete_small_backups(tx: Transaction, user_nid: int) -> None:
    """Delete backups of a user as a whole; together they have at most a batch of keys, the others are left."""
    table = key_backups.c
    room = BATCH
    for version, count in tx.all(select(table.version, table.count).where(table.user_nid == user_nid)):
        if count <= room:
            room -= count
            if count:
                tx.execute(_chosen(delete(backed_up_keys), user_nid, version))
            tx.execute(delete(key_backups).where(table.user_nid == user_nid, table.version == version))


def _room_key(row: Any) -> RoomKey:
    return RoomKey(row[0], row[1], row[2], row[3], bool(row[4]), bytes(row[5]))


def _chosen(
    statement: Any, user_nid: int, version: int, room_id: str | None = None, session_id: str | None = None
) -> Any:
    table = backed_up_keys.c
    statement = statement.where(table.user_nid == user_nid, table.version == version)
    if room_id is not None:
        statement = statement.where(table.room_id == room_id)
    if session_id is not None:
        statement = statement.where(table.session_id == session_id)
    return statement


# Each database finds only its own form of this by the primary key.


def _after(tx: Transaction, statement: Any, room_id: str | None, after: Place | None) -> Any:
    table = backed_up_keys.c
    if after is None:
        return statement
    if room_id is not None:
        return statement.where(table.session_id > after[1])
    if tx.is_sqlite:
        return statement.where(tuple_(table.room_id, table.session_id) > tuple_(literal(after[0]), literal(after[1])))
    return statement.where(or_(table.room_id > after[0], (table.room_id == after[0]) & (table.session_id > after[1])))


def _upto(tx: Transaction, statement: Any, room_id: str | None, last: Place | None) -> Any:
    table = backed_up_keys.c
    if last is None:
        return statement
    if room_id is not None:
        return statement.where(table.session_id <= last[1])
    if tx.is_sqlite:
        return statement.where(tuple_(table.room_id, table.session_id) <= tuple_(literal(last[0]), literal(last[1])))
    return statement.where(or_(table.room_id < last[0], (table.room_id == last[0]) & (table.session_id <= last[1])))
