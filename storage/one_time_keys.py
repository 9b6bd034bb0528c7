"""One-time keys, each handed out once in the order of their upload, and fallback keys.

A key that was handed out leaves a mark. A client whose upload was not answered repeats it, and somebody may have
claimed a key between: without the mark that key would be handed out twice. Who uploads other keys has had the answer,
so the newest `KEPT_MARKS` of a device are kept and the rest goes with its next upload.

Spec: client-server API, "One-time and fallback keys".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from itertools import chain
from typing import Any, Final, NamedTuple

from sqlalchemy import BindParameter, bindparam, delete, func, select, update

from .tables.e2ee import claimed_keys, fallback_keys, one_time_keys
from .transaction import Transaction, chunks

# LIMIT: marks of claimed keys that outlive an upload of a device: more than the keys in one upload of a usual client.
KEPT_MARKS: Final = 100

# Statements of every upload are made here: making one takes longer than most of them.
_DEVICE: Final[BindParameter[Any]] = bindparam("device")
_SAME_IDS: Final = select(one_time_keys.c.algorithm, one_time_keys.c.key_id, one_time_keys.c.content).where(
    one_time_keys.c.device_nid == _DEVICE, one_time_keys.c.key_id.in_(bindparam("ids", expanding=True))
)
_CLAIMED: Final = select(claimed_keys.c.key_hash).where(
    claimed_keys.c.device_nid == _DEVICE, claimed_keys.c.key_hash.in_(bindparam("hashes", expanding=True))
)
_OLD_MARK: Final = (
    select(claimed_keys.c.key_nid)
    .where(claimed_keys.c.device_nid == _DEVICE)
    .order_by(claimed_keys.c.key_nid.desc())
    .offset(bindparam("kept"))
    .limit(1)
)
_COUNTS: Final = (
    select(one_time_keys.c.algorithm, func.count())
    .where(one_time_keys.c.device_nid == _DEVICE)
    .group_by(one_time_keys.c.algorithm)
)


class KeyRow(NamedTuple):
    """A one-time or fallback key; `content` is canonical JSON."""

    algorithm: str
    key_id: str
    content: bytes


def find_one_time_keys(tx: Transaction, device_nid: int, key_ids: Iterable[str]) -> dict[tuple[str, str], bytes]:
    """Return those of these keys of a device that are there: (algorithm, key ID) -> content."""
    return {
        (row[0], row[1]): bytes(row[2])
        for part in chunks(key_ids)
        for row in tx.all(_SAME_IDS, {"device": device_nid, "ids": part})
    }


def without_claimed(tx: Transaction, device_nid: int, keys: Sequence[tuple[int, KeyRow]]) -> list[tuple[int, KeyRow]]:
    """Return those of the keys that were never handed out, as far as there are marks."""
    hashes = [_hash_of(key) for _, key in keys]
    claimed = {row[0] for part in chunks(hashes) for row in tx.all(_CLAIMED, {"device": device_nid, "hashes": part})}
    return [key for key, key_hash in zip(keys, hashes, strict=True) if key_hash not in claimed]


def add_one_time_keys(tx: Transaction, device_nid: int, keys: Sequence[tuple[int, KeyRow]]) -> int:
    """Store one-time keys with their numbers in the order of uploads, and forget old marks of claimed ones.

    Return how many were stored: a key whose ID is there already is not. An upload with nothing new forgets nothing.
    """
    stored = tx.insert_many(
        one_time_keys,
        ("device_nid", "algorithm", "key_id", "key_nid", "content"),
        [(device_nid, key.algorithm, key.key_id, key_nid, key.content) for key_nid, key in keys],
        ignore=True,
    )
    last = tx.scalar(_OLD_MARK, {"device": device_nid, "kept": KEPT_MARKS}) if stored else None
    if last is not None:
        table = claimed_keys.c
        tx.execute(delete(claimed_keys).where(table.device_nid == device_nid, table.key_nid <= last))
    return stored


def set_fallback_keys(tx: Transaction, device_nid: int, keys: Sequence[KeyRow]) -> None:
    """Store fallback keys in the place of those of the same algorithm; the same key again stays used."""
    for key in keys:
        present = tx.first(
            select(fallback_keys.c.key_id, fallback_keys.c.content).where(
                fallback_keys.c.device_nid == device_nid, fallback_keys.c.algorithm == key.algorithm
            )
        )
        if present is not None and (present[0], bytes(present[1])) == (key.key_id, key.content):
            continue
        tx.upsert(
            fallback_keys,
            {"device_nid": device_nid, "algorithm": key.algorithm},
            {"key_id": key.key_id, "content": key.content, "is_used": False},
        )


def count_one_time_keys(tx: Transaction, device_nid: int) -> dict[str, int]:
    """Return how many unclaimed keys of each algorithm a device has."""
    return {row[0]: int(row[1]) for row in tx.all(_COUNTS, {"device": device_nid})}


def count_fallback_keys(tx: Transaction, device_nid: int) -> int:
    """Return how many fallback keys a device has, used or not."""
    return int(tx.scalar(select(func.count()).where(fallback_keys.c.device_nid == device_nid)) or 0)


def unused_fallback_types(tx: Transaction, device_nid: int) -> list[str]:
    """Return the algorithms of which a device has a fallback key that was never handed out."""
    table = fallback_keys.c
    query = select(table.algorithm).where(table.device_nid == device_nid, table.is_used.is_(False))
    return sorted(row[0] for row in tx.all(query))


def claim(tx: Transaction, wanted: Mapping[int, str]) -> dict[int, KeyRow]:
    """Take the oldest one-time key of each device, else its fallback key: device_nid -> algorithm to device_nid -> key.

    In the writer's transaction, so that nobody else takes the same.
    """
    found: dict[int, KeyRow] = {}
    by_algorithm: dict[str, list[int]] = {}
    for device_nid, algorithm in wanted.items():
        by_algorithm.setdefault(algorithm, []).append(device_nid)
    for algorithm, nids in by_algorithm.items():
        for part in chunks(nids):
            taken = _claim_one_time(tx, algorithm, part)
            found.update(taken)
            left = [nid for nid in part if nid not in taken]
            if left:
                found.update(_claim_fallback(tx, algorithm, left))
    return found


def _claim_one_time(tx: Transaction, algorithm: str, device_nids: Sequence[int]) -> dict[int, KeyRow]:
    found: dict[int, KeyRow] = {}
    marks: list[tuple[int, str, int]] = []
    for device_nid, key_id, content, key_nid in _oldest(tx, algorithm, device_nids):
        key = found[device_nid] = KeyRow(algorithm, key_id, bytes(content))
        marks.append((device_nid, _hash_of(key), key_nid))
    if found:
        tx.insert_many(claimed_keys, ("device_nid", "key_hash", "key_nid"), marks, update=("key_nid",))
        _delete(tx, [(device_nid, algorithm, key.key_id) for device_nid, key in found.items()])
    return found


def _oldest(tx: Transaction, algorithm: str, device_nids: Sequence[int]) -> Sequence[Any]:
    """Return (device_nid, key_id, content, key_nid) of the oldest key of each device that has any."""
    if tx.is_sqlite:
        # It looks at all keys of a device for the least of a group, and at the first one for the least of a query.
        wanted = ", ".join(["(?)"] * len(device_nids))
        sql = (
            f"WITH wanted (device_nid) AS (VALUES {wanted})"
            " SELECT key.device_nid, key.key_id, key.content, key.key_nid"
            " FROM wanted CROSS JOIN one_time_keys AS key INDEXED BY one_time_keys_in_order"
            " ON key.device_nid = wanted.device_nid AND key.algorithm = ? AND key.key_nid ="
            " (SELECT MIN(key_nid) FROM one_time_keys WHERE device_nid = wanted.device_nid AND algorithm = ?)"
        )
        return tx.connection.exec_driver_sql(sql, (*device_nids, algorithm, algorithm)).fetchall()
    table = one_time_keys.c
    oldest = (
        select(table.device_nid, func.min(table.key_nid).label("key_nid"))
        .where(table.device_nid.in_(device_nids), table.algorithm == algorithm)
        .group_by(table.device_nid)
        .subquery()
    )
    query = select(table.device_nid, table.key_id, table.content, table.key_nid).join(
        oldest,
        (oldest.c.device_nid == table.device_nid) & (oldest.c.key_nid == table.key_nid),
    )
    return tx.all(query.where(table.algorithm == algorithm))


def _delete(tx: Transaction, keys: Sequence[tuple[int, str, str]]) -> None:
    """Delete (device_nid, algorithm, key_id)."""
    same = "device_nid = {0} AND algorithm = {0} AND key_id = {0}".format("?" if tx.is_sqlite else "%s")
    if tx.is_sqlite or len(keys) == 1:
        tx.connection.exec_driver_sql(f"DELETE FROM one_time_keys WHERE {same}", keys[0] if len(keys) == 1 else [*keys])
        return
    # PyMySQL would go there and back for each of many.
    wanted = " OR ".join([f"({same})"] * len(keys))
    tx.connection.exec_driver_sql(f"DELETE FROM one_time_keys WHERE {wanted}", tuple(chain.from_iterable(keys)))


def _claim_fallback(tx: Transaction, algorithm: str, device_nids: Sequence[int]) -> dict[int, KeyRow]:
    table = fallback_keys.c
    query = select(table.device_nid, table.key_id, table.content, table.is_used).where(
        table.device_nid.in_(device_nids), table.algorithm == algorithm
    )
    found: dict[int, KeyRow] = {}
    fresh: list[int] = []
    for device_nid, key_id, content, is_used in tx.all(query):
        found[device_nid] = KeyRow(algorithm, key_id, bytes(content))
        if not is_used:
            fresh.append(device_nid)
    if fresh:
        tx.execute(
            update(fallback_keys).where(table.device_nid.in_(fresh), table.algorithm == algorithm).values(is_used=True)
        )
    return found


def delete_one_time_keys(tx: Transaction, device_nids: Sequence[int]) -> None:
    """Forget all one-time and fallback keys of devices."""
    for part in chunks(device_nids):
        for table in (one_time_keys, fallback_keys, claimed_keys):
            tx.execute(delete(table).where(table.c.device_nid.in_(part)))


def _hash_of(key: KeyRow) -> str:
    # No name holds a NUL.
    named = f"{key.algorithm}:{key.key_id}\x00".encode("utf-8", "surrogatepass")
    return sha256(named + key.content).hexdigest()
